//! Whether this site has compared its records with its peers' since its server started.
//!
//! PostgreSQL serves before anybody can look whether its database went back in time: restored from an older backup, or
//! a standby that was promoted and had missed a write. So what says that it did not is the row of a table that is not logged, under the time at
//! which the server started: it is gone after a crash, a promotion and a restore, and after any other restart it is of another time.
//!
//! No move begins or arrives without it. Where the site is configured to be *closed* after a restart, the guard wants it, too.

use serde_json::json;
use tokio_postgres::GenericClient;
use tokio_postgres::error::SqlState;

use crate::error::Doing;
use crate::guard::OPEN;
use crate::{Error, Result, entries};

/// How the door of a site stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Whether the guard refuses every write while it is not open.
    pub closes: bool,
    /// Whether it was opened since the server started.
    pub open: bool,
    /// Since when, and why; `None` where it is not open.
    pub since: Option<(String, String)>,
    /// Why it was closed by hand, where it was.
    pub shut: Option<String>,
}

/// How it stands.
pub async fn look(session: &impl GenericClient) -> Result<Door> {
    let row = session
        .query_one(
            &format!(
                "SELECT h.after_restart = 'closed', {OPEN}, p.at::text, p.why, h.shut \
                   FROM domicile.home AS h LEFT JOIN domicile.open AS p ON true"
            ),
            &[],
        )
        .await
        .doing("looking whether the site is open")?;
    let open = row.get(1);
    let since = row.get::<_, Option<String>>(2).zip(row.get(3));
    Ok(Door {
        closes: row.get(0),
        open,
        since: since.filter(|_| open),
        shut: row.get(4),
    })
}

/// Whether it was opened since the server started.
pub async fn is_open(session: &impl GenericClient) -> Result<bool> {
    let row = session.query_one(&format!("SELECT {OPEN}"), &[]).await;
    let outdated = |error: &tokio_postgres::Error| error.code() == Some(&SqlState::UNDEFINED_TABLE);
    match row {
        Err(error) if outdated(&error) => Err(Error::Refused(
            "this database was installed by an earlier version of Domicile: run `domicile install`"
                .to_owned(),
        )),
        row => Ok(row.doing("looking whether the site is open")?.get(0)),
    }
}

/// Whether there is a door: an installation of an earlier version has none.
pub async fn stands(session: &impl GenericClient) -> Result<bool> {
    let row = session
        .query_one("SELECT to_regclass('domicile.open') IS NOT NULL", &[])
        .await
        .doing("looking whether the site can be open")?;
    Ok(row.get(0))
}

/// Whether it has heard all its peers since its server started, whether or not it is open.
pub async fn has_heard(session: &impl GenericClient) -> Result<bool> {
    let row = session
        .query_one(
            "SELECT EXISTS (SELECT FROM domicile.open AS o \
               WHERE o.since = pg_postmaster_start_time() AND o.relation = o.tableoid)",
            &[],
        )
        .await
        .doing("looking whether the site has heard its peers")?;
    Ok(row.get(0))
}

/// Writes down that it has heard all its peers since its server started.
pub async fn hear(session: &impl GenericClient) -> Result<()> {
    session
        .execute(
            "INSERT INTO domicile.open AS o (since, relation, compared, why) \
             VALUES (pg_postmaster_start_time(), 'domicile.open'::regclass, false, 'has heard its peers') \
             ON CONFLICT (single) DO UPDATE SET since = excluded.since, relation = excluded.relation, \
                 compared = false, why = excluded.why, at = now() \
             WHERE (o.since, o.relation) IS DISTINCT FROM (excluded.since, excluded.relation)",
            &[],
        )
        .await
        .doing("writing down that the peers were heard")?;
    Ok(())
}

/// Opens it, as it has been compared with its peers, unless somebody has closed it by hand; says whether it was not open before.
/// With an entry for the ledger, which names `why`.
pub async fn open(tx: &(impl GenericClient + Sync), why: &str) -> Result<bool> {
    let shut: bool = tx
        .query_one("SELECT shut IS NOT NULL FROM domicile.home FOR SHARE", &[])
        .await
        .doing("looking whether the site was closed by hand")?
        .get(0);
    if shut || is_open(tx).await? {
        return Ok(false);
    }
    let_open(tx, why).await?;
    entries::append(tx, "opened", json!({"why": why}), &[]).await?;
    Ok(true)
}

/// Opens it by hand, whatever it was closed by; as [`open`].
pub async fn open_by_hand(tx: &(impl GenericClient + Sync), why: &str) -> Result<bool> {
    let shut = tx
        .execute(
            "UPDATE domicile.home SET shut = NULL WHERE shut IS NOT NULL",
            &[],
        )
        .await
        .doing("opening the site")?;
    if shut == 0 && is_open(tx).await? {
        return Ok(false);
    }
    let_open(tx, why).await?;
    entries::append(tx, "opened", json!({"why": why}), &[]).await?;
    Ok(true)
}

/// Closes it by hand; says whether it was open. It stays closed, over restarts too, until somebody opens it by hand. Writes of transactions that
/// began before may still commit.
pub async fn close(tx: &(impl GenericClient + Sync), why: &str) -> Result<bool> {
    tx.execute("UPDATE domicile.home SET shut = $1", &[&why])
        .await
        .doing("closing the site")?;
    let closed = tx
        .execute("DELETE FROM domicile.open", &[])
        .await
        .doing("closing the site")?;
    entries::append(tx, "closed", json!({"why": why}), &[]).await?;
    Ok(closed > 0)
}

pub(crate) async fn let_open(tx: &impl GenericClient, why: &str) -> Result<()> {
    tx.execute(
        "INSERT INTO domicile.open AS o (since, relation, compared, why) \
         VALUES (pg_postmaster_start_time(), 'domicile.open'::regclass, true, $1) \
         ON CONFLICT (single) DO UPDATE SET since = excluded.since, relation = excluded.relation, \
             compared = true, why = excluded.why, at = now() \
         WHERE (o.since, o.relation, o.compared) IS DISTINCT FROM (excluded.since, excluded.relation, true)",
        &[&why],
    )
    .await
    .doing("opening the site")?;
    Ok(())
}
