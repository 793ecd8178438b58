//! A keyed digest of the rows that a batch has in each table, whatever their order.
//!
//! Source and target each read a batch's rows back and compare digests before the handoff. The digest of
//! a table is a multiset hash: every row is hashed under the batch's key, and the hashes are added modulo
//! 2^256. This is MSet-Add-Hash of Clarke, Devadas, van Dijk, Gassend and Suh, "Incremental Multiset Hash
//! Functions and Their Application to Memory Integrity Checking", ASIACRYPT 2003, without its nonce: both
//! sides hold the key, and the digest goes to nobody else. Adding, not XOR: with XOR two equal rows cancel
//! out, so that a row copied twice looks like a row that is missing.
//!
//! What is hashed of a row cannot be read in two ways: every variable part carries its length, and NULL has
//! a tag of its own. A caller that wants equality across versions and locales must give values in a form
//! that has it (binary send functions), with the columns sorted by name at both ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use model::fault::{self, Bug};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The secret under which a batch's rows are hashed: random, the same at both ends, used for one batch.
#[derive(Clone, PartialEq, Eq)]
pub struct DigestKey([u8; 32]);

/// Turns rows of one table into [`RowHash`]es.
pub struct RowHasher {
    key: DigestKey,
    /// Begins with what all rows of the table share; reused from row to row.
    buffer: Vec<u8>,
    shared: usize,
}

/// One row's hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowHash(Hash256);

/// The digest of a multiset of rows of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDigest {
    /// How many rows, duplicates counted.
    pub rows: u64,
    /// The sum of their hashes modulo 2^256.
    sum: Hash256,
}

/// The digest of everything that a batch has: one per table of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchDigest {
    /// By table name; a table without rows has a digest of no rows.
    pub tables: BTreeMap<String, TableDigest>,
}

/// 32 bytes, the least significant first; written in hexadecimal.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Hash256([u8; 32]);

const TAG_NULL: u8 = 0;
const TAG_VALUE: u8 = 1;

// === impl DigestKey ===

impl DigestKey {
    /// A key of 32 bytes, which must be random.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key, for the message that hands it to the other end.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(…)")
    }
}

// === impl RowHasher ===

impl RowHasher {
    /// A hasher for rows of `table`, by the name that both ends know it by.
    pub fn new(key: &DigestKey, table: &str) -> Self {
        let mut buffer = Vec::with_capacity(256);
        put_bytes(&mut buffer, table.as_bytes());
        let shared = buffer.len();
        Self {
            key: key.clone(),
            buffer,
            shared,
        }
    }

    /// The hash of one row: its columns sorted by name, NULL as `None`.
    pub fn hash<'a>(
        &mut self,
        columns: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
    ) -> RowHash {
        self.buffer.truncate(self.shared);
        self.buffer.extend((columns.len() as u64).to_le_bytes());
        for column in columns {
            match column {
                None => self.buffer.push(TAG_NULL),
                Some(bytes) => {
                    self.buffer.push(TAG_VALUE);
                    put_bytes(&mut self.buffer, bytes);
                }
            }
        }
        RowHash(Hash256(
            *blake3::keyed_hash(&self.key.0, &self.buffer).as_bytes(),
        ))
    }
}

impl fmt::Debug for RowHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowHasher(…)")
    }
}

// === impl RowHash ===

impl fmt::Debug for RowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowHash({})", self.0)
    }
}

// === impl TableDigest ===

impl TableDigest {
    /// Adds one row.
    pub fn add(&mut self, row: &RowHash) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = combine(self.sum, row.0);
    }

    /// Takes away one row that was added before; of one that was not, it makes a digest of nothing real.
    pub fn remove(&mut self, row: &RowHash) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = combine(self.sum, row.0.negated());
    }

    /// Adds all rows of `other`, a digest under the same key.
    pub fn merge(&mut self, other: &Self) {
        self.rows = self.rows.wrapping_add(other.rows);
        self.sum = combine(self.sum, other.sum);
    }
}

// === impl BatchDigest ===

impl BatchDigest {
    /// The tables, in order, whose digests differ or that only one side has.
    pub fn differing_tables<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let tables: BTreeSet<&str> = self
            .tables
            .keys()
            .chain(other.tables.keys())
            .map(String::as_str)
            .collect();
        tables
            .into_iter()
            .filter(|table| self.tables.get(*table) != other.tables.get(*table))
            .collect()
    }

    /// One hash of all of it: equal for digests that are equal, under one key.
    pub fn hash(&self) -> [u8; 32] {
        let mut buffer = Vec::new();
        for (table, digest) in &self.tables {
            put_bytes(&mut buffer, table.as_bytes());
            buffer.extend(digest.rows.to_le_bytes());
            buffer.extend(digest.sum.0);
        }
        *blake3::hash(&buffer).as_bytes()
    }

    /// All rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.values().map(|table| table.rows).sum()
    }
}

// === impl Hash256 ===

impl Hash256 {
    fn plus(self, other: Self) -> Self {
        let mut sum = [0; 32];
        let mut carry = 0_u16;
        for (out, (a, b)) in sum.iter_mut().zip(self.0.into_iter().zip(other.0)) {
            let [low, high] = (u16::from(a) + u16::from(b) + carry).to_le_bytes();
            *out = low;
            carry = u16::from(high);
        }
        Self(sum)
    }

    /// What gives zero when added: the two's complement.
    fn negated(self) -> Self {
        let mut one = [0; 32];
        one[0] = 1;
        Self(self.0.map(|byte| !byte)).plus(Self(one))
    }
}

impl fmt::Display for Hash256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Hash256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(&text);
        let hash = hash.map_err(|_| D::Error::custom("a hash must be 64 hexadecimal digits"))?;
        Ok(Self(*hash.as_bytes()))
    }
}

fn combine(a: Hash256, b: Hash256) -> Hash256 {
    // Planted bug: duplicates cancel out.
    if fault::planted(Bug::DigestXor) {
        return Hash256(std::array::from_fn(|i| a.0[i] ^ b.0[i]));
    }
    a.plus(b)
}

fn put_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.extend((bytes.len() as u64).to_le_bytes());
    buffer.extend(bytes);
}

#[cfg(test)]
mod tests;
