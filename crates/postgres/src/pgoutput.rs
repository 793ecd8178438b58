//! Decodes the row messages of `pgoutput`, protocol version 1.
//!
//! The replication client has already taken Begin, Commit and Message out of the stream; what is left
//! comes here. The bytes are from outside: nothing here panics on them, allocates by a length that they
//! claim, or takes a message with something left over.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

mod reader;

use reader::Reader;

/// One row message, or one that row moving has no use for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Describes a table; comes before its first row in a session and after each change of it.
    Relation(Relation),
    /// A new row.
    Insert {
        /// The table's oid.
        relation: u32,
        /// The row; no value of it is [`TupleValue::Unchanged`].
        new: Tuple,
    },
    /// A changed row.
    Update {
        /// The table's oid.
        relation: u32,
        /// Present if the replica identity changed (or is FULL, or is stored out of line).
        old: Option<OldTuple>,
        /// The row after the change.
        new: Tuple,
    },
    /// A deleted row.
    Delete {
        /// The table's oid.
        relation: u32,
        /// What the replica identity says about the row.
        old: OldTuple,
    },
    /// Tables emptied at once.
    Truncate {
        /// The tables' oids.
        relations: Vec<u32>,
    },
    /// An Origin or a Type message.
    Ignored,
}

/// A table as the stream describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// The table's oid in the source database.
    pub id: u32,
    /// Its schema; empty for `pg_catalog`.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// How its old rows are told.
    pub identity: ReplicaIdentity,
    /// The published columns, in the order of every [`Tuple`] of this table.
    pub columns: Vec<Column>,
}

/// `pg_class.relreplident`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    /// Nothing: the table has no updates or deletes in the stream.
    Nothing,
    /// The whole old row.
    Full,
    /// The columns of a unique index.
    Index,
}

/// One column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Whether it is part of the replica identity.
    pub key: bool,
    /// Its name.
    pub name: String,
    /// The oid of its type in the source database.
    pub type_oid: u32,
    /// Its type's modifier, or -1.
    pub type_modifier: i32,
}

/// The values of one row, in the order of [`Relation::columns`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuple(pub Vec<TupleValue>);

/// One value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TupleValue {
    /// NULL.
    Null,
    /// Stored out of line and not changed: the stream does not carry it, the target keeps what it has.
    Unchanged,
    /// The type's text output.
    Text(Bytes),
    /// The type's binary output; only where the subscription asked for it.
    Binary(Bytes),
}

/// An old row, as far as the replica identity tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldTuple {
    /// Only the key columns have values; the others read NULL.
    Key(Tuple),
    /// The whole row.
    Full(Tuple),
}

/// Bytes that are no message of protocol version 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The message ended too early.
    #[error("the change stream ended inside {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// A field has a value that the protocol does not know.
    #[error("the change stream has {value} where {what} was expected")]
    Invalid {
        /// What was being read.
        what: &'static str,
        /// What stood there: a length, a count or a tag, never data.
        value: i64,
    },
    /// A name is not UTF-8, which the client asked for.
    #[error("{what} in the change stream is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        what: &'static str,
    },
    /// The message was complete and bytes were left.
    #[error("{count} bytes are left after {what} in the change stream")]
    Trailing {
        /// The message read.
        what: &'static str,
        /// How many bytes are left.
        count: usize,
    },
}

/// Decodes one message; values share the memory of `data`.
///
/// # Errors
///
/// [`DecodeError`] names what was being read; it carries no row data.
pub fn decode(data: Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(data);
    let (message, what) = match reader.u8("a message's type")? {
        b'R' => (
            Message::Relation(relation(&mut reader)?),
            "a Relation message",
        ),
        b'I' => (insert(&mut reader)?, "an Insert message"),
        b'U' => (update(&mut reader)?, "an Update message"),
        b'D' => (delete(&mut reader)?, "a Delete message"),
        b'T' => (truncate(&mut reader)?, "a Truncate message"),
        b'O' => {
            reader.u64("an origin's position")?;
            reader.name("an origin's name")?;
            (Message::Ignored, "an Origin message")
        }
        b'Y' => {
            reader.u32("a type's oid")?;
            reader.name("a type's schema")?;
            reader.name("a type's name")?;
            (Message::Ignored, "a Type message")
        }
        tag => return Err(invalid("a message's type", tag)),
    };
    match reader.left() {
        0 => Ok(message),
        count => Err(DecodeError::Trailing { what, count }),
    }
}

// === impl Relation ===

impl Relation {
    /// The positions of the key columns, in the order of the columns.
    pub fn key_positions(&self) -> Vec<usize> {
        let keys = self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| column.key);
        keys.map(|(position, _)| position).collect()
    }
}

// === impl Tuple ===

impl Tuple {
    /// The size of the values in bytes, about as they stand in memory.
    pub fn bytes(&self) -> usize {
        self.0
            .iter()
            .map(|value| size_of::<TupleValue>() + value.data().map_or(0, <[u8]>::len))
            .sum()
    }
}

// === impl TupleValue ===

impl TupleValue {
    /// The value's bytes, if the stream carried any.
    pub fn data(&self) -> Option<&[u8]> {
        match self {
            Self::Text(bytes) | Self::Binary(bytes) => Some(bytes),
            Self::Null | Self::Unchanged => None,
        }
    }
}

/// Shows the kind and the length: values are users' data and stay out of logs.
impl std::fmt::Debug for TupleValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Unchanged => f.write_str("Unchanged"),
            Self::Text(bytes) => write!(f, "Text({} bytes)", bytes.len()),
            Self::Binary(bytes) => write!(f, "Binary({} bytes)", bytes.len()),
        }
    }
}

// === impl OldTuple ===

impl OldTuple {
    /// The values, whichever form they came in.
    pub fn into_tuple(self) -> Tuple {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

fn relation(reader: &mut Reader) -> Result<Relation, DecodeError> {
    let id = reader.u32("a table's oid")?;
    let schema = reader.name("a table's schema")?;
    let name = reader.name("a table's name")?;
    let identity = match reader.u8("a table's replica identity")? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        tag => return Err(invalid("a table's replica identity", tag)),
    };
    let count = reader.count("a table's number of columns")?;
    // Grown by pushing: the count is claimed, the columns are real.
    let mut columns = Vec::new();
    for _ in 0..count {
        columns.push(Column {
            key: reader.u8("a column's flags")? & 1 == 1,
            name: reader.name("a column's name")?,
            type_oid: reader.u32("a column's type")?,
            type_modifier: reader.i32("a column's type modifier")?,
        });
    }
    Ok(Relation {
        id,
        schema,
        name,
        identity,
        columns,
    })
}

fn insert(reader: &mut Reader) -> Result<Message, DecodeError> {
    let relation = reader.u32("the oid of an inserted row's table")?;
    match reader.u8("the tag of an inserted row")? {
        b'N' => {}
        tag => return Err(invalid("the tag of an inserted row", tag)),
    }
    let new = tuple(reader)?;
    if new.0.contains(&TupleValue::Unchanged) {
        return Err(invalid("a value of an inserted row", b'u'));
    }
    Ok(Message::Insert { relation, new })
}

fn update(reader: &mut Reader) -> Result<Message, DecodeError> {
    let relation = reader.u32("the oid of an updated row's table")?;
    let mut tag = reader.u8("the tag of an updated row")?;
    let old = match tag {
        b'K' => Some(OldTuple::Key(tuple(reader)?)),
        b'O' => Some(OldTuple::Full(tuple(reader)?)),
        _ => None,
    };
    if old.is_some() {
        tag = reader.u8("the tag of an updated row")?;
    }
    if tag != b'N' {
        return Err(invalid("the tag of an updated row", tag));
    }
    Ok(Message::Update {
        relation,
        old,
        new: tuple(reader)?,
    })
}

fn delete(reader: &mut Reader) -> Result<Message, DecodeError> {
    let relation = reader.u32("the oid of a deleted row's table")?;
    let old = match reader.u8("the tag of a deleted row")? {
        b'K' => OldTuple::Key(tuple(reader)?),
        b'O' => OldTuple::Full(tuple(reader)?),
        tag => return Err(invalid("the tag of a deleted row", tag)),
    };
    Ok(Message::Delete { relation, old })
}

fn truncate(reader: &mut Reader) -> Result<Message, DecodeError> {
    let count = reader.u32("the number of truncated tables")?;
    reader.u8("the options of a truncation")?;
    let mut relations = Vec::new();
    for _ in 0..count {
        relations.push(reader.u32("the oid of a truncated table")?);
    }
    Ok(Message::Truncate { relations })
}

fn tuple(reader: &mut Reader) -> Result<Tuple, DecodeError> {
    let count = reader.count("a row's number of values")?;
    // A value takes at least its tag's byte, so the claim is bounded by what is there.
    let mut values = Vec::with_capacity(count.min(reader.left()));
    for _ in 0..count {
        values.push(match reader.u8("a value's tag")? {
            b'n' => TupleValue::Null,
            b'u' => TupleValue::Unchanged,
            b't' => TupleValue::Text(reader.value()?),
            b'b' => TupleValue::Binary(reader.value()?),
            tag => return Err(invalid("a value's tag", tag)),
        });
    }
    Ok(Tuple(values))
}

fn invalid(what: &'static str, tag: u8) -> DecodeError {
    DecodeError::Invalid {
        what,
        value: i64::from(tag),
    }
}

#[cfg(test)]
mod tests;
