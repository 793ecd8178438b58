//! A cluster's life: started, asked, crashed, started again, gone.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use testbed::{Cluster, ClusterOptions, wait_until};
use tokio_postgres::{Client, NoTls};

async fn connect(cluster: &Cluster, database: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(&cluster.url("postgres", database), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[tokio::test]
async fn a_cluster_takes_connections_and_has_our_settings() -> Result<()> {
    let mut options = ClusterOptions::named("settings");
    options.settings = vec![("work_mem".to_owned(), "7MB".to_owned())];
    let cluster = Cluster::start(options).await?;
    cluster.create_database("shop").await?;
    let client = connect(&cluster, "shop").await?;
    for (name, expected) in [
        ("wal_level", "logical"),
        ("fsync", "on"),
        ("max_prepared_transactions", "20"),
        ("work_mem", "7MB"),
    ] {
        let row = client
            .query_one("SELECT current_setting($1)", &[&name])
            .await?;
        assert_eq!(row.get::<_, String>(0), expected, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn commits_survive_an_immediate_stop_and_a_sigkill() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::named("crash")).await?;
    cluster.psql("postgres", "CREATE TABLE t (n int)").await?;

    cluster.psql("postgres", "INSERT INTO t VALUES (1)").await?;
    cluster.stop_immediate().await?;
    assert!(!cluster.is_running());
    assert!(!listens(cluster.port()));
    cluster.start_again().await?;
    assert!(cluster.is_running());

    cluster.psql("postgres", "INSERT INTO t VALUES (2)").await?;
    let client = connect(&cluster, "postgres").await?;
    cluster.kill9().await?;
    assert!(!cluster.is_running());
    wait_until(
        "the backend has noticed",
        Duration::from_secs(10),
        async || Ok(client.is_closed()),
    )
    .await?;
    cluster.start_again().await?;
    let sum = cluster.psql("postgres", "SELECT sum(n) FROM t").await?;
    assert_eq!(sum.trim(), "3");
    Ok(())
}

#[tokio::test]
async fn a_dropped_cluster_is_gone() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::named("drop")).await?;
    let port = cluster.port();
    let data = cluster.psql("postgres", "SHOW data_directory").await?;
    let data = std::path::PathBuf::from(data.trim());
    assert!(data.is_dir());
    assert!(listens(port));
    drop(cluster);
    assert!(!listens(port));
    assert!(!data.exists());
    assert!(!data.parent().is_some_and(std::path::Path::exists));
    Ok(())
}

#[tokio::test]
async fn a_cluster_is_gone_after_a_panic() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::named("panic")).await?;
    let port = cluster.port();
    let panicked = tokio::spawn(async move {
        let _owned = cluster;
        panic!("on purpose");
    })
    .await;
    assert!(panicked.is_err());
    assert!(!listens(port));
    Ok(())
}

#[tokio::test]
async fn a_failing_sql_file_is_an_error_that_names_the_line() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::named("file")).await?;
    let dir = std::env::temp_dir();
    let path = dir.join(format!("testbed-file-{}.sql", cluster.port()));
    std::fs::write(&path, "SELECT 1;\nSELECT nonsense;\n")?;
    let loaded = cluster.load_sql_file("postgres", &path).await;
    std::fs::remove_file(&path)?;
    let message = format!("{:#}", loaded.unwrap_err());
    assert!(message.contains(":2:"), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_cluster_goes_back_to_its_backup_and_to_what_a_standby_had() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::named("back")).await?;
    cluster
        .psql(
            "postgres",
            "CREATE TABLE t (n int); INSERT INTO t VALUES (1)",
        )
        .await?;
    let backup = cluster.backup().await?;
    cluster.psql("postgres", "INSERT INTO t VALUES (2)").await?;
    let standby = cluster.standby("behind").await?;
    let stays_behind = "SELECT pg_wal_replay_pause()";
    standby.psql("postgres", stays_behind).await?;
    cluster.psql("postgres", "INSERT INTO t VALUES (4)").await?;
    let sum = async || -> Result<String> {
        let sum = cluster.psql("postgres", "SELECT sum(n) FROM t").await?;
        Ok(sum.trim().to_owned())
    };
    assert_eq!(sum().await?, "7");
    let port = cluster.port();

    // What had come and was not replayed is replayed when it is promoted: only what had not come is missing.
    standby.stop_immediate().await?;
    cluster.psql("postgres", "INSERT INTO t VALUES (8)").await?;
    cluster.fail_over(standby).await?;
    assert!(["3", "7"].contains(&sum().await?.as_str()));
    cluster
        .psql("postgres", "INSERT INTO t VALUES (16)")
        .await?;

    cluster.restore(&backup).await?;
    assert_eq!(sum().await?, "1");
    assert_eq!(cluster.port(), port);
    cluster.psql("postgres", "INSERT INTO t VALUES (2)").await?;
    Ok(())
}

#[tokio::test]
async fn a_standby_follows_and_only_reads() -> Result<()> {
    let primary = Cluster::start(ClusterOptions::named("primary")).await?;
    primary.psql("postgres", "CREATE TABLE t (n int)").await?;
    let standby = primary.standby("standby").await?;
    primary.psql("postgres", "INSERT INTO t VALUES (7)").await?;
    let sum = async || standby.psql("postgres", "SELECT sum(n) FROM t").await;
    wait_until("the row has come", Duration::from_secs(30), async || {
        Ok(sum().await?.trim() == "7")
    })
    .await?;
    assert_ne!(primary.port(), standby.port());
    assert!(
        standby
            .psql("postgres", "INSERT INTO t VALUES (8)")
            .await
            .is_err()
    );
    Ok(())
}
