//! The journal of erasures: how far each has come at this site, and what was seen when it came there.
//!
//! A state changes by [`handoff::erasure::step`] alone, on a row that is held under lock, and on the condition that it is
//! still the one that the caller knows.

use std::time::Duration;

use handoff::erasure::wal::Mark;
use handoff::erasure::{Event, State, step};
use model::{BatchId, Epoch, KeyKind, MoveId, UserKey};
use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Row};

use crate::error::Doing;
use crate::{Error, Result};

/// Whose rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Of users of a batch, who live elsewhere now.
    Batch {
        /// The batch.
        batch: BatchId,
        /// Its move.
        r#move: MoveId,
    },
    /// Of one user, at his home.
    User,
}

/// One erasure.
#[derive(Clone, Debug, PartialEq)]
pub struct Erasure {
    /// Its name, unique among all sites.
    pub id: String,
    /// Whose rows.
    pub scope: Scope,
    /// How far it has come.
    pub state: State,
    /// How many users.
    pub users: u64,
    /// How many rows, as read before the deletion, or deleted.
    pub rows: u64,
    /// The digest of what was deleted, read before.
    pub digest: Value,
    /// Whether it is the one that both sites agreed on when the users left; `None` where there is none to compare with.
    pub agreed: Option<bool>,
    /// Why it came to nothing, where it did.
    pub reason: Option<String>,
    /// The transaction that deleted.
    pub deleted_xid: Option<i64>,
    /// A position of the log at or after its commit.
    pub deleted_lsn: Option<String>,
    /// The files that held rows, or may have, once nobody could see these any more; as the caller gave them.
    pub files: Option<Value>,
    /// The position of the log after which nothing of the rows is written to it any more.
    pub vacuumed_lsn: Option<String>,
    /// The tables whose free space may hold bytes.
    pub left_in: Vec<String>,
    /// How far the log has been written over since; `None` as long as that does not count.
    pub wal: Option<Mark>,
    /// How long ago the log was seen to hold nothing, by this database's clock.
    pub wal_clear: Option<Duration>,
}

/// What a new erasure is about.
#[derive(Clone, Debug)]
pub struct Begun<'a> {
    /// Whose rows.
    pub scope: &'a Scope,
    /// The users, with the epochs that the receipt is for.
    pub users: &'a [(UserKey, Epoch)],
    /// How many rows there are.
    pub rows: u64,
    /// Their digest.
    pub digest: &'a Value,
    /// See [`Erasure::agreed`].
    pub agreed: Option<bool>,
}

const COLUMNS: &str = "erasure, scope, batch, move_id, state, residue, users, rows, digest, agreed, reason, deleted_xid, \
     deleted_lsn::text, files, vacuumed_lsn::text, left_in, wal, \
     greatest(0, extract(epoch FROM now() - wal_clear_at))::float8";

/// Writes that an erasure begins: [`State::Deleting`]. Returns its name.
pub async fn begin(tx: &impl GenericClient, kind: KeyKind, begun: &Begun<'_>) -> Result<String> {
    let doing = "writing that an erasure begins";
    let (scope, batch, of) = match begun.scope {
        Scope::Batch { batch, r#move } => ("batch", Some(batch.as_str()), Some(r#move.as_str())),
        Scope::User => ("user", None, None),
    };
    let row = tx
        .query_one(
            "INSERT INTO domicile.erasure (erasure, scope, batch, move_id, state, users, rows, digest, agreed) \
             SELECT h.site || '-erasure-' || nextval('domicile.erasure_number'), $1, $2, $3, 'deleting', $4, $5, $6, $7 \
               FROM domicile.home AS h RETURNING erasure",
            &[
                &scope,
                &batch,
                &of,
                &(begun.users.len() as i64),
                &begun.rows.cast_signed(),
                &begun.digest,
                &begun.agreed,
            ],
        )
        .await
        .doing(doing)?;
    let id: String = row.get(0);
    let keys: Vec<&str> = begun.users.iter().map(|(user, _)| user.as_str()).collect();
    let epochs: Vec<i64> = begun.users.iter().map(|(_, epoch)| epoch.0).collect();
    tx.execute(
        &format!(
            "INSERT INTO domicile.erasing (erasure, user_key, epoch) \
             SELECT $1, k::{}, e FROM unnest($2::text[], $3::bigint[]) AS u(k, e)",
            kind.sql_type()
        ),
        &[&id, &keys, &epochs],
    )
    .await
    .doing(doing)?;
    Ok(id)
}

/// Erasures in one of these states, the oldest first.
pub async fn list(session: &impl GenericClient, states: &[&str]) -> Result<Vec<Erasure>> {
    let rows = session
        .query(
            &format!(
                "SELECT {COLUMNS} FROM domicile.erasure WHERE state = ANY ($1) ORDER BY began_at, erasure"
            ),
            &[&states],
        )
        .await
        .doing("reading the journal of erasures")?;
    rows.iter().map(read).collect()
}

/// The users of an erasure with their epochs; none once it is purged.
pub async fn users(session: &impl GenericClient, id: &str) -> Result<Vec<(UserKey, Epoch)>> {
    let rows = session
        .query(
            "SELECT user_key::text, epoch FROM domicile.erasing WHERE erasure = $1 ORDER BY user_key",
            &[&id],
        )
        .await
        .doing("reading whose rows an erasure is about")?;
    let read = |row: &Row| (UserKey::new(row.get::<_, String>(0)), Epoch(row.get(1)));
    Ok(rows.iter().map(read).collect())
}

/// The erasures of `user` that are not purged.
pub async fn of_user(
    session: &impl GenericClient,
    kind: KeyKind,
    user: &UserKey,
) -> Result<Vec<String>> {
    let rows = session
        .query(
            &format!(
                "SELECT erasure FROM domicile.erasing WHERE user_key = $1::text::{} ORDER BY erasure",
                kind.sql_type()
            ),
            &[&user.as_str()],
        )
        .await
        .doing("looking for a user's erasures")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Takes the step `event` from the state that `erasure` is in, under lock, and writes the state's own columns.
///
/// # Errors
/// [`Error::Refused`] where somebody else took it further meanwhile, or the step is none: roll back.
pub async fn advance(tx: &impl GenericClient, erasure: &Erasure, event: Event) -> Result<State> {
    let doing = "writing how far an erasure has come";
    let row = tx
        .query_opt(
            "SELECT state, residue FROM domicile.erasure WHERE erasure = $1 FOR UPDATE",
            &[&erasure.id],
        )
        .await
        .doing(doing)?;
    let found = row.and_then(|row| State::parse(row.get(0), row.get(1)));
    if found != Some(erasure.state) {
        return Err(Error::Refused(format!(
            "somebody else carried erasure {} on meanwhile; try again",
            erasure.id
        )));
    }
    let next = step(erasure.state, event).map_err(|illegal| Error::Refused(illegal.to_string()))?;
    let residue = next == State::Vacuumed { residue: true };
    let at = match event {
        Event::Delete => {
            "deleted_at = coalesce(deleted_at, now()), deleted_xid = pg_current_xact_id()::text::bigint, deleted_lsn = NULL"
        }
        Event::Clean { .. } => "vacuumed_at = now(), vacuumed_lsn = pg_current_wal_insert_lsn()",
        Event::Purge => "purged_at = now()",
        _ => "reason = reason",
    };
    tx.execute(
        &format!("UPDATE domicile.erasure SET state = $2, residue = $3, {at} WHERE erasure = $1"),
        &[&erasure.id, &next.name(), &residue],
    )
    .await
    .doing(doing)?;
    Ok(next)
}

/// Writes why an erasure came to nothing.
pub async fn set_reason(tx: &impl GenericClient, id: &str, reason: &str) -> Result<()> {
    let sql = "UPDATE domicile.erasure SET reason = $2 WHERE erasure = $1";
    tx.execute(sql, &[&id, &reason])
        .await
        .doing("writing why an erasure came to nothing")
        .map(drop)
}

/// Writes how many rows more were deleted than were read before: of a writer who was cut off from his user.
pub async fn add_rows(tx: &impl GenericClient, id: &str, rows: u64) -> Result<()> {
    let sql = "UPDATE domicile.erasure SET rows = rows + $2 WHERE erasure = $1";
    tx.execute(sql, &[&id, &rows.cast_signed()])
        .await
        .doing("writing how many rows were erased")
        .map(drop)
}

/// Writes a position of the log that is after the deletion, once it is committed.
pub async fn deleted_by_now(session: &impl GenericClient, id: &str) -> Result<()> {
    let sql = "UPDATE domicile.erasure SET deleted_lsn = pg_current_wal_insert_lsn() \
               WHERE erasure = $1 AND deleted_lsn IS NULL";
    session
        .execute(sql, &[&id])
        .await
        .doing("writing where in the log a deletion stands")
        .map(drop)
}

/// Keeps the files that are to be gone before it counts as vacuumed.
pub async fn set_files(session: &impl GenericClient, id: &str, files: &Value) -> Result<()> {
    session
        .execute(
            "UPDATE domicile.erasure SET files = $2 WHERE erasure = $1",
            &[&id, files],
        )
        .await
        .doing("writing which files held erased rows")
        .map(drop)
}

/// Keeps the tables whose free space may hold bytes, and the mark of the log where there are none.
pub async fn set_cleaned(
    tx: &impl GenericClient,
    id: &str,
    left_in: &[String],
    wal: Option<Mark>,
) -> Result<()> {
    tx.execute(
        "UPDATE domicile.erasure SET left_in = $2, wal = $3, wal_clear_at = NULL WHERE erasure = $1",
        &[&id, &json!(left_in), &wal.map(write_mark)],
    )
    .await
    .doing("writing what is left of erased rows")
    .map(drop)
}

/// Keeps how far the log has been written over.
pub async fn set_wal(session: &impl GenericClient, id: &str, wal: Mark) -> Result<()> {
    session
        .execute(
            "UPDATE domicile.erasure SET wal = $2, \
                 wal_clear_at = CASE WHEN $3 THEN coalesce(wal_clear_at, now()) END WHERE erasure = $1",
            &[&id, &write_mark(wal), &(wal == Mark::Overwritten)],
        )
        .await
        .doing("writing how far the log has been written over")
        .map(drop)
}

/// Ends an erasure: keeps the declared retention of backups with it and forgets whose rows it was about. Returns those
/// whose records here still say that they were erased, at the same epoch: nothing else here is about them.
pub async fn finish(
    tx: &impl GenericClient,
    kind: KeyKind,
    erasure: &Erasure,
    backups_kept: Duration,
) -> Result<Vec<UserKey>> {
    let doing = "ending an erasure";
    tx.execute(
        "UPDATE domicile.erasure SET backups_kept = $2 WHERE erasure = $1",
        &[&erasure.id, &(backups_kept.as_secs().cast_signed())],
    )
    .await
    .doing(doing)?;
    let condition = match erasure.scope {
        Scope::Batch { .. } => {
            "r.state = 'departed' AND r.erased_at IS NOT NULL AND r.epoch = g.epoch"
        }
        // His record was taken one epoch on by the erasure itself.
        Scope::User => "r.state = 'settled' AND r.epoch > g.epoch",
    };
    let rows = tx
        .query(
            &format!(
                "WITH gone AS (DELETE FROM domicile.erasing WHERE erasure = $1 RETURNING user_key, epoch) \
                 SELECT g.user_key::{kind}::text FROM gone AS g JOIN domicile.resident AS r USING (user_key) \
                  WHERE {condition}",
                kind = kind.sql_type()
            ),
            &[&erasure.id],
        )
        .await
        .doing(doing)?;
    Ok(rows
        .iter()
        .map(|row| UserKey::new(row.get::<_, String>(0)))
        .collect())
}

/// Whether somebody leaves here or arrives: tables are not rewritten under a move.
pub async fn is_busy(session: &impl GenericClient) -> Result<bool> {
    let row = session
        .query_one(
            "SELECT EXISTS (SELECT FROM domicile.resident WHERE attempt IS NOT NULL \
                 AND state IN ('moving', 'fenced', 'offered', 'arriving', 'clearing')) \
                 OR EXISTS (SELECT FROM domicile.move WHERE state = 'running')",
            &[],
        )
        .await
        .doing("looking whether a move runs")?;
    Ok(row.get(0))
}

/// How many erasures there are in each state but the last, with their users.
pub async fn pending(session: &impl GenericClient) -> Result<Vec<(String, u64, u64)>> {
    let rows = session
        .query(
            "SELECT state, count(*), sum(users)::bigint FROM domicile.erasure \
             WHERE state IN ('deleting', 'deleted', 'vacuumed') GROUP BY state ORDER BY state",
            &[],
        )
        .await
        .doing("counting erasures")?;
    let count = |row: &Row, n| row.get::<_, i64>(n).unsigned_abs();
    Ok(rows
        .iter()
        .map(|row| (row.get(0), count(row, 1), count(row, 2)))
        .collect())
}

/// Whether `day` (`YYYY-MM-DD`) is still to come, by this database's clock in UTC.
pub async fn is_to_come(session: &impl GenericClient, day: &str) -> Result<bool> {
    let sql = "SELECT $1::text::date > (now() AT TIME ZONE 'UTC')::date";
    Ok(session
        .query_one(sql, &[&day])
        .await
        .doing("looking at the database's clock")?
        .get(0))
}

fn read(row: &Row) -> Result<Erasure> {
    let id: String = row.get(0);
    let damaged =
        |what: &str| Error::Refused(format!("the journal of erasure {id} is damaged: {what}"));
    let scope = match (
        row.get::<_, &str>(1),
        row.get::<_, Option<String>>(2),
        row.get::<_, Option<String>>(3),
    ) {
        ("batch", Some(batch), Some(of)) => Scope::Batch {
            batch: BatchId::new(batch),
            r#move: MoveId::new(of),
        },
        ("user", None, None) => Scope::User,
        _ => return Err(damaged("its scope")),
    };
    let state = State::parse(row.get(4), row.get(5)).ok_or_else(|| damaged("its state"))?;
    let wal = row
        .get::<_, Option<Value>>(16)
        .map(|value| read_mark(&value).ok_or_else(|| damaged("its mark of the log")))
        .transpose()?;
    let left = row.get::<_, Option<Value>>(15).unwrap_or_default();
    let left = left.as_array().into_iter().flatten();
    let left_in = left
        .filter_map(Value::as_str)
        .map(ToOwned::to_owned)
        .collect();
    Ok(Erasure {
        scope,
        state,
        users: row.get::<_, i64>(6).unsigned_abs(),
        rows: row.get::<_, i64>(7).unsigned_abs(),
        digest: row.get(8),
        agreed: row.get(9),
        reason: row.get(10),
        deleted_xid: row.get(11),
        deleted_lsn: row.get(12),
        files: row.get(13),
        vacuumed_lsn: row.get(14),
        left_in,
        wal,
        wal_clear: row.get::<_, Option<f64>>(17).map(Duration::from_secs_f64),
        id,
    })
}

fn write_mark(mark: Mark) -> Value {
    match mark {
        Mark::Waiting { last } => json!({"mark": "waiting", "last": last}),
        Mark::Leaving {
            last,
            ceiling,
            timeline,
        } => json!({"mark": "leaving", "last": last, "ceiling": ceiling, "timeline": timeline}),
        Mark::Overwritten => json!({"mark": "overwritten"}),
    }
}

fn read_mark(value: &Value) -> Option<Mark> {
    let number = |field: &str| value.get(field)?.as_u64();
    Some(match value.get("mark")?.as_str()? {
        "waiting" => Mark::Waiting {
            last: number("last")?,
        },
        "leaving" => Mark::Leaving {
            last: number("last")?,
            ceiling: number("ceiling")?,
            timeline: u32::try_from(number("timeline")?).ok()?,
        },
        "overwritten" => Mark::Overwritten,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_back() {
        let leaving = Mark::Leaving {
            last: 3,
            ceiling: 9,
            timeline: 2,
        };
        for mark in [Mark::Waiting { last: 7 }, leaving, Mark::Overwritten] {
            assert_eq!(read_mark(&write_mark(mark)), Some(mark));
        }
        assert_eq!(read_mark(&json!({"mark": "gone"})), None);
    }
}
