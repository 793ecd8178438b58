//! What the application and the source do, and a crash.

use model::fault::{Bug, planted};

use crate::audit;
use crate::rules::Slip;
use crate::table::{Kind, Step};
use crate::taking::Taking;
use crate::world::{Batch, Chunk, USERS, Word, Writer, members};

impl Taking<'_> {
    // --- the application

    /// The guard lets a write pass; it commits later, or never.
    pub fn write(&mut self, user: usize, site: usize) -> Option<()> {
        let face = self.face(site, user);
        if !face.open {
            return None;
        }
        let ahead = self.world.writers[user]
            .iter()
            .position(|w| *w == Writer::Ahead)?;
        self.world.writers[user][ahead] = Writer::Flying {
            site: site as u8,
            locked: matches!(face.kind, Kind::Moving { .. }),
        };
        Some(())
    }

    pub fn commit(&mut self, user: usize, write: usize) -> Option<()> {
        let Writer::Flying { site, .. } = self.world.writers[user][write] else {
            return None;
        };
        let face = self.face(site.into(), user);
        if !face.open {
            self.world.broken |= if face.home {
                audit::I1
            } else {
                audit::I1 | audit::I3
            };
        }
        self.world.writers[user][write] = Writer::Over;
        self.world.acknowledged[user] |= 1 << write;
        self.world.places[usize::from(site)][user].rows |= 1 << write;
        Some(())
    }

    // --- the source

    pub fn plan(&mut self, from: usize, to: usize) -> Option<()> {
        let free = self.world.chunks.iter().position(Option::is_none)?;
        let here = (0..self.sites.bounds.users).filter(|user| self.face(from, *user).home);
        let users = here.fold(0, |users, user| users | 1 << user);
        let seen = members(users).map(|user| self.face(from, user).attempt_seen);
        let given = self.world.chunks.iter().flatten();
        let given = given
            .filter(|c| usize::from(c.from) == from)
            .map(|c| c.attempt);
        let attempt = seen.chain(given).max()? + 1;
        if users == 0 {
            return None;
        }
        self.world.chunks[free] = Some(Chunk {
            from: from as u8,
            to: to as u8,
            attempt,
            users,
            enrolled: false,
            barrier: false,
            snapshot: None,
            early: self.sites.bounds.operators,
            over: false,
            goes_again: false,
        });
        if self.sites.bounds.operators {
            return Some(());
        }
        self.enrol(free)
    }

    pub fn enrol(&mut self, chunk: usize) -> Option<()> {
        let mut row = self.chunk(chunk);
        let by = Step::Enrol {
            to: row.to,
            attempt: row.attempt,
        };
        row.users = self.step_any(row.from, row.users, |_| by)?;
        row.enrolled = true;
        let remembers = |c: &Chunk| c.from == row.from && c.goes_again;
        row.barrier = self.world.chunks.iter().flatten().any(remembers);
        self.world.chunks[chunk] = Some(row);
        Some(())
    }

    /// No writer is left that passed the guard before it knew of the enrolment.
    pub fn barrier(&mut self, chunk: usize) -> Option<()> {
        let row = self.engaged(chunk)?;
        let waits = |user: usize| {
            let old = Writer::Flying {
                site: row.from,
                locked: false,
            };
            self.world.writers[user].contains(&old)
        };
        if members(row.users).any(waits) && !planted(Bug::NoBarrier) {
            return None;
        }
        self.world.chunks[chunk].as_mut()?.barrier = true;
        Some(())
    }

    pub fn snapshot(&mut self, chunk: usize) -> Option<()> {
        let row = self.engaged(chunk)?;
        if !row.barrier || row.snapshot.is_some() {
            return None;
        }
        let rows = self.rows(row.from);
        self.world.chunks[chunk].as_mut()?.snapshot = Some(rows);
        Some(())
    }

    /// Fences whoever of the chunk moves. Waits for the writers that hold the lock.
    pub fn fence(&mut self, chunk: usize) -> Option<()> {
        let row = self.engaged(chunk)?;
        if !row.barrier || row.snapshot.is_none() {
            return None;
        }
        let bound = self.sites.bounds.batches;
        let batch = self.world.batches[..bound]
            .iter()
            .position(Option::is_none)?;
        let by = Step::Fence {
            attempt: row.attempt,
            batch: batch as u8,
        };
        let users = self.step_any(row.from, row.users, |_| by)?;
        let locks = Writer::Flying {
            site: row.from,
            locked: true,
        };
        if members(users).any(|user| self.world.writers[user].contains(&locks)) {
            return None;
        }
        let mut epochs = [0; USERS];
        for user in members(users) {
            epochs[user] = self.face(row.from.into(), user).epoch()?;
        }
        self.world.batches[batch] = Some(Batch {
            chunk: chunk as u8,
            users,
            epochs,
            offered: None,
            decision: None,
            contradiction: None,
            over: false,
        });
        Some(())
    }

    pub fn reopen(&mut self, batch: usize) -> Option<()> {
        let (row, chunk) = self.batch(batch);
        let by = Step::Reopen { batch: batch as u8 };
        self.step_all(chunk.from, row.users, |_| by)?;
        self.expect_open(chunk.from, row.users);
        Some(())
    }

    pub fn withdraw(&mut self, chunk: usize) -> Option<()> {
        let row = self.chunk(chunk);
        let by = Step::Withdraw {
            attempt: row.attempt,
        };
        let users = self.step_any(row.from, row.users, |_| by)?;
        self.world.chunks[chunk].as_mut()?.goes_again = false;
        self.expect_open(row.from, users);
        Some(())
    }

    pub fn offer(&mut self, batch: usize) -> Option<()> {
        let (row, chunk) = self.batch(batch);
        let by = Step::Offer { batch: batch as u8 };
        self.step_all(chunk.from, row.users, |_| by)?;
        let digest = self.rows(chunk.from);
        self.world.batches[batch].as_mut()?.offered = Some(digest);
        Some(())
    }

    /// The target's answer arrives, new or old.
    pub fn answer(&mut self, batch: usize, word: Word) -> Option<()> {
        let (row, chunk) = self.batch(batch);
        let place = usize::from(chunk.from);
        let number = batch as u8;
        let before = self.world.places;
        match word {
            Word::Accepted => {
                self.step_all(chunk.from, row.users, |_| Step::Accepted { batch: number })?;
                for user in members(row.users) {
                    self.world.places[place][user].receipts |= 1 << row.epochs[user];
                }
            }
            Word::Refused { named, highest } => {
                self.step_all(chunk.from, row.users, |user| Step::Refused {
                    batch: number,
                    named: named & (1 << user) != 0,
                    highest,
                })?;
                self.expect_open(chunk.from, row.users);
                if self.sites.slips(Slip::NoBarrierAfterRefusal) && row.users & !named != 0 {
                    self.world.chunks[usize::from(row.chunk)]
                        .as_mut()?
                        .goes_again = true;
                }
            }
        }
        assert!(
            !row.over || self.world.places == before,
            "an answer to a forgotten batch changes nothing"
        );
        Some(())
    }

    pub fn erase(&mut self, site: usize, user: usize, epoch: u8) -> Option<()> {
        let erased = self.step_all(site as u8, 1 << user, |_| Step::Erased { epoch });
        if erased.is_none() && !planted(Bug::EraseUnconditionally) {
            return None;
        }
        self.world.places[site][user].receipts &= !(1 << epoch);
        self.delete(site, user);
        Some(())
    }

    // --- either

    /// The mover's process at `site` dies, and with its database the writers in flight.
    pub fn crash(&mut self, site: usize) -> Option<()> {
        let before = self.world;
        for chunk in self.world.chunks.iter_mut().flatten() {
            chunk.barrier &= usize::from(chunk.from) != site;
        }
        for writer in self.world.writers.iter_mut().flatten() {
            if matches!(writer, Writer::Flying { site: at, .. } if usize::from(*at) == site) {
                *writer = Writer::Over;
            }
        }
        if self.world == before {
            return None;
        }
        self.world.crashes_left -= 1;
        Some(())
    }
}
