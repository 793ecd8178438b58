//! The guard by need: it stands while anybody is neither settled here nor gone and erased, and rests otherwise where
//! foreign keys do its work (docs/decisions/0007).
//!
//! Three things meet here, and one lock keeps them apart, that of the table `domicile.guarded`: who brings a record out
//! of rest ([`stands`], in the transaction of an enrolment or a beginning, in ROW EXCLUSIVE), who takes the guard off
//! ([`rest`]) or puts it on ([`raise`]), and whoever changes the tables (the event trigger; see there in which). Each looks in a later
//! statement than the one that took the lock.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use model::fault::{Bug, planted, point};
use model::table::{HomeSchema, OwnedTable, literal, quote};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient};

use crate::error::Doing;
use crate::need::{self, UNSETTLED};
use crate::{Error, Result, watch};

/// How long one attempt waits in a table's queue before it lets the writers behind it pass.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// How long they have then.
const PAUSE: Duration = Duration::from_millis(500);

/// How long an enrolment or a beginning waits its turn at a time: who changes the guard keeps the lock for one attempt, an
/// application's change of tables for as long as it takes.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// How often [`rest`] tries to have a table: nothing depends on it.
const QUICK_ATTEMPTS: u32 = 3;

/// How long looking for rows without their parent may take, for each step: a table too big for that keeps its guard.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// The owned tables on which the guard rests: taken off by [`rest`], and not put on again since.
pub async fn resting(session: &impl GenericClient, home: &HomeSchema) -> Result<Vec<String>> {
    let tables: Vec<String> = home.owned.iter().map(|table| table.name.sql()).collect();
    let rows = session
        .query(
            "SELECT t FROM unnest($1::text[]) AS t JOIN domicile.guarded AS w ON w.relation = to_regclass(t) \
             WHERE w.rests",
            &[&tables],
        )
        .await
        .doing("looking where the guard rests")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// In the transaction that brings users' records out of rest, before it does: whether the guard stands everywhere. Nobody
/// takes it off a table until the transaction has ended.
///
/// False too where that could not be found out quickly, as somebody changes a table: the caller begins anew.
pub async fn stands(tx: &impl GenericClient, home: &HomeSchema) -> Result<bool> {
    if planted(Bug::EnrolUnguarded) {
        return Ok(true);
    }
    let doing = "looking whether the guard stands and stays";
    let timeout = format!("SET LOCAL lock_timeout = {}", TURN_TIMEOUT.as_millis());
    let turn = "LOCK TABLE domicile.guarded IN ROW EXCLUSIVE MODE";
    match tx.batch_execute(&format!("{timeout}; {turn}")).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => return Ok(false),
        taken => taken.doing(doing)?,
    }
    // To look needs a lock on each table. Whoever changes one waits for ours: we give up before that counts as a deadlock.
    let bare = match in_time(tx, home, LOCK_TIMEOUT).await? {
        Some(bare) => bare,
        None => return Ok(false),
    };
    tx.batch_execute("SET LOCAL lock_timeout = 0")
        .await
        .doing(doing)?;
    Ok(bare.is_empty())
}

/// The tables on which the guard does not stand; `None` where a table is locked for longer than `timeout`.
async fn in_time(
    tx: &impl GenericClient,
    home: &HomeSchema,
    timeout: Duration,
) -> Result<Option<Vec<String>>> {
    tx.batch_execute(&format!("SET LOCAL lock_timeout = {}", timeout.as_millis()))
        .await
        .doing("looking whether the guard stands")?;
    match watch::unguarded(tx, home).await {
        Err(error) if error.sqlstate() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(None),
        bare => bare.map(Some),
    }
}

/// Puts the guard on wherever it rests. One query where it stands everywhere; where somebody else took it off it stays so.
///
/// Each table in a transaction of its own, which waits for the writers that are in it and never longer than half a second
/// in front of others: whoever wrote a row unguarded has ended when this returns.
///
/// # Errors
/// [`Error::Held`] names a table that could not be had within `patience`, and who has it.
pub async fn raise(session: &mut Client, home: &HomeSchema, patience: Duration) -> Result<()> {
    let since = Instant::now();
    loop {
        let tx = session
            .transaction()
            .await
            .doing("looking whether the guard stands")?;
        match in_time(&tx, home, LOCK_TIMEOUT).await? {
            Some(bare) if bare.is_empty() => return Ok(()),
            Some(_) => break,
            None => drop(tx),
        }
        if since.elapsed() >= patience {
            return Err(locked(session, home).await?);
        }
    }
    let resting = resting(session, home).await?;
    for table in &home.owned {
        if resting.contains(&table.name.sql()) {
            raise_one(session, table, since, patience).await?;
        }
    }
    Ok(())
}

async fn raise_one(
    session: &mut Client,
    table: &OwnedTable,
    since: Instant,
    patience: Duration,
) -> Result<()> {
    let mut timeout = LOCK_TIMEOUT;
    loop {
        match set(session, table, true, timeout).await? {
            Attempt::Done => return Ok(()),
            Attempt::Held | Attempt::Needed => {}
        }
        let holders = holders(session, table).await?;
        if since.elapsed() >= patience {
            return Err(Error::Held {
                table: table.name.to_string(),
                holders: holders.into_iter().map(|(_, who)| who).collect(),
            });
        }
        // Autovacuum gives way to whoever waits for longer than deadlock_timeout.
        let to_autovacuum = !holders.is_empty() && holders.iter().all(|(auto, _)| *auto);
        timeout = match to_autovacuum {
            true => deadlock_timeout(session).await? + LOCK_TIMEOUT,
            false => LOCK_TIMEOUT,
        };
        tokio::time::sleep(PAUSE).await;
    }
}

/// What became of one attempt.
enum Attempt {
    Done,
    /// The table, or the turn, could not be had in time.
    Held,
    /// The guard is not to be taken off.
    Needed,
}

/// Sets the guard of `table`, once. Taken off only if that is right under lock.
async fn set(
    session: &mut Client,
    table: &OwnedTable,
    on: bool,
    timeout: Duration,
) -> Result<Attempt> {
    let doing = match on {
        true => "putting the guard on",
        false => "taking the guard off",
    };
    let relation = literal(&table.name.sql());
    let setter = quote(&need::setter_name(table));
    let tx = session.transaction().await.doing(doing)?;
    let set = async {
        tx.batch_execute(&format!(
            "SET LOCAL lock_timeout = {}; LOCK TABLE domicile.guarded IN SHARE ROW EXCLUSIVE MODE",
            timeout.as_millis()
        ))
        .await?;
        if on {
            return tx
                .batch_execute(&format!(
                    "SELECT domicile.{setter}(true); \
                     UPDATE domicile.guarded SET rests = false WHERE relation = {relation}::regclass"
                ))
                .await
                .map(|()| Attempt::Done);
        }
        let unsettled: bool = tx
            .query_one(&format!("SELECT {UNSETTLED}"), &[])
            .await?
            .get(0);
        let needed: Option<String> = tx
            .query_one(
                &format!("SELECT domicile.guard_needed({relation}::regclass)"),
                &[],
            )
            .await?
            .get(0);
        if unsettled && !planted(Bug::RestUnsettled) || needed.is_some() {
            return Ok(Attempt::Needed);
        }
        tx.batch_execute(&format!(
            "UPDATE domicile.guarded SET rests = true WHERE relation = {relation}::regclass; \
             SELECT domicile.{setter}(false)"
        ))
        .await?;
        point("before-rest");
        Ok(Attempt::Done)
    };
    let attempt = match set.await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Attempt::Held,
        attempt => attempt.doing(doing)?,
    };
    match attempt {
        Attempt::Done => tx.commit().await.doing(doing)?,
        Attempt::Held | Attempt::Needed => tx.rollback().await.doing(doing)?,
    }
    Ok(attempt)
}

/// The error that names a table which nobody may even look at.
async fn locked(session: &Client, home: &HomeSchema) -> Result<Error> {
    let mut held = Error::Held {
        table: "some table".to_owned(),
        holders: Vec::new(),
    };
    for table in &home.owned {
        let holders = holders(session, table).await?;
        if !holders.is_empty() {
            let holders = holders.into_iter().map(|(_, who)| who).collect();
            held = Error::Held {
                table: table.name.to_string(),
                holders,
            };
        }
    }
    Ok(held)
}

/// Who keeps `table`, or the turn to change the guard, from us; each with whether it is autovacuum.
async fn holders(session: &Client, table: &OwnedTable) -> Result<Vec<(bool, String)>> {
    let rows = session
        .query(
            "SELECT coalesce(a.backend_type, '') = 'autovacuum worker', \
                    CASE WHEN l.pid IS NULL THEN 'a prepared transaction' \
                         ELSE format('process %s of %s, open for %s', l.pid, coalesce(a.usename, '(unknown role)'), \
                              date_trunc('second', clock_timestamp() - coalesce(a.xact_start, a.backend_start))) END \
             FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid \
             WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() \
               AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()) \
               AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') \
               AND (l.relation = $1::oid OR l.relation IN (SELECT p.relid FROM pg_partition_tree($1::oid::regclass) AS p) \
                 OR l.relation = 'domicile.guarded'::regclass) \
             GROUP BY 1, 2 ORDER BY 2 LIMIT 10",
            &[&table.oid],
        )
        .await
        .doing("looking who holds a table")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn deadlock_timeout(session: &Client) -> Result<Duration> {
    let row = session
        .query_one(
            "SELECT setting::bigint FROM pg_settings WHERE name = 'deadlock_timeout'",
            &[],
        )
        .await
        .doing("reading deadlock_timeout")?;
    Ok(Duration::from_millis(
        row.get::<_, i64>(0).max(0).unsigned_abs(),
    ))
}

/// Takes the guard off wherever it is not needed, and puts it on where it rests and may not any more. Returns the tables
/// on which it rests now.
///
/// Looks first without any lock, at what is cheap and then at the rows; a table that cannot be had quickly keeps its
/// guard, which harms nothing.
pub async fn rest(session: &mut Client, home: &HomeSchema) -> Result<Vec<String>> {
    let doing = "looking where the guard is needed";
    let tables: Vec<String> = home.owned.iter().map(|table| table.name.sql()).collect();
    let rows = session
        .query(
            "SELECT t, w.rests, domicile.guard_needed(w.relation) FROM unnest($1::text[]) AS t \
             JOIN domicile.guarded AS w ON w.relation = to_regclass(t)",
            &[&tables],
        )
        .await
        .doing(doing)?;
    let mut wanted = BTreeSet::new();
    for row in &rows {
        let (table, rests, needed): (String, bool, Option<String>) =
            (row.get(0), row.get(1), row.get(2));
        match (rests, needed) {
            (false, None) => drop(wanted.insert(table)),
            (true, Some(why)) => {
                tracing::debug!(table, why, "the guard rests and may not: it is put on");
                for table in home.owned.iter().filter(|t| t.name.sql() == table) {
                    set_quickly(session, table, true).await?;
                }
            }
            (false, Some(why)) => tracing::debug!(table, why, "the guard stays"),
            (true, None) => {}
        }
    }
    if !wanted.is_empty() && !unsettled(session).await? {
        without_broken(session, home, &mut wanted).await?;
        for table in &home.owned {
            if wanted.contains(&table.name.sql()) {
                set_quickly(session, table, false).await?;
            }
        }
    }
    resting(session, home).await
}

async fn unsettled(session: &Client) -> Result<bool> {
    if planted(Bug::RestUnsettled) {
        return Ok(false);
    }
    let row = session
        .query_one(&format!("SELECT {UNSETTLED}"), &[])
        .await
        .doing("looking whether everybody is settled")?;
    Ok(row.get(0))
}

async fn set_quickly(session: &mut Client, table: &OwnedTable, on: bool) -> Result<()> {
    for _ in 0..QUICK_ATTEMPTS {
        match set(session, table, on, LOCK_TIMEOUT).await? {
            Attempt::Done | Attempt::Needed => return Ok(()),
            Attempt::Held => tokio::time::sleep(PAUSE).await,
        }
    }
    tracing::debug!(table = %table.name, "the table could not be had quickly: its guard stays as it is");
    Ok(())
}

/// Leaves out the tables of which a row, or a row that it belongs to, lacks its parent.
async fn without_broken(
    session: &mut Client,
    home: &HomeSchema,
    wanted: &mut BTreeSet<String>,
) -> Result<()> {
    let doing = "looking for rows without their parents";
    let of = |table: &OwnedTable| need::steps(home, table).unwrap_or_default();
    let asked = |table: &&OwnedTable| wanted.contains(&table.name.sql());
    let steps: BTreeSet<need::Step> = home.owned.iter().filter(asked).flat_map(of).collect();
    for step in steps {
        let tx = session.transaction().await.doing(doing)?;
        tx.batch_execute(&format!(
            "SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}",
            LOOK_TIMEOUT.as_millis(),
            LOCK_TIMEOUT.as_millis()
        ))
        .await
        .doing(doing)?;
        let broken = match tx.query_one(&step.broken(), &[]).await {
            Ok(row) => row.get(0),
            Err(error)
                if [
                    Some(&SqlState::QUERY_CANCELED),
                    Some(&SqlState::LOCK_NOT_AVAILABLE),
                ]
                .contains(&error.code()) =>
            {
                true
            }
            Err(error) => return Err(error).doing(doing),
        };
        tx.rollback().await.doing(doing)?;
        if broken {
            tracing::debug!(table = %step.child, "rows lack their parents, or cannot be looked through now");
            let through = |table: &&OwnedTable| of(table).contains(&step);
            for table in home.owned.iter().filter(through) {
                wanted.remove(&table.name.sql());
            }
        }
    }
    Ok(())
}
