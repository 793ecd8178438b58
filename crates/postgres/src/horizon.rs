//! What may still see, or hold, rows that were deleted: snapshots, the write-ahead log, standbys, slots, archives.

use handoff::erasure::wal::Seen;
use tokio_postgres::GenericClient;

use crate::error::{Doing, Error, Result};

/// Somebody who may still see rows, or rows of catalogs, that a transaction deleted.
pub async fn who_sees(
    session: &impl GenericClient,
    xid: i64,
    catalogs: bool,
) -> Result<Option<String>> {
    // Ids are 32 bits wide where backends show them: how old one is, counted from the next one, makes 64 of it. Whoever stands
    // one above counts as well, as that count may be one off.
    let row = session
        .query_opt(
            "WITH next AS (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS n), \
             holds(who, xid) AS ( \
                 SELECT coalesce(a.backend_type, 'backend') || ' ' || a.pid || ' (' || coalesce(a.usename, '?') || ', ' \
                        || coalesce(a.application_name, '') || ')', x \
                   FROM pg_stat_activity AS a CROSS JOIN LATERAL (VALUES (a.backend_xid), (a.backend_xmin)) AS v(x) \
                  WHERE a.pid <> pg_backend_pid() AND (a.datname = current_database() OR a.datname IS NULL) \
                    AND NOT (coalesce(a.backend_type, '') = 'autovacuum worker' \
                             AND coalesce(a.query, '') LIKE 'autovacuum: VACUUM %' \
                             AND coalesce(a.query, '') NOT LIKE 'autovacuum: VACUUM ANALYZE %') \
                 UNION ALL \
                 SELECT 'prepared transaction ' || p.gid, p.transaction FROM pg_prepared_xacts AS p \
                  WHERE p.database = current_database() \
                 UNION ALL \
                 SELECT 'replication slot ' || s.slot_name, s.xmin FROM pg_replication_slots AS s \
                 UNION ALL \
                 SELECT 'replication slot ' || s.slot_name, s.catalog_xmin FROM pg_replication_slots AS s WHERE $2) \
             SELECT h.who FROM holds AS h, next WHERE h.xid IS NOT NULL AND n - age(h.xid) <= $1::bigint + 1 \
             ORDER BY age(h.xid) DESC LIMIT 1",
            &[&xid, &catalogs],
        )
        .await
        .doing("looking who still sees deleted rows")?;
    Ok(row.map(|row| row.get(0)))
}

/// An id that is above every one that a transaction committed before has.
pub async fn now(session: &impl GenericClient) -> Result<i64> {
    let sql = "SELECT pg_current_xact_id()::text::bigint";
    Ok(session
        .query_one(sql, &[])
        .await
        .doing("drawing a transaction id")?
        .get(0))
}

/// The number of the log's segment in which `lsn` stands.
pub async fn segment(session: &impl GenericClient, lsn: &str) -> Result<u64> {
    let row = session
        .query_one(
            "SELECT div($1::text::pg_lsn - '0/0', setting::numeric)::bigint FROM pg_settings WHERE name = 'wal_segment_size'",
            &[&lsn],
        )
        .await
        .doing("finding a segment of the log")?;
    Ok(row.get::<_, i64>(0).cast_unsigned())
}

/// What is in the log's directory.
///
/// # Errors
/// Where the role may not look.
pub async fn wal(session: &impl GenericClient) -> Result<Seen> {
    let doing = "looking into the log's directory";
    let row = session
        .query_one(
            "SELECT pg_walfile_name(pg_current_wal_lsn()), s.setting::bigint, \
                    div(pg_current_wal_lsn() - '0/0', s.setting::numeric)::bigint, \
                    (SELECT array_agg(name) FROM pg_ls_waldir()) \
               FROM pg_settings AS s WHERE s.name = 'wal_segment_size'",
            &[],
        )
        .await
        .doing(doing)?;
    let name: String = row.get(0);
    let timeline = name.get(..8).and_then(|t| u32::from_str_radix(t, 16).ok());
    let timeline = timeline.ok_or_else(|| Error::Slot(format!("{name} is no segment of a log")))?;
    let size = row.get::<_, i64>(1).cast_unsigned().max(1);
    let names: Vec<String> = row.get::<_, Option<_>>(3).unwrap_or_default();
    Ok(Seen {
        timeline,
        current: row.get::<_, i64>(2).cast_unsigned(),
        present: names.iter().filter_map(|name| number(name, size)).collect(),
    })
}

/// The number of the segment that a file is called by: timeline, high and low half in eight digits each, and perhaps
/// `.partial`. `None` for other files, which hold no rows.
fn number(name: &str, size: u64) -> Option<u64> {
    let high = u64::from_str_radix(name.get(8..16)?, 16).ok()?;
    let low = u64::from_str_radix(name.get(16..24)?, 16).ok()?;
    let rest = name.get(24..)?;
    let timeline = u32::from_str_radix(name.get(..8)?, 16).is_ok();
    (timeline && (rest.is_empty() || rest == ".partial"))
        .then(|| high * (0x1_0000_0000 / size) + low)
}

/// Standbys and slots that have not gone past `lsn`: what they are called, for people.
pub async fn behind(session: &impl GenericClient, lsn: &str) -> Result<Vec<String>> {
    let rows = session
        .query(
            "SELECT 'standby ' || coalesce(nullif(r.application_name, ''), r.pid::text) FROM pg_stat_replication AS r \
              WHERE coalesce(r.replay_lsn, '0/0') < $1::text::pg_lsn \
             UNION ALL \
             SELECT 'replication slot ' || s.slot_name || CASE WHEN s.active THEN '' ELSE ' (nobody reads it)' END \
               FROM pg_replication_slots AS s WHERE s.restart_lsn < $1::text::pg_lsn ORDER BY 1",
            &[&lsn],
        )
        .await
        .doing("looking for standbys and slots that are behind")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// How the server archives its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Whether it does.
    pub on: bool,
    /// Whether the last try failed.
    pub failing: bool,
}

/// Whether the log is archived.
pub async fn archive(session: &impl GenericClient) -> Result<Archive> {
    let row = session
        .query_one(
            "SELECT current_setting('archive_mode') <> 'off', \
                    coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) FROM pg_stat_archiver",
            &[],
        )
        .await
        .doing("looking whether the log is archived")?;
    Ok(Archive {
        on: row.get(0),
        failing: row.get(1),
    })
}

/// Leaves the segment that is written and has a checkpoint done, so that old ones go.
///
/// # Errors
/// Where the role may not.
pub async fn turn(session: &impl GenericClient) -> Result<()> {
    let doing = "going on to the next segment of the log";
    // Nothing written, nothing left: a switch alone does nothing then.
    for sql in [
        "SELECT pg_logical_emit_message(false, 'domicile.turn', '')",
        "SELECT pg_switch_wal()",
        "CHECKPOINT",
    ] {
        session.batch_execute(sql).await.doing(doing)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_numbered_through() {
        const MIB: u64 = 1 << 20;
        assert_eq!(number("000000010000000000000007", 16 * MIB), Some(7));
        assert_eq!(number("0000000200000001000000FF", 16 * MIB), Some(511));
        assert_eq!(number("000000010000000100000000", 64 * MIB), Some(64));
        assert_eq!(
            number("00000001000000000000000A.partial", 16 * MIB),
            Some(10)
        );
        for other in [
            "00000002.history",
            "archive_status",
            "xlogtemp.17",
            "000000010000000000000007.00000028.backup",
        ] {
            assert_eq!(number(other, 16 * MIB), None, "{other}");
        }
    }
}
