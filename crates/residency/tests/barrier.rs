//! The enrolment barrier waits for everybody who may have read a record as it was before, and for nobody else.

mod support;

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use residency::{Error, barrier};
use support::{Shape, Site, number, pid, until};
use testbed::Cluster;
use tokio::io::AsyncWriteExt as _;
use tokio_postgres::Client;

const USER: i64 = 1;
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);
const WRITE: &str = "INSERT INTO orders VALUES (nextval('more'), 0, 1)";

/// A cluster whose autovacuum comes at once.
async fn cluster() -> Result<Arc<Cluster>> {
    support::cluster(&[("autovacuum_naptime", "1s")]).await
}

async fn site() -> Result<Site> {
    let mut site = Site::bare(cluster().await?, Shape::default()).await?;
    site.install().await?;
    Ok(site)
}

/// Enrols the user, with `meanwhile` between the enrolment's id and its commit; returns the id.
async fn enrol(
    site: &Site,
    mover: &mut Client,
    meanwhile: impl AsyncFnOnce() -> Result<()>,
) -> Result<i64> {
    let tx = mover.transaction().await?;
    let id = site.enrol(&tx, &[USER]).await?;
    meanwhile().await?;
    tx.commit().await?;
    Ok(id)
}

fn blockers(waited: residency::Result<()>) -> Result<Vec<String>> {
    match waited {
        Err(Error::BarrierTimeout { blockers }) => Ok(blockers),
        Err(error) => Err(error.into()),
        Ok(()) => anyhow::bail!("the barrier let somebody pass"),
    }
}

/// A READ COMMITTED writer draws its id and reads the record between the enrolment's id and its commit, and stays
/// open. Gives the writer, the mover and the enrolment.
async fn writer_in_the_gap(site: &Site) -> Result<(Client, Client, i64)> {
    let (mut mover, writer) = (site.mover().await?, site.app().await?);
    let enrolment = enrol(site, &mut mover, async || {
        Ok(writer.batch_execute(&format!("BEGIN; {WRITE}")).await?)
    })
    .await?;
    Ok((writer, mover, enrolment))
}

#[tokio::test]
async fn the_barrier_waits_for_a_writer_whose_id_is_above_the_enrolments() -> Result<()> {
    let site = site().await?;
    let (writer, mover, enrolment) = writer_in_the_gap(&site).await?;
    let started = Instant::now();
    let named = blockers(barrier::wait(&mover, enrolment, SHORT).await)?;
    ensure!(started.elapsed() >= SHORT && started.elapsed() < LONG);
    let pid = pid(&writer).await?;
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(
        named[0].starts_with(&format!("process {pid} of {}, open for ", site.app)),
        "{named:?}"
    );
    writer.batch_execute("COMMIT").await?;
    barrier::wait(&mover, enrolment, LONG).await?;
    Ok(())
}

#[tokio::test]
async fn the_barrier_waits_for_an_old_snapshot_without_an_id() -> Result<()> {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let site = site().await?;
        let (mut mover, reader) = (site.mover().await?, site.app().await?);
        reader
            .batch_execute(&format!(
                "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM customer"
            ))
            .await?;
        let enrolment = enrol(&site, &mut mover, async || Ok(())).await?;
        let named = blockers(barrier::wait(&mover, enrolment, SHORT).await)?;
        assert!(
            named.len() == 1 && named[0].contains(&site.app),
            "{named:?}"
        );
        reader.batch_execute("ROLLBACK").await?;
        barrier::wait(&mover, enrolment, LONG).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_barrier_waits_for_a_prepared_transaction_and_a_cursor() -> Result<()> {
    let site = site().await?;
    let (mut mover, writer, reader) = (site.mover().await?, site.app().await?, site.app().await?);
    let name = format!("held-{}", site.database);
    writer
        .batch_execute(&format!("BEGIN; {WRITE}; PREPARE TRANSACTION '{name}'"))
        .await?;
    reader
        .batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT * FROM orders; FETCH 1 FROM c")
        .await?;
    let enrolment = enrol(&site, &mut mover, async || Ok(())).await?;
    let named = blockers(barrier::wait(&mover, enrolment, SHORT).await)?;
    assert_eq!(named.len(), 2, "{named:?}");
    assert!(named[0].starts_with("process "), "{named:?}");
    assert!(
        named[1].starts_with(&format!("prepared transaction of {}", site.app)),
        "{named:?}"
    );
    reader.batch_execute("ROLLBACK").await?;
    writer
        .batch_execute(&format!("COMMIT PREPARED '{name}'"))
        .await?;
    barrier::wait(&mover, enrolment, LONG).await?;
    Ok(())
}

#[tokio::test]
async fn a_truncate_in_flight_is_waited_for() -> Result<()> {
    let site = site().await?;
    let (mut mover, writer) = (site.mover().await?, site.app().await?);
    let enrolment = enrol(&site, &mut mover, async || {
        Ok(writer.batch_execute("BEGIN; TRUNCATE note").await?)
    })
    .await?;
    assert_eq!(
        blockers(barrier::wait(&mover, enrolment, SHORT).await)?.len(),
        1
    );
    Ok(())
}

#[tokio::test]
async fn who_cannot_be_seen_counts_as_a_writer() -> Result<()> {
    let site = site().await?;
    let mut mover = site.mover().await?;
    let _idle = site.app().await?;
    let enrolment = enrol(&site, &mut mover, async || Ok(())).await?;
    barrier::wait(&mover, enrolment, LONG).await?;
    let admin = site.session("postgres").await?;
    admin
        .batch_execute(&format!("REVOKE pg_read_all_stats FROM {}", site.mover))
        .await?;
    let named = blockers(barrier::wait(&mover, enrolment, SHORT).await)?;
    assert!(named.iter().any(|who| who.contains(&site.app)), "{named:?}");
    Ok(())
}

#[tokio::test]
async fn sessions_of_other_databases_hold_nobody_up() -> Result<()> {
    let (site, other) = (site().await?, site().await?);
    let mut mover = site.mover().await?;
    let elsewhere = other.app().await?;
    elsewhere
        .batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {WRITE}"))
        .await?;
    let enrolment = enrol(&site, &mut mover, async || Ok(())).await?;
    barrier::wait(&mover, enrolment, LONG).await?;
    Ok(())
}

#[tokio::test]
async fn a_walsender_with_an_old_snapshot_is_left_out_by_name() -> Result<()> {
    let site = site().await?;
    let mut mover = site.mover().await?;
    let watch = site.session("postgres").await?;
    let url = format!(
        "{}?replication=database",
        site.cluster.url("postgres", &site.database)
    );
    let beside = site.cluster.bindir().join("psql");
    let psql = if beside.is_file() {
        beside
    } else {
        "psql".into()
    };
    let mut sender = tokio::process::Command::new(psql)
        .args(["-X", "-q", "-d", &url])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut says = sender.stdin.take().context("a pipe")?;
    let slot = format!("held_{}", site.database);
    says.write_all(
        format!(
            "BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ;\n\
             CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'use');\n\
             SELECT count(*) FROM customer;\n"
        )
        .as_bytes(),
    )
    .await?;
    let held = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' \
                AND datname = current_database() AND backend_xmin IS NOT NULL AND state = 'idle in transaction'";
    until(&watch, "a walsender holds a snapshot", held).await?;
    let enrolment = enrol(&site, &mut mover, async || Ok(())).await?;
    barrier::wait(&mover, enrolment, LONG).await?;
    assert_eq!(number(&watch, held).await?, 1, "it is still there");
    drop(says);
    sender.wait().await?;
    Ok(())
}

#[tokio::test]
async fn autovacuum_is_left_out_by_name() -> Result<()> {
    let site = site().await?;
    let mut mover = site.mover().await?;
    let watch = site.session("postgres").await?;
    watch
        .batch_execute(
            "CREATE TABLE litter (n integer PRIMARY KEY, t text) WITH (autovacuum_vacuum_threshold = 1,
                 autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100,
                 autovacuum_vacuum_cost_limit = 1);
             INSERT INTO litter SELECT n, repeat('x', 500) FROM generate_series(1, 5000) AS n;",
        )
        .await?;
    watch
        .batch_execute("UPDATE litter SET t = t || 'y'")
        .await?;
    let held = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' \
                AND datname = current_database() AND backend_xmin IS NOT NULL \
                AND query LIKE 'autovacuum: VACUUM%litter'";
    until(&watch, "autovacuum works here", held).await?;
    let enrolment = enrol(&site, &mut mover, async || Ok(())).await?;
    barrier::wait(&mover, enrolment, LONG).await?;
    assert_eq!(number(&watch, held).await?, 1, "it is still there");
    Ok(())
}

#[cfg(feature = "planted-faults")]
mod planted {
    use model::BatchId;
    use model::fault::{Bug, plant};
    use residency::fence;

    use super::support::ATTEMPT;
    use super::*;

    async fn raise(site: &Site, mover: &mut Client) -> Result<()> {
        let office = site.office(mover).await?;
        let (users, batch) = ([site.user(USER)], BatchId::from("m/1"));
        fence::raise(
            mover,
            &residency::kept::Kept::default(),
            &office,
            site.kind(),
            fence::Closed {
                users: &users,
                attempt: ATTEMPT,
                gate: fence::Gate::Unattended,
                batch: &batch,
            },
            LONG,
        )
        .await?;
        Ok(())
    }

    /// The barrier with a bug.
    async fn wait_with(bug: Bug, mover: &Client, enrolment: i64) -> residency::Result<()> {
        plant(Some(bug));
        let waited = barrier::wait(mover, enrolment, SHORT).await;
        plant(None);
        waited
    }

    async fn orders(session: &Client) -> Result<i64> {
        number(session, "SELECT count(*) FROM orders WHERE customer_id = 1").await
    }

    #[tokio::test]
    async fn a_barrier_at_the_enrolments_own_id_lets_a_write_come_after_the_fence() -> Result<()> {
        let site = site().await?;
        let watch = site.session("postgres").await?;
        let (writer, mut mover, enrolment) = writer_in_the_gap(&site).await?;
        wait_with(Bug::BarrierAtOwnId, &mover, enrolment).await?;
        raise(&site, &mut mover).await?;
        let at_fence = orders(&watch).await?;
        writer.batch_execute("COMMIT").await?;
        assert_eq!(
            orders(&watch).await?,
            at_fence + 1,
            "the write that would be lost"
        );
        Ok(())
    }

    #[tokio::test]
    async fn no_barrier_lets_a_write_come_after_the_fence() -> Result<()> {
        let site = site().await?;
        let watch = site.session("postgres").await?;
        let (mut mover, old) = (site.mover().await?, site.app().await?);
        old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM customer")
            .await?;
        let enrolment = enrol(&site, &mut mover, async || Ok(())).await?;
        wait_with(Bug::NoBarrier, &mover, enrolment).await?;
        raise(&site, &mut mover).await?;
        let at_fence = orders(&watch).await?;
        old.batch_execute(&format!("{WRITE}; COMMIT")).await?;
        assert_eq!(
            orders(&watch).await?,
            at_fence + 1,
            "the write that would be lost"
        );
        Ok(())
    }
}
