//! Works tables over until the bytes of deleted rows are gone from their files, and looks whether they are.
//!
//! What was measured on PostgreSQL 15 (docs/decisions/0011): after DELETE and VACUUM about four in ten copies are still in the
//! free space of the table's pages, and nearly all in its indexes; only new files are free of them. ANALYZE leaves its old
//! rows in the file of `pg_statistic`, and changes nothing at all for a table that became empty.

use std::collections::BTreeSet;
use std::time::Duration;

use model::fault::{Bug, planted, point};
use model::table::{HomeSchema, TableName};
use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;
use tokio_postgres::error::SqlState;

use crate::error::{Doing, Result};

/// How long a lock may be waited for before others who queue behind are let pass.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// How often. With the pauses between, some ten seconds.
const ATTEMPTS: u32 = 7;

/// How long a table may be locked that is rewritten without having been asked for.
const SHORT: Duration = Duration::from_secs(2);

/// Tables, with TOAST and indexes, up to this size are rewritten without having been asked for: measured at
/// 100 MiB/s, that takes a third of a second.
const SMALL: i64 = 32 << 20;

/// Catalogs in which ANALYZE keeps values of rows.
const STATISTICS: [&str; 2] = ["pg_statistic", "pg_statistic_ext_data"];

/// What a file is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The table itself.
    Heap,
    /// Its large values.
    Toast,
    /// An index of either.
    Index,
    /// The planner's statistics.
    Statistics,
}

/// A file that may hold bytes of rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct File {
    /// The table's name.
    pub table: String,
    /// What it is of.
    pub part: Part,
    /// The tablespace, 0 for the database's own.
    pub tablespace: u32,
    /// The file's number there.
    pub number: u32,
}

/// A table, or a partition of one, that holds rows itself.
#[derive(Clone, Debug)]
struct Target {
    name: String,
    oid: u32,
}

/// Which rights are missing at the other end of `session` for [`clean`] and for looking at the log; `None`: none.
pub async fn missing_rights(
    session: &impl GenericClient,
    home: &HomeSchema,
) -> Result<Option<String>> {
    let oids: Vec<u32> = home.owned.iter().map(|table| table.oid).collect();
    let row = session
        .query_one(
            "SELECT current_user::text, r.rolsuper OR pg_has_role(d.datdba, 'USAGE') AND (SELECT \
                        bool_and(pg_has_role(c.relowner, 'USAGE')) FROM pg_class AS c WHERE c.oid = ANY ($1)), \
                    pg_has_role('pg_monitor', 'USAGE') \
               FROM pg_roles AS r, pg_database AS d \
              WHERE r.rolname = current_user AND d.datname = current_database()",
            &[&oids],
        )
        .await
        .doing("looking who may vacuum")?;
    let (role, owner, monitor): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    Ok(match (owner, monitor) {
        (true, true) => None,
        (false, _) => Some(format!(
            "{role} owns neither the database nor all of its tables"
        )),
        (true, false) => Some(format!(
            "{role} may not look into the log's directory (pg_monitor)"
        )),
    })
}

/// The files of all owned tables, of what lies between, and of the statistics.
pub async fn files(session: &impl GenericClient, home: &HomeSchema) -> Result<BTreeSet<File>> {
    let doing = "listing the files of tables";
    let mut files = BTreeSet::new();
    for target in targets(session, home).await? {
        let rows = session
            .query(
                "SELECT 'heap', c.reltablespace, pg_relation_filenode(c.oid) FROM pg_class AS c WHERE c.oid = $1 \
                 UNION ALL \
                 SELECT 'toast', t.reltablespace, pg_relation_filenode(t.oid) FROM pg_class AS c \
                   JOIN pg_class AS t ON t.oid = c.reltoastrelid WHERE c.oid = $1 \
                 UNION ALL \
                 SELECT 'index', i.reltablespace, pg_relation_filenode(i.oid) FROM pg_class AS c \
                   JOIN pg_index AS x ON x.indrelid IN (c.oid, c.reltoastrelid) JOIN pg_class AS i ON i.oid = x.indexrelid \
                  WHERE c.oid = $1",
                &[&target.oid],
            )
            .await
            .doing(doing)?;
        files.extend(rows.iter().map(|row| {
            let part = match row.get::<_, &str>(0) {
                "heap" => Part::Heap,
                "toast" => Part::Toast,
                _ => Part::Index,
            };
            file(&target.name, part, row.get(1), row.get(2))
        }));
    }
    let rows = session
        .query(
            "SELECT c.relname::text, f.reltablespace, pg_relation_filenode(f.oid) FROM pg_class AS c \
               JOIN pg_class AS f ON f.oid IN (c.oid, c.reltoastrelid) \
                 OR f.oid IN (SELECT x.indexrelid FROM pg_index AS x WHERE x.indrelid IN (c.oid, c.reltoastrelid)) \
              WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname = ANY ($1)",
            &[&STATISTICS.as_slice()],
        )
        .await
        .doing(doing)?;
    files.extend(
        rows.iter()
            .map(|row| file(row.get(0), Part::Statistics, row.get(1), row.get(2))),
    );
    Ok(files)
}

fn file(table: &str, part: Part, tablespace: u32, number: Option<u32>) -> File {
    File {
        table: table.to_owned(),
        part,
        tablespace,
        number: number.unwrap_or_default(),
    }
}

/// Those of `old` that are files of anything here still.
pub async fn still_there(
    session: &impl GenericClient,
    old: &BTreeSet<File>,
) -> Result<BTreeSet<File>> {
    let tablespaces: Vec<u32> = old.iter().map(|file| file.tablespace).collect();
    let numbers: Vec<u32> = old.iter().map(|file| file.number).collect();
    let rows = session
        .query(
            "SELECT f.s, f.n FROM unnest($1::oid[], $2::oid[]) AS f(s, n) \
             WHERE EXISTS (SELECT FROM pg_class AS c WHERE c.relfilenode <> 0 \
                 AND c.reltablespace = f.s AND pg_relation_filenode(c.oid) = f.n)",
            &[&tablespaces, &numbers],
        )
        .await
        .doing("looking which files are there still")?;
    let there: BTreeSet<(u32, u32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let still = |file: &&File| there.contains(&(file.tablespace, file.number));
    Ok(old.iter().filter(still).cloned().collect())
}

/// Gives whatever has its file among `old` a new one, and the planner new statistics. Tables of more than 32 MiB keep
/// theirs, vacuumed, unless `rewrite`; so does one that cannot be locked in time.
///
/// Nobody may be able to see the deleted rows any more: they would be taken along.
pub async fn clean(
    session: &impl GenericClient,
    home: &HomeSchema,
    old: &BTreeSet<File>,
    rewrite: bool,
) -> Result<()> {
    for target in targets(session, home).await? {
        let there = still_there(session, &of(old, &target.name)).await?;
        let whole = there
            .iter()
            .any(|file| matches!(file.part, Part::Heap | Part::Toast));
        // A planted bug believes that VACUUM does it all.
        let forgetful = planted(Bug::VacuumAlone);
        let small = rewrite || size(session, target.oid).await? <= SMALL;
        let rewritten =
            whole && small && !forgetful && rewrite_table(session, &target, rewrite).await?;
        if !rewritten && !there.is_empty() {
            maintain(
                session,
                &format!("VACUUM (INDEX_CLEANUP ON) {}", target.name),
            )
            .await?;
            if !forgetful {
                drop_cut_off(session, target.oid).await?;
                // Not while others wait: new indexes beside the old ones.
                let sql = format!("REINDEX TABLE CONCURRENTLY {}", target.name);
                maintain(session, &sql).await?;
            }
        }
        point("after-table-cleaned");
    }
    for table in &home.owned {
        maintain(session, &format!("ANALYZE {}", table.name.sql())).await?;
    }
    forget_empty(session, home).await
}

/// Rewrites the planner's statistics, without what ANALYZE replaced. Nobody may be able to see that any more.
pub async fn clean_statistics(session: &impl GenericClient) -> Result<()> {
    for catalog in STATISTICS {
        let target = Target {
            name: format!("pg_catalog.{catalog}"),
            oid: 0,
        };
        rewrite_table(session, &target, false).await?;
    }
    Ok(())
}

/// ANALYZE keeps the old statistics of a table that it finds empty.
async fn forget_empty(session: &impl GenericClient, home: &HomeSchema) -> Result<()> {
    let doing = "deleting statistics of empty tables";
    let mut relations: Vec<u32> = Vec::new();
    for table in &home.owned {
        let own = std::iter::once((&table.name, table.oid));
        let leaves = table.leaves.iter().map(|(name, oid)| (name, *oid));
        for (name, oid) in own.chain(leaves) {
            let sql = format!("SELECT NOT EXISTS (SELECT FROM {})", name.sql());
            if session.query_one(&sql, &[]).await.doing(doing)?.get(0) {
                relations.push(oid);
            }
        }
    }
    let of = "(SELECT r FROM unnest($1::oid[]) AS r \
               UNION SELECT x.indexrelid FROM pg_index AS x WHERE x.indrelid = ANY ($1::oid[]))";
    let there = format!(
        "SELECT EXISTS (SELECT FROM pg_stats AS s JOIN pg_class AS c ON c.relname = s.tablename \
             AND c.relnamespace = s.schemaname::regnamespace WHERE c.oid IN {of}) \
             OR EXISTS (SELECT FROM pg_statistic_ext AS e WHERE e.stxrelid = ANY ($1::oid[]))"
    );
    let there = session
        .query_one(&there, &[&relations])
        .await
        .doing(doing)?;
    if !there.get::<_, bool>(0) {
        return Ok(());
    }
    for sql in [
        format!("DELETE FROM pg_statistic WHERE starelid IN {of}"),
        "DELETE FROM pg_statistic_ext_data WHERE stxoid IN \
             (SELECT e.oid FROM pg_statistic_ext AS e WHERE e.stxrelid = ANY ($1::oid[]))"
            .to_owned(),
    ] {
        session.execute(&sql, &[&relations]).await.doing(doing)?;
    }
    Ok(())
}

/// VACUUM FULL under a short lock: whether it got in, and came to its end.
async fn rewrite_table(
    session: &impl GenericClient,
    target: &Target,
    patiently: bool,
) -> Result<bool> {
    let bound = match patiently {
        true => 0,
        false => (LOCK_TIMEOUT + SHORT).as_millis(),
    };
    let lock = LOCK_TIMEOUT.as_millis();
    let set = format!("SET lock_timeout = {lock}; SET statement_timeout = {bound}");
    let reset = "SET lock_timeout = 0; SET statement_timeout = 0";
    for attempt in 1.. {
        session
            .batch_execute(&set)
            .await
            .doing("bounding a rewrite")?;
        let done = session
            .batch_execute(&format!("VACUUM (FULL) {}", target.name))
            .await;
        session
            .batch_execute(reset)
            .await
            .doing("lifting the bound of a rewrite")?;
        match done {
            Ok(()) => return Ok(true),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                if attempt == ATTEMPTS {
                    return Ok(false);
                }
                // Let the writers that queued behind us pass.
                tokio::time::sleep(LOCK_TIMEOUT * 2).await;
            }
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) && !patiently => {
                return Ok(false);
            }
            Err(error) => return Err(error).doing(format!("rewriting {}", target.name)),
        }
    }
    Ok(false)
}

/// A command that waits for others, but not for ever: whoever keeps a table open all the while is waited for in the next run.
/// What it leaves half-done then, [`drop_cut_off`] takes away.
async fn maintain(session: &impl GenericClient, sql: &str) -> Result<()> {
    let wait = (LOCK_TIMEOUT * 20).as_millis();
    session
        .batch_execute(&format!("SET lock_timeout = {wait}"))
        .await
        .doing("bounding a wait")?;
    let done = session.batch_execute(sql).await;
    session
        .batch_execute("SET lock_timeout = 0")
        .await
        .doing("lifting the bound of a wait")?;
    match done {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(()),
        done => done.doing(sql.to_owned()),
    }
}

/// REINDEX CONCURRENTLY that was cut off leaves an index that nobody uses: the new one, half built, or the old one.
async fn drop_cut_off(session: &impl GenericClient, oid: u32) -> Result<()> {
    let doing = "dropping indexes that a REINDEX left behind";
    let rows = session
        .query(
            "SELECT format('%I.%I', n.nspname, i.relname) FROM pg_class AS c \
               JOIN pg_index AS x ON x.indrelid IN (c.oid, c.reltoastrelid) JOIN pg_class AS i ON i.oid = x.indexrelid \
               JOIN pg_namespace AS n ON n.oid = i.relnamespace \
              WHERE c.oid = $1 AND NOT x.indisvalid AND i.relname ~ '_cc(new|old)[0-9]*$'",
            &[&oid],
        )
        .await
        .doing(doing)?;
    for row in rows {
        let name: String = row.get(0);
        maintain(session, &format!("DROP INDEX {name}")).await?;
    }
    Ok(())
}

async fn size(session: &impl GenericClient, oid: u32) -> Result<i64> {
    Ok(session
        .query_one("SELECT pg_total_relation_size($1::oid)", &[&oid])
        .await
        .doing("looking how large a table is")?
        .get(0))
}

fn of(files: &BTreeSet<File>, table: &str) -> BTreeSet<File> {
    let same = |file: &&File| file.table == table && file.part != Part::Statistics;
    files.iter().filter(same).cloned().collect()
}

async fn targets(session: &impl GenericClient, home: &HomeSchema) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    let mut add = |name: &TableName, oid: u32| {
        targets.push(Target {
            name: name.sql(),
            oid,
        });
    };
    for table in &home.owned {
        match table.leaves.as_slice() {
            [] => add(&table.name, table.oid),
            leaves => leaves.iter().for_each(|(name, oid)| add(name, *oid)),
        }
    }
    // Rows pass through it on their way here, and stay as dead ones.
    let spool = TableName {
        schema: "domicile".to_owned(),
        name: "spool".to_owned(),
    };
    let row = session
        .query_one("SELECT to_regclass($1)::oid", &[&spool.sql()])
        .await
        .doing("looking for the spool")?;
    if let Some(oid) = row.get::<_, Option<u32>>(0) {
        targets.push(Target {
            name: spool.sql(),
            oid,
        });
    }
    Ok(targets)
}
