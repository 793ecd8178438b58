//! The guard of a site that is closed after a restart.

mod support;

use std::sync::Arc;

use anyhow::Result;
use residency::door;
use support::{Shape, Site, outcome};
use testbed::{Cluster, ClusterOptions};
use tokio_postgres::Client;

async fn closing() -> Result<(Arc<Cluster>, Site)> {
    with("closed").await
}

async fn with(after_restart: &'static str) -> Result<(Arc<Cluster>, Site)> {
    let mut options = ClusterOptions::named("door");
    options.fsync = false;
    let cluster = Arc::new(Cluster::start(options).await?);
    let shape = Shape {
        after_restart,
        ..Shape::default()
    };
    let mut site = Site::bare(Arc::clone(&cluster), shape).await?;
    site.install().await?;
    Ok((cluster, site))
}

/// What each kind of write says: to the user table, to a table by a column, by a path, a new user, and a TRUNCATE.
async fn writes(app: &Client) -> Vec<String> {
    let mut said = Vec::new();
    for sql in [
        "UPDATE customer SET name = 'x' WHERE id = 1",
        "UPDATE orders SET total = total + 1 WHERE customer_id = 2",
        "UPDATE line SET what = 'x' WHERE order_id = 30",
        "INSERT INTO note SELECT nextval('more'), 40, 1, 'x'",
        "INSERT INTO customer SELECT nextval('more'), 'CN', 'new'",
        "TRUNCATE note",
    ] {
        said.push(outcome(app, sql).await);
    }
    said
}

fn closed() -> Vec<String> {
    vec!["DM503".to_owned(); 6]
}

fn open() -> Vec<String> {
    vec!["ok".to_owned(); 6]
}

#[tokio::test]
async fn it_is_closed_by_a_word_and_opened_by_one_and_each_is_in_the_ledger() -> Result<()> {
    let (_cluster, site) = closing().await?;
    let (mut mover, app) = (site.mover().await?, site.app().await?);
    assert_eq!(writes(&app).await, open());
    assert!(!door::open(&mover, "again").await?);

    let tx = mover.transaction().await?;
    assert!(door::close(&tx, "a drill").await?);
    tx.commit().await?;
    assert_eq!(writes(&app).await, closed());
    let stands = door::look(&mover).await?;
    assert!(stands.closes && !stands.open && stands.since.is_none());

    // Who has compared the site does not open what somebody has closed.
    assert!(!door::open(&mover, "compared").await?);
    assert_eq!(writes(&app).await, closed());
    assert!(door::open_by_hand(&mover, "the drill is over").await?);
    assert_eq!(writes(&app).await, open());
    let stands = door::look(&mover).await?;
    let why = stands.since.map(|(_, why)| why);
    assert_eq!(why.as_deref(), Some("the drill is over"));
    let said: Vec<(String, String)> = mover
        .query(
            "SELECT kind, body ->> 'why' FROM domicile.entry WHERE kind IN ('opened', 'closed') ORDER BY n",
            &[],
        )
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let said: Vec<_> = said.iter().map(|(k, w)| (k.as_str(), w.as_str())).collect();
    assert_eq!(
        said,
        [("closed", "a drill"), ("opened", "the drill is over")]
    );
    Ok(())
}

#[tokio::test]
async fn it_is_closed_after_a_crash_and_after_a_restart_also_for_an_installation() -> Result<()> {
    let (cluster, mut site) = closing().await?;
    for crash in [true, false] {
        match crash {
            true => cluster.kill9().await?,
            false => cluster.stop_immediate().await?,
        }
        cluster.start_again().await?;
        let (mover, app) = (site.mover().await?, site.app().await?);
        assert!(!door::is_open(&mover).await?);
        assert_eq!(writes(&app).await, closed());
        // Who installs again has compared nothing.
        site.install().await?;
        assert_eq!(writes(&app).await, closed());
        door::open(&mover, "compared").await?;
        assert_eq!(writes(&app).await, open());
    }
    Ok(())
}

#[tokio::test]
async fn where_the_guard_stays_open_a_restart_is_noticed_all_the_same() -> Result<()> {
    let (cluster, mut site) = with("open").await?;
    assert!(door::is_open(&site.mover().await?).await?);
    cluster.kill9().await?;
    cluster.start_again().await?;
    site.install().await?;
    assert!(!door::is_open(&site.mover().await?).await?);
    assert_eq!(writes(&site.app().await?).await, open());
    Ok(())
}

#[tokio::test]
async fn a_row_that_a_dump_brought_opens_nothing() -> Result<()> {
    let (_cluster, site) = closing().await?;
    let (mover, app) = (site.mover().await?, site.app().await?);
    assert_eq!(writes(&app).await, open());
    // As a dump that is restored beside what it was made of brings it: of the same server, in another table.
    mover
        .execute(
            "UPDATE domicile.open SET relation = 'domicile.home'::regclass",
            &[],
        )
        .await?;
    assert_eq!(writes(&app).await, closed());
    Ok(())
}
