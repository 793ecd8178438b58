//! The guard's message about one row: one compact JSON object.
//!
//! ```json
//! {"t": 16385, "k": ["7"], "o": ["6"], "u": "41", "a": 3, "p": [16390, ["5"]], "was": {"u": "40", "a": 2}}
//! ```
//!
//! `t` the table's oid; `k` the key as text, after the change, or before a deletion; `o` the old key if an
//! update changed it; `u` the owner and `a` his attempt if he is moving; `p` the parent row, where the
//! owner could not be read, with `m` where the row is nobody's unless its parent is somebody's by now; `was` the
//! owner before, if an update changed him; `n` that another row's change made the row his (`entered`), or no longer his
//! (`left`), or that it is his as before (`still`): the row itself need not have changed.

use bytes::Bytes;
use serde::Deserialize;

use super::key::RowId;
use super::{AssembleError, ROW_PREFIX};

/// A message about one row, read.
#[derive(Debug)]
pub(super) struct RowMessage {
    pub(super) row: RowId,
    /// The row under its old key.
    pub(super) old: Option<RowId>,
    pub(super) claim: Claim,
    /// Present if the owner changed; the owner before, if there was one.
    pub(super) was: Option<Option<Owner>>,
    /// Present if another row's change said it.
    pub(super) note: Option<Note>,
}

/// What another row's change did to this row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Note {
    /// It is the owner's now.
    Entered,
    /// It was the owner's, and is nobody's.
    Left,
    /// It is the owner's, as it was.
    Still,
}

/// What a message says about the owner of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// This user owns it.
    Owner(Owner),
    /// Whoever owns this row owns it.
    Parent(RowId),
    /// Whoever owns this row owns it, if anybody does.
    MaybeParent(RowId),
    /// Nobody owns it.
    Nobody,
}

/// A user, and his attempt if he is moving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) user: String,
    pub(super) attempt: Option<i64>,
}

type KeyText = Vec<Option<String>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    t: u32,
    k: KeyText,
    o: Option<KeyText>,
    u: Option<String>,
    a: Option<i64>,
    p: Option<(u32, KeyText)>,
    #[serde(default)]
    m: bool,
    n: Option<Note>,
    was: Option<WireOwner>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireOwner {
    u: Option<String>,
    a: Option<i64>,
}

// === impl RowMessage ===

impl RowMessage {
    pub(super) fn parse(content: &[u8]) -> Result<Self, AssembleError> {
        // The JSON error may quote values, so only its place is kept.
        let wire: Wire =
            serde_json::from_slice(content).map_err(|error| AssembleError::Malformed {
                prefix: ROW_PREFIX,
                at: error.column(),
            })?;
        let claim = match (wire.u, wire.p) {
            (Some(user), _) => Claim::Owner(Owner {
                user,
                attempt: wire.a,
            }),
            (None, Some((table, key))) if wire.m => Claim::MaybeParent(row_id(table, key)),
            (None, Some((table, key))) => Claim::Parent(row_id(table, key)),
            (None, None) => Claim::Nobody,
        };
        let was = wire.was.map(|was| {
            was.u.map(|user| Owner {
                user,
                attempt: was.a,
            })
        });
        let old = wire.o.map(|key| row_id(wire.t, key));
        Ok(Self {
            row: row_id(wire.t, wire.k),
            old,
            claim,
            was,
            note: wire.n,
        })
    }
}

fn row_id(table: u32, key: KeyText) -> RowId {
    let key = key
        .into_iter()
        .map(|value| value.map(Bytes::from))
        .collect();
    RowId { table, key }
}
