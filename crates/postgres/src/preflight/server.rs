//! The server: version, write-ahead log, slots, and who is in the way.

use residency::install::stream_name;
use tokio_postgres::Client;

use super::{Expectation, Findings};
use crate::catalog::ReadError;

/// A slot that keeps back more than this is worth a word, in bytes.
const RETAINED_MAX: i64 = 1 << 30;

pub(super) async fn look(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    settings(client, findings).await?;
    capacity(client, expect, findings).await?;
    slot(client, expect, findings).await?;
    open_transactions(client, expect, findings).await?;
    prepared_transactions(client, findings).await
}

async fn settings(client: &Client, findings: &mut Findings<'_>) -> Result<(), ReadError> {
    let sql = "SELECT current_setting('wal_level'), current_setting('fsync')::bool, \
                      pg_is_in_recovery(), current_setting('server_encoding'), \
                      current_setting('max_slot_wal_keep_size'), \
                      current_setting('full_page_writes')::bool";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(ReadError::of("the server's settings"))?;
    let wal_level: &str = row.get(0);
    if wal_level != "logical" {
        findings.blocker(
            format!("wal_level is {wal_level}: changes cannot be read from the log"),
            "ALTER SYSTEM SET wal_level = logical, then restart the server",
        );
    }
    if row.get(2) {
        findings.blocker(
            "the server is a standby: nothing can be written here",
            "give the primary's address",
        );
    }
    let encoding: &str = row.get(3);
    if encoding != "UTF8" {
        findings.blocker(
            format!("the database's encoding is {encoding}"),
            "move the database to one with ENCODING 'UTF8'",
        );
    }
    if !row.get::<_, bool>(1) || !row.get::<_, bool>(5) {
        findings.warning(
            "fsync or full_page_writes is off: a crash of the machine can lose what was acknowledged, \
             and damage the rest",
            "ALTER SYSTEM SET fsync = on and full_page_writes = on, then reload",
        );
    }
    if row.get::<_, &str>(4) == "-1" {
        findings.warning(
            "max_slot_wal_keep_size is unlimited: a slot that nobody reads can fill the disk",
            "ALTER SYSTEM SET max_slot_wal_keep_size to what the disk can bear, then reload",
        );
    }
    Ok(())
}

async fn capacity(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let sql = "SELECT current_setting('max_replication_slots')::int8 \
                        - (SELECT count(*) FROM pg_replication_slots WHERE slot_name <> $1), \
                      current_setting('max_wal_senders')::int8 \
                        - (SELECT count(*) FROM pg_stat_replication r \
                            WHERE NOT EXISTS (SELECT FROM pg_replication_slots s \
                                               WHERE s.slot_name = $1 AND s.active_pid = r.pid))";
    let slot = stream_name(expect.service);
    let row = client
        .query_one(sql, &[&slot])
        .await
        .map_err(ReadError::of("the slots"))?;
    if row.get::<_, i64>(0) < 1 {
        findings.blocker(
            "no replication slot is free",
            "raise max_replication_slots and restart, or drop a slot that nobody reads",
        );
    }
    if row.get::<_, i64>(1) < 1 {
        findings.blocker(
            "no WAL sender is free",
            "raise max_wal_senders and restart, or stop a replication connection",
        );
    }
    Ok(())
}

async fn slot(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let sql = "SELECT active, coalesce(wal_status, ''), coalesce(plugin, ''), \
                      coalesce(database = current_database(), false), \
                      coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() \
                          THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, \
                          restart_lsn), 0)::int8 \
                 FROM pg_replication_slots WHERE slot_name = $1";
    let name = stream_name(expect.service);
    let Some(row) = client
        .query_opt(sql, &[&name])
        .await
        .map_err(ReadError::of("the service's slot"))?
    else {
        return Ok(());
    };
    let (active, status): (bool, &str) = (row.get(0), row.get(1));
    if row.get::<_, &str>(2) != "pgoutput" || !row.get::<_, bool>(3) {
        findings.blocker(
            format!("slot {name} belongs to another database or reads with another plugin"),
            format!("drop slot {name} if nobody needs it"),
        );
        return Ok(());
    }
    match status {
        "lost" => findings.blocker(
            format!("slot {name} has lost a part of the log"),
            "domicile slot drop: unfinished copies start again under a new slot",
        ),
        "unreserved" => findings.warning(
            format!("slot {name} is about to lose a part of the log"),
            "let the move read on, or raise max_slot_wal_keep_size",
        ),
        _ => {}
    }
    let retained: i64 = row.get(4);
    if !active && retained > RETAINED_MAX {
        findings.warning(
            format!(
                "slot {name} is read by nobody and keeps back {} MiB of log",
                retained >> 20
            ),
            "resume the move, or domicile slot drop",
        );
    }
    Ok(())
}

async fn open_transactions(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let sql = "SELECT pid, coalesce(usename::text, 'an unknown role'), \
                      extract(epoch FROM clock_timestamp() - xact_start)::int8 \
                 FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid() \
                  AND coalesce(backend_type, '') NOT IN ('walsender', 'autovacuum worker') \
                  AND xact_start < clock_timestamp() - make_interval(secs => $1) ORDER BY xact_start";
    let oldest = expect.long_transaction.as_secs_f64();
    let rows = client
        .query(sql, &[&oldest])
        .await
        .map_err(ReadError::of("open transactions"))?;
    for row in rows {
        let (pid, role, age): (i32, &str, i64) = (row.get(0), row.get(1), row.get(2));
        findings.warning(
            format!("process {pid} of role {role} has had a transaction open for {age} s"),
            format!("let it end, or SELECT pg_terminate_backend({pid}): a move waits for it"),
        );
    }
    Ok(())
}

async fn prepared_transactions(
    client: &Client,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let sql = "SELECT count(*), \
                      coalesce(max(extract(epoch FROM clock_timestamp() - prepared)), 0)::int8 \
                 FROM pg_prepared_xacts WHERE database = current_database()";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(ReadError::of("prepared transactions"))?;
    let (open, age): (i64, i64) = (row.get(0), row.get(1));
    if open > 0 {
        findings.warning(
            format!("{open} prepared transactions are open, the oldest for {age} s"),
            "COMMIT PREPARED or ROLLBACK PREPARED them: a move waits for them",
        );
    }
    Ok(())
}
