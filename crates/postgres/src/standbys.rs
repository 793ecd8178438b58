//! The standbys that follow a server: whether what is committed stands there before it is told on.

use tokio_postgres::GenericClient;

use crate::error::{Doing, Result};

/// A standby, as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// The `application_name` under which it follows.
    pub name: String,
    /// Whether commits wait for it.
    pub synchronous: bool,
}

/// What is known of a server's standbys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standbys {
    /// Those that follow now.
    pub following: Vec<Standby>,
    /// Whether commits wait for some standby, whether or not one follows (`synchronous_standby_names`).
    pub wanted: bool,
}

/// Whoever follows the whole server: neither a slot that is decoded nor a backup that is being made. Without the role
/// `pg_read_all_stats` nobody is seen.
pub async fn look(session: &impl GenericClient) -> Result<Standbys> {
    // A backup is a WAL sender in the state `backup`, and beside it one that streams under the same name.
    let rows = session
        .query(
            "SELECT coalesce(nullif(r.application_name, ''), r.pid::text), r.sync_state IN ('sync', 'quorum') \
               FROM pg_stat_replication AS r \
              WHERE r.sync_state IS NOT NULL AND r.state <> 'backup' \
                AND r.application_name <> 'pg_basebackup' \
                AND NOT EXISTS (SELECT FROM pg_replication_slots AS s \
                                 WHERE s.active_pid = r.pid AND s.slot_type = 'logical') \
              ORDER BY 1, 2",
            &[],
        )
        .await
        .doing("looking for standbys")?;
    let wanted = session
        .query_one(
            "SELECT current_setting('synchronous_standby_names') <> ''",
            &[],
        )
        .await
        .doing("looking for standbys")?;
    let standby = |row: &tokio_postgres::Row| Standby {
        name: row.get(0),
        synchronous: row.get(1),
    };
    Ok(Standbys {
        following: rows.iter().map(standby).collect(),
        wanted: wanted.get(0),
    })
}
