//! What one would use instead: a pipe of COPYs, and PostgreSQL's own logical replication.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testbed::wait_until;
use tokio::process::Command;

use super::data::{self, COUNTRIES, MOVED, TABLES};
use super::stage::{Cpu, EMPTY, FULL, Server, Stage};

/// The peers' database at the target.
const PEER: &str = "peer";
/// The shop with a country in each table, and its empty twin.
const NATIVE: &str = "native";
const NATIVE_EMPTY: &str = "native_empty";

/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// One copy of everything that moves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied {
    pub(crate) rows: u64,
    pub(crate) wall: Duration,
    pub(crate) cpu: Cpu,
}

// === impl Copied ===

impl Copied {
    pub(crate) fn rate(&self) -> f64 {
        self.rows as f64 / self.wall.as_secs_f64()
    }

    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu.all() * 1e6 / self.rows as f64
    }
}

/// `psql COPY (SELECT …) TO STDOUT | psql COPY … FROM STDIN`, binary, table after table. With `foreign_keys` their
/// triggers fire for each row; else the target writes as a replica does, and nobody checks them.
pub(crate) async fn pipe(stage: &Stage, foreign_keys: bool) -> Result<Copied> {
    stage.target.copy_database(EMPTY, PEER).await?;
    stage.settle().await?;
    let before = stage.cpu()?;
    let began = Instant::now();
    let mut rows = 0;
    for table in TABLES {
        rows += pipe_table(stage, table, foreign_keys).await?;
    }
    let wall = began.elapsed();
    let cpu = stage.cpu()?.since(before);
    stage.target.drop_database(PEER).await?;
    Ok(Copied { rows, wall, cpu })
}

async fn pipe_table(stage: &Stage, table: &str, foreign_keys: bool) -> Result<u64> {
    let joins = match table {
        "customer" => "customer AS t",
        "invoice" => "invoice AS t JOIN customer AS c USING (customer_id)",
        _ => {
            "invoice_line AS t JOIN invoice AS i USING (invoice_id) JOIN customer AS c USING (customer_id)"
        }
    };
    let out = format!(
        "COPY (SELECT t.* FROM {joins} WHERE country IN ({})) TO STDOUT (FORMAT binary)",
        data::list(&COUNTRIES[..MOVED])
    );
    let into = format!("COPY {table} FROM STDIN (FORMAT binary)");
    let mut reader = psql(&stage.source, FULL)
        .args(["-c", &out])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start psql")?;
    let stdout = reader
        .stdout
        .take()
        .context("psql has no standard output")?;
    let stdout: Stdio = stdout.try_into().context("cannot join the two psql")?;
    let mut writer = psql(&stage.target, PEER);
    if !foreign_keys {
        writer.env("PGOPTIONS", "-c session_replication_role=replica");
    }
    let written = writer.args(["-c", &into]).stdin(stdout).output().await?;
    let read = reader.wait().await?;
    ensure!(
        read.success() && written.status.success(),
        "the pipe failed: {}",
        String::from_utf8_lossy(&written.stderr)
    );
    let said = String::from_utf8_lossy(&written.stdout);
    let rows = said
        .trim()
        .strip_prefix("COPY ")
        .and_then(|n| n.parse().ok());
    rows.context("psql did not say how much it copied")
}

fn psql(server: &Server, database: &str) -> Command {
    let beside = server.cluster.bindir().join("psql");
    let program = if beside.is_file() {
        beside
    } else {
        PathBuf::from("psql")
    };
    let mut command = Command::new(program);
    command
        .args(["-X", "-v", "ON_ERROR_STOP=1", "-d"])
        .arg(server.cluster.url("postgres", database))
        .kill_on_drop(true);
    command
}

/// Makes the databases of [`logical`], once.
pub(crate) async fn prepare_logical(stage: &Stage) -> Result<()> {
    stage.source.copy_database(FULL, NATIVE).await?;
    stage.target.copy_database(EMPTY, NATIVE_EMPTY).await?;
    let country = "ALTER TABLE invoice ADD country text NOT NULL; ALTER TABLE invoice_line ADD country text NOT NULL;";
    stage.target.sql(NATIVE_EMPTY, country).await?;
    let without = data::WITHOUT_CUSTOMER_KEYS;
    let sql = format!("{without}{}{}", data::DENORMALISE, data::KEYS);
    stage.source.sql(NATIVE, &sql).await?;
    stage.source.sql(NATIVE, "VACUUM (FREEZE, ANALYZE)").await?;
    let filter = format!("WHERE (country IN ({}))", data::list(&COUNTRIES[..MOVED]));
    let tables = TABLES.map(|table| format!("{table} {filter}")).join(", ");
    let publish = format!("CREATE PUBLICATION native FOR TABLE {tables} WITH (publish = 'insert')");
    stage.source.sql(NATIVE, &publish).await
}

/// Initial synchronisation by logical replication with row filters; two workers, PostgreSQL's default.
pub(crate) async fn logical(stage: &Stage) -> Result<Copied> {
    stage.target.copy_database(NATIVE_EMPTY, PEER).await?;
    stage.settle().await?;
    let target = stage.target.connect("postgres", PEER).await?;
    let subscribe = format!(
        "CREATE SUBSCRIPTION native CONNECTION '{}' PUBLICATION native",
        stage.source.cluster.url("postgres", NATIVE)
    );
    let before = stage.cpu()?;
    let began = Instant::now();
    target.batch_execute(&subscribe).await?;
    // As soon as the rows are there: whether the workers have said farewell does not count.
    wait_until("native replication has copied", PATIENCE, async || {
        let left =
            "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate NOT IN ('f', 's', 'r')";
        Ok(target.query_one(left, &[]).await?.get::<_, i64>(0) == 0)
    })
    .await?;
    let wall = began.elapsed();
    let cpu = stage.cpu()?.since(before);
    let count = "SELECT (SELECT count(*) FROM customer) + (SELECT count(*) FROM invoice) + (SELECT count(*) FROM invoice_line)";
    let rows: i64 = target.query_one(count, &[]).await?.get(0);
    target.batch_execute("DROP SUBSCRIPTION native").await?;
    drop(target);
    stage.target.drop_database(PEER).await?;
    Ok(Copied {
        rows: u64::try_from(rows)?,
        wall,
        cpu,
    })
}
