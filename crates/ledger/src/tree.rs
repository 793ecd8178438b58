//! The Merkle tree of RFC 6962, section 2.1, with SHA-256, kept as the hashes of its perfect subtrees.
//!
//! A perfect subtree never changes once its last leaf stands, so the hashes can be stored once, append-only: about two for each
//! leaf. Every root and every proof is put together from O(log n) of them. Which hashes make a proof, and whether a proof
//! holds, is said by `ct-merkle`.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ct_merkle::{
    ConsistencyProof, InclusionProof, RootHash, indices_for_consistency_proof,
    indices_for_inclusion_proof,
};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// More leaves than any log has. A bound for sizes that come from outside.
pub const SIZE_MAX: u64 = 1 << 48;

/// 32 bytes of SHA-256; written in base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

/// A perfect subtree: the leaves from `number << level`, `1 << level` of them. Level 0 is a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Its height.
    pub level: u8,
    /// Which one of its height, from the left.
    pub number: u64,
}

/// Hashes of perfect subtrees that were looked up.
pub type Nodes = BTreeMap<Node, Hash>;

/// The leaves from `start` to before `end`, as far as they are one node of a tree: `start` is a multiple of the power of
/// two that is not less than their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u64,
    end: u64,
}

/// The right edge of a tree: all that is needed to append to it.
#[derive(Clone, Debug, Default)]
pub struct Frontier {
    size: u64,
    edge: Vec<(Node, Hash)>,
}

/// A proof that does not show what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the Merkle proof does not hold")]
pub struct BadProof;

// === impl Hash ===

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Hash {
    /// Reads the base64 of 32 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_slice(&STANDARD.decode(text).ok()?)
    }

    /// Takes 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not the base64 of 32 bytes"))
    }
}

/// The hash of a leaf: SHA-256 of a zero byte and its text.
pub fn leaf_hash(text: &[u8]) -> Hash {
    Hash(
        Sha256::new()
            .chain_update([0])
            .chain_update(text)
            .finalize()
            .into(),
    )
}

fn join(left: &Hash, right: &Hash) -> Hash {
    Hash(
        Sha256::new()
            .chain_update([1])
            .chain_update(left.0)
            .chain_update(right.0)
            .finalize()
            .into(),
    )
}

/// The root over perfect subtrees that stand side by side, the largest first.
fn fold(parts: impl DoubleEndedIterator<Item = Hash>) -> Option<Hash> {
    parts.rev().reduce(|right, left| join(&left, &right))
}

// === impl Span ===

impl Span {
    /// The whole tree of `size` leaves.
    pub fn whole(size: u64) -> Self {
        Self {
            start: 0,
            end: size,
        }
    }

    /// The perfect subtrees that it is put together from, from the left.
    pub fn parts(&self) -> Vec<Node> {
        let mut parts = Vec::new();
        let mut at = self.start;
        while at < self.end {
            let level = (self.end - at).ilog2();
            parts.push(Node {
                level: level as u8,
                number: at >> level,
            });
            at += 1 << level;
        }
        parts
    }

    /// Its hash; `None` where one of the parts is not among `nodes`.
    pub fn hash(&self, nodes: &Nodes) -> Option<Hash> {
        if self.start == self.end {
            return Some(Hash(Sha256::digest([]).into()));
        }
        let parts: Option<Vec<Hash>> = self
            .parts()
            .iter()
            .map(|node| nodes.get(node).copied())
            .collect();
        fold(parts?.into_iter())
    }

    /// That of an index of the array-based tree (RFC 9420, appendix C) in which `ct-merkle` counts.
    fn of_index(index: u64, size: u64) -> Self {
        let level = index.trailing_ones();
        let start = (index >> (level + 1)) << level;
        Self {
            start,
            end: size.min(start + (1 << level)),
        }
    }
}

/// The spans whose hashes prove that the leaf at `position` is in the tree of `size` leaves: none where it is not.
pub fn inclusion(position: u64, size: u64) -> Vec<Span> {
    if position >= size || size > SIZE_MAX {
        return Vec::new();
    }
    let indices = indices_for_inclusion_proof(size, position);
    indices
        .into_iter()
        .map(|index| Span::of_index(index, size))
        .collect()
}

/// The spans whose hashes prove that the tree of `size` leaves begins with that of `old`: none where there is nothing to
/// prove.
pub fn consistency(old: u64, size: u64) -> Vec<Span> {
    if old == 0 || old >= size || size > SIZE_MAX {
        return Vec::new();
    }
    let indices = indices_for_consistency_proof(old, size - old);
    indices
        .into_iter()
        .map(|index| Span::of_index(index, size))
        .collect()
}

/// The subtrees to be looked up for `spans`.
pub fn parts(spans: &[Span]) -> Vec<Node> {
    spans.iter().flat_map(Span::parts).collect()
}

/// The proof that `spans` make; `None` where a hash is missing.
pub fn path(spans: &[Span], nodes: &Nodes) -> Option<Vec<Hash>> {
    spans.iter().map(|span| span.hash(nodes)).collect()
}

/// Checks that `leaf` stands at `position` in the tree of `size` leaves under `root`.
pub fn verify_inclusion(
    leaf: &[u8],
    position: u64,
    (size, root): (u64, &Hash),
    path: &[Hash],
) -> Result<(), BadProof> {
    if position >= size || size > SIZE_MAX {
        return Err(BadProof);
    }
    let proof = InclusionProof::<Sha256>::try_from_bytes(joined(path)).map_err(|_| BadProof)?;
    RootHash::<Sha256>::new(root.0.into(), size)
        .verify_inclusion(&leaf, position, &proof)
        .map_err(|_| BadProof)
}

/// Checks that the tree of the second size and root begins with that of the first.
pub fn verify_consistency(
    (old_size, old_root): (u64, &Hash),
    (size, root): (u64, &Hash),
    path: &[Hash],
) -> Result<(), BadProof> {
    if old_size > size || size > SIZE_MAX {
        return Err(BadProof);
    }
    if old_size == size || old_size == 0 {
        let same = old_size == 0 || old_root == root;
        return (same && path.is_empty()).then_some(()).ok_or(BadProof);
    }
    let proof = ConsistencyProof::<Sha256>::try_from_bytes(joined(path)).map_err(|_| BadProof)?;
    let old = RootHash::<Sha256>::new(old_root.0.into(), old_size);
    RootHash::<Sha256>::new(root.0.into(), size)
        .verify_consistency(&old, &proof)
        .map_err(|_| BadProof)
}

fn joined(path: &[Hash]) -> Vec<u8> {
    path.iter().flat_map(|hash| hash.0).collect()
}

// === impl Frontier ===

impl Frontier {
    /// The right edge of the tree of `size` leaves; `None` where one of [`Span::parts`] is not among `nodes`.
    pub fn at(size: u64, nodes: &Nodes) -> Option<Self> {
        let parts = Span::whole(size).parts();
        let edge: Option<Vec<_>> = parts
            .into_iter()
            .map(|node| Some((node, *nodes.get(&node)?)))
            .collect();
        Some(Self { size, edge: edge? })
    }

    /// Appends a leaf. Returns the subtrees above it that have become perfect, to be stored.
    pub fn push(&mut self, leaf: Hash) -> Vec<(Node, Hash)> {
        let node = Node {
            level: 0,
            number: self.size,
        };
        self.size += 1;
        self.edge.push((node, leaf));
        let mut perfect = Vec::new();
        while let [.., (left, a), (right, b)] = self.edge.as_slice()
            && left.level == right.level
        {
            let above = Node {
                level: left.level + 1,
                number: left.number >> 1,
            };
            let hash = join(a, b);
            self.edge.truncate(self.edge.len() - 2);
            self.edge.push((above, hash));
            perfect.push((above, hash));
        }
        perfect
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root.
    pub fn root(&self) -> Hash {
        let parts = self.edge.iter().map(|(_, hash)| *hash);
        fold(parts).unwrap_or_else(|| Hash(Sha256::digest([]).into()))
    }
}
