//! The journal of moves that leave from a home database: moves, chunks, batches, users set aside. It is the control
//! state of a move: whoever takes over reads it, nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{Attempt, BatchId, Epoch, KeyKind, Market, MoveId, ServiceName, SiteName, UserKey};
use serde_json::{Value, json};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::Result;
use crate::error::Doing;
use crate::kept::Asks;

/// A move, as recorded at its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveRow {
    /// The move.
    pub id: MoveId,
    /// Its service.
    pub service: ServiceName,
    /// Where the users live.
    pub source: SiteName,
    /// Where they go.
    pub target: SiteName,
    /// The phase that it carries out, where it is one's.
    pub phase: Option<String>,
    /// The move that this one takes back, if it does.
    pub of: Option<MoveId>,
    /// `running`, `done` or `aborted`.
    pub state: String,
    /// Users moved so far.
    pub moved: i64,
}

/// What a move is for.
#[derive(Clone, Debug)]
pub struct Purpose {
    /// Its service.
    pub service: ServiceName,
    /// Where the users live.
    pub source: SiteName,
    /// Where they go.
    pub target: SiteName,
    /// The phase that it carries out, where it is one's.
    pub phase: Option<String>,
    /// The move that this one takes back, if it does.
    pub of: Option<MoveId>,
}

const MOVE_COLUMNS: &str = "move_id, service, source, target, phase, of, state, moved";

fn move_row(row: &tokio_postgres::Row) -> MoveRow {
    MoveRow {
        id: MoveId::new(row.get::<_, String>(0)),
        service: ServiceName::new(row.get::<_, String>(1)),
        source: SiteName::new(row.get::<_, String>(2)),
        target: SiteName::new(row.get::<_, String>(3)),
        phase: row.get(4),
        of: row.get::<_, Option<String>>(5).map(MoveId::new),
        state: row.get(6),
        moved: row.get(7),
    }
}

/// All moves that left from here, the latest first.
pub async fn moves(session: &impl GenericClient) -> Result<Vec<MoveRow>> {
    let sql =
        format!("SELECT {MOVE_COLUMNS} FROM domicile.move ORDER BY started_at DESC, move_id DESC");
    let rows = session
        .query(&sql, &[])
        .await
        .doing("reading the journal of moves")?;
    Ok(rows.iter().map(move_row).collect())
}

/// One move, where it left from here.
pub async fn find_move(session: &impl GenericClient, id: &MoveId) -> Result<Option<MoveRow>> {
    let sql = format!("SELECT {MOVE_COLUMNS} FROM domicile.move WHERE move_id = $1");
    let row = session
        .query_opt(&sql, &[&id.as_str()])
        .await
        .doing("reading the journal of moves")?;
    Ok(row.as_ref().map(move_row))
}

/// Goes on with the running move of that purpose, or begins one. Says whether it goes on.
pub async fn begin_move(tx: &impl GenericClient, purpose: &Purpose) -> Result<(MoveRow, bool)> {
    let doing = "recording a move";
    let sql = format!(
        "SELECT {MOVE_COLUMNS} FROM domicile.move WHERE service = $1 AND target = $2 AND state = 'running' \
         AND phase IS NOT DISTINCT FROM $3 AND of IS NOT DISTINCT FROM $4"
    );
    let of = purpose.of.as_ref().map(MoveId::as_str);
    let found = tx
        .query_opt(
            &sql,
            &[
                &purpose.service.as_str(),
                &purpose.target.as_str(),
                &purpose.phase,
                &of,
            ],
        )
        .await
        .doing(doing)?;
    if let Some(row) = found {
        return Ok((move_row(&row), true));
    }
    let sql = format!(
        "INSERT INTO domicile.move (move_id, service, source, target, phase, of, direction, state, policy) \
         VALUES (format('%s-%s-%s-%s', $1::text, $2::text, $3::text, nextval('domicile.move_number')), \
                 $1, $2, $3, $4, $5, CASE WHEN $5::text IS NULL THEN 'forward' ELSE 'back' END, 'running', \
                 (SELECT version FROM domicile.policy ORDER BY n DESC LIMIT 1)) \
         RETURNING {MOVE_COLUMNS}"
    );
    let row = tx
        .query_one(
            &sql,
            &[
                &purpose.service.as_str(),
                &purpose.source.as_str(),
                &purpose.target.as_str(),
                &purpose.phase,
                &of,
            ],
        )
        .await
        .doing(doing)?;
    Ok((move_row(&row), false))
}

/// The phases of which a move has begun here.
pub async fn phases(session: &impl GenericClient) -> Result<Vec<String>> {
    let rows = session
        .query(
            "SELECT DISTINCT phase FROM domicile.move WHERE phase IS NOT NULL",
            &[],
        )
        .await
        .doing("reading how far the programme has come")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Ends a move.
pub async fn end_move(tx: &impl GenericClient, id: &MoveId, state: &str) -> Result<()> {
    tx.execute(
        "UPDATE domicile.move SET state = $2, ended_at = now() WHERE move_id = $1 AND state = 'running'",
        &[&id.as_str(), &state],
    )
    .await
    .doing("ending a move")?;
    Ok(())
}

/// Adds what was copied.
pub async fn count_copied(
    tx: &impl GenericClient,
    id: &MoveId,
    rows: u64,
    bytes: u64,
) -> Result<()> {
    tx.execute(
        "UPDATE domicile.move SET rows = rows + $2, bytes = bytes + $3 WHERE move_id = $1",
        &[&id.as_str(), &(rows as i64), &(bytes as i64)],
    )
    .await
    .doing("counting copied rows")?;
    Ok(())
}

/// A copying attempt, as recorded at its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRow {
    /// The attempt.
    pub attempt: Attempt,
    /// Its move.
    pub r#move: MoveId,
    /// Where its users go.
    pub target: SiteName,
    /// The slot's identity under which it was enrolled.
    pub slot: String,
    /// `enrolled`, `copied`, `cancelled` or `finished`.
    pub state: String,
}

/// Attempts that are not finished and go to `target`.
pub async fn open_chunks(session: &impl GenericClient, target: &SiteName) -> Result<Vec<ChunkRow>> {
    let rows = session
        .query(
            "SELECT attempt, move_id, target, slot, state FROM domicile.chunk \
             WHERE target = $1 AND state <> 'finished' ORDER BY attempt",
            &[&target.as_str()],
        )
        .await
        .doing("reading the journal of chunks")?;
    let chunk = |row: &tokio_postgres::Row| ChunkRow {
        attempt: Attempt(row.get(0)),
        r#move: MoveId::new(row.get::<_, String>(1)),
        target: SiteName::new(row.get::<_, String>(2)),
        slot: row.get(3),
        state: row.get(4),
    };
    Ok(rows.iter().map(chunk).collect())
}

/// Whether any attempt that left from here is unfinished: as long, the slot is needed.
pub async fn any_open_chunk(session: &impl GenericClient) -> Result<bool> {
    let row = session
        .query_one(
            "SELECT EXISTS (SELECT 1 FROM domicile.chunk WHERE state <> 'finished')",
            &[],
        )
        .await
        .doing("reading the journal of chunks")?;
    Ok(row.get(0))
}

/// Gives up every attempt that left from here, for the next run to put right on both sides: its users are enrolled anew.
/// Says how many there were.
pub async fn cancel_chunks(tx: &impl GenericClient) -> Result<u64> {
    tx.execute(
        "UPDATE domicile.chunk SET state = 'cancelled', at = now() WHERE state <> 'finished'",
        &[],
    )
    .await
    .doing("giving all attempts up")
}

/// Forgets the slot's identity: what was enrolled under it starts again from enrolment.
pub async fn forget_slot(tx: &impl GenericClient, name: &str) -> Result<()> {
    tx.execute("DELETE FROM domicile.slot WHERE name = $1", &[&name])
        .await
        .doing("forgetting the slot")?;
    Ok(())
}

/// A number for a new attempt, above `floor` and every one used here.
pub async fn new_attempt(session: &impl GenericClient, floor: Attempt) -> Result<Attempt> {
    let row = session
        .query_one(
            "SELECT CASE WHEN n > $1 THEN n ELSE setval('domicile.attempt', $1 + 1) END \
             FROM (SELECT nextval('domicile.attempt') AS n) AS drawn",
            &[&floor.0],
        )
        .await
        .doing("numbering an attempt")?;
    Ok(Attempt(row.get(0)))
}

/// Records an attempt with its enrolment.
pub async fn add_chunk(tx: &impl GenericClient, chunk: &ChunkRow, users: usize) -> Result<()> {
    tx.execute(
        "INSERT INTO domicile.chunk (attempt, move_id, target, slot, state, users) VALUES ($1, $2, $3, $4, $5, $6)",
        &[
            &chunk.attempt.0,
            &chunk.r#move.as_str(),
            &chunk.target.as_str(),
            &chunk.slot,
            &chunk.state,
            &(users as i64),
        ],
    )
    .await
    .doing("recording a chunk")?;
    Ok(())
}

/// Moves an attempt on.
pub async fn set_chunk(tx: &impl GenericClient, attempt: Attempt, state: &str) -> Result<()> {
    tx.execute(
        "UPDATE domicile.chunk SET state = $2, at = now() WHERE attempt = $1 AND state <> 'finished'",
        &[&attempt.0, &state],
    )
    .await
    .doing("recording a chunk's state")?;
    Ok(())
}

/// A new batch of a move.
pub async fn new_batch(session: &impl Asks, id: &MoveId) -> Result<BatchId> {
    let rows = session
        .ask(
            // Not by the number alone: that goes back in time with its database, and a peer has decided on it for ever.
            "SELECT nextval('domicile.batch'), left(gen_random_uuid()::text, 8)",
            &[],
        )
        .await
        .doing("numbering a batch")?;
    let (number, drawn): (i64, String) = (rows[0].get(0), rows[0].get(1));
    Ok(BatchId::new(format!("{id}/{number}-{drawn}")))
}

/// A batch that changed home.
#[derive(Clone, Debug)]
pub struct Departure<'a> {
    /// The batch.
    pub batch: &'a BatchId,
    /// Its move.
    pub r#move: &'a MoveId,
    /// The attempt.
    pub attempt: Attempt,
    /// Who went, with his epoch.
    pub users: &'a [(UserKey, Epoch)],
    /// Rows that both sides agreed on.
    pub rows: u64,
    /// The digest that they agreed on; `None` where an earlier process verified it and the target's decision has it.
    pub digest: Option<&'a Value>,
    /// How long they were closed, where it was measured.
    pub pause: Option<Duration>,
    /// How many were of which market, where that was found out.
    pub markets: Option<&'a BTreeMap<Market, u64>>,
}

/// Records a departure, in the transaction in which the users depart. Recording it again changes nothing.
pub async fn depart(tx: &impl Asks, kind: KeyKind, departure: &Departure<'_>) -> Result<()> {
    let keys: Vec<&str> = departure
        .users
        .iter()
        .map(|(user, _)| user.as_str())
        .collect();
    let epochs: Vec<i64> = departure.users.iter().map(|(_, epoch)| epoch.0).collect();
    let key = kind.sql_type();
    // One statement: all of it where the batch is new, nothing where it stands recorded.
    tx.tell(
        &format!(
            "WITH logged AS ( \
               INSERT INTO domicile.batch_log (batch, move_id, attempt, users, rows, digest, pause_us, markets) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $10) ON CONFLICT (batch) DO NOTHING RETURNING batch, move_id, users), \
             gone AS ( \
               INSERT INTO domicile.passenger SELECT l.batch, p.k::{key}, p.e \
               FROM logged AS l, unnest($8::text[], $9::bigint[]) AS p(k, e)), \
             counted AS ( \
               UPDATE domicile.move AS m SET moved = m.moved + l.users FROM logged AS l WHERE m.move_id = l.move_id) \
             DELETE FROM domicile.set_aside AS a USING logged AS l \
             WHERE a.move_id = l.move_id AND a.user_key = ANY ($8::text[]::{key}[])"
        ),
        &[
            (&departure.batch.as_str(), Type::TEXT),
            (&departure.r#move.as_str(), Type::TEXT),
            (&departure.attempt.0, Type::INT8),
            (&(departure.users.len() as i64), Type::INT8),
            (&(departure.rows as i64), Type::INT8),
            (&departure.digest, Type::JSONB),
            (&departure.pause.map(|p| p.as_micros() as i64), Type::INT8),
            (&keys, Type::TEXT_ARRAY),
            (&epochs, Type::INT8_ARRAY),
            (&departure.markets.map(|markets| json!(markets)), Type::JSONB),
        ],
    )
    .await
    .doing("recording a departure")?;
    Ok(())
}

/// Records that a move leaves a user where he is.
pub async fn set_aside(
    tx: &impl GenericClient,
    kind: KeyKind,
    id: &MoveId,
    user: &UserKey,
    reason: &str,
) -> Result<()> {
    tx.execute(
        &format!(
            "INSERT INTO domicile.set_aside (move_id, user_key, reason) VALUES ($1, $2::text::{}, $3) \
             ON CONFLICT (move_id, user_key) DO UPDATE SET reason = excluded.reason, at = now()",
            kind.sql_type()
        ),
        &[&id.as_str(), &user.as_str(), &reason],
    )
    .await
    .doing("setting a user aside")?;
    Ok(())
}

/// Users set aside, with their moves and reasons.
pub async fn aside(session: &impl GenericClient) -> Result<Vec<(MoveId, UserKey, String)>> {
    let rows = session
        .query("SELECT move_id, user_key::text, reason FROM domicile.set_aside ORDER BY move_id, user_key", &[])
        .await
        .doing("reading who was set aside")?;
    let read = |row: &tokio_postgres::Row| {
        (
            MoveId::new(row.get::<_, String>(0)),
            UserKey::new(row.get::<_, String>(1)),
            row.get(2),
        )
    };
    Ok(rows.iter().map(read).collect())
}

/// A batch as the journal has it, for verification and for going back.
#[derive(Clone, Debug)]
pub struct BatchRow {
    /// The batch.
    pub batch: BatchId,
    /// Its move.
    pub r#move: MoveId,
    /// Where it went.
    pub target: SiteName,
    /// The digest that both sides agreed on.
    pub digest: Option<Value>,
    /// Who went, with his epoch.
    pub users: Vec<(UserKey, Epoch)>,
}

/// Batches that left from here, of one move or of all.
pub async fn batches(session: &impl GenericClient, of: Option<&MoveId>) -> Result<Vec<BatchRow>> {
    let doing = "reading the journal of batches";
    let rows = session
        .query(
            "SELECT b.batch, b.move_id, m.target, b.digest, array_agg(p.user_key::text ORDER BY p.user_key), \
                    array_agg(p.epoch ORDER BY p.user_key) \
             FROM domicile.batch_log AS b JOIN domicile.move AS m USING (move_id) \
             JOIN domicile.passenger AS p USING (batch) \
             WHERE $1::text IS NULL OR b.move_id = $1 \
             GROUP BY b.batch, b.move_id, m.target, b.digest, b.departed_at ORDER BY b.departed_at, b.batch",
            &[&of.map(MoveId::as_str)],
        )
        .await
        .doing(doing)?;
    let read = |row: &tokio_postgres::Row| {
        let users = row.get::<_, Vec<String>>(4).into_iter().map(UserKey::new);
        let epochs = row.get::<_, Vec<i64>>(5).into_iter().map(Epoch);
        BatchRow {
            batch: BatchId::new(row.get::<_, String>(0)),
            r#move: MoveId::new(row.get::<_, String>(1)),
            target: SiteName::new(row.get::<_, String>(2)),
            digest: row.get(3),
            users: users.zip(epochs).collect(),
        }
    };
    Ok(rows.iter().map(read).collect())
}

/// The transaction id of the current transaction.
pub async fn current_xid(tx: &impl GenericClient) -> Result<i64> {
    let row = tx
        .query_one("SELECT pg_current_xact_id()::text::bigint", &[])
        .await
        .doing("reading the transaction's id")?;
    Ok(row.get(0))
}

/// The prefix of messages that only mark a place in the change stream.
pub const BEAT: &str = "domicile.beat";

/// Writes a mark into the change stream and says where: once the stream has passed it, everything committed before
/// this call has been read.
pub async fn beat(session: &impl Asks) -> Result<u64> {
    let rows = session
        .ask(
            "SELECT (pg_logical_emit_message(true, $1, '') - '0/0'::pg_lsn)::bigint",
            &[(&BEAT, Type::TEXT)],
        )
        .await
        .doing("marking the change stream")?;
    Ok(rows[0].get::<_, i64>(0) as u64)
}

/// Users who are in `state` here and go to `target`, by batch, with their epochs and attempt.
pub async fn batches_in(
    session: &impl GenericClient,
    state: &str,
    target: &SiteName,
) -> Result<Vec<(BatchId, Attempt, Vec<(UserKey, Epoch)>)>> {
    let rows = session
        .query(
            "SELECT batch, attempt, array_agg(user_key::text ORDER BY user_key), \
                    array_agg(epoch ORDER BY user_key) \
             FROM domicile.resident WHERE state = $1 AND peer = $2 GROUP BY batch, attempt ORDER BY batch",
            &[&state, &target.as_str()],
        )
        .await
        .doing("looking for unfinished batches")?;
    let read = |row: &tokio_postgres::Row| {
        let users = row.get::<_, Vec<String>>(2).into_iter().map(UserKey::new);
        let epochs = row.get::<_, Vec<i64>>(3).into_iter().map(Epoch);
        (
            BatchId::new(row.get::<_, String>(0)),
            Attempt(row.get(1)),
            users.zip(epochs).collect(),
        )
    };
    Ok(rows.iter().map(read).collect())
}
