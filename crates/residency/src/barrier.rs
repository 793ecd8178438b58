//! The enrolment barrier: waits until every transaction that may have read a record as it was before the
//! enrolment has ended.
//!
//! The bound is an id drawn *after* the enrolment's COMMIT returned, not the enrolment's own: a READ COMMITTED
//! writer can draw its id between the enrolment's id and the enrolment's commit, read the old record, drop
//! its snapshot and stay open (docs/decisions/0001).

use std::time::{Duration, Instant};

use model::fault::{Bug, planted};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::{Error, Result};

/// A transaction id with its epoch, as `pg_current_xact_id()` gives it.
pub type FullXid = i64;

/// How often the barrier looks. Not a wait for something else to happen: the state it waits for has no event.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Waits until nobody can be left who read a record before `enrolment` (the id of the transaction that wrote
/// it, already committed) took effect, at most `patience`.
///
/// Walsenders and autovacuum are left out by name; a backend whose type we may not see counts as a writer. So
/// are sessions of our own role: the guard does not concern them.
///
/// # Errors
/// [`Error::BarrierTimeout`] names who is in the way.
pub async fn wait(session: &Client, enrolment: FullXid, patience: Duration) -> Result<()> {
    wait_telling(session, enrolment, patience, |_| {}).await
}

/// Like [`wait`], and tells at each look who is in the way.
///
/// # Errors
/// [`Error::BarrierTimeout`] names who is in the way.
pub async fn wait_telling(
    session: &Client,
    enrolment: FullXid,
    patience: Duration,
    tell: impl Fn(&[String]),
) -> Result<()> {
    if planted(Bug::NoBarrier) {
        return Ok(());
    }
    let drawn = draw(session).await?;
    let bound = if planted(Bug::BarrierAtOwnId) {
        enrolment
    } else {
        drawn
    };
    let started = Instant::now();
    let mut clean = 0;
    loop {
        let blockers = scan(session, bound).await?;
        clean = if blockers.is_empty() { clean + 1 } else { 0 };
        if clean == 2 {
            return Ok(());
        }
        if started.elapsed() >= patience && !blockers.is_empty() {
            return Err(Error::BarrierTimeout { blockers });
        }
        if !blockers.is_empty() {
            tell(&blockers);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Who is in the way of a barrier that would begin now.
pub async fn in_the_way(session: &Client) -> Result<Vec<String>> {
    let drawn = draw(session).await?;
    scan(session, drawn).await
}

async fn draw(session: &Client) -> Result<FullXid> {
    let row = session
        .query_one("SELECT pg_current_xact_id()::text::bigint", &[])
        .await
        .doing("drawing the barrier's transaction id")?;
    Ok(row.get(0))
}

/// Who may still be writing under a transaction or a snapshot at or before `bound`: backends first, prepared
/// transactions in a later statement, so that one that is prepared meanwhile is seen in one of the two.
async fn scan(session: &Client, bound: FullXid) -> Result<Vec<String>> {
    // age() of an id counts from the next one to be drawn: the greater, the older.
    let backends = session
        .query(
            "SELECT format('process %s of %s, open for %s', pid, coalesce(usename, '(unknown role)'), \
                    date_trunc('second', clock_timestamp() - coalesce(xact_start, backend_start))) \
             FROM pg_stat_activity \
             WHERE (datname = current_database() OR datname IS NULL AND backend_type IS NULL) \
               AND pid <> pg_backend_pid() \
               AND coalesce(backend_type, '') NOT IN ('walsender', 'autovacuum worker', 'autovacuum launcher') \
               AND coalesce(usename, '') <> session_user \
               AND (backend_type IS NULL OR age(backend_xid) >= age(($1::bigint % 4294967296)::text::xid) \
                 OR age(backend_xmin) >= age(($1::bigint % 4294967296)::text::xid)) \
             ORDER BY pid",
            &[&bound],
        )
        .await
        .doing("looking for transactions older than the enrolment")?;
    let prepared = session
        .query(
            "SELECT format('prepared transaction of %s, open for %s', owner, \
                    date_trunc('second', clock_timestamp() - prepared)) \
             FROM pg_prepared_xacts \
             WHERE database = current_database() \
               AND age(transaction) >= age(($1::bigint % 4294967296)::text::xid)",
            &[&bound],
        )
        .await
        .doing("looking for prepared transactions older than the enrolment")?;
    Ok(backends
        .iter()
        .chain(&prepared)
        .map(|row| row.get(0))
        .collect())
}
