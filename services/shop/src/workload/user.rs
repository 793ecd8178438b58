//! What a user owns, as the application believes, and which of it a running operation holds.
//!
//! An operation holds the invoice, or the user's row, that it changes: writers overlap on a user
//! but not on one of his objects, so every object has one history, in the log's order. An invoice
//! whose last operation has an unknown outcome is never touched again; the checker then accepts it
//! before or after that operation, and nothing else.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::Mix;
use super::ids::Ids;
use crate::log::{Change, Line, Outcome, Stamp};

/// A user of the workload.
#[derive(Debug)]
pub(super) struct User {
    pub(super) key: i32,
    /// Index of the site where writers first look for him.
    pub(super) first_home: usize,
    belongings: Mutex<Belongings>,
}

#[derive(Debug, Default)]
struct Belongings {
    row_held: bool,
    invoices: Vec<OwnInvoice>,
}

#[derive(Debug)]
pub(super) struct OwnInvoice {
    pub(super) id: i32,
    pub(super) held: bool,
    pub(super) cents: i64,
    pub(super) lines: Vec<Line>,
}

/// What a new operation is made of.
pub(super) struct Ingredients<'a> {
    /// Unlike that of any other operation, also of another workload.
    pub(super) stamp: String,
    pub(super) mix: &'a Mix,
    pub(super) ids: &'a Ids,
    pub(super) tracks: &'a [i32],
}

/// A line's price; the catalogue's is nearly always this one.
const LINE_CENTS: i64 = 99;

impl User {
    pub(super) fn new(key: i32, first_home: usize, invoices: Vec<OwnInvoice>) -> User {
        User {
            key,
            first_home,
            belongings: Mutex::new(Belongings {
                row_held: false,
                invoices,
            }),
        }
    }

    /// Makes up the next operation and holds what it changes. Where everything is held by other
    /// writers it is a new invoice.
    pub(super) fn plan(&self, rng: &mut SmallRng, with: Ingredients<'_>) -> Change {
        let mut own = self.lock();
        let Ingredients { stamp, mix, .. } = with;
        let mut dice = rng.random_range(0..mix.total());
        let mut falls_on = |weight: u32| {
            let hit = dice < weight;
            dice = dice.wrapping_sub(weight);
            hit
        };
        if falls_on(mix.edit_user) {
            if !own.row_held {
                own.row_held = true;
                return Change::EditUser { company: stamp };
            }
        } else if falls_on(mix.edit_invoice) {
            if let Some(invoice) = own.take_free(rng, 0) {
                invoice.cents += 1;
                return Change::EditInvoice {
                    invoice: invoice.id,
                    stamp: invoice.stamped(stamp),
                };
            }
        } else if falls_on(mix.add_line) {
            if let Some(invoice) = own.take_free(rng, 0) {
                let line = with_line(rng, with.ids, with.tracks);
                invoice.cents += line.cents * i64::from(line.quantity);
                return Change::AddLine {
                    invoice: invoice.id,
                    stamp: invoice.stamped(stamp),
                    line,
                };
            }
        } else if falls_on(mix.delete_line) {
            if let Some(invoice) = own.take_free(rng, 1) {
                let line = invoice.lines[rng.random_range(0..invoice.lines.len())].clone();
                invoice.cents -= line.cents * i64::from(line.quantity);
                return Change::DeleteLine {
                    invoice: invoice.id,
                    stamp: invoice.stamped(stamp),
                    line: line.id,
                };
            }
        } else if falls_on(mix.delete_invoice)
            && let Some(invoice) = own.take_free(rng, 0)
        {
            return Change::DeleteInvoice {
                invoice: invoice.id,
            };
        }
        let lines: Vec<Line> = (0..rng.random_range(1..=4))
            .map(|_| with_line(rng, with.ids, with.tracks))
            .collect();
        let cents = lines
            .iter()
            .map(|line| line.cents * i64::from(line.quantity))
            .sum();
        Change::CreateInvoice {
            invoice: with.ids.invoice(),
            stamp: Stamp {
                address: stamp,
                cents,
            },
            lines,
        }
    }

    /// Takes an operation's outcome into account and lets go of what it held. `None`: it certainly
    /// did not happen.
    pub(super) fn settle(&self, change: &Change, outcome: Option<Outcome>) {
        let mut own = self.lock();
        match (change, outcome) {
            (Change::CreateUser { .. }, _) => {}
            // The next acknowledged edit overwrites an unknown one, which held the row's lock.
            (Change::EditUser { .. }, _) => own.row_held = false,
            (
                Change::CreateInvoice {
                    invoice,
                    stamp,
                    lines,
                },
                Some(Outcome::Acknowledged),
            ) => own.invoices.push(OwnInvoice {
                id: *invoice,
                held: false,
                cents: stamp.cents,
                lines: lines.clone(),
            }),
            (Change::CreateInvoice { .. }, _) => {}
            (
                Change::EditInvoice { invoice, .. }
                | Change::AddLine { invoice, .. }
                | Change::DeleteLine { invoice, .. }
                | Change::DeleteInvoice { invoice },
                outcome,
            ) => own.settle_invoice(*invoice, change, outcome),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Belongings> {
        // No code that panics runs under this lock; a poisoned one would still be consistent.
        self.belongings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Belongings {
    /// An invoice that nobody holds and that has at least `lines` lines, now held.
    fn take_free(&mut self, rng: &mut SmallRng, lines: usize) -> Option<&mut OwnInvoice> {
        let count = self.invoices.len();
        let start = rng.random_range(0..count.max(1));
        let index = (start..count).chain(0..start.min(count)).find(|index| {
            !self.invoices[*index].held && self.invoices[*index].lines.len() >= lines
        })?;
        let invoice = &mut self.invoices[index];
        invoice.held = true;
        Some(invoice)
    }

    fn settle_invoice(&mut self, id: i32, change: &Change, outcome: Option<Outcome>) {
        let Some(index) = self.invoices.iter().position(|own| own.id == id) else {
            return;
        };
        let own = &mut self.invoices[index];
        match outcome {
            Some(Outcome::Unknown) => {
                // Out of the list, so that nobody touches it again.
                self.invoices.swap_remove(index);
                return;
            }
            Some(Outcome::Acknowledged) => match change {
                Change::AddLine { line, .. } => own.lines.push(line.clone()),
                Change::DeleteLine { line, .. } => own.lines.retain(|kept| kept.id != *line),
                Change::DeleteInvoice { .. } => {
                    self.invoices.swap_remove(index);
                    return;
                }
                Change::CreateUser { .. }
                | Change::EditUser { .. }
                | Change::CreateInvoice { .. }
                | Change::EditInvoice { .. } => {}
            },
            // The sum was already changed when the operation was planned; any sum will do.
            None => {}
        }
        self.invoices[index].held = false;
    }
}

impl OwnInvoice {
    fn stamped(&self, address: String) -> Stamp {
        Stamp {
            address,
            cents: self.cents,
        }
    }
}

fn with_line(rng: &mut SmallRng, ids: &Ids, tracks: &[i32]) -> Line {
    Line {
        id: ids.line(),
        track: tracks[rng.random_range(0..tracks.len())],
        cents: LINE_CENTS,
        quantity: rng.random_range(1..=3),
    }
}
