//! Whether somebody may still write what he began to write before a moment: then a name that no row holds may be held yet.

use tokio_postgres::types::Type;

use crate::Result;
use crate::error::Doing;
use crate::kept::Asks;

/// What a home database said of its open transactions. Both moments are of its own clock, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// When it was asked.
    pub now_us: i64,
    /// When the oldest of those that may write began; [`i64::MAX`] where there is none.
    pub oldest_us: i64,
}

impl Activity {
    /// Whether all that began up to `since_us` have ended: what they wrote is seen by whatever is read from here on.
    pub fn is_quiet_since(self, since_us: i64) -> bool {
        since_us < self.oldest_us
    }
}

/// Asks the home database. By start times and not by transaction ids: one that has begun and not yet written has no id.
///
/// A backend that hides when it began, one that says that it began in the future (the clock was set back) and a prepared transaction count as
/// older than anything. Domicile's own sessions write no names of users who live here.
pub async fn activity(session: &impl Asks) -> Result<Activity> {
    let doing = "looking for open transactions";
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let backends = "SELECT min(CASE WHEN backend_type IS NULL OR xact_start > clock_timestamp() THEN 0 \
                               ELSE (extract(epoch FROM xact_start) * 1000000)::bigint END) \
          FROM pg_stat_activity \
         WHERE (datname = current_database() OR datname IS NULL AND backend_type IS NULL) AND pid <> pg_backend_pid() \
           AND coalesce(backend_type, '') NOT IN ('walsender', 'autovacuum worker', 'autovacuum launcher') \
           AND coalesce(usename, '') <> session_user AND (backend_type IS NULL OR xact_start IS NOT NULL)";
    // In a later statement, so that one that is prepared meanwhile is seen in one of the two.
    let prepared =
        "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())";
    let none: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 0] = [];
    let now = session.ask(now, &none).await.doing(doing)?;
    let backends = session.ask(backends, &none).await.doing(doing)?;
    let prepared = session.ask(prepared, &none).await.doing(doing)?;
    let oldest = backends
        .first()
        .and_then(|row| row.get::<_, Option<i64>>(0));
    let is_prepared = prepared.first().is_some_and(|row| row.get(0));
    Ok(Activity {
        now_us: now.first().map_or(0, |row| row.get(0)),
        oldest_us: if is_prepared {
            0
        } else {
            oldest.unwrap_or(i64::MAX)
        },
    })
}
