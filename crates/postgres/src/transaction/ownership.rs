//! What the guard's messages of one transaction say about who owns which row.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::key::RowId;
use super::row_message::{Claim, Note, Owner, RowMessage};
use super::{Enrolled, Missing, OwnerChange, Unresolved};

/// No path from a row to its user is longer: a bound against messages that lead nowhere.
const DEPTH_MAX: usize = 32;

/// The messages of one transaction.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    /// What was said of each row, without repetitions, in order.
    claims: BTreeMap<RowId, Vec<Claim>>,
    /// How many messages each row has.
    messages: HashMap<RowId, usize>,
    /// Rows under keys that updates took from them: children's messages may name the parent so.
    old_keys: HashMap<RowId, RowId>,
    /// Rows that changed hands, with the owner before.
    handovers: Vec<(RowId, Option<Owner>)>,
    /// What other rows' changes did to rows that need not have changed themselves.
    notes: Vec<(RowId, Note, Enrolled)>,
    bytes: usize,
}

/// The rows that a transaction changed.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// All, under new and old keys.
    pub(super) changed: HashSet<RowId>,
    /// Those that came with it.
    pub(super) inserted: HashSet<RowId>,
    /// Those that went with it.
    pub(super) deleted: HashSet<RowId>,
    /// The keys that one row left and another took, with the number of changes under them.
    pub(super) again: HashMap<RowId, usize>,
    /// They were too many, and were not kept.
    pub(super) gone: bool,
}

/// What follows from the messages.
#[derive(Debug)]
pub(super) struct Findings {
    /// The rows that one moving user owns.
    pub(super) owners: HashMap<RowId, Enrolled>,
    pub(super) departures: Vec<OwnerChange>,
    pub(super) unresolved: Vec<Unresolved>,
}

/// Follows claims to users, each row once.
struct Resolver<'a> {
    ownership: &'a Ownership,
    present: &'a Present,
    found: HashMap<&'a RowId, Found<'a>>,
}

/// The users that own a row in the course of a transaction; nobody, if the list is empty.
#[derive(Debug, Clone, Default)]
struct Found<'a> {
    /// Distinct users, in order, each with his latest attempt.
    owners: Vec<(&'a str, Option<i64>)>,
    /// Some claim led to a row of which nothing is known.
    unknown: bool,
    /// A parent that it had in the course of the transaction is nobody's who moves.
    elsewhere: bool,
}

// === impl Ownership ===

impl Ownership {
    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// About how many bytes the messages take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, message: RowMessage) {
        let RowMessage {
            row,
            old,
            claim,
            was,
            note,
        } = message;
        if let (
            Some(note),
            Claim::Owner(Owner {
                user,
                attempt: Some(attempt),
            }),
        ) = (note, &claim)
        {
            self.bytes += id_bytes(&row) + user.len();
            self.notes
                .push((row.clone(), note, (user.clone(), *attempt)));
        }
        if let Some(before) = was {
            self.bytes += id_bytes(&row);
            self.handovers.push((row.clone(), before));
        }
        if let Some(old) = old {
            self.bytes += id_bytes(&old) + id_bytes(&row);
            self.old_keys.insert(old, row.clone());
        }
        self.bytes += 2 * id_bytes(&row) + size_of::<usize>();
        // A note is of another row's change.
        *self.messages.entry(row.clone()).or_default() += usize::from(note.is_none());
        let claims = self.claims.entry(row).or_default();
        if !claims.contains(&claim) {
            self.bytes += claim_bytes(&claim);
            claims.push(claim);
        }
    }

    /// Follows every claim. Where the rows of the transaction were not kept, none is missed.
    pub(super) fn resolve(&self, present: &Present) -> Findings {
        let mut resolver = Resolver {
            ownership: self,
            present,
            found: HashMap::new(),
        };
        let mut owners = HashMap::new();
        let mut departures = BTreeSet::new();
        let mut unresolved = BTreeSet::new();
        let noted: HashSet<&RowId> = self.notes.iter().map(|(row, _, _)| row).collect();
        for row in self.claims.keys() {
            let table = row.table;
            let found = resolver.row(row, 0);
            if found.unknown {
                unresolved.insert(Unresolved {
                    table,
                    missing: Missing::Owner,
                });
            }
            let moving = found.owners.iter().any(|(_, attempt)| attempt.is_some());
            let missed = !present.gone && !present.changed.contains(row) && !noted.contains(row);
            if moving && missed {
                unresolved.insert(Unresolved {
                    table,
                    missing: Missing::Row,
                });
            }
            for pair in found.owners.windows(2) {
                departures.extend(owner_change(table, Some(pair[0]), Some(pair[1])));
            }
            // A row that nobody was named for stood under this key, too: somebody's who does not move.
            let silent = present
                .again
                .get(row)
                .is_some_and(|n| self.messages[row] < *n);
            if let (true, Some(owner)) = (silent, found.owners.first()) {
                departures.extend(owner_change(table, Some(*owner), None));
            }
            if found.elsewhere {
                departures.extend(owner_change(table, None, found.owners.last().copied()));
            }
            if let [(user, Some(attempt))] = found.owners[..] {
                owners.insert(row.clone(), (user.to_owned(), attempt));
            }
        }
        for (row, before) in &self.handovers {
            let before = before
                .as_ref()
                .map(|owner| (owner.user.as_str(), owner.attempt));
            let after = resolver.row(row, 0).owners.last().copied();
            departures.extend(owner_change(row.table, before, after));
        }
        for (row, note, (user, attempt)) in &self.notes {
            let enrolled = Some((user.as_str(), Some(*attempt)));
            // Came or went with the transaction: then its own change says all.
            match note {
                Note::Entered if !present.inserted.contains(row) => {
                    departures.extend(owner_change(row.table, None, enrolled));
                }
                Note::Left if !present.deleted.contains(row) => {
                    departures.extend(owner_change(row.table, enrolled, None));
                }
                Note::Entered | Note::Left | Note::Still => {}
            }
        }
        Findings {
            owners,
            departures: departures.into_iter().collect(),
            unresolved: unresolved.into_iter().collect(),
        }
    }
}

// === impl Resolver ===

impl<'a> Resolver<'a> {
    fn row(&mut self, row: &'a RowId, depth: usize) -> Found<'a> {
        if let Some(found) = self.found.get(row) {
            return found.clone();
        }
        let nowhere = Found {
            unknown: true,
            ..Found::default()
        };
        if depth > DEPTH_MAX {
            return nowhere;
        }
        let ownership = self.ownership;
        let by_old_key = || ownership.claims.get(ownership.old_keys.get(row)?);
        let Some(claims) = ownership.claims.get(row).or_else(by_old_key) else {
            // A row that changed here without a message is nobody's who moves; of one that did not
            // change here, and which the guard could not see either, we know nothing.
            let unknown = !self.present.changed.contains(row);
            return Found {
                unknown,
                ..Found::default()
            };
        };
        // Stands while the claims are followed, so that a circle of them ends here.
        self.found.insert(row, nowhere);
        let mut found = Found::default();
        for claim in claims {
            match claim {
                Claim::Owner(owner) => found.add(&owner.user, owner.attempt),
                Claim::Parent(parent) => {
                    let parents = self.row(parent, depth + 1);
                    found.unknown |= parents.unknown;
                    found.elsewhere |= parents.owners.is_empty() && !parents.unknown;
                    for (user, attempt) in parents.owners {
                        found.add(user, attempt);
                    }
                }
                Claim::MaybeParent(parent) => {
                    for (user, attempt) in self.row(parent, depth + 1).owners {
                        found.add(user, attempt);
                    }
                }
                Claim::Nobody => {}
            }
        }
        self.found.insert(row, found.clone());
        found
    }
}

// === impl Found ===

impl<'a> Found<'a> {
    fn add(&mut self, user: &'a str, attempt: Option<i64>) {
        match self.owners.iter_mut().find(|(known, _)| *known == user) {
            // A user enrolled in the middle of the transaction: it is before his snapshot anyway.
            Some((_, latest)) => *latest = attempt.max(*latest),
            None => self.owners.push((user, attempt)),
        }
    }
}

fn owner_change(
    table: u32,
    before: Option<(&str, Option<i64>)>,
    after: Option<(&str, Option<i64>)>,
) -> Option<OwnerChange> {
    let same = before.map(|(user, _)| user) == after.map(|(user, _)| user);
    let enrolled = |owner: Option<(&str, Option<i64>)>| {
        owner.and_then(|(user, attempt)| Some((user.to_owned(), attempt?)))
    };
    let (user_before, user_after) = (enrolled(before), enrolled(after));
    let concerns_somebody = user_before.is_some() || user_after.is_some();
    (!same && concerns_somebody).then_some(OwnerChange {
        table,
        user_before,
        user_after,
    })
}

fn id_bytes(id: &RowId) -> usize {
    let values = id.key.iter().map(|value| {
        size_of::<Option<bytes::Bytes>>() + value.as_ref().map_or(0, bytes::Bytes::len)
    });
    size_of::<RowId>() + values.sum::<usize>()
}

fn claim_bytes(claim: &Claim) -> usize {
    size_of::<Claim>()
        + match claim {
            Claim::Owner(owner) => owner.user.len(),
            Claim::Parent(parent) | Claim::MaybeParent(parent) => id_bytes(parent),
            Claim::Nobody => 0,
        }
}
