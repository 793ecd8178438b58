//! Databases that go back in time, in random walks: three sites, one user, moves in every direction, messages that come late and
//! twice, backups and restores at any moment, and the comparison that opens a site again. Never two sites at which the user can be written, and
//! nobody lets him go to a site that has not accepted him.
//!
//! What runs is the protocol itself: [`step`], [`judge`], [`answer`] and [`hear`]; the walk adds what stands around them, as `residency::tidings`
//! and `mover::compare` do: positions with marks, places that go back with their database, visits that a site ends before it tells. A site may also be destroyed: it does
//! nothing any more until it is restored from some backup, and two operators take back what was offered to it, as `mover::reclaim` does. Rules
//! are then left out, and the walks must find what they kept away. Found by these walks while the rules were made: that closed users must be told of under the epoch before, that lost users
//! must be told of, that what was let pass counts once somebody is lost, that a target does not answer for whom it took up, and that a peer must have heard its own first.
//!
//! Bounds: 10,000 walks of 400 steps each, or `DOMICILE_WALKS`, from fixed seeds. A site is never restored to a backup of a history that it had given up for an
//! older one. Not here: rows, chunks of several users, the stream;
//! `tests/model.rs` has these without restores.

use std::collections::{BTreeMap, BTreeSet};

use handoff::decision::Decision;
use handoff::judge::{Findings, Handoff, Judgement, answer, judge};
use handoff::record::{Event, Resident, State, step};
use handoff::tidings::{Tiding, hear};
use model::{Attempt, BatchId, Epoch, SiteName, UserKey};

const SITES: usize = 3;
const STEPS: usize = 400;
const WALKS: u64 = 10_000;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slip {
    /// A site is opened without having heard its peers.
    OpenUnheard,
    /// A peer that is asked does not end what is on its way.
    NoSettling,
    /// Moves begin and arrive although the site is not open; the guard is.
    MoveUnopened,
    /// A site that is not open keeps nothing of users who live elsewhere.
    LearnNothing,
    /// Users are taken back from a destroyed site, and nobody has heard whether it had handed them on.
    ReclaimUnheard,
    /// The others are heard, and what the destroyed site has on its way to them is not ended first.
    ReclaimUnsettled,
    /// They are taken back under the next epoch, as if the destroyed site could not have come further.
    ReclaimNext,
    /// They are taken back by a statement from before the destroyed site came back and asked.
    ReclaimLate,
}

/// What stands in a site's database, and goes back with it.
#[derive(Clone, Debug, Default)]
struct Database {
    record: Option<Resident>,
    decisions: BTreeMap<BatchId, Decision>,
    /// The mark of each position.
    telling: Vec<u64>,
    /// The position at which the user is told of; 0: not yet, -1: to be numbered.
    told: i64,
    /// How far it came with each peer.
    heard: [Option<(usize, u64)>; SITES],
    /// Which peers are to be heard again from the beginning: what they said was let pass when the user was not here.
    again: [bool; SITES],
    /// How often each peer came here, to visit or to be told: the terms of the offices of arrivals.
    terms: [u64; SITES],
    /// The latest round of reclaiming that it was told of.
    round: i64,
}

#[derive(Clone, Debug, Default)]
struct Site {
    database: Database,
    backups: Vec<Database>,
    open: bool,
    /// The peers heard since its server started.
    compared: BTreeSet<usize>,
    /// The peers that said, when they were heard last, that they have heard theirs.
    ready: BTreeSet<usize>,
    /// The peers heard since all of them said so.
    confirmed: BTreeSet<usize>,
    /// Who visits, by the number of the visit: processes, not rows.
    visits: BTreeSet<(usize, u64)>,
    /// It stands no more, and whatever runs there does not either.
    destroyed: bool,
    /// It was destroyed, and is not open again yet.
    returns: bool,
    /// What two operators have signed here, and not carried out yet.
    statement: Option<Statement>,
}

/// That the target of a batch is destroyed.
#[derive(Clone, Debug)]
struct Statement {
    batch: BatchId,
    /// The term of the office of arrivals from there when it was made.
    term: u64,
    /// The round, above that of every site that stands.
    round: i64,
    /// The peers that ended what comes from there, and were heard after that.
    heard: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum Message {
    Handoff {
        to: usize,
        visit: (usize, u64),
        handoff: Handoff,
    },
    Answer {
        to: usize,
        batch: BatchId,
        decision: Decision,
    },
}

/// What a walk has seen, to show that it went somewhere.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    accepted: u64,
    restores: u64,
    lost: u64,
    overtaken: u64,
    /// Users of whom a site that was not open kept that they live elsewhere.
    learnt: u64,
    settled: u64,
    /// Sites opened again after a restore.
    opened: u64,
    /// Lost users whom a source still held.
    given_back: u64,
    /// Questions about somebody who was taken up.
    unanswered: u64,
    resolved: u64,
    destroyed: u64,
    reclaimed: u64,
    /// Users whom a destroyed site had handed on, as was heard in time.
    handed_on: u64,
    /// Destroyed sites that came back and were opened.
    returned: u64,
}

struct World {
    sites: Vec<Site>,
    messages: Vec<Message>,
    slip: Option<Slip>,
    random: u64,
    drawn: u64,
    /// What was accepted, in truth.
    accepted: BTreeSet<(BatchId, Epoch)>,
    /// Whether a source let the user go to a target that has not accepted him.
    misled: bool,
    seen: Seen,
}

fn name(site: usize) -> SiteName {
    ["a", "b", "c"][site].into()
}

fn number(site: &SiteName) -> usize {
    ["a", "b", "c"]
        .iter()
        .position(|name| *name == site.as_str())
        .expect("one of the three")
}

fn user() -> UserKey {
    "u".into()
}

// === impl World ===

impl World {
    fn new(seed: u64, slip: Option<Slip>) -> Self {
        let mut sites = vec![Site::default(); SITES];
        for site in &mut sites {
            site.open = true;
        }
        sites[0].database.record = Some(Resident::adopted());
        Self {
            sites,
            messages: Vec::new(),
            slip,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            drawn: 0,
            accepted: BTreeSet::new(),
            misled: false,
            seen: Seen::default(),
        }
    }

    /// A number below `bound`, by xorshift64* (Vigna 2016, "An experimental exploration of Marsaglia's xorshift generators").
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let drawn = self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).expect("31 bits") % bound
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    fn slips(&self, slip: Slip) -> bool {
        self.slip == Some(slip)
    }

    /// Whether moves may begin at, or arrive at, `site`.
    fn moves(&self, site: usize) -> bool {
        let stands = !self.sites[site].destroyed;
        self.sites[site].open || stands && self.slips(Slip::MoveUnopened)
    }

    /// The sites at which the application's writes for the user commit.
    fn writable(&self) -> usize {
        let writable = |site: &&Site| {
            let record = site.database.record.as_ref();
            site.open && record.is_some_and(|record| record.state.is_open())
        };
        self.sites.iter().filter(writable).count()
    }

    /// Takes a step of the record at `site`, where it is legal, and marks a change of home.
    fn take(&mut self, site: usize, event: &Event) -> bool {
        let database = &mut self.sites[site].database;
        let Ok(next) = step(database.record.as_ref(), event) else {
            return false;
        };
        let before = database.record.as_ref().map(|record| record.state.name());
        let told = match (before, next.state.name()) {
            (Some("departed" | "clearing"), "departed") => false,
            (_, "departed" | "lost") | (Some("arriving" | "lost" | "offered"), "settled") => true,
            (Some("offered"), "moving") => true,
            _ => false,
        };
        if told {
            database.told = -1;
        }
        database.record = Some(next);
        true
    }

    fn state(&self, site: usize) -> Option<State> {
        let record = self.sites[site].database.record.as_ref();
        record.map(|record| record.state.clone())
    }

    /// One thing happens somewhere, if it can.
    fn go_on(&mut self) {
        // A site that is closed is opened again before long: else walks end with all of them closed.
        if let Some(gone) = (0..SITES).find(|site| self.sites[*site].destroyed)
            && self.below(3) == 0
        {
            return self.without(gone);
        }
        let closed = (0..SITES).find(|site| !self.sites[*site].open);
        if let Some(closed) = closed.filter(|_| self.below(2) == 0) {
            let site = match self.below(2) {
                0 => closed,
                _ => self.below(SITES),
            };
            match self.below(5) {
                0 => self.open(site),
                _ => self.hear_one(site),
            }
            return;
        }
        // A target that has accepted goes on before its answer arrives, and may end there.
        if let Some(target) = self.unanswered()
            && self.below(2) == 0
        {
            return match self.below(6) {
                0 => self.enrol(target),
                1 => self.fence(target),
                2 => self.reopen(target),
                3 | 4 => self.offer(target),
                _ if self.below(2) == 0 => self.destroy(target),
                _ => {}
            };
        }
        // Half of it where he lives: else little comes to pass.
        let home = (0..SITES).find(|site| self.state(*site).is_some_and(|state| state.is_home()));
        let site = match (home, self.below(2)) {
            (Some(home), 0) => home,
            _ => self.below(SITES),
        };
        if self.sites[site].destroyed {
            return;
        }
        match self.below(18) {
            0 => self.backup(site),
            1 if self.below(6) == 0 => self.restore(site),
            2 | 3 => self.enrol(site),
            4 => self.fence(site),
            5 => self.reopen(site),
            6 | 7 => self.offer(site),
            8 | 9 => self.deliver(),
            10 => self.ask(site),
            11 => self.clear(site),
            12 | 13 => self.hear_one(site),
            14 => self.open(site),
            15 => self.resolve(site),
            16 if self.below(12) == 0 => self.destroy(site),
            // The destroyed site may stand again.
            17 if self.sites[site].statement.is_some() => self.reclaim(site),
            _ => {}
        }
    }

    /// The site that has accepted him while another one holds him offered.
    fn unanswered(&self) -> Option<usize> {
        let target = (0..SITES).find_map(|site| match self.state(site) {
            Some(State::Offered { to, .. }) => Some(number(&to)),
            _ => None,
        })?;
        let home = self.state(target).is_some_and(|state| state.is_home());
        (home && self.sites[target].open).then_some(target)
    }

    /// What goes on while `gone` is destroyed.
    fn without(&mut self, gone: usize) {
        if self.below(12) == 0 {
            return self.restore(gone);
        }
        let offered = (0..SITES).find(|site| match self.state(*site) {
            Some(State::Offered { to, .. }) => number(&to) == gone,
            _ => false,
        });
        if let Some(source) = offered {
            self.reclaim(source);
        }
    }

    /// One at a time: a second one could not be heard.
    fn destroy(&mut self, site: usize) {
        if self.sites.iter().any(|site| site.destroyed) {
            return;
        }
        // Its disks may be found again, or a backup that is all but new.
        if self.below(2) == 0 {
            self.backup(site);
        }
        if self.sites[site].backups.is_empty() {
            return;
        }
        self.stop(site);
        self.sites[site].destroyed = true;
        self.sites[site].returns = true;
        self.seen.destroyed += 1;
    }

    /// Two operators' statement about the batch that `site` has offered is made, then each peer is heard, then it is carried out: one of it.
    fn reclaim(&mut self, site: usize) {
        let Some(State::Offered {
            to, batch, epoch, ..
        }) = self.state(site)
        else {
            return;
        };
        let to = number(&to);
        if !self.sites[site].open {
            return;
        }
        let stands = self.sites[site].statement.as_ref();
        if stands.is_none_or(|statement| statement.batch != batch) {
            // Nobody states it of a site that stands.
            let gone = self.sites[to].destroyed;
            let told = self.sites.iter().filter(|site| !site.destroyed);
            let round = told.map(|site| site.database.round).max().unwrap_or(0) + 1;
            self.sites[site].database.round = round;
            self.sites[site].statement = gone.then(|| Statement {
                batch,
                term: self.sites[site].database.terms[to],
                round,
                heard: BTreeSet::new(),
            });
            return;
        }
        let others = (0..SITES).filter(|peer| *peer != site && *peer != to);
        let statement = self.sites[site].statement.clone().expect("it stands");
        let unheard = others
            .into_iter()
            .find(|peer| !statement.heard.contains(peer));
        if let Some(peer) = unheard.filter(|_| !self.slips(Slip::ReclaimUnheard)) {
            if !self.is_ready(peer) {
                return;
            }
            if !self.slips(Slip::ReclaimUnsettled) {
                self.sites[peer].visits.retain(|(from, _)| *from != to);
            }
            let told = &mut self.sites[peer].database.round;
            *told = statement.round.max(*told);
            self.hear_from(site, peer);
            if let Some(statement) = &mut self.sites[site].statement {
                statement.heard.insert(peer);
            }
            if !matches!(self.state(site), Some(State::Offered { .. })) {
                self.seen.handed_on += 1;
            }
            return;
        }
        let same = self.sites[site].database.terms[to] == statement.term;
        if !same && !self.slips(Slip::ReclaimLate)
            || self.sites[site].database.again != [false; SITES]
        {
            // It is of no use any more.
            self.sites[site].statement = None;
            return;
        }
        assert!(
            self.take(
                site,
                &Event::Reclaim {
                    batch,
                    round: statement.round
                }
            ),
            "who is offered can be reclaimed"
        );
        if self.slips(Slip::ReclaimNext) {
            let record = self.sites[site].database.record.as_mut();
            let record = record.expect("it was just written");
            let epoch = epoch.next();
            (record.state, record.seen) = (State::Settled { epoch }, epoch);
        }
        self.sites[site].statement = None;
        self.seen.reclaimed += 1;
    }

    fn backup(&mut self, site: usize) {
        let site = &mut self.sites[site];
        if site.backups.len() == 3 {
            site.backups.remove(0);
        }
        let database = site.database.clone();
        site.backups.push(database);
    }

    fn restore(&mut self, site: usize) {
        let backups = self.sites[site].backups.len();
        if backups == 0 {
            return;
        }
        let n = self.below(backups);
        self.stop(site);
        let site = &mut self.sites[site];
        site.database = site.backups[n].clone();
        // What came after it is of a history that is no more.
        site.backups.truncate(n + 1);
        site.destroyed = false;
        self.seen.restores += 1;
    }

    /// The server of `site` ends, and with it all that is not in its database.
    fn stop(&mut self, site: usize) {
        let here = site;
        let site = &mut self.sites[site];
        site.open = false;
        // A statement counts as long as the site is open.
        site.statement = None;
        site.compared.clear();
        site.ready.clear();
        site.confirmed.clear();
        // Sessions end with their server: those of visitors, and those in which an answer would have been written down.
        site.visits.clear();
        self.messages
            .retain(|message| !matches!(message, Message::Answer { to, .. } if *to == here));
    }

    fn enrol(&mut self, site: usize) {
        let to = self.below(SITES);
        if to == site || !self.moves(site) || !self.moves(to) {
            return;
        }
        self.sites[to].database.terms[site] += 1;
        if !matches!(self.state(site), Some(State::Settled { .. })) {
            return;
        }
        let seen = |site: &Site| {
            let record = site.database.record.as_ref();
            record.map_or(Attempt(0), |record| record.attempt_seen)
        };
        let attempt = seen(&self.sites[site]).max(seen(&self.sites[to])).next();
        let begin = Event::Begin {
            from: name(site),
            attempt,
        };
        if self.take(to, &begin) {
            let enrol = Event::Enrol {
                to: name(to),
                attempt,
            };
            assert!(self.take(site, &enrol), "a new attempt can be enrolled");
        }
    }

    fn fence(&mut self, site: usize) {
        if !self.moves(site) {
            return;
        }
        if let Some(State::Moving { attempt, .. }) = self.state(site) {
            let batch = format!("{site}/{}", self.draw());
            let batch = BatchId::from(batch.as_str());
            self.take(site, &Event::Fence { attempt, batch });
        }
    }

    /// From fenced the source goes back alone, or gives the whole attempt up.
    fn reopen(&mut self, site: usize) {
        if !self.moves(site) {
            return;
        }
        match self.state(site) {
            Some(State::Fenced { batch, .. }) => {
                self.take(site, &Event::Reopen { batch });
            }
            Some(State::Moving { attempt, .. }) => {
                self.take(site, &Event::Withdraw { attempt });
            }
            _ => {}
        }
    }

    fn offer(&mut self, site: usize) {
        if !self.moves(site) {
            return;
        }
        let Some(State::Fenced {
            epoch,
            to,
            batch,
            attempt,
        }) = self.state(site)
        else {
            return;
        };
        self.take(
            site,
            &Event::Offer {
                batch: batch.clone(),
            },
        );
        let (to, visit) = (number(&to), (site, self.draw()));
        if !self.moves(to) {
            return;
        }
        // A new visit ends the one before.
        self.sites[to].visits.retain(|(from, _)| *from != site);
        self.sites[to].visits.insert(visit);
        self.sites[to].database.terms[site] += 1;
        let handoff = Handoff {
            batch,
            from: name(site),
            attempt,
            users: vec![(user(), epoch)],
        };
        self.messages.push(Message::Handoff { to, visit, handoff });
    }

    /// Some message arrives; it may arrive again.
    fn deliver(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let n = self.below(self.messages.len());
        let message = match self.below(2) {
            0 => self.messages[n].clone(),
            _ => self.messages.swap_remove(n),
        };
        match message {
            Message::Handoff { to, visit, handoff } => {
                if self.sites[to].visits.contains(&visit) {
                    self.accept(to, &handoff);
                }
            }
            Message::Answer {
                to,
                batch,
                decision,
            } => self.answered(to, batch, &decision),
        }
    }

    fn accept(&mut self, site: usize, handoff: &Handoff) {
        let database = &self.sites[site].database;
        let records = [database.record.clone()];
        let standing = database.decisions.get(&handoff.batch).cloned();
        let findings = Findings {
            complete: self.below(4) > 0,
            against: Vec::new(),
        };
        let decision = match judge(handoff, &records, standing.as_ref(), &findings) {
            Judgement::Accept(_) => {
                let accept = Event::Accept {
                    from: handoff.from.clone(),
                    attempt: handoff.attempt,
                    epoch: handoff.users[0].1,
                };
                assert!(self.take(site, &accept), "what is judged can be done");
                self.seen.accepted += 1;
                self.accepted
                    .insert((handoff.batch.clone(), handoff.users[0].1));
                Decision::Accepted
            }
            Judgement::Refuse(decision) | Judgement::Repeat(decision) => decision,
        };
        self.decide(site, &handoff.from, handoff.batch.clone(), decision);
    }

    fn decide(&mut self, site: usize, source: &SiteName, batch: BatchId, decision: Decision) {
        let decisions = &mut self.sites[site].database.decisions;
        decisions
            .entry(batch.clone())
            .or_insert_with(|| decision.clone());
        let to = number(source);
        self.messages.push(Message::Answer {
            to,
            batch,
            decision,
        });
    }

    /// Asks the target about an offer; a source that is not open asks nobody.
    fn ask(&mut self, site: usize) {
        if !self.moves(site) {
            return;
        }
        let Some(State::Offered {
            to, batch, epoch, ..
        }) = self.state(site)
        else {
            return;
        };
        let to = number(&to);
        if !self.moves(to) {
            return;
        }
        self.sites[to].database.terms[site] += 1;
        let standing = self.sites[to].database.decisions.get(&batch).cloned();
        // Who is lost here, and at the source not gone, is the source's.
        if standing.is_none() {
            // Who lives here although nothing was decided was taken up, and may have gone on since: the source hears of it first.
            let seen = self.sites[to].database.record.as_ref();
            let further = seen.is_some_and(|record| record.seen > epoch);
            if further || self.state(to).is_some_and(|state| state.is_home()) {
                self.seen.unanswered += 1;
                return;
            }
            if let Some(State::Lost { epoch }) = self.state(to) {
                let keeps = Event::Overtaken {
                    to: name(site),
                    epoch,
                };
                self.seen.given_back += 1;
                self.take(to, &keeps);
            }
        }
        let database = &self.sites[to].database;
        let decision = answer(standing.as_ref(), std::slice::from_ref(&database.record));
        self.decide(to, &name(site), batch, decision);
    }

    fn answered(&mut self, site: usize, batch: BatchId, decision: &Decision) {
        let offered = match self.state(site) {
            Some(State::Offered { epoch, batch, .. }) => Some((batch, epoch)),
            _ => None,
        };
        let accepted = *decision == Decision::Accepted;
        let event = match decision {
            Decision::Accepted => Event::Accepted { batch },
            Decision::Refused { highest, .. } => Event::Refused {
                batch,
                named: self.below(2) == 0,
                highest: *highest,
            },
        };
        if self.moves(site) && self.take(site, &event) && accepted {
            self.misled |= offered.is_none_or(|offered| !self.accepted.contains(&offered));
        }
    }

    /// Whoever arrives from a source that does not send him is cleared.
    fn clear(&mut self, site: usize) {
        match self.state(site) {
            Some(State::Arriving { from, attempt, .. }) if self.moves(number(&from)) => {
                let sends = |state: Option<State>| match state {
                    Some(
                        State::Moving {
                            attempt: of, to, ..
                        }
                        | State::Fenced {
                            attempt: of, to, ..
                        }
                        | State::Offered {
                            attempt: of, to, ..
                        },
                    ) => of == attempt && to == name(site),
                    _ => false,
                };
                if !sends(self.state(number(&from))) {
                    self.take(
                        site,
                        &Event::Clear {
                            attempt,
                            epoch: None,
                        },
                    );
                }
            }
            Some(State::Clearing { attempt, .. }) => {
                self.take(site, &Event::Cleared { attempt });
            }
            _ => {}
        }
    }

    /// Hears what some peer tells.
    fn hear_one(&mut self, site: usize) {
        let peer = self.below(SITES);
        let gone = |site: usize| self.sites[site].destroyed;
        if peer == site || gone(site) || gone(peer) {
            return;
        }
        self.hear_from(site, peer);
    }

    /// Whether `site` says that it has heard its peers since its server started.
    fn is_ready(&self, site: usize) -> bool {
        self.sites[site].open || self.sites[site].compared.len() == SITES - 1
    }

    /// Hears what `peer` tells.
    fn hear_from(&mut self, site: usize, peer: usize) {
        // Until it has heard them all once: the second half only hears.
        if !self.is_ready(site) && !self.slips(Slip::NoSettling) {
            self.sites[peer].visits.retain(|(from, _)| *from != site);
            self.sites[peer].database.terms[site] += 1;
            self.seen.settled += 1;
        }
        let mark = self.draw();
        let heard = self.sites[site].database.heard[peer];
        let anew = self.sites[site].database.again[peer];
        let teller = &mut self.sites[peer].database;
        if teller.told == -1 {
            teller.telling.push(mark);
            teller.told = i64::try_from(teller.telling.len()).expect("few");
        }
        let known =
            |(position, mark): &(usize, u64)| teller.telling.get(*position - 1) == Some(mark);
        let from = heard.filter(known).filter(|_| !anew);
        let from = from.map_or(0, |(position, _)| position);
        let told = usize::try_from(teller.told).unwrap_or(0);
        let to = teller
            .telling
            .last()
            .map(|mark| (teller.telling.len(), *mark));
        let tiding = match &teller.record {
            Some(record) if told > from => tiding(peer, record),
            _ => None,
        };
        let here = name(site);
        let mut again = false;
        if let Some(tiding) = tiding {
            let record = self.sites[site].database.record.clone();
            let open = self.sites[site].open || self.slips(Slip::LearnNothing);
            if let Some(event) = hear(record.as_ref(), &here, open, &tiding) {
                assert!(self.take(site, &event), "what is heard can be done");
                match event {
                    Event::Miss { .. } => {
                        self.seen.lost += 1;
                        self.sites[site].database.again = [true; SITES];
                        self.sites[site].database.again[site] = false;
                    }
                    Event::Learn { .. } => self.seen.learnt += 1,
                    _ => self.seen.overtaken += 1,
                }
                again = matches!(event, Event::Miss { .. });
            }
        }
        if !again {
            self.sites[site].database.again[peer] = false;
        }
        self.sites[site].database.heard[peer] = to;
        let ready = self.is_ready(peer);
        let site = &mut self.sites[site];
        let all = site.ready.len() == SITES - 1;
        match ready && site.compared.len() == SITES - 1 {
            true => site.ready.insert(peer),
            false => site.ready.remove(&peer),
        };
        match all && site.ready.len() == SITES - 1 {
            true => {
                site.confirmed.insert(peer);
            }
            false => site.confirmed.clear(),
        }
        site.compared.insert(peer);
    }

    fn open(&mut self, site: usize) {
        if self.sites[site].destroyed {
            return;
        }
        let all = self.sites[site].confirmed.len() == SITES - 1
            && self.sites[site].database.again == [false; SITES];
        if all || self.slips(Slip::OpenUnheard) {
            self.seen.opened += u64::from(!self.sites[site].open);
            self.seen.returned += u64::from(std::mem::take(&mut self.sites[site].returns));
            self.sites[site].open = true;
        }
    }

    /// An operator resolves a lost user, at a site that is open.
    fn resolve(&mut self, site: usize) {
        let again = self.sites[site].database.again != [false; SITES];
        if again || !self.sites[site].open || !matches!(self.state(site), Some(State::Lost { .. }))
        {
            return;
        }
        let to = self.below(SITES);
        let event = match to == site {
            true => Event::TakeUp,
            false => Event::Cede { to: name(to) },
        };
        assert!(self.take(site, &event), "who is lost can be resolved");
        self.seen.resolved += 1;
    }
}

/// What `peer` tells of him.
fn tiding(peer: usize, record: &Resident) -> Option<Tiding> {
    match &record.state {
        State::Settled { epoch } | State::Moving { epoch, .. } | State::Lost { epoch } => {
            Some(Tiding {
                home: name(peer),
                epoch: *epoch,
            })
        }
        // The epoch is the target's, if he comes there.
        State::Fenced { epoch, .. } | State::Offered { epoch, .. } => Some(Tiding {
            home: name(peer),
            epoch: Epoch(epoch.0 - 1),
        }),
        State::Departed { to, epoch, .. } => Some(Tiding {
            home: to.clone(),
            epoch: *epoch,
        }),
        State::Arriving { kept, .. } | State::Clearing { kept, .. } => {
            kept.as_ref().map(|kept| Tiding {
                home: kept.to.clone(),
                epoch: kept.epoch,
            })
        }
    }
}

/// Walks from `seed`; the step at which the user had two homes, if he had.
fn walk(seed: u64, slip: Option<Slip>, seen: &mut Seen) -> Option<usize> {
    let mut world = World::new(seed, slip);
    let mut broken = None;
    for step in 0..STEPS {
        world.go_on();
        if world.writable() > 1 || world.misled {
            broken = Some(step);
            break;
        }
    }
    seen.accepted += world.seen.accepted;
    seen.restores += world.seen.restores;
    seen.lost += world.seen.lost;
    seen.overtaken += world.seen.overtaken;
    seen.learnt += world.seen.learnt;
    seen.settled += world.seen.settled;
    seen.opened += world.seen.opened;
    seen.given_back += world.seen.given_back;
    seen.unanswered += world.seen.unanswered;
    seen.resolved += world.seen.resolved;
    seen.destroyed += world.seen.destroyed;
    seen.reclaimed += world.seen.reclaimed;
    seen.handed_on += world.seen.handed_on;
    seen.returned += world.seen.returned;
    broken
}

/// How many walks are taken.
fn walks() -> u64 {
    let walks = std::env::var("DOMICILE_WALKS").ok();
    walks.map_or(WALKS, |walks| walks.parse().expect("a number"))
}

#[test]
fn no_restore_makes_a_second_home() {
    let (mut seen, walks) = (Seen::default(), walks());
    for seed in 1..=walks {
        let broken = walk(seed, None, &mut seen);
        assert_eq!(broken, None, "two homes from seed {seed}");
    }
    // It went everywhere.
    assert!(
        seen.accepted > walks / 2 && seen.restores > walks,
        "{seen:?}"
    );
    assert!(
        seen.lost > walks / 10 && seen.overtaken > walks / 10 && seen.learnt > walks / 10,
        "{seen:?}"
    );
    assert!(
        seen.opened > walks && seen.resolved > walks / 20,
        "{seen:?}"
    );
    assert!(
        seen.reclaimed > walks / 20 && seen.handed_on > walks / 2_000 && seen.returned > walks / 20,
        "{seen:?}"
    );
    println!("{walks} walks of {STEPS} steps: {seen:?}");
}

#[test]
fn each_rule_that_is_left_out_is_missed() {
    for slip in [
        Slip::OpenUnheard,
        Slip::MoveUnopened,
        Slip::NoSettling,
        Slip::ReclaimUnheard,
        Slip::ReclaimUnsettled,
        Slip::ReclaimNext,
        Slip::ReclaimLate,
    ] {
        let mut seen = Seen::default();
        let found = (1..=walks() * 10).find(|seed| walk(*seed, Some(slip), &mut seen).is_some());
        let found = found.unwrap_or_else(|| panic!("{slip:?} is not found: {seen:?}"));
        println!("{slip:?}: found from seed {found}");
    }
}

/// Found by 1,900,981 walks, and hardly before: a target accepts, hands on, goes back to before that, hears where the user is, is opened,
/// and answers the first source that he never came, before that has heard the third site.
#[test]
fn what_is_told_while_a_site_is_not_open_is_kept() {
    let (seed, mut seen) = (1_900_981, Seen::default());
    assert!(walk(seed, Some(Slip::LearnNothing), &mut seen).is_some());
    assert_eq!(walk(seed, None, &mut seen), None);
}
