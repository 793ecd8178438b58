//! Which mover acts at a site: one at a time, and one that lost its office changes nothing.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient};

use crate::error::Doing;
use crate::kept::Asks;
use crate::{Error, LOCK_CLASS, Result};

/// How often an office is tried again that somebody still holds.
const AGAIN: Duration = Duration::from_millis(50);

/// An office that this process holds. The session that took it keeps a lock for as long as it lives; every
/// transaction checks the term, so that a process whose session was lost, and which another replaced,
/// commits nothing more.
#[derive(Clone, Debug)]
pub struct Office {
    name: String,
    term: i64,
}

impl Office {
    /// The office of the mover of departures from a database.
    pub const DEPARTURES: &'static str = "departures";

    /// The office of arrivals from one source.
    pub fn arrivals(source: &model::SiteName) -> String {
        format!("arrivals from {source}")
    }

    /// Takes the office `name` for as long as `session` lives.
    ///
    /// # Errors
    /// [`Error::Office`] where a living session of another process holds it.
    pub async fn take(session: &Client, name: &str) -> Result<Self> {
        let locked: bool = session
            .query_one(
                "SELECT pg_try_advisory_lock($1, -1 - (abs(hashtext($2)::bigint) % 1000000000)::int)",
                &[&LOCK_CLASS, &name],
            )
            .await
            .doing("taking the mover's office")?
            .get(0);
        if !locked {
            return Err(Error::Office {
                name: name.to_owned(),
                holder: holder(session, name).await?,
            });
        }
        let term = session
            .query_one(
                "INSERT INTO domicile.office AS o (name, term) VALUES ($1, 1) \
                 ON CONFLICT (name) DO UPDATE SET term = o.term + 1, taken_at = now() RETURNING term",
                &[&name],
            )
            .await
            .doing("taking the mover's office")?
            .get(0);
        Ok(Self {
            name: name.to_owned(),
            term,
        })
    }

    /// As [`take`](Self::take), where whoever held it may have gone just now: the server takes a moment to see that.
    ///
    /// # Errors
    /// [`Error::Office`] where it is held for longer than `patience`.
    pub async fn take_within(session: &Client, name: &str, patience: Duration) -> Result<Self> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            match Self::take(session, name).await {
                Err(Error::Office { .. }) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(AGAIN).await;
                }
                taken => return taken,
            }
        }
    }

    /// The number of this taking of the office: no other one has it.
    pub fn term(&self) -> i64 {
        self.term
    }

    /// Whether the office was still ours a moment ago: for noticing that it was lost. Whoever commits something
    /// [`hold`](Self::hold)s it.
    pub async fn is_ours(&self, session: &impl GenericClient) -> Result<bool> {
        let row = session
            .query_opt(
                "SELECT 1 FROM domicile.office WHERE name = $1 AND term = $2",
                &[&self.name, &self.term],
            )
            .await
            .doing("looking whether the office is still ours")?;
        Ok(row.is_some())
    }

    /// The term of whoever holds the office `name` now; `None` where nobody does.
    pub async fn holder(session: &impl GenericClient, name: &str) -> Result<Option<i64>> {
        let row = session
            .query_opt(
                "SELECT o.term FROM domicile.office AS o WHERE o.name = $2 AND EXISTS ( \
                   SELECT 1 FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted \
                     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                     AND l.classid = $1::int::oid \
                     AND l.objid = ((-1 - (abs(hashtext($2)::bigint) % 1000000000)) & 4294967295)::oid)",
                &[&LOCK_CLASS, &name],
            )
            .await
            .doing("looking who holds the mover's office")?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Finds, in the transaction `tx` and until its end, that the office is still ours. From here on it finds records by
    /// index: they are some among any number, in a table whose statistics may be missing.
    pub async fn hold(&self, tx: &impl Asks) -> Result<()> {
        // Typed, so that it goes in one round trip: every transaction begins with this.
        let rows = tx
            .ask(
                "SELECT pg_catalog.set_config('enable_seqscan', 'off', true) FROM domicile.office \
                 WHERE name = $1 AND term = $2 FOR SHARE",
                &[(&self.name, Type::TEXT), (&self.term, Type::INT8)],
            )
            .await
            .doing("checking the mover's office")?;
        rows.first().map(drop).ok_or_else(|| Error::Office {
            name: self.name.clone(),
            holder: None,
        })
    }
}

/// Lets the server notice within half a minute that the machine of the process at the other end of `session` has gone, and
/// let go what it holds: without this it would ask after two hours.
pub async fn keep_alive(session: &Client) -> Result<()> {
    session
        .batch_execute(
            "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
             SET tcp_user_timeout = 25000",
        )
        .await
        .doing("setting how soon a lost session is noticed")
}

/// Who holds the lock of the office `name`: the mover's process by its session's name, the session by the server's
/// process, with which an operator can end it. `None` where it has just been let go, or may not be seen.
async fn holder(session: &Client, name: &str) -> Result<Option<String>> {
    let sql = "SELECT substring(a.application_name FROM '[0-9]+$'), host(a.client_addr), a.pid, \
                      to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') \
                 FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
                WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 \
                  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                  AND l.classid = $1::int::oid \
                  AND l.objid::bigint = (1::bigint << 32) - 1 - abs(hashtext($2)::bigint) % 1000000000 \
                LIMIT 1";
    let row = session
        .query_opt(sql, &[&LOCK_CLASS, &name])
        .await
        .doing("looking who holds the mover's office")?;
    Ok(row.and_then(|row| {
        let process: Option<&str> = row.get(0);
        let host: Option<&str> = row.get(1);
        let (backend, since): (i32, &str) = (row.get(2), row.try_get(3).ok()?);
        Some(format!(
            "process {} at {}, since {since} UTC (the server's process {backend})",
            process.unwrap_or("of unknown number"),
            host.unwrap_or("the server's own machine"),
        ))
    }))
}
