//! The site's log: its entries in the order in which they were taken, the Merkle tree over them, and the signed heads.
//!
//! An entry's number is drawn before its transaction commits, so numbers become visible out of order. The log has positions of
//! its own: the order in which entries were *taken*. Whatever is visible and has no position is taken next, so an entry that
//! commits late is taken later, and none is lost. One taker at a time, under [`lock`]; that none is taken twice is a unique index.

use std::collections::BTreeMap;

use ledger::entry::Entry;
use ledger::key::PublicKey;
use ledger::tree::{Hash, Node, Nodes};
use serde_json::Value;
use tokio_postgres::{Client, GenericClient, Row};

use crate::error::Doing;
use crate::{Error, LOCK_CLASS, Result};

/// The second half of the advisory lock of whoever takes entries. Offices have negative ones, stripes small ones.
const TAKER: i32 = 0x4C65_6467;

/// How long one waits for another taker, who has much to take after an upgrade.
const PATIENCE_MS: u32 = 60_000;

/// An entry as SQL: its fields for [`read_entry`]. The time in UTC, with microseconds, whatever the session's settings.
const ENTRY: &str =
    "e.n, to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), e.kind, e.body";

/// A leaf that is to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewLeaf {
    /// Its position.
    pub position: u64,
    /// The number of its entry.
    pub n: i64,
    /// Its hash.
    pub hash: Hash,
}

/// A signed head.
#[derive(Clone, Debug)]
pub struct HeadRow {
    /// How many entries.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// The key that signed it.
    pub key: PublicKey,
    /// The text and the site's signature.
    pub note: String,
}

/// A countersignature that the site got of a peer.
#[derive(Clone, Debug)]
pub struct Cosigned {
    /// Of the head of how many entries.
    pub size: u64,
    /// Whose.
    pub peer: String,
    /// The peer's key.
    pub key: PublicKey,
    /// The signature's line.
    pub line: String,
}

/// One position of the log, as the tables have it.
#[derive(Clone, Debug)]
pub struct LogRow {
    /// The position.
    pub position: u64,
    /// The hash.
    pub hash: Hash,
    /// The entry, unless it is gone.
    pub entry: Option<Entry>,
}

/// Keeps other takers away for as long as `session` lives. What is written to the log goes through this session, so that
/// whoever lost it writes nothing more.
pub async fn lock(session: &Client) -> Result<()> {
    session
        .batch_execute(&format!(
            "SET lock_timeout = {PATIENCE_MS}; SELECT pg_advisory_lock({LOCK_CLASS}, {TAKER}); RESET lock_timeout"
        ))
        .await
        .doing("waiting for whoever writes the ledger")
}

/// Lets other takers in.
pub async fn unlock(session: &Client) -> Result<()> {
    session
        .execute("SELECT pg_advisory_unlock($1, $2)", &[&LOCK_CLASS, &TAKER])
        .await
        .doing("letting others write the ledger")?;
    Ok(())
}

/// How many entries the log has.
pub async fn size(session: &impl GenericClient) -> Result<u64> {
    let row = session
        .query_one(
            "SELECT coalesce(max(position) + 1, 0) FROM domicile.leaf",
            &[],
        )
        .await
        .doing("reading the size of the ledger")?;
    Ok(row.get::<_, i64>(0).cast_unsigned())
}

/// The highest number of a visible entry; `None` where there is none. Tells cheaply that something new may be there; what
/// has a lower number may still become visible later.
pub async fn newest(session: &impl GenericClient) -> Result<Option<i64>> {
    let row = session
        .query_one("SELECT max(n) FROM domicile.entry", &[])
        .await
        .doing("looking for new entries")?;
    Ok(row.get(0))
}

/// How many visible entries are not in the log yet.
pub async fn waiting(session: &impl GenericClient) -> Result<u64> {
    let row = session
        .query_one(
            "SELECT count(*) FROM domicile.entry AS e \
             WHERE NOT EXISTS (SELECT FROM domicile.leaf AS l WHERE l.n = e.n)",
            &[],
        )
        .await
        .doing("counting what is not in the ledger yet")?;
    Ok(row.get::<_, i64>(0).cast_unsigned())
}

/// Visible entries that are not in the log yet, at most `most`, by their numbers.
pub async fn untaken(session: &impl GenericClient, most: u32) -> Result<Vec<Entry>> {
    let rows = session
        .query(
            &format!(
                "SELECT {ENTRY} FROM domicile.entry AS e \
                 WHERE NOT EXISTS (SELECT FROM domicile.leaf AS l WHERE l.n = e.n) \
                 ORDER BY e.n LIMIT {most}"
            ),
            &[],
        )
        .await
        .doing("reading what is not in the ledger yet")?;
    Ok(rows.iter().map(|row| read_entry(row, 0)).collect())
}

/// The hashes of `nodes`, as far as they are there.
pub async fn nodes(session: &impl GenericClient, nodes: &[Node]) -> Result<Nodes> {
    let levels: Vec<i16> = nodes.iter().map(|node| i16::from(node.level)).collect();
    let numbers: Vec<i64> = nodes.iter().map(|node| node.number.cast_signed()).collect();
    let rows = session
        .query(
            "SELECT w.level, w.number, coalesce(t.hash, l.hash) \
               FROM unnest($1::smallint[], $2::bigint[]) AS w (level, number) \
               LEFT JOIN domicile.node AS t ON t.level = w.level AND t.number = w.number \
               LEFT JOIN domicile.leaf AS l ON w.level = 0 AND l.position = w.number \
              WHERE coalesce(t.hash, l.hash) IS NOT NULL",
            &[&levels, &numbers],
        )
        .await
        .doing("reading hashes of the ledger")?;
    read_nodes(&rows)
}

/// The hashes of all subtrees above the leaves.
pub async fn all_nodes(session: &impl GenericClient) -> Result<Nodes> {
    let rows = session
        .query("SELECT level, number, hash FROM domicile.node", &[])
        .await
        .doing("reading the hashes of the ledger")?;
    read_nodes(&rows)
}

/// Writes leaves, and the subtrees that have become perfect with them.
pub async fn append(
    tx: &impl GenericClient,
    leaves: &[NewLeaf],
    perfect: &[(Node, Hash)],
) -> Result<()> {
    let doing = "writing the ledger";
    let positions: Vec<i64> = leaves.iter().map(|l| l.position.cast_signed()).collect();
    let numbers: Vec<i64> = leaves.iter().map(|l| l.n).collect();
    let hashes: Vec<&[u8]> = leaves.iter().map(|l| &l.hash.0[..]).collect();
    tx.execute(
        "INSERT INTO domicile.leaf (position, n, hash) \
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[])",
        &[&positions, &numbers, &hashes],
    )
    .await
    .doing(doing)?;
    let levels: Vec<i16> = perfect.iter().map(|(n, _)| i16::from(n.level)).collect();
    let numbers: Vec<i64> = perfect
        .iter()
        .map(|(n, _)| n.number.cast_signed())
        .collect();
    let hashes: Vec<&[u8]> = perfect.iter().map(|(_, hash)| &hash.0[..]).collect();
    tx.execute(
        "INSERT INTO domicile.node (level, number, hash) \
         SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])",
        &[&levels, &numbers, &hashes],
    )
    .await
    .doing(doing)?;
    Ok(())
}

/// The log as the tables have it, in its order, from position `from` on, at most `most` positions; entries read anew, not as
/// they were when they were taken.
pub async fn rows(session: &impl GenericClient, from: u64, most: u32) -> Result<Vec<LogRow>> {
    let rows = session
        .query(
            &format!(
                "SELECT l.position, l.hash, {ENTRY} \
                 FROM domicile.leaf AS l LEFT JOIN domicile.entry AS e USING (n) \
                 WHERE l.position >= $1 ORDER BY l.position LIMIT {most}"
            ),
            &[&from.cast_signed()],
        )
        .await
        .doing("reading the ledger")?;
    let read = |row: &Row| {
        Some(LogRow {
            position: row.get::<_, i64>(0).cast_unsigned(),
            hash: Hash::from_slice(row.get(1))?,
            entry: row
                .get::<_, Option<i64>>(2)
                .is_some()
                .then(|| read_entry(row, 2)),
        })
    };
    let rows: Option<Vec<LogRow>> = rows.iter().map(read).collect();
    rows.ok_or_else(|| damaged("a leaf"))
}

/// The heads, the newest last: all of them, or the last one alone.
pub async fn heads(session: &impl GenericClient, last: bool) -> Result<Vec<HeadRow>> {
    let rows = session
        .query(
            "SELECT size, root, key, note FROM domicile.head \
             WHERE NOT $1 OR n = (SELECT max(n) FROM domicile.head) ORDER BY n",
            &[&last],
        )
        .await
        .doing("reading the heads of the ledger")?;
    let read = |row: &Row| {
        Some(HeadRow {
            size: row.get::<_, i64>(0).cast_unsigned(),
            root: Hash::from_slice(row.get(1))?,
            key: PublicKey::from_slice(row.get(2)).ok()?,
            note: row.get(3),
        })
    };
    let rows: Option<Vec<HeadRow>> = rows.iter().map(read).collect();
    rows.ok_or_else(|| damaged("a head"))
}

/// Keeps a head that was signed.
pub async fn add_head(session: &impl GenericClient, head: &HeadRow) -> Result<()> {
    session
        .execute(
            "INSERT INTO domicile.head (size, root, key, note) VALUES ($1, $2, $3, $4)",
            &[
                &head.size.cast_signed(),
                &&head.root.0[..],
                &&head.key.as_bytes()[..],
                &head.note,
            ],
        )
        .await
        .doing("writing a head of the ledger")?;
    Ok(())
}

/// The countersignatures that the site holds, by the size of the head: of all heads, or of that of `size`.
pub async fn cosigned(
    session: &impl GenericClient,
    size: Option<u64>,
) -> Result<BTreeMap<u64, Vec<Cosigned>>> {
    let rows = session
        .query(
            "SELECT size, peer, key, line FROM domicile.cosigned WHERE $1::bigint IS NULL OR size = $1 ORDER BY n",
            &[&size.map(u64::cast_signed)],
        )
        .await
        .doing("reading countersignatures")?;
    let mut found: BTreeMap<u64, Vec<Cosigned>> = BTreeMap::new();
    for row in &rows {
        let cosigned = Cosigned {
            size: row.get::<_, i64>(0).cast_unsigned(),
            peer: row.get(1),
            key: PublicKey::from_slice(row.get(2)).map_err(|_| damaged("a countersignature"))?,
            line: row.get(3),
        };
        found.entry(cosigned.size).or_default().push(cosigned);
    }
    Ok(found)
}

/// Keeps a countersignature, unless it is there.
pub async fn add_cosigned(session: &impl GenericClient, cosigned: &Cosigned) -> Result<()> {
    session
        .execute(
            "INSERT INTO domicile.cosigned (size, peer, key, line) SELECT $1, $2, $3, $4 \
             WHERE NOT EXISTS (SELECT FROM domicile.cosigned WHERE size = $1 AND peer = $2 AND line = $4)",
            &[
                &cosigned.size.cast_signed(),
                &cosigned.peer,
                &&cosigned.key.as_bytes()[..],
                &cosigned.line,
            ],
        )
        .await
        .doing("writing a countersignature")?;
    Ok(())
}

fn read_entry(row: &Row, at: usize) -> Entry {
    let body: Value = row.get(at + 3);
    Entry::new(row.get(at), row.get(at + 1), row.get(at + 2), body)
}

fn read_nodes(rows: &[Row]) -> Result<Nodes> {
    let read = |row: &Row| {
        let node = Node {
            level: row.get::<_, i16>(0).try_into().ok()?,
            number: row.get::<_, i64>(1).cast_unsigned(),
        };
        Some((node, Hash::from_slice(row.get(2))?))
    };
    let nodes: Option<Nodes> = rows.iter().map(read).collect();
    nodes.ok_or_else(|| damaged("a hash"))
}

pub(crate) fn damaged(what: &str) -> Error {
    Error::Refused(format!(
        "{what} of the ledger is damaged: its bytes are none that Domicile writes"
    ))
}
