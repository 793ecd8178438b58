//! Attempts that arrive at a home database, each with the stream position that its rows stand at, and the spool of
//! those that are still being copied. Written in the transactions that write the rows.

use model::{Attempt, KeyKind, SiteName, UserKey};
use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::Result;
use crate::error::Doing;
use crate::kept::Asks;

/// An attempt that arrives here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// The attempt.
    pub attempt: Attempt,
    /// The slot's identity under which it was enrolled.
    pub slot: String,
    /// The copy's snapshot at the source, once copied.
    pub snapshot: Option<String>,
    /// Changes committed at the source up to here are in the rows or in the spool.
    pub position: u64,
    /// `copying`, `copied`, `streaming`, `cancelled` or `finished`.
    pub state: String,
}

const COLUMNS: &str = "attempt, slot, snapshot, (position - '0/0'::pg_lsn)::bigint, state";

fn inbound(row: &tokio_postgres::Row) -> Inbound {
    Inbound {
        attempt: Attempt(row.get(0)),
        slot: row.get(1),
        snapshot: row.get(2),
        position: row.get::<_, i64>(3) as u64,
        state: row.get(4),
    }
}

/// Attempts from `source` that are neither finished nor cleared away.
pub async fn open(session: &impl GenericClient, source: &SiteName) -> Result<Vec<Inbound>> {
    let rows = session
        .query(
            &format!(
                "SELECT {COLUMNS} FROM domicile.inbound WHERE source = $1 AND state <> 'finished' ORDER BY attempt"
            ),
            &[&source.as_str()],
        )
        .await
        .doing("reading the arriving chunks")?;
    Ok(rows.iter().map(inbound).collect())
}

/// Begins an attempt, and makes sure that later ones numbered here are above it.
pub async fn begin(
    tx: &impl GenericClient,
    source: &SiteName,
    attempt: Attempt,
    slot: &str,
) -> Result<()> {
    let doing = "recording an arriving chunk";
    tx.execute(
        "INSERT INTO domicile.inbound (source, attempt, slot, state) VALUES ($1, $2, $3, 'copying')",
        &[&source.as_str(), &attempt.0, &slot],
    )
    .await
    .doing(doing)?;
    tx.execute(
        "SELECT setval('domicile.attempt', $1) FROM domicile.attempt WHERE last_value < $1",
        &[&attempt.0],
    )
    .await
    .doing(doing)?;
    Ok(())
}

/// The highest attempt number used here so far.
pub async fn highest_attempt(session: &impl GenericClient) -> Result<Attempt> {
    let row = session
        .query_one("SELECT last_value FROM domicile.attempt", &[])
        .await
        .doing("reading the highest attempt")?;
    Ok(Attempt(row.get(0)))
}

/// The attempt. Under the office of arrivals, held by `tx`, nobody else gives it up meanwhile; it goes on to be caught up,
/// for users of other batches, and those may be accepted at the same time.
pub async fn find(tx: &impl Asks, source: &SiteName, attempt: Attempt) -> Result<Option<Inbound>> {
    let rows = tx
        .ask(
            &format!("SELECT {COLUMNS} FROM domicile.inbound WHERE source = $1 AND attempt = $2"),
            &[(&source.as_str(), Type::TEXT), (&attempt.0, Type::INT8)],
        )
        .await
        .doing("reading an arriving chunk")?;
    Ok(rows.first().map(inbound))
}

/// Records, with the copied rows, that the copy is complete.
pub async fn copied(
    tx: &impl GenericClient,
    source: &SiteName,
    attempt: Attempt,
    snapshot: &str,
    rows: u64,
    bytes: u64,
) -> Result<bool> {
    let done = tx
        .execute(
            "UPDATE domicile.inbound SET state = 'copied', snapshot = $3, rows = $4, bytes = $5 \
             WHERE source = $1 AND attempt = $2 AND state = 'copying'",
            &[
                &source.as_str(),
                &attempt.0,
                &snapshot,
                &(rows as i64),
                &(bytes as i64),
            ],
        )
        .await
        .doing("recording a copied chunk")?;
    Ok(done == 1)
}

/// Moves the position on, with the rows that stand there. Says false where it was not at `from`.
pub async fn advance(
    tx: &impl Asks,
    source: &SiteName,
    attempt: Attempt,
    from: u64,
    to: u64,
) -> Result<bool> {
    let done = tx
        .tell(
            "UPDATE domicile.inbound SET position = '0/0'::pg_lsn + $4::bigint::numeric \
             WHERE source = $1 AND attempt = $2 AND position = '0/0'::pg_lsn + $3::bigint::numeric",
            &[
                (&source.as_str(), Type::TEXT),
                (&attempt.0, Type::INT8),
                (&(from as i64), Type::INT8),
                (&(to as i64), Type::INT8),
            ],
        )
        .await
        .doing("recording a chunk's position")?;
    Ok(done == 1)
}

/// Moves an attempt on to `state`.
pub async fn set_state(
    tx: &impl GenericClient,
    source: &SiteName,
    attempt: Attempt,
    state: &str,
) -> Result<()> {
    tx.execute(
        "UPDATE domicile.inbound SET state = $3, at = now() \
         WHERE source = $1 AND attempt = $2 AND state <> 'finished'",
        &[&source.as_str(), &attempt.0, &state],
    )
    .await
    .doing("recording an arriving chunk's state")?;
    Ok(())
}

/// A spooled transaction's changes.
#[derive(Clone, Debug)]
pub struct Spooled {
    /// The transaction's 32-bit id.
    pub xid: u32,
    /// Where its commit record stands.
    pub commit_lsn: u64,
    /// Its changes of this attempt, encoded.
    pub changes: Vec<u8>,
}

/// Appends transactions to the spool of an attempt, in their order.
pub async fn spool(
    tx: &impl GenericClient,
    source: &SiteName,
    attempt: Attempt,
    spooled: &[Spooled],
) -> Result<()> {
    let xids: Vec<i64> = spooled.iter().map(|s| i64::from(s.xid)).collect();
    let positions: Vec<i64> = spooled.iter().map(|s| s.commit_lsn as i64).collect();
    let changes: Vec<&[u8]> = spooled.iter().map(|s| s.changes.as_slice()).collect();
    tx.execute_typed(
        "INSERT INTO domicile.spool (source, attempt, xid, commit_lsn, change) \
         SELECT $1, $2, xid, '0/0'::pg_lsn + position::numeric, change \
         FROM unnest($3::bigint[], $4::bigint[], $5::bytea[]) WITH ORDINALITY AS s(xid, position, change, n) \
         ORDER BY s.n",
        &[
            (&source.as_str(), Type::TEXT),
            (&attempt.0, Type::INT8),
            (&xids, Type::INT8_ARRAY),
            (&positions, Type::INT8_ARRAY),
            (&changes, Type::BYTEA_ARRAY),
        ],
    )
    .await
    .doing("spooling changes")?;
    Ok(())
}

/// The first `limit` entries of the spool of an attempt, in stream order, removed by this.
pub async fn take_spooled(
    tx: &impl GenericClient,
    source: &SiteName,
    attempt: Attempt,
    limit: i64,
) -> Result<Vec<Spooled>> {
    let rows = tx
        .query(
            // By the place up to which they go: of a list of places, in a table without statistics, the planner makes a loop
            // within a loop.
            "WITH part AS MATERIALIZED ( \
               SELECT n, xid, commit_lsn, change FROM domicile.spool WHERE source = $1 AND attempt = $2 ORDER BY n LIMIT $3), \
             gone AS (DELETE FROM domicile.spool WHERE source = $1 AND attempt = $2 AND n <= (SELECT max(n) FROM part)) \
             SELECT xid, (commit_lsn - '0/0'::pg_lsn)::bigint, change FROM part ORDER BY n",
            &[&source.as_str(), &attempt.0, &limit],
        )
        .await
        .doing("draining the spool")?;
    let read = |row: &tokio_postgres::Row| Spooled {
        xid: row.get::<_, i64>(0) as u32,
        commit_lsn: row.get::<_, i64>(1) as u64,
        changes: row.get(2),
    };
    Ok(rows.iter().map(read).collect())
}

/// Forgets what is spooled for an attempt.
pub async fn forget_spool(
    tx: &impl GenericClient,
    source: &SiteName,
    attempt: Attempt,
) -> Result<()> {
    tx.execute(
        "DELETE FROM domicile.spool WHERE source = $1 AND attempt = $2",
        &[&source.as_str(), &attempt.0],
    )
    .await
    .doing("emptying the spool")?;
    Ok(())
}

/// Records that a change of `user` could not be applied: he is not accepted in this attempt.
pub async fn spoil(
    tx: &impl GenericClient,
    kind: KeyKind,
    source: &SiteName,
    attempt: Attempt,
    user: &UserKey,
    reason: &str,
) -> Result<()> {
    tx.execute(
        &format!(
            "INSERT INTO domicile.spoilt VALUES ($1, $2, $3::text::{}, $4) ON CONFLICT DO NOTHING",
            kind.sql_type()
        ),
        &[&source.as_str(), &attempt.0, &user.as_str(), &reason],
    )
    .await
    .doing("recording a change that could not be applied")?;
    Ok(())
}

/// The users of an attempt to whom a change could not be applied, with the reasons.
pub async fn spoilt(
    tx: &impl Asks,
    source: &SiteName,
    attempt: Attempt,
) -> Result<Vec<(UserKey, String)>> {
    let rows = tx
        .ask(
            "SELECT user_key::text, reason FROM domicile.spoilt WHERE source = $1 AND attempt = $2",
            &[(&source.as_str(), Type::TEXT), (&attempt.0, Type::INT8)],
        )
        .await
        .doing("reading changes that could not be applied")?;
    Ok(rows
        .iter()
        .map(|row| (UserKey::new(row.get::<_, String>(0)), row.get(1)))
        .collect())
}

/// Users who arrive from `source` here, by attempt, in one of `states`.
pub async fn users(
    session: &impl GenericClient,
    source: &SiteName,
    states: &[&str],
) -> Result<Vec<(Attempt, Vec<UserKey>)>> {
    let rows = session
        .query(
            "SELECT attempt, array_agg(user_key::text ORDER BY user_key) FROM domicile.resident \
             WHERE state = ANY ($2) AND peer = $1 GROUP BY attempt ORDER BY attempt",
            &[&source.as_str(), &states],
        )
        .await
        .doing("listing who arrives")?;
    let read = |row: &tokio_postgres::Row| {
        let users = row
            .get::<_, Vec<String>>(1)
            .into_iter()
            .map(UserKey::new)
            .collect();
        (Attempt(row.get(0)), users)
    };
    Ok(rows.iter().map(read).collect())
}
