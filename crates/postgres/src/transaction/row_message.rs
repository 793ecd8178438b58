//! The guard's message about one row: one compact JSON object.
//!
//! ```json
//! {"t": 16385, "k": ["7"], "o": ["6"], "u": "41", "a": 3, "p": [16390, ["5"]], "was": {"u": "40", "a": 2}}
//! ```
//!
//! `t` the table's oid; `k` the key as text, after the change, or before a deletion; `o` the old key if an
//! update changed it; `u` the owner and `a` his attempt if he is moving; `p` the parent row, where the
//! owner could not be read; `was` the owner before, if an update changed him.

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
}

/// What a message says about the owner of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// This user owns it.
    Owner(Owner),
    /// Whoever owns this row owns it.
    Parent(RowId),
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
