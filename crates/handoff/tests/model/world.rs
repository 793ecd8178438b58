//! One state of the modelled sites: everything durable, the writers in flight, and what has been said.
//!
//! Messages need no place of their own. Whatever was ever sent may arrive at any later time, any number of
//! times, in any order, or never; and what was sent follows from the rows here: a chunk that exists has sent
//! its `begin`, one with a snapshot its `copy`, an offered batch its `handoff` and `ask`, a decision its
//! `answer`, an attempt that its source has given up its `cancel`.

use std::hash::{Hash, Hasher};

use crate::table::Number;

pub const SITES: usize = 3;
pub const USERS: usize = 2;
pub const CHUNKS: usize = 4;
pub const BATCHES: usize = 4;
pub const WRITES: usize = 2;

/// The row that every user has from the beginning, beside the bits of his writes.
pub const BASE: u8 = 1 << 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    pub places: [[Place; USERS]; SITES],
    pub chunks: [Option<Chunk>; CHUNKS],
    pub batches: [Option<Batch>; BATCHES],
    pub writers: [[Writer; WRITES]; USERS],
    /// The rows whose writes were acknowledged, and the base row.
    pub acknowledged: [u8; USERS],
    pub crashes_left: u8,
    /// What went wrong on the way here: see [`crate::audit`]. Such a state is not followed further.
    pub broken: u16,
}

/// One user at one site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// His record's number in the [`Table`](crate::table::Table).
    pub record: Number,
    /// His rows that stand here.
    pub rows: u8,
    /// Whether the copy of the attempt in which he arrives stands here whole.
    pub copied: bool,
    /// Erasures that may still be run: a bit for the epoch of each receipt.
    pub receipts: u16,
    /// The home and epoch that this site named last, to whoever asked it.
    pub told: Option<(u8, u8)>,
}

/// One copying attempt, at its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub from: u8,
    pub to: u8,
    pub attempt: u8,
    /// Its users, a bit each.
    pub users: u8,
    /// Whether its users were enrolled; another operator's plan may say `begin` before that.
    pub enrolled: bool,
    /// Whether the barrier was passed. Known to the mover's process alone: a crash forgets it.
    pub barrier: bool,
    /// The rows in the snapshot, once taken.
    pub snapshot: Option<[u8; USERS]>,
    /// Whether `begin` was said before enrolment, so that the source may have said `cancel` meanwhile.
    pub early: bool,
    /// Whether it can have no effect any more, so that what it holds was forgotten.
    pub over: bool,
    /// Set by [`Slip::NoBarrierAfterRefusal`](crate::rules::Slip) alone: the mover takes its users for enrolled.
    pub goes_again: bool,
}

/// One batch, with the target's decision on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The chunk whose users these are.
    pub chunk: u8,
    pub users: u8,
    pub epochs: [u8; USERS],
    /// The rows read back by the source after the offer; once there, the handoff is on its way.
    pub offered: Option<[u8; USERS]>,
    /// The decision row.
    pub decision: Option<Word>,
    /// The last answer given that is not the decision row's. Only planted bugs give one.
    pub contradiction: Option<Word>,
    /// Whether it can have no effect any more, so that what it holds was forgotten.
    pub over: bool,
}

/// A [`Decision`](handoff::decision::Decision) in small numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Accepted,
    Refused { named: u8, highest: u8 },
}

/// One write of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Not begun.
    Ahead,
    /// Past the guard at `site`, not committed. It holds the shared lock if it found the user moving.
    Flying { site: u8, locked: bool },
    /// Committed, or rolled back.
    Over,
}

/// What may happen next. `Begin`, `Copy`, `Handoff`, `Ask`, `Answer` and `Cancel` are arrivals of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Write { user: usize, site: usize },
    Commit { user: usize, write: usize },
    Plan { from: usize, to: usize },
    Enrol { chunk: usize },
    Barrier { chunk: usize },
    Snapshot { chunk: usize },
    Begin { chunk: usize },
    Copy { chunk: usize },
    Fence { chunk: usize },
    Reopen { batch: usize },
    Withdraw { chunk: usize },
    Offer { batch: usize },
    Handoff { batch: usize, against: u8 },
    Ask { batch: usize },
    Answer { batch: usize, word: Word },
    Cancel { chunk: usize, user: usize },
    Cleared { site: usize, user: usize },
    Erase { site: usize, user: usize, epoch: u8 },
    Crash { site: usize },
}

/// The members of a bit set of users.
pub fn members(users: u8) -> impl Iterator<Item = usize> {
    (0..USERS).filter(move |user| users & (1 << user) != 0)
}

// === hashing ===
//
// A state is hashed several times for each step, in an unoptimised build: packed words, hashed at once, take
// a tenth of the time of field by field.

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut words = [0u64; SITES * USERS + CHUNKS + BATCHES + 2];
        let mut next = words.iter_mut();
        let mut put = |word: u64| *next.next().expect("one for each") = word;
        self.places
            .iter()
            .flatten()
            .for_each(|place| put(place.packed()));
        self.chunks
            .iter()
            .for_each(|row| put(row.map_or(0, Chunk::packed)));
        self.batches
            .iter()
            .for_each(|row| put(row.map_or(0, Batch::packed)));
        let writers = self.writers.iter().flatten();
        put(writers.fold(0, |all, writer| all << 4 | writer.packed()));
        let acknowledged = u64::from(self.acknowledged[0]) << 8 | u64::from(self.acknowledged[1]);
        put(acknowledged << 24 | u64::from(self.crashes_left) << 16 | u64::from(self.broken));
        words.hash(hasher);
    }
}

impl Place {
    fn packed(&self) -> u64 {
        let told = self.told.map_or(0, |(home, epoch)| {
            1 | u64::from(home) << 1 | u64::from(epoch) << 4
        });
        let flags = told << 1 | u64::from(self.copied);
        flags << 40
            | u64::from(self.receipts) << 24
            | u64::from(self.rows) << 16
            | u64::from(self.record)
    }
}

impl Chunk {
    fn packed(self) -> u64 {
        let flags = [
            self.enrolled,
            self.barrier,
            self.early,
            self.over,
            self.goes_again,
        ];
        let flags = flags
            .iter()
            .fold(1, |all, flag| all << 1 | u64::from(*flag));
        let ends = u64::from(self.from) << 4 | u64::from(self.to);
        let whose = u64::from(self.attempt) << 8 | u64::from(self.users);
        flags << 41 | pair(self.snapshot) << 24 | ends << 16 | whose
    }
}

impl Batch {
    fn packed(self) -> u64 {
        let words = word(self.contradiction) << 12 | word(self.decision);
        let epochs = pair(Some(self.epochs)) & 0xffff;
        let whose = u64::from(self.chunk) << 2 | u64::from(self.users);
        let rest = pair(self.offered) << 5 | whose;
        words << 40 | epochs << 24 | rest << 1 | u64::from(self.over)
    }
}

impl Writer {
    fn packed(&self) -> u64 {
        match self {
            Self::Ahead => 1,
            Self::Flying { site, locked } => 1 << 3 | u64::from(*site) << 1 | u64::from(*locked),
            Self::Over => 2,
        }
    }
}

fn pair(numbers: Option<[u8; USERS]>) -> u64 {
    numbers.map_or(0, |[a, b]| 1 << 16 | u64::from(a) << 8 | u64::from(b))
}

fn word(word: Option<Word>) -> u64 {
    match word {
        None => 0,
        Some(Word::Accepted) => 1,
        Some(Word::Refused { named, highest }) => {
            u64::from(highest) << 4 | u64::from(named) << 2 | 2
        }
    }
}
