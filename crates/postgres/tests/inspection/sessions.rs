//! Sessions are alike whatever the role or the database says, and notice a commit of unknown outcome.

use std::time::Duration;

use anyhow::Result;
use postgres::connect::{ConnectError, SESSION_OPTIONS, connect};
use testbed::wait_until;

use crate::support::cluster;

const PINNED: &str = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings \
    WHERE name IN ('DateStyle', 'IntervalStyle', 'TimeZone', 'extra_float_digits', 'bytea_output', \
        'lc_monetary', 'standard_conforming_strings', 'search_path', 'statement_timeout', 'lock_timeout', \
        'idle_in_transaction_session_timeout', 'idle_session_timeout', 'default_transaction_isolation', \
        'synchronous_commit', 'row_security', 'client_encoding')";

#[tokio::test]
async fn settings_are_pinned_in_a_session_and_by_start_up_options_alike() -> Result<()> {
    let cluster = cluster("pinned").await?;
    cluster.create_database("shop").await?;
    let odd = "ALTER DATABASE shop SET DateStyle = 'German, DMY'; ALTER DATABASE shop SET TimeZone = 'Asia/Kolkata'; \
        ALTER DATABASE shop SET search_path = public; ALTER DATABASE shop SET statement_timeout = '5s'; \
        ALTER DATABASE shop SET default_transaction_isolation = serializable; \
        ALTER DATABASE shop SET synchronous_commit = off; ALTER DATABASE shop SET bytea_output = escape; \
        ALTER DATABASE shop SET standard_conforming_strings = off; ALTER DATABASE shop SET client_encoding = latin1";
    for statement in odd.split(';') {
        cluster.psql("postgres", statement).await?;
    }
    let url = cluster.url("postgres", "shop");
    let session = connect(&url, "test").await?;
    let ours: String = session.query_one(PINNED, &[]).await?.get(0);
    assert!(
        ours.contains("DateStyle=ISO, MDY") && ours.contains("client_encoding=UTF8"),
        "{ours}"
    );
    assert!(ours.contains("search_path=pg_catalog, pg_temp"), "{ours}");
    let name: String = session
        .query_one("SHOW application_name", &[])
        .await?
        .get(0);
    assert_eq!(name, "domicile test");

    let mut config: tokio_postgres::Config = url.parse()?;
    config.options(SESSION_OPTIONS);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let _connection = tokio::spawn(connection);
    let replication: String = client.query_one(PINNED, &[]).await?.get(0);
    // A list keeps the blank with which it was written.
    let same = |text: &str| text.replace(", ", ",");
    assert_eq!(same(&replication), same(&ours));
    Ok(())
}

#[tokio::test]
async fn a_commit_that_its_standby_did_not_confirm_is_counted() -> Result<()> {
    let cluster = cluster("unconfirmed").await?;
    let url = cluster.url("postgres", "postgres");
    cluster.psql("postgres", "CREATE TABLE t (n int)").await?;
    cluster
        .psql(
            "postgres",
            "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        )
        .await?;
    cluster.psql("postgres", "SELECT pg_reload_conf()").await?;
    let session = connect(&url, "writer").await?;
    let observer = connect(&url, "observer").await?;
    wait_until(
        "the standby is asked for",
        Duration::from_secs(20),
        async || {
            let names: String = session
                .query_one("SHOW synchronous_standby_names", &[])
                .await?
                .get(0);
            Ok(names == "nobody")
        },
    )
    .await?;
    assert_eq!(session.unconfirmed_commits(), 0);
    let commit = session.batch_execute("INSERT INTO public.t VALUES (1)");
    let cancel = async {
        wait_until("the commit is cancelled while it waits", Duration::from_secs(20), async || {
            let sql = "SELECT coalesce(bool_or(pg_cancel_backend(pid)), false) FROM pg_stat_activity \
                        WHERE application_name = 'domicile writer' AND wait_event = 'SyncRep'";
            Ok(observer.query_one(sql, &[]).await?.get(0))
        })
        .await
    };
    let (committed, cancelled) = tokio::join!(commit, cancel);
    cancelled?;
    committed?;
    assert_eq!(session.unconfirmed_commits(), 1);
    Ok(())
}

#[tokio::test]
async fn a_refusal_names_the_place_and_the_servers_reason() -> Result<()> {
    let cluster = cluster("refused").await?;
    let url = cluster.url("postgres:s3cret", "nowhere");
    let error = connect(&url, "test")
        .await
        .expect_err("there is no such database");
    assert!(matches!(error, ConnectError::Refused { .. }));
    let shown = format!("{:#}", anyhow::Error::from(error));
    assert!(
        shown.contains("/nowhere as postgres: ") && shown.contains("does not exist"),
        "{shown}"
    );
    assert!(!shown.contains("s3cret"), "{shown}");
    Ok(())
}
