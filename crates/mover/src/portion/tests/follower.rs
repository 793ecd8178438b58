//! The target and the process that follows the stream: what is durable, and what a crash takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::Attempt;
use postgres::lsn::Lsn;
use postgres::pgoutput::{Message, Tuple, TupleValue};
use postgres::snapshot::Snapshot;
use postgres::transaction::{
    Assembler, Change, Event, Op, Transaction, read_changes, write_changes,
};

use super::source::{Row, Source, View, events, relation};
use super::{GROUPS, Seen, Wrong};
use crate::portion::{self, Progress, Work};

/// A group's attempt at the target. Everything here is durable, but for `taken`.
#[derive(Debug, Default)]
struct Arrival {
    attempt: Option<Attempt>,
    /// The copy under way: gone in a crash.
    taken: Option<View>,
    /// Durable with the copied rows.
    snapshot: Option<Snapshot>,
    streaming: bool,
    position: Lsn,
    spool: Vec<(u32, Vec<u8>)>,
    spoilt: BTreeSet<u8>,
}

#[derive(Debug)]
pub(super) struct Follower {
    wrong: Wrong,
    arrivals: [Arrival; 2],
    rows: BTreeMap<(u8, u8), Row>,
    attempts: i64,
    // What a crash takes.
    chunks: HashMap<Attempt, Progress>,
    assembler: Assembler,
    /// Entries of the log that were read in this session.
    read: usize,
    /// Entries that the process has confirmed, and that the server has heard of.
    confirmed: usize,
    heard: usize,
    /// Entries read in any session.
    read_ever: usize,
    /// With the planted mistakes: where the slot begins, and positions not yet written.
    slot_begins: Option<usize>,
    late: Vec<(usize, Lsn)>,
    seen: Seen,
}

fn session() -> Assembler {
    let mut assembler = Assembler::new(HashMap::new(), 1 << 20);
    let described = Event::Row(Message::Relation(relation()));
    assembler.feed(described).expect("a description");
    assembler
}

impl Follower {
    pub(super) fn new(wrong: Wrong) -> Self {
        Self {
            wrong,
            arrivals: Default::default(),
            rows: BTreeMap::new(),
            attempts: 0,
            chunks: HashMap::new(),
            assembler: session(),
            read: 0,
            confirmed: 0,
            heard: 0,
            read_ever: 0,
            slot_begins: (wrong != Wrong::SlotLate).then_some(0),
            late: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// Follows a new attempt, then enrols its users.
    pub(super) fn enrol(&mut self, source: &mut Source, group: usize) {
        if self.arrivals[group].attempt.is_some() {
            return;
        }
        self.attempts += 1;
        let attempt = Attempt(self.attempts);
        self.arrivals[group] = Arrival {
            attempt: Some(attempt),
            ..Arrival::default()
        };
        let fresh = Progress {
            snapshot: None,
            position: Lsn(0),
        };
        self.chunks.insert(attempt, fresh);
        source.enrol(group, Some(attempt.0));
    }

    /// Takes the chunk's snapshot, once the barrier lets it.
    pub(super) fn snapshot(&mut self, source: &Source, group: usize) {
        let arrival = &mut self.arrivals[group];
        let ready = arrival.attempt.is_some()
            && arrival.taken.is_none()
            && arrival.snapshot.is_none()
            && (self.wrong == Wrong::NoBarrier || !source.has_older_writers(group));
        if ready {
            arrival.taken = Some(source.view());
        }
    }

    /// The copied rows become durable, with the snapshot.
    pub(super) fn copied(&mut self, group: usize) {
        let arrival = &mut self.arrivals[group];
        let Some(view) = arrival.taken.take() else {
            return;
        };
        for user in GROUPS[group] {
            for (key, row) in view.rows.iter().filter(|(_, row)| row.user == *user) {
                self.rows.insert((*user, *key), row.clone());
            }
        }
        let mut parts = view.snapshot.split(':');
        let (xmin, xmax) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let snapshot = match self.wrong {
            Wrong::RunningCountAsSeen => format!("{xmax}:{xmax}:"),
            Wrong::EndedCountAsUnseen => format!("{xmin}:{xmin}:"),
            _ => view.snapshot.clone(),
        };
        arrival.snapshot = Some(snapshot.parse().expect("a snapshot"));
        // The planted mistake: the slot is made now. Otherwise it has stood all the time.
        self.slot_begins.get_or_insert(usize::MAX);
    }

    /// Applies the spool; from then on the attempt streams.
    pub(super) fn drain(&mut self, group: usize) -> Result<(), String> {
        let arrival = &mut self.arrivals[group];
        let (Some(attempt), Some(snapshot), false) =
            (arrival.attempt, arrival.snapshot.clone(), arrival.streaming)
        else {
            return Ok(());
        };
        let mut changes = Vec::new();
        for (xid, bytes) in std::mem::take(&mut arrival.spool) {
            let after = match self.wrong {
                Wrong::SpoolUnsorted => true,
                Wrong::Narrow => !snapshot.sees(u64::from(xid)),
                _ => portion::came_after(&snapshot, xid),
            };
            if after {
                changes.extend(read_changes(&bytes).map_err(|error| error.to_string())?);
            } else {
                self.seen.left_out += 1;
            }
        }
        arrival.streaming = true;
        self.seen.drained += changes.len();
        self.apply(group, &changes)?;
        if let Some(at) = self.chunks.get_mut(&attempt) {
            at.snapshot = Some(snapshot);
        }
        Ok(())
    }

    /// Reads up to `count` transactions and writes what they bring, in one transaction.
    pub(super) fn stream(
        &mut self,
        source: &Source,
        count: usize,
        chance: u8,
    ) -> Result<(), String> {
        let Some(begins) = self.slot_begins else {
            return Ok(());
        };
        if begins == usize::MAX {
            let now = source.log.len();
            self.slot_begins = Some(now);
            (self.read, self.confirmed, self.heard) = (now, now, now);
        }
        let upto = source.log.len().min(self.read + count);
        let mut transactions: Vec<Transaction> = Vec::new();
        for logged in &source.log[self.read..upto] {
            for event in events(logged) {
                let done = self.assembler.feed(event).map_err(|e| e.to_string())?;
                transactions.extend(done);
            }
        }
        self.seen.again += self.read_ever.min(upto).saturating_sub(self.read);
        self.read_ever = self.read_ever.max(upto);
        self.read = upto;
        if let Some(unresolved) = transactions.iter().find_map(|t| t.unresolved.first()) {
            return Err(format!("{unresolved:?}"));
        }
        if self.wrong == Wrong::ConfirmedFirst {
            (self.confirmed, self.heard) = (upto, upto);
            if chance.is_multiple_of(8) {
                self.restart();
                return Ok(());
            }
        }
        let chunks = self.told();
        let work = portion::sort(&chunks, &transactions);
        self.write(work)?;
        self.confirmed = upto;
        Ok(())
    }

    /// What the rule is told of the chunks: the truth, but for planted mistakes.
    fn told(&self) -> HashMap<Attempt, Progress> {
        let mut chunks = self.chunks.clone();
        for at in chunks.values_mut() {
            match self.wrong {
                Wrong::AtThePosition => at.position.0 = at.position.0.saturating_sub(1),
                Wrong::WithoutSnapshot => at.snapshot = None,
                Wrong::Narrow => {
                    // What the ids look like to somebody who does not know of epochs.
                    let low = u64::from(u32::MAX);
                    let narrow = at.snapshot.as_ref().map(|snapshot| {
                        let text = snapshot.to_string();
                        let mut parts =
                            text.split(':').map(|n| n.parse::<u64>().unwrap_or(0) & low);
                        let (_, xmax) = (parts.next(), parts.next().unwrap_or(0));
                        format!("{xmax}:{xmax}:").parse().expect("a snapshot")
                    });
                    at.snapshot = narrow;
                }
                _ => {}
            }
        }
        chunks
    }

    fn write(&mut self, work: Vec<Work>) -> Result<(), String> {
        for (group, position) in std::mem::take(&mut self.late) {
            self.arrivals[group].position = position;
        }
        for work in work {
            let group = self.group(work.attempt)?;
            let upto = work.upto();
            let in_memory = self.chunks[&work.attempt].clone();
            let apart = self.wrong == Wrong::PositionApart;
            let arrival = &mut self.arrivals[group];
            let moved_from = if self.wrong == Wrong::AtThePosition {
                arrival.position
            } else {
                work.from
            };
            if arrival.position != moved_from {
                return Err("somebody else moved the position".to_owned());
            }
            if apart {
                self.late.push((group, upto));
            } else {
                arrival.position = upto;
            }
            for portion in &work.portions {
                for (user, _) in &portion.spoil {
                    let user = user.as_str().parse().map_err(|_| "no such user")?;
                    self.arrivals[group].spoilt.insert(user);
                }
            }
            if in_memory.snapshot.is_none() {
                let portions = work.portions.iter().filter(|p| !p.changes.is_empty());
                let spooled = portions.map(|p| (p.xid, write_changes(&p.changes)));
                self.arrivals[group].spool.extend(spooled);
            } else {
                let changes: Vec<Change> = work
                    .portions
                    .iter()
                    .flat_map(|p| p.changes.clone())
                    .collect();
                self.seen.streamed += changes.len();
                self.apply(group, &changes)?;
            }
            if let Some(at) = self.chunks.get_mut(&work.attempt) {
                at.position = upto;
            }
        }
        Ok(())
    }

    fn group(&self, attempt: Attempt) -> Result<usize, String> {
        let found = self
            .arrivals
            .iter()
            .position(|a| a.attempt == Some(attempt));
        found.ok_or_else(|| format!("nobody arrives under {attempt:?}"))
    }

    /// Strictly: what must be there is, what must not be is not.
    fn apply(&mut self, group: usize, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            let user: u8 = change.user.parse().map_err(|_| "no such user")?;
            if self.arrivals[group].spoilt.contains(&user) {
                continue;
            }
            let missing = || format!("no row for {:?} of user {user}", change.op);
            match &change.op {
                Op::Insert { new } => {
                    let row = row(new, None).ok_or_else(missing)?;
                    if self.rows.insert((user, key(new)), row).is_some() {
                        return Err(format!("the row of {:?} is there", change.op));
                    }
                }
                Op::Update { key_old, new } => {
                    let from = key(key_old.as_ref().unwrap_or(new));
                    let old = self.rows.remove(&(user, from)).ok_or_else(missing)?;
                    let row = row(new, Some(&old)).ok_or_else(missing)?;
                    if self.rows.insert((user, key(new)), row).is_some() {
                        return Err(format!("the key of {:?} is taken", change.op));
                    }
                }
                Op::Delete { key: gone } => {
                    self.rows.remove(&(user, key(gone))).ok_or_else(missing)?;
                }
            }
        }
        Ok(())
    }

    /// The server hears what was confirmed.
    pub(super) fn confirm(&mut self) {
        self.heard = self.confirmed;
    }

    /// The process dies and a new one finds out what is left: copies that were not complete are given up.
    pub(super) fn crash(&mut self, source: &mut Source) {
        self.restart();
        for group in 0..GROUPS.len() {
            let arrival = &mut self.arrivals[group];
            if arrival.attempt.is_some() && arrival.snapshot.is_none() {
                *arrival = Arrival::default();
                source.enrol(group, None);
            }
        }
    }

    fn restart(&mut self) {
        self.late.clear();
        self.assembler = session();
        self.read = self.heard;
        self.confirmed = self.heard;
        self.chunks.clear();
        for arrival in &mut self.arrivals {
            arrival.taken = None;
            if let (Some(attempt), Some(snapshot)) = (arrival.attempt, &arrival.snapshot) {
                let progress = Progress {
                    snapshot: arrival.streaming.then(|| snapshot.clone()),
                    position: arrival.position,
                };
                self.chunks.insert(attempt, progress);
            }
        }
    }

    /// Every group arrives, and the stream is read to its end.
    pub(super) fn finish(&mut self, source: &mut Source) -> Result<Seen, String> {
        for group in 0..GROUPS.len() {
            // A copy of an attempt that lost its memory in a planted crash is given up, too.
            let known = |a: &Attempt| self.chunks.contains_key(a);
            if self.arrivals[group]
                .attempt
                .as_ref()
                .is_some_and(|a| !known(a))
            {
                self.arrivals[group] = Arrival::default();
            }
            self.enrol(source, group);
            self.snapshot(source, group);
            self.copied(group);
            self.drain(group)?;
        }
        while self.read < source.log.len() {
            self.stream(source, 3, 1)?;
        }
        Ok(self.seen)
    }

    pub(super) fn is_spoilt(&self, group: usize, user: u8) -> bool {
        self.arrivals[group].spoilt.contains(&user)
    }

    pub(super) fn rows_of(&self, user: u8) -> BTreeMap<u8, Row> {
        let own = self.rows.iter().filter(|((owner, _), _)| *owner == user);
        own.map(|((_, key), row)| (*key, row.clone())).collect()
    }
}

fn number(value: &TupleValue) -> Option<u16> {
    std::str::from_utf8(value.data()?).ok()?.parse().ok()
}

fn key(tuple: &Tuple) -> u8 {
    number(&tuple.0[0])
        .and_then(|key| u8::try_from(key).ok())
        .unwrap_or(u8::MAX)
}

/// The row of a tuple; what stands out of line and did not change, from `old`.
fn row(tuple: &Tuple, old: Option<&Row>) -> Option<Row> {
    let big = match &tuple.0[3] {
        TupleValue::Unchanged => old?.big,
        value => number(value)?,
    };
    Some(Row {
        user: u8::try_from(number(&tuple.0[1])?).ok()?,
        value: number(&tuple.0[2])?,
        big,
    })
}
