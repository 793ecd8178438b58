//! The sites as one machine: how far a configuration goes, what may be tried, and what recovery may count on.

use std::sync::Mutex;

use model::fault::Bug;

use crate::audit;
use crate::graph::Graph;
use crate::table::{Face, Kind, NOBODY, Step, Table};
use crate::taking::Taking;
use crate::world::{
    Action, BASE, BATCHES, CHUNKS, Place, SITES, USERS, WRITES, World, Writer, members,
};

/// How far a configuration goes.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub sites: usize,
    pub users: usize,
    pub chunks: usize,
    pub batches: usize,
    pub writes: usize,
    pub crashes: u8,
    /// Whether the target may find against a user.
    pub refusals: bool,
    /// Whether operators plan, and say `begin`, before they enrol: several may plan for the same user.
    pub operators: bool,
    /// Where the users live at first. At 0, the origin, they have no record; elsewhere they were created.
    pub born_at: usize,
}

/// A mistake made by the model's own mover, beside the bugs planted in the protocol's functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "planted-faults"),
    allow(dead_code, reason = "some are planted only together with a bug")
)]
pub enum Slip {
    /// Copied rows are written without a look at the record.
    CopyUnconditionally,
    /// Rows are deleted on `cancel` without a look at the record.
    ClearUnconditionally,
    /// The stream loses the changes made after the snapshot.
    ChangeLost,
    /// The decision row is overwritten where it should be inserted once.
    DecisionOverwritten,
    /// Users who go again after a refusal are taken for still enrolled: no new barrier.
    NoBarrierAfterRefusal,
}

/// The sites as a [`stateright::Model`].
pub struct Sites {
    pub bounds: Bounds,
    pub bug: Option<Bug>,
    pub slip: Option<Slip>,
    /// The invariants of [`audit`] that end a path when they are violated; the others are not looked at.
    pub watched: u16,
    pub table: Mutex<Table>,
    pub graph: Mutex<Graph>,
}

impl Sites {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            bug: None,
            slip: None,
            watched: u16::MAX,
            table: Mutex::new(Table::new()),
            graph: Mutex::default(),
        }
    }

    pub fn origin(&self) -> Option<u8> {
        (self.bounds.born_at == 0).then_some(0)
    }

    pub fn slips(&self, slip: Slip) -> bool {
        self.slip == Some(slip)
    }

    pub fn faces(&self, world: &World) -> [[Face; USERS]; SITES] {
        let table = self.table.lock().expect("no panic inside");
        audit::faces(world, &table, self.origin())
    }

    pub fn first(&self) -> World {
        let mut world = World {
            places: [[Place::default(); USERS]; SITES],
            chunks: [None; CHUNKS],
            batches: [None; BATCHES],
            writers: [[Writer::Over; WRITES]; USERS],
            acknowledged: [0; USERS],
            crashes_left: self.bounds.crashes,
            broken: 0,
        };
        let mut table = self.table.lock().expect("no panic inside");
        let born = self.bounds.born_at;
        for user in 0..self.bounds.users {
            let place = &mut world.places[born][user];
            place.rows = BASE;
            place.told = Some((born as u8, 0));
            if self.origin().is_none() {
                place.record = table
                    .step(NOBODY, Step::Create)
                    .expect("created where unknown");
                place.told = Some((born as u8, 1));
            }
            world.acknowledged[user] = BASE;
            for write in 0..self.bounds.writes {
                world.writers[user][write] = Writer::Ahead;
            }
        }
        world
    }

    /// Everything that may be tried; most of what the records forbid is refused by the real `step`.
    pub fn tries(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken != 0 {
            return;
        }
        let bounds = &self.bounds;
        for user in 0..bounds.users {
            let writers = &world.writers[user];
            for (write, writer) in writers.iter().enumerate() {
                if let Writer::Flying { .. } = writer {
                    actions.push(Action::Commit { user, write });
                }
            }
            if writers.contains(&Writer::Ahead) {
                actions.extend((0..bounds.sites).map(|site| Action::Write { user, site }));
            }
        }
        if world.chunks[..bounds.chunks].contains(&None) {
            // Sites that nobody was born at are alike until a move names one: the first names the first.
            let first = world.chunks[0].is_none();
            let sites = if first { 2 } else { bounds.sites };
            for from in 0..sites {
                let others = (0..sites).filter(|to| *to != from);
                actions.extend(others.map(|to| Action::Plan { from, to }));
            }
        }
        for (chunk, row) in world.chunks.iter().enumerate() {
            let Some(row) = row else { continue };
            actions.push(Action::Begin { chunk });
            actions.extend(members(row.users).map(|user| Action::Cancel { chunk, user }));
            if !row.enrolled {
                actions.push(Action::Enrol { chunk });
                continue;
            }
            if row.snapshot.is_some() {
                actions.push(Action::Copy { chunk });
            }
            actions.extend([
                Action::Barrier { chunk },
                Action::Snapshot { chunk },
                Action::Fence { chunk },
                Action::Withdraw { chunk },
            ]);
        }
        for (batch, row) in world.batches.iter().enumerate() {
            let Some(row) = row else { continue };
            actions.push(Action::Reopen { batch });
            if row.offered.is_none() {
                actions.push(Action::Offer { batch });
                continue;
            }
            actions.push(Action::Ask { batch });
            actions.push(Action::Handoff { batch, against: 0 });
            if bounds.refusals && row.decision.is_none() {
                let some = (1..1u8 << USERS).filter(|against| against & !row.users == 0);
                actions.extend(some.map(|against| Action::Handoff { batch, against }));
            }
            let words = row.decision.into_iter().chain(row.contradiction);
            actions.extend(words.map(|word| Action::Answer { batch, word }));
        }
        for site in 0..bounds.sites {
            for user in 0..bounds.users {
                let receipts = world.places[site][user].receipts;
                actions.push(Action::Cleared { site, user });
                let epochs = (0..16).filter(|epoch| receipts & (1 << epoch) != 0);
                actions.extend(epochs.map(|epoch| Action::Erase { site, user, epoch }));
            }
            if world.crashes_left > 0 {
                actions.push(Action::Crash { site });
            }
        }
    }

    /// The state after `action`, if it can be taken.
    pub fn take(&self, before: &World, action: Action) -> Option<World> {
        #[cfg(feature = "planted-faults")]
        model::fault::plant(self.bug);
        let mut taking = Taking {
            sites: self,
            table: self.table.lock().expect("no panic inside"),
            world: *before,
        };
        let taken = taking.take(action);
        #[cfg(feature = "planted-faults")]
        model::fault::plant(None);
        taken?;
        taking.tidy();
        let Taking {
            table, mut world, ..
        } = taking;
        if world == *before {
            return None;
        }
        let faces = audit::faces(&world, &table, self.origin());
        world.broken |= audit::state(&world, &faces, self.bounds.users);
        world.broken &= self.watched;
        let mut graph = self.graph.lock().expect("no panic inside");
        let to = graph.meet(&world, audit::quiet(&faces, self.bounds.users));
        let faces_before = audit::faces(before, &table, self.origin());
        if self.recovers(before, &faces_before, action) {
            let from = graph.meet(before, audit::quiet(&faces_before, self.bounds.users));
            graph.recovers(from, to);
        }
        Some(world)
    }

    /// Whether recovery may count on the step: it is the mover's own clearing up, a writer's end, or the
    /// arrival of a message that its sender would send in this very state, not of an old one.
    fn recovers(&self, world: &World, faces: &[[Face; USERS]; SITES], action: Action) -> bool {
        let chunk = |chunk: usize| world.chunks[chunk].expect("it exists");
        let asks = |batch: usize| {
            let row = world.batches[batch].expect("it exists");
            let from = usize::from(chunk(row.chunk.into()).from);
            members(row.users)
                .all(|user| matches!(faces[from][user].kind, Kind::Offered { batch: b, .. } if usize::from(b) == batch))
        };
        match action {
            Action::Commit { .. }
            | Action::Reopen { .. }
            | Action::Withdraw { .. }
            | Action::Cleared { .. } => true,
            Action::Ask { batch } => asks(batch),
            Action::Answer { batch, word } => {
                asks(batch) && world.batches[batch].expect("it exists").decision == Some(word)
            }
            Action::Cancel { chunk: c, user } => {
                let row = chunk(c);
                faces[usize::from(row.from)][user].leaving_in() != Some(row.attempt)
            }
            Action::Write { .. }
            | Action::Plan { .. }
            | Action::Enrol { .. }
            | Action::Barrier { .. }
            | Action::Snapshot { .. }
            | Action::Begin { .. }
            | Action::Copy { .. }
            | Action::Fence { .. }
            | Action::Offer { .. }
            | Action::Handoff { .. }
            | Action::Erase { .. }
            | Action::Crash { .. } => false,
        }
    }
}
