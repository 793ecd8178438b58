//! The replication slot: one per home database, whatever the number of users. A new slot is a new identity.

use std::time::Duration;

use tokio_postgres::Client;

use crate::error::{Doing, Error, Result};

/// How long creating a slot may wait for transactions that are open: it must see a moment without older ones.
const CREATE_TIMEOUT_MS: u32 = 60_000;

/// What there is of the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Its identity: progress made under another one counts for nothing.
    pub identity: String,
    /// Whether it was made just now.
    pub fresh: bool,
}

/// Finds the slot, or makes it. A slot that lost WAL, or that nobody recorded, is dropped and made anew.
///
/// # Errors
/// [`Error::Slot`] where another process streams from it.
pub async fn ensure(session: &Client, name: &str) -> Result<Slot> {
    let doing = "looking at the replication slot";
    let found = session
        .query_opt(
            "SELECT coalesce(wal_status, '') = 'lost' OR plugin <> 'pgoutput' \
                    OR database <> current_database() \
             FROM pg_replication_slots WHERE slot_name = $1",
            &[&name],
        )
        .await
        .doing(doing)?;
    let recorded: Option<String> = session
        .query_opt(
            "SELECT identity FROM domicile.slot WHERE name = $1",
            &[&name],
        )
        .await
        .doing(doing)?
        .map(|row| row.get(0));
    if let Some(row) = found {
        let broken: bool = row.get(0);
        if let (Some(identity), false) = (&recorded, broken) {
            idle(session, name).await?;
            return Ok(Slot {
                name: name.to_owned(),
                identity: identity.clone(),
                fresh: false,
            });
        }
        if !drop(session, name).await? {
            return Err(Error::Slot(format!(
                "replication slot {name} is in use by another process"
            )));
        }
    }
    session
        .execute("DELETE FROM domicile.slot WHERE name = $1", &[&name])
        .await
        .doing(doing)?;
    session
        .batch_execute(&format!("SET statement_timeout = {CREATE_TIMEOUT_MS}"))
        .await
        .doing("creating the replication slot")?;
    let made = session
        .execute(
            "SELECT pg_create_logical_replication_slot($1, 'pgoutput')",
            &[&name],
        )
        .await
        .doing("creating the replication slot (it waits for all open transactions to end)");
    session
        .batch_execute("SET statement_timeout = 0")
        .await
        .doing("creating the replication slot")?;
    made?;
    let identity: String = session
        .query_one(
            "INSERT INTO domicile.slot VALUES ($1, gen_random_uuid()::text) RETURNING identity",
            &[&name],
        )
        .await
        .doing("recording the replication slot")?
        .get(0);
    Ok(Slot {
        name: name.to_owned(),
        identity,
        fresh: true,
    })
}

/// Waits until nobody streams from the slot: the walsender of a process that was killed lives a moment longer.
async fn idle(session: &Client, name: &str) -> Result<()> {
    for _ in 0..DROP_ATTEMPTS {
        let active = session
            .query_opt(
                "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND active",
                &[&name],
            )
            .await
            .doing("looking at the replication slot")?;
        if active.is_none() {
            return Ok(());
        }
        tokio::time::sleep(DROP_EVERY).await;
    }
    Err(in_use(name))
}

fn in_use(name: &str) -> Error {
    Error::Slot(format!(
        "replication slot {name} is in use by another process"
    ))
}

/// Bytes of WAL that the slot keeps back; `None` without a slot.
pub async fn wal_bytes(session: &Client, name: &str) -> Result<Option<u64>> {
    let row = session
        .query_opt(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint \
             FROM pg_replication_slots WHERE slot_name = $1",
            &[&name],
        )
        .await
        .doing("looking at the replication slot")?;
    Ok(row
        .and_then(|row| row.get::<_, Option<i64>>(0))
        .map(|bytes| bytes.max(0) as u64))
}

/// How long one waits for a walsender that is just going.
const DROP_ATTEMPTS: u32 = 100;
const DROP_EVERY: Duration = Duration::from_millis(20);

/// Drops the slot, where it is there and nobody streams from it. Says whether it is gone.
pub async fn drop(session: &Client, name: &str) -> Result<bool> {
    let doing = "dropping the replication slot";
    session
        .execute("DELETE FROM domicile.slot WHERE name = $1", &[&name])
        .await
        .doing(doing)?;
    for _ in 0..DROP_ATTEMPTS {
        session
            .execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                 WHERE slot_name = $1 AND NOT active",
                &[&name],
            )
            .await
            .doing(doing)?;
        let left = session
            .query_opt(
                "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1",
                &[&name],
            )
            .await
            .doing(doing)?;
        if left.is_none() {
            return Ok(true);
        }
        tokio::time::sleep(DROP_EVERY).await;
    }
    Ok(false)
}
