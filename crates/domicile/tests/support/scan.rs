//! A scan of a server's data directory for a marker, file by file: what a thief of the disk would find.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use testbed::Cluster;

use super::connect;

/// How many copies there are, by what the file is of: `heap TABLE`, `toast TABLE`, `index TABLE`, `statistics`, `wal`, or
/// its path.
pub type Found = BTreeMap<String, usize>;

/// Looks into every file of `cluster`, whose buffers are written out first.
pub async fn scan(cluster: &Cluster, database: &str, marker: &str) -> Result<Found> {
    let client = connect(&cluster.url("postgres", database)).await?;
    client.batch_execute("CHECKPOINT").await?;
    let names = "
        SELECT pg_relation_filepath(c.oid), CASE WHEN n.nspname = 'pg_catalog' AND coalesce(o.relname, c.relname) LIKE 'pg_statistic%'
                OR c.relname LIKE 'pg_statistic%' THEN 'statistics'
            ELSE CASE c.relkind WHEN 'i' THEN 'index ' WHEN 't' THEN 'toast ' ELSE 'heap ' END
                 || coalesce(p.relname, o.relname, c.relname) END
          FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
          LEFT JOIN pg_index AS x ON x.indexrelid = c.oid
          LEFT JOIN pg_class AS o ON o.oid = x.indrelid OR o.reltoastrelid = c.oid AND c.relkind = 't'
          LEFT JOIN pg_class AS p ON p.reltoastrelid = o.oid AND o.relkind = 't'
         WHERE pg_relation_filepath(c.oid) IS NOT NULL";
    let rows = client.query(names, &[]).await?;
    let names: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let data = cluster.data().to_owned();
    // It looks through hundreds of megabytes while these tests are not optimised; files may go meanwhile.
    let output = std::process::Command::new("grep")
        .env("LC_ALL", "C")
        .args(["-raoF", "--no-messages", "-e", marker, "."])
        .current_dir(&data)
        .output()?;
    let mut found = Found::new();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        let Some((path, _)) = line.split_once(':') else {
            continue;
        };
        let path = path.trim_start_matches("./");
        let relation = path.split('.').next().unwrap_or_default();
        let of = match names.get(relation) {
            Some(name) => name.clone(),
            None if path.starts_with("pg_wal") => "wal".to_owned(),
            None => path.to_owned(),
        };
        *found.entry(of).or_default() += 1;
    }
    Ok(found)
}

/// Whether what was `found` of erased users' markers is what the state claims.
pub fn expect_claim(found: &Found, state: &str, residue: &[String]) -> Result<()> {
    let allowed = |of: &str| match state {
        "deleted" => true,
        "vacuumed" => {
            let free = residue.iter().any(|table| {
                let table = table.rsplit('.').next().unwrap_or(table).replace('"', "");
                of == format!("heap {table}") || of == format!("toast {table}")
            });
            of == "wal" || free
        }
        _ => false,
    };
    let wrong: Vec<_> = found.iter().filter(|(of, _)| !allowed(of)).collect();
    ensure!(
        wrong.is_empty(),
        "{state}, residue {residue:?}, and there are {wrong:?}"
    );
    Ok(())
}
