//! One step being taken: the transaction's view of the records, and what every step uses.

use std::sync::MutexGuard;

use handoff::decision::{Decision, Outcome, decide};
use handoff::record::Resident;
use model::Epoch;

use crate::audit;
use crate::rules::{Sites, Slip};
use crate::table::{self, Face, Kind, NOBODY, Step, Table};
use crate::world::{Action, BATCHES, Batch, CHUNKS, Chunk, USERS, Word, World, members};

/// One step being taken.
pub struct Taking<'a> {
    pub sites: &'a Sites,
    pub table: MutexGuard<'a, Table>,
    pub world: World,
}

impl Taking<'_> {
    pub fn take(&mut self, action: Action) -> Option<()> {
        match action {
            Action::Write { user, site } => self.write(user, site),
            Action::Commit { user, write } => self.commit(user, write),
            Action::Plan { from, to } => self.plan(from, to),
            Action::Enrol { chunk } => self.enrol(chunk),
            Action::Barrier { chunk } => self.barrier(chunk),
            Action::Snapshot { chunk } => self.snapshot(chunk),
            Action::Begin { chunk } => self.begin(chunk),
            Action::Copy { chunk } => self.copy(chunk),
            Action::Fence { chunk } => self.fence(chunk),
            Action::Reopen { batch } => self.reopen(batch),
            Action::Withdraw { chunk } => self.withdraw(chunk),
            Action::Offer { batch } => self.offer(batch),
            Action::Handoff { batch, against } => self.handoff(batch, against),
            Action::Ask { batch } => self.ask(batch),
            Action::Answer { batch, word } => self.answer(batch, word),
            Action::Cancel { chunk, user } => self.cancel(chunk, user),
            Action::Cleared { site, user } => self.cleared(site, user),
            Action::Erase { site, user, epoch } => self.erase(site, user, epoch),
            Action::Crash { site } => self.crash(site),
        }
    }

    pub fn chunk(&self, chunk: usize) -> Chunk {
        self.world.chunks[chunk].expect("only actions on what exists are tried")
    }

    pub fn batch(&self, batch: usize) -> (Batch, Chunk) {
        let row = self.world.batches[batch].expect("only actions on what exists are tried");
        (row, self.chunk(row.chunk.into()))
    }

    pub fn number(&self, site: usize, user: usize) -> table::Number {
        audit::effective(&self.world, &self.table, self.sites.origin(), site, user)
    }

    pub fn face(&self, site: usize, user: usize) -> Face {
        self.table.face(self.number(site, user))
    }

    pub fn rows(&self, site: u8) -> [u8; USERS] {
        self.world.places[usize::from(site)].map(|place| place.rows)
    }

    pub fn records(&self, site: u8, users: u8) -> Vec<Option<Resident>> {
        let number = |user| self.number(site.into(), user);
        members(users)
            .map(|user| self.table.record(number(user)).cloned())
            .collect()
    }

    /// The chunk, if somebody at the source is still under way in it.
    pub fn engaged(&self, chunk: usize) -> Option<Chunk> {
        let row = self.chunk(chunk);
        let leaving = |user| self.face(row.from.into(), user).leaving_in() == Some(row.attempt);
        members(row.users).any(leaving).then_some(row)
    }

    pub fn arrives(&self, chunk: &Chunk, user: usize) -> bool {
        let expected = Kind::Arriving {
            from: chunk.from,
            attempt: chunk.attempt,
        };
        self.face(chunk.to.into(), user).kind == expected
    }

    /// Takes the step for every user, or, where one is illegal, for none: one transaction.
    pub fn step_all(&mut self, site: u8, users: u8, by: impl Fn(usize) -> Step) -> Option<()> {
        let site = usize::from(site);
        let mut next = [NOBODY; USERS];
        for user in members(users) {
            let number = self.number(site, user);
            next[user] = self.table.step(number, by(user))?;
        }
        for user in members(users) {
            self.put(site, user, next[user]);
        }
        Some(())
    }

    /// Takes the step for whom it is legal, and says for whom; nothing where for nobody.
    pub fn step_any(&mut self, site: u8, users: u8, by: impl Fn(usize) -> Step) -> Option<u8> {
        let mut taken = 0;
        for user in members(users) {
            if self.step_all(site, 1 << user, &by).is_some() {
                taken |= 1 << user;
            }
        }
        (taken != 0).then_some(taken)
    }

    pub fn put(&mut self, site: usize, user: usize, next: table::Number) {
        let old = self.face(site, user);
        let place = &mut self.world.places[site][user];
        place.record = next;
        let new = self.table.face(next);
        self.world.broken |= audit::change(&old, &new, site, &mut place.told);
    }

    /// Inserts the decision; false where another stands.
    pub fn decide(&mut self, batch: usize, wish: Decision) -> bool {
        let overwrites = self.sites.slips(Slip::DecisionOverwritten);
        let row = self.world.batches[batch].as_mut().expect("it exists");
        let standing = row.decision.filter(|_| !overwrites).map(decision);
        match decide(standing.as_ref(), wish) {
            Outcome::Decided(decided) => {
                row.decision = Some(word(&decided));
                true
            }
            Outcome::Standing(standing) => {
                self.say(batch, word(&standing));
                false
            }
        }
    }

    /// An answer goes out that is not a fresh decision.
    pub fn say(&mut self, batch: usize, word: Word) {
        let row = self.world.batches[batch].as_mut().expect("it exists");
        if row.decision != Some(word) {
            row.contradiction = Some(word);
        }
    }

    pub fn delete(&mut self, site: usize, user: usize) {
        let faces = audit::faces(&self.world, &self.table, self.sites.origin());
        if !audit::held_elsewhere(&self.world, &faces, site, user) {
            self.world.broken |= audit::I6;
        }
        self.world.places[site][user].rows = 0;
    }

    pub fn expect_open(&mut self, site: u8, users: u8) {
        for user in members(users) {
            let place = self.world.places[usize::from(site)][user];
            let whole = self.world.acknowledged[user] & !place.rows == 0;
            if !self.face(site.into(), user).open || !whole {
                self.world.broken |= audit::I8;
            }
        }
    }

    /// Forgets what can have no effect any more, so that equal situations are equal states. That it has none
    /// is asserted where it would.
    pub fn tidy(&mut self) {
        let forgets = self.sites.bug.is_none() && self.sites.slip.is_none();
        for chunk in 0..CHUNKS {
            let Some(mut row) = self.world.chunks[chunk].filter(|row| row.enrolled && !row.over)
            else {
                continue;
            };
            if self.engaged(chunk).is_some() {
                continue;
            }
            row.barrier = false;
            let past = |user| {
                let face = self.face(row.to.into(), user);
                face.attempt_seen >= row.attempt && !self.arrives(&row, user)
            };
            if forgets && members(row.users).all(past) {
                row.snapshot = None;
                row.over = true;
            }
            self.world.chunks[chunk] = Some(row);
        }
        for batch in 0..BATCHES {
            let Some(mut row) = self.world.batches[batch].filter(|row| !row.over) else {
                continue;
            };
            let from = usize::from(self.chunk(row.chunk.into()).from);
            let stays = |user| match self.face(from, user).kind {
                Kind::Fenced { batch: b, .. } | Kind::Offered { batch: b, .. } => {
                    usize::from(b) == batch
                }
                _ => false,
            };
            if !forgets || members(row.users).any(stays) {
                continue;
            }
            row.over = true;
            row.epochs = [0; USERS];
            row.offered = row.offered.map(|_| [0; USERS]);
            if let Some(Word::Refused { highest, .. }) = &mut row.decision {
                *highest = 0;
            }
            self.world.batches[batch] = Some(row);
        }
    }
}

pub fn decision(word: Word) -> Decision {
    match word {
        Word::Accepted => Decision::Accepted,
        Word::Refused { named, highest } => Decision::Refused {
            named: members(named)
                .map(|user| (table::user(user), "a finding".to_owned()))
                .collect(),
            highest: Epoch(highest.into()),
        },
    }
}

pub fn word(decision: &Decision) -> Word {
    match decision {
        Decision::Accepted => Word::Accepted,
        Decision::Refused { named, highest } => Word::Refused {
            named: named
                .iter()
                .fold(0, |users, (key, _)| users | 1 << table::index(key.as_str())),
            highest: table::small(highest.0),
        },
    }
}
