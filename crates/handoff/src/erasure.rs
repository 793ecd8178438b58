//! How far an erasure has come, and what may be said of it then.
//!
//! A state is written once its work is done and was looked at, never before: each says less than one would like rather than
//! more than is true. What keeps the next one waiting is judged in [`wal`] and by whoever looks at the database.

use thiserror::Error;

pub mod wal;

/// How far the erasure of users' rows at one site has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The rows stand, closed to writes. Set by departure, and where a deletion came to nothing.
    Frozen,
    /// The rows stand, and must: a hold with its reason. Set by whoever holds them.
    Held,
    /// The rows are about to be deleted: what they were is written down. Set before the transaction that deletes, so that one
    /// that was cut off is seen.
    Deleting,
    /// No query finds the rows any more. Their bytes are where they were. Set in the transaction that deletes.
    Deleted,
    /// Indexes, TOAST and statistics are new; with `residue` the free space of some tables' pages still has bytes
    /// that nobody has overwritten, without it the tables are new as well. Set once the files of before are seen to be gone.
    Vacuumed {
        /// Whether bytes may be left in free space.
        residue: bool,
    },
    /// No write-ahead log, standby or slot of this server has them, and backups have expired as declared. Set once all this was
    /// seen; the last.
    Purged,
}

/// Something that carries an erasure on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody forbids it for now.
    Hold,
    /// The hold has ended.
    Release,
    /// What is to be deleted was read and written down.
    Begin,
    /// Nothing was deleted: the users came back, or others' rows are tied to theirs.
    Abandon,
    /// The rows are deleted.
    Delete,
    /// Tables, indexes and statistics were worked over, and looked at.
    Clean {
        /// Whether the files of some tables are still those of before.
        residue: bool,
    },
    /// Every horizon has passed.
    Purge,
}

/// A step that an erasure cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an erasure that is {state} cannot take the step {event}")]
pub struct Illegal {
    /// The state's name.
    pub state: &'static str,
    /// The event's name.
    pub event: &'static str,
}

// === impl State ===

impl State {
    /// The state's name, as stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Held => "held",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
            Self::Vacuumed { .. } => "vacuumed",
            Self::Purged => "purged",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str, residue: bool) -> Option<Self> {
        [
            Self::Frozen,
            Self::Held,
            Self::Deleting,
            Self::Deleted,
            Self::Vacuumed { residue },
            Self::Purged,
        ]
        .into_iter()
        .find(|state| state.name() == name)
    }

    /// What is true in it, and what is not: a sentence for people.
    pub fn says(self) -> &'static str {
        match self {
            Self::Frozen => "the rows stand at the old site, closed to writes",
            Self::Held => "the rows stand at the old site: a hold forbids to delete them",
            Self::Deleting => "the rows are about to be deleted; they may still stand",
            Self::Deleted => {
                "no query finds the rows; table and index files, statistics, WAL, standbys, archives and backups still hold their bytes"
            }
            Self::Vacuumed { residue: true } => {
                "indexes and statistics are new; free space of tables' pages may hold bytes until it is overwritten or the tables are \
                 rewritten; WAL, standbys, archives and backups still hold them"
            }
            Self::Vacuumed { residue: false } => {
                "tables, indexes, TOAST and statistics are new files without the rows; WAL, standbys, archives and backups may still hold \
                 them"
            }
            Self::Purged => {
                "nothing of the rows is left in this server's data directory, and what was declared of backups has passed"
            }
        }
    }
}

// === impl Event ===

impl Event {
    /// The event's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Begin => "begin",
            Self::Abandon => "abandon",
            Self::Delete => "delete",
            Self::Clean { .. } => "clean",
            Self::Purge => "purge",
        }
    }
}

/// The state after `event`. Pure and total: what cannot follow is [`Illegal`], never a guess.
pub fn step(state: State, event: Event) -> Result<State, Illegal> {
    match (state, event) {
        (State::Frozen, Event::Hold) | (State::Held, Event::Hold) => Ok(State::Held),
        (State::Held, Event::Release) => Ok(State::Frozen),
        // Again after a run that was cut off: nothing was deleted then.
        (State::Frozen | State::Deleting, Event::Begin) => Ok(State::Deleting),
        (State::Deleting, Event::Abandon) => Ok(State::Frozen),
        // Again where a transaction that was open meanwhile left rows behind.
        (State::Deleting | State::Deleted, Event::Delete) => Ok(State::Deleted),
        // Again with a rewrite, or after somebody else's; what is clean does not become less so.
        (State::Deleted | State::Vacuumed { residue: true }, Event::Clean { residue }) => {
            Ok(State::Vacuumed { residue })
        }
        (State::Vacuumed { residue: false }, Event::Purge) => Ok(State::Purged),
        (state, event) => Err(Illegal {
            state: state.name(),
            event: event.name(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 7] = [
        State::Frozen,
        State::Held,
        State::Deleting,
        State::Deleted,
        State::Vacuumed { residue: true },
        State::Vacuumed { residue: false },
        State::Purged,
    ];
    const EVENTS: [Event; 8] = [
        Event::Hold,
        Event::Release,
        Event::Begin,
        Event::Abandon,
        Event::Delete,
        Event::Clean { residue: true },
        Event::Clean { residue: false },
        Event::Purge,
    ];

    #[test]
    fn every_state_takes_these_steps_and_no_other() {
        let mut taken = Vec::new();
        for state in STATES {
            for event in EVENTS {
                if let Ok(next) = step(state, event) {
                    taken.push((state, event, next));
                }
            }
        }
        use {Event as E, State as S};
        let (dirty, clean) = (
            S::Vacuumed { residue: true },
            S::Vacuumed { residue: false },
        );
        let (leaving, whole) = (E::Clean { residue: true }, E::Clean { residue: false });
        let expected = vec![
            (S::Frozen, E::Hold, S::Held),
            (S::Frozen, E::Begin, S::Deleting),
            (S::Held, E::Hold, S::Held),
            (S::Held, E::Release, S::Frozen),
            (S::Deleting, E::Begin, S::Deleting),
            (S::Deleting, E::Abandon, S::Frozen),
            (S::Deleting, E::Delete, S::Deleted),
            (S::Deleted, E::Delete, S::Deleted),
            (S::Deleted, leaving, dirty),
            (S::Deleted, whole, clean),
            (dirty, leaving, dirty),
            (dirty, whole, clean),
            (clean, E::Purge, S::Purged),
        ];
        assert_eq!(taken, expected);
    }

    #[test]
    fn nothing_is_purged_but_by_deletion_and_a_clean_look() {
        // Every way to `purged`, walked backwards: it leads through all the states before.
        let before = |wanted: State| {
            let steps = STATES
                .into_iter()
                .flat_map(|s| EVENTS.into_iter().map(move |e| (s, e)));
            let mut from: Vec<State> = steps
                .filter(|(s, e)| *s != wanted && step(*s, *e) == Ok(wanted))
                .map(|(s, _)| s)
                .collect();
            from.dedup();
            from
        };
        assert_eq!(before(State::Purged), [State::Vacuumed { residue: false }]);
        assert_eq!(
            before(State::Vacuumed { residue: false }),
            [State::Deleted, State::Vacuumed { residue: true }]
        );
        assert_eq!(before(State::Deleted), [State::Deleting]);
        assert_eq!(before(State::Deleting), [State::Frozen]);
    }

    #[test]
    fn what_is_held_is_not_deleted() {
        assert!(step(State::Held, Event::Begin).is_err());
        assert!(step(State::Held, Event::Delete).is_err());
    }

    #[test]
    fn names_are_read_back() {
        for state in STATES {
            let residue = state == State::Vacuumed { residue: true };
            assert_eq!(State::parse(state.name(), residue), Some(state));
        }
        assert_eq!(State::parse("gone", false), None);
    }
}
