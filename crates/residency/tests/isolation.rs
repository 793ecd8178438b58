//! The fence gets in among overlapping writers of one user, and no write of his commits after it: at every
//! isolation level, with one writer and with many.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use handoff::record::Event;
use model::BatchId;
use residency::kept::Kept;
use residency::records::{self, Change};
use residency::{Error, barrier, fence};
use support::{ATTEMPT, Site, connect, number, outcome};
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// The user that everybody writes for.
const USER: i64 = 1;
const CYCLES: u32 = 5;
const PATIENCE: Duration = Duration::from_millis(200);
/// Far above what was ever seen, on a machine that does other things besides.
const FENCE_MAX: Duration = Duration::from_secs(10);
const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

/// What the writers tell.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    /// Transactions whose COMMIT was acknowledged.
    acknowledged: AtomicU64,
    /// By writer: how many transactions ended, either way.
    ended: Vec<AtomicU64>,
}

/// Writes in short transactions until told to stop. Every second writer takes its snapshot long before it writes.
async fn write(
    client: Client,
    level: &'static str,
    tally: Arc<Tally>,
    writer: usize,
) -> Result<()> {
    let early = if writer % 2 == 1 {
        "SELECT count(*) FROM customer; SELECT pg_sleep(0.005);"
    } else {
        ""
    };
    let sql = format!(
        "BEGIN ISOLATION LEVEL {level}; {early} INSERT INTO orders VALUES (nextval('more'), 0, {USER});
         SELECT pg_sleep(0.005); COMMIT"
    );
    while !tally.stop.load(Relaxed) {
        match outcome(&client, &sql).await.as_str() {
            "ok" => drop(tally.acknowledged.fetch_add(1, Relaxed)),
            "40001" => {
                client.batch_execute("ROLLBACK").await?;
                // As applications do: not at once again.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            other => anyhow::bail!("a writer got {other}"),
        }
        tally.ended[writer].fetch_add(1, Relaxed);
    }
    Ok(())
}

/// Enrols the user and waits for the barrier.
async fn enrol(site: &Site, mover: &mut Client) -> Result<()> {
    let tx = mover.transaction().await?;
    let id = site.enrol(&tx, &[USER]).await?;
    tx.commit().await?;
    Ok(barrier::wait(mover, id, Duration::from_secs(20)).await?)
}

/// Raises the fence as the mover does: with short patience, again and again. Says how long it took in all.
async fn fence(site: &Site, mover: &mut Client, batch: &BatchId) -> Result<Duration> {
    let office = site.office(mover).await?;
    // As in a session of the mover's: from its second try on the fence goes by statements that are kept.
    let kept = Kept::default();
    let started = Instant::now();
    loop {
        let users = [site.user(USER)];
        let raised = fence::raise(
            mover,
            &kept,
            &office,
            site.kind(),
            fence::Closed {
                users: &users,
                attempt: ATTEMPT,
                gate: fence::Gate::Unattended,
                batch,
            },
            PATIENCE,
        )
        .await;
        match raised {
            Ok(_) => return Ok(started.elapsed()),
            Err(Error::FenceTimeout { .. }) => {
                ensure!(started.elapsed() < FENCE_MAX, "the fence starves");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn reopen(site: &Site, mover: &mut Client, batch: BatchId) -> Result<()> {
    let tx = mover.transaction().await?;
    let change = Change {
        user: site.user(USER),
        event: Event::Reopen { batch },
    };
    records::change(&tx, site.kind(), &[change], None).await?;
    Ok(tx.commit().await?)
}

async fn rows(session: &Client) -> Result<i64> {
    number(
        session,
        &format!("SELECT count(*) FROM orders WHERE customer_id = {USER}"),
    )
    .await
}

/// Waits until every writer has ended two transactions more: one that was open, and one begun since.
async fn all_came_round(tally: &Tally) -> Result<()> {
    let before: Vec<u64> = tally.ended.iter().map(|n| n.load(Relaxed)).collect();
    testbed::wait_until(
        "every writer came round",
        Duration::from_secs(20),
        async || {
            let mut pairs = tally.ended.iter().zip(&before);
            Ok(pairs.all(|(now, before)| now.load(Relaxed) >= before + 2))
        },
    )
    .await
}

/// Fences and reopens among writers; gives the times that the fences took.
async fn cell(
    site: &Site,
    mover: &mut Client,
    level: &'static str,
    writers: usize,
) -> Result<Vec<Duration>> {
    let watch = site.session("postgres").await?;
    let before = rows(&watch).await?;
    let tally = Arc::new(Tally {
        ended: (0..writers).map(|_| AtomicU64::new(0)).collect(),
        ..Tally::default()
    });
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let client = connect(&site.cluster, &site.app, &site.database).await?;
        tasks.spawn(write(client, level, Arc::clone(&tally), writer));
    }
    let mut times = Vec::new();
    for cycle in 0..CYCLES {
        all_came_round(&tally).await?;
        let batch = BatchId::new(format!("{level}/{writers}/{cycle}"));
        times.push(fence(site, mover, &batch).await?);
        let at_fence = rows(&watch).await?;
        all_came_round(&tally).await?;
        let after = rows(&watch).await?;
        assert_eq!(
            at_fence, after,
            "{level}, {writers} writers: a write committed after the fence"
        );
        let acknowledged = tally.acknowledged.load(Relaxed);
        assert_eq!(
            after - before,
            i64::try_from(acknowledged)?,
            "{level}, {writers} writers: what was acknowledged is what is there"
        );
        reopen(site, mover, batch).await?;
    }
    tally.stop.store(true, Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(times)
}

#[tokio::test]
async fn no_write_commits_after_the_fence_and_the_fence_gets_in() -> Result<()> {
    let site = Site::new().await?;
    let mut mover = site.mover().await?;
    enrol(&site, &mut mover).await?;
    for writers in [1, 4, 16, 64] {
        for level in LEVELS {
            let mut times = cell(&site, &mut mover, level, writers).await?;
            times.sort();
            let (median, max) = (times[times.len() / 2], times.last().context("five")?);
            println!(
                "fence among {writers:2} writers at {level:15}: median {median:?}, max {max:?}"
            );
            assert!(*max < FENCE_MAX);
        }
    }
    Ok(())
}

/// A writer whose snapshot is older than the fence writes after it, and one that wrote before stays open. Says how
/// many rows came after the fence's commit.
async fn rows_after_the_fence(site: &Site, level: &str) -> Result<i64> {
    let mut mover = site.mover().await?;
    let watch = site.session("postgres").await?;
    enrol(site, &mut mover).await?;
    let old = site.app().await?;
    old.batch_execute(&format!(
        "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM customer"
    ))
    .await?;
    fence(site, &mut mover, &BatchId::from("m/1")).await?;
    let at_fence = rows(&watch).await?;
    let said = outcome(&old, &format!("INSERT INTO orders VALUES (1, 0, {USER})")).await;
    if said == "ok" {
        old.batch_execute("COMMIT").await?;
    } else {
        assert_eq!(said, "40001");
    }
    Ok(rows(&watch).await? - at_fence)
}

#[tokio::test]
async fn a_snapshot_older_than_the_fence_writes_nothing_after_it() -> Result<()> {
    for level in LEVELS {
        let site = Site::new().await?;
        assert_eq!(rows_after_the_fence(&site, level).await?, 0, "{level}");
    }
    Ok(())
}

#[tokio::test]
async fn the_fence_waits_for_writers_and_gives_up_in_time() -> Result<()> {
    let site = Site::new().await?;
    let mut mover = site.mover().await?;
    enrol(&site, &mut mover).await?;
    let office = site.office(&mover).await?;
    let kept = Kept::default();
    let users = [site.user(USER)];
    let batch = BatchId::from("m/1");
    let kinds = [
        "INSERT INTO orders VALUES (nextval('more'), 0, 1)",
        "UPDATE note SET body = body WHERE id = 1",
        "DELETE FROM line WHERE order_id = 10",
        "SAVEPOINT a; UPDATE orders SET total = 1 WHERE id = 10; RELEASE a",
    ];
    for (n, kind) in kinds.iter().enumerate() {
        for prepared in [false, true] {
            let idle = site.app().await?;
            idle.batch_execute(&format!("BEGIN; {kind}")).await?;
            let name = format!("{}-{n}", site.database);
            if prepared {
                idle.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))
                    .await?;
            }
            let started = Instant::now();
            let raised = fence::raise(
                &mut mover,
                &kept,
                &office,
                site.kind(),
                fence::Closed {
                    users: &users,
                    attempt: ATTEMPT,
                    gate: fence::Gate::Unattended,
                    batch: &batch,
                },
                PATIENCE,
            )
            .await;
            assert!(
                matches!(raised, Err(Error::FenceTimeout { .. })),
                "{kind}: {raised:?}"
            );
            assert!(started.elapsed() >= PATIENCE && started.elapsed() < Duration::from_secs(5));
            // Nothing was changed, and others write on.
            assert_eq!(
                site.record(USER).await?.context("a record")?.state.name(),
                "moving"
            );
            let other = site.app().await?;
            assert_eq!(
                outcome(&other, "INSERT INTO orders VALUES (nextval('more'), 0, 1)").await,
                "ok"
            );
            let end = if prepared {
                format!("ROLLBACK PREPARED '{name}'")
            } else {
                "ROLLBACK".into()
            };
            idle.batch_execute(&end).await?;
        }
    }
    // What a savepoint took back holds nobody up.
    let idle = site.app().await?;
    idle.batch_execute(
        "BEGIN; SAVEPOINT a; UPDATE orders SET total = 1 WHERE id = 10; ROLLBACK TO a",
    )
    .await?;
    fence::raise(
        &mut mover,
        &kept,
        &office,
        site.kind(),
        fence::Closed {
            users: &users,
            attempt: ATTEMPT,
            gate: fence::Gate::Unattended,
            batch: &batch,
        },
        PATIENCE,
    )
    .await?;
    assert_eq!(
        outcome(&idle, "UPDATE orders SET total = 1 WHERE id = 10").await,
        "40001"
    );
    Ok(())
}

#[tokio::test]
async fn a_writer_of_two_users_and_a_fence_that_wait_for_each_other_end_in_the_fences_time_out()
-> Result<()> {
    let site = Site::new().await?;
    let mut mover = site.mover().await?;
    enrol(&site, &mut mover).await?;
    // User 2 under a stripe that the fence takes first.
    let tx = mover.transaction().await?;
    let change = Change {
        user: site.user(2),
        event: Event::Enrol {
            to: support::there(),
            attempt: ATTEMPT,
        },
    };
    records::change(&tx, site.kind(), &[change], Some(&[2])).await?;
    tx.commit().await?;
    let (writer, watch) = (site.app().await?, site.session("postgres").await?);
    writer
        .batch_execute("BEGIN; UPDATE orders SET total = 1 WHERE id = 10")
        .await?;
    let (office, pid) = (site.office(&mover).await?, support::pid(&mover).await?);
    let kept = Kept::default();
    let users = [site.user(1), site.user(2)];
    let batch = BatchId::from("m/1");
    let raising = fence::raise(
        &mut mover,
        &kept,
        &office,
        site.kind(),
        fence::Closed {
            users: &users,
            attempt: ATTEMPT,
            gate: fence::Gate::Unattended,
            batch: &batch,
        },
        PATIENCE * 3,
    );
    let writing = async {
        let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
        support::until(&watch, "the fence waits", &waits).await?;
        writer
            .batch_execute("UPDATE orders SET total = 1 WHERE id = 20; COMMIT")
            .await?;
        anyhow::Ok(())
    };
    let (raised, wrote) = tokio::join!(raising, writing);
    wrote.context("the writer must get through")?;
    assert!(
        matches!(raised, Err(Error::FenceTimeout { .. })),
        "{raised:?}"
    );
    fence::raise(
        &mut mover,
        &kept,
        &office,
        site.kind(),
        fence::Closed {
            users: &users,
            attempt: ATTEMPT,
            gate: fence::Gate::Unattended,
            batch: &batch,
        },
        PATIENCE * 3,
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_user_who_moves_disturbs_no_other() -> Result<()> {
    let site = Site::new().await?;
    let mut mover = site.mover().await?;
    enrol(&site, &mut mover).await?;
    let idle = site.app().await?;
    // Two settled users' rows, written and left open, hold no fence up.
    idle.batch_execute("BEGIN; UPDATE orders SET total = 1 WHERE id IN (20, 30)")
        .await?;
    fence(&site, &mut mover, &BatchId::from("m/1")).await?;
    assert_eq!(
        outcome(&idle, "UPDATE orders SET total = 2 WHERE id = 40; COMMIT").await,
        "ok"
    );
    Ok(())
}

#[cfg(feature = "planted-faults")]
#[tokio::test]
async fn a_guard_that_reads_with_a_plain_select_is_caught() -> Result<()> {
    use model::fault::{Bug, plant};

    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        plant(Some(Bug::GuardPlainSelect));
        let made = Site::new().await;
        plant(None);
        assert_eq!(
            rows_after_the_fence(&made?, level).await?,
            1,
            "{level}: the planted bug shows"
        );
    }
    Ok(())
}
