//! Changes as bytes, for the spool of a chunk that is still copying.
//!
//! One byte of format version, then the changes with each table described once.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Change, Op};
use crate::pgoutput::Relation;

const VERSION: u8 = 1;

/// Spooled bytes that cannot be read. Carries no row data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolFormatError {
    /// Written by another version.
    #[error("spooled changes have format version {0:?}, this program reads {VERSION}")]
    Version(Option<u8>),
    /// Cut or damaged.
    #[error("spooled changes cannot be read")]
    Damaged(#[source] postcard::Error),
    /// A change refers to a table that is not described.
    #[error("spooled changes refer to a table that they do not describe")]
    Relation,
}

#[derive(Serialize)]
struct Written<'a> {
    relations: &'a [&'a Relation],
    changes: &'a [(usize, &'a Op, &'a str, i64)],
}

#[derive(Deserialize)]
struct Read {
    relations: Vec<Relation>,
    changes: Vec<(usize, Op, String, i64)>,
}

/// The changes as bytes.
pub fn write_changes<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Vec<u8> {
    let mut relations: Vec<&Relation> = Vec::new();
    let mut rows = Vec::new();
    for change in changes {
        let relation: &Relation = &change.relation;
        // Few tables to a transaction, and mostly the same one again.
        let known = relations
            .iter()
            .rposition(|known| std::ptr::eq(*known, relation));
        let index = known.unwrap_or_else(|| {
            relations.push(relation);
            relations.len() - 1
        });
        rows.push((index, &change.op, change.user.as_str(), change.attempt));
    }
    let written = Written {
        relations: &relations,
        changes: &rows,
    };
    postcard::to_extend(&written, vec![VERSION]).expect("changes hold nothing that postcard lacks")
}

/// The changes that [`write_changes`] wrote.
///
/// # Errors
///
/// [`SpoolFormatError`] if these are not such bytes, or not of this version.
pub fn read_changes(bytes: &[u8]) -> Result<Vec<Change>, SpoolFormatError> {
    let Some((&VERSION, body)) = bytes.split_first() else {
        return Err(SpoolFormatError::Version(bytes.first().copied()));
    };
    let (read, left): (Read, _) =
        postcard::take_from_bytes(body).map_err(SpoolFormatError::Damaged)?;
    if !left.is_empty() {
        return Err(SpoolFormatError::Damaged(
            postcard::Error::DeserializeBadEncoding,
        ));
    }
    let relations: Vec<Arc<Relation>> = read.relations.into_iter().map(Arc::new).collect();
    let changes = read.changes.into_iter().map(|(index, op, user, attempt)| {
        let relation = relations.get(index).ok_or(SpoolFormatError::Relation)?;
        Ok(Change {
            table: relation.id,
            relation: Arc::clone(relation),
            op,
            user,
            attempt,
        })
    });
    changes.collect()
}
