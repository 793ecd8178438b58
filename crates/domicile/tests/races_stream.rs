//! The slot and the stream: a commit that hangs while they are made, a slot that is lost, WAL that piles up behind a
//! target that stands still, transactions larger than memory.

#![cfg(feature = "planted-faults")]

mod support;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use support::{Clusters, PATIENCE, SITES, World, connect};
use tempfile::TempDir;
use testbed::{Cluster, ClusterOptions, wait_until};

/// A standby that writes and flushes, and never replays: commits that want a replay hang, others do not.
struct Standby(
    Child,
    #[allow(dead_code, reason = "removed with it")] TempDir,
);

impl Standby {
    fn of(cluster: &Cluster) -> Result<Standby> {
        let folder = tempfile::tempdir()?;
        let child = Command::new(cluster.bindir().join("pg_receivewal"))
            .args(["--synchronous", "--no-loop", "-D"])
            .arg(folder.path())
            .arg("-d")
            .arg(cluster.url("postgres", "postgres"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start pg_receivewal")?;
        Ok(Standby(child, folder))
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The depot with such a standby at the source.
async fn depot_with_standby(name: &str) -> Result<(World, Standby)> {
    let start = |site: &str, settings: &[(&str, &str)]| {
        Cluster::start(ClusterOptions {
            fsync: false,
            settings: settings
                .iter()
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect(),
            ..ClusterOptions::named(&format!("{name}-{site}"))
        })
    };
    let waits = [
        ("synchronous_standby_names", "pg_receivewal"),
        ("synchronous_commit", "local"),
    ];
    let clusters = Clusters([start(SITES[0], &waits).await?, start(SITES[1], &[]).await?]);
    for cluster in &clusters.0 {
        cluster.psql("postgres", "CREATE ROLE shop LOGIN").await?;
    }
    let standby = Standby::of(&clusters.0[0])?;
    let world = World::depot(Arc::new(clusters), name).await?;
    let follows = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    world.wait_for(0, follows, "1").await?;
    Ok((world, standby))
}

const HANGS: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
const ORDER: &str = "SELECT count(*) FROM orders WHERE note = 'hanging'";

/// An order of user 5's whose commit record is written, and whose commit nobody sees until it is replayed.
async fn hanging_commit(
    world: &World,
) -> Result<tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>> {
    let application = world.application(0).await?;
    application
        .batch_execute("SET synchronous_commit = remote_apply")
        .await?;
    let insert = "INSERT INTO orders VALUES (555, 5, 'hanging')";
    let hanging = tokio::spawn(async move { application.batch_execute(insert).await });
    world.wait_for(0, HANGS, "1").await?;
    assert_eq!(world.value(0, ORDER).await?, "0", "nobody sees it yet");
    Ok(hanging)
}

/// Nobody is waited for any more.
async fn lift(world: &World) -> Result<()> {
    let admin = world.admin(0).await?;
    admin
        .batch_execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        .await?;
    Ok(admin.batch_execute("SELECT pg_reload_conf()").await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_hangs_while_the_slot_is_made_is_not_lost() -> Result<()> {
    let (world, _standby) = depot_with_standby("hanging_slot").await?;
    let hanging = hanging_commit(&world).await?;
    let moving = world.apply("domicile.toml").start()?;
    // Wherever it stands, at the slot or at the barrier: it waits, and reads nothing before the commit is seen.
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'domicile %'
                 AND (query LIKE '%pg_create_logical_replication_slot%' OR query LIKE '%backend_xmin%')";
    world.wait_for(0, waits, "true").await?;
    assert_eq!(world.value(1, "SELECT count(*) FROM account").await?, "0");
    lift(&world).await?;
    hanging.await??;
    moving.end().await?.expect(0)?;
    assert_eq!(world.value(1, ORDER).await?, "1");
    world.expect_all_arrived().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_hangs_while_its_user_is_enrolled_is_waited_for() -> Result<()> {
    for bug in [None, Some("no-barrier")] {
        let kind = if bug.is_some() { "planted" } else { "sound" };
        let (world, _standby) = depot_with_standby(&format!("hanging_{kind}")).await?;
        // The slot stands: the stream passes the commit record while no snapshot shows the row.
        let hold = world.path("hold");
        let mut program = world
            .apply("domicile.toml")
            .env("DOMICILE_HOLD", format!("before-begin={}", hold.display()));
        if let Some(bug) = bug {
            program = program.env("DOMICILE_BUG", bug);
        }
        let moving = program.start()?;
        support::wait_for_file(&hold, true).await?;
        let hanging = hanging_commit(&world).await?;
        std::fs::remove_file(&hold)?;
        if bug.is_some() {
            // They go without it.
            moving.end().await?.expect(0)?;
            lift(&world).await?;
            hanging.await??;
            assert_eq!(world.value(0, ORDER).await?, "1", "acknowledged");
            assert_eq!(
                world.value(1, ORDER).await?,
                "0",
                "and lost: the test sees it"
            );
            assert!(world.expect_all_arrived().await.is_err());
            continue;
        }
        let enrolled = "SELECT count(*) FROM domicile.resident WHERE state = 'moving'";
        world.wait_for(0, enrolled, "10").await?;
        assert_eq!(world.value(1, "SELECT count(*) FROM account").await?, "0");
        lift(&world).await?;
        hanging.await??;
        moving.end().await?.expect(0)?;
        assert_eq!(world.value(1, ORDER).await?, "1");
        world.expect_all_arrived().await?;
    }
    Ok(())
}

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";

/// Ends whoever streams, and drops the slot; makes another in its place where `again`.
async fn lose_slot(world: &World, again: bool) -> Result<()> {
    let admin = world.admin(0).await?;
    let of_ours = "FROM pg_replication_slots WHERE database = current_database()";
    let name: String = admin
        .query_one(&format!("SELECT slot_name::text {of_ours}"), &[])
        .await?
        .get(0);
    let end = format!("SELECT pg_terminate_backend(active_pid) {of_ours} AND active");
    let drop = format!("SELECT pg_drop_replication_slot(slot_name) {of_ours} AND NOT active");
    wait_until("the slot is gone", PATIENCE, async || {
        admin.batch_execute(&end).await?;
        // Between the look and the drop somebody may come.
        let _ = admin.batch_execute(&drop).await;
        Ok(world.value(0, SLOTS).await? == "0")
    })
    .await?;
    if again {
        let make = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
        admin.execute(make, &[&name]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_dropped_by_hand_begins_the_copy_anew_and_leaves_no_gap() -> Result<()> {
    let world = World::depot(Clusters::shared().await?, "slot_lost").await?;
    let write = "UPDATE account SET points = points + 1 WHERE id = 5";
    // Under a run, with a change in the stream that nobody will read; then between two runs.
    let ran = world
        .held("domicile.toml", "after-drained", &[], async || {
            world.application(0).await?.batch_execute(write).await?;
            lose_slot(&world, false).await
        })
        .await?
        .expect(3)?;
    ensure!(ran.stderr.contains("run apply again"), "{ran}");
    world.free().await?;
    world.dies_at("domicile.toml", "after-drained").await?;
    world.application(0).await?.batch_execute(write).await?;
    world.free().await?;
    lose_slot(&world, false).await?;
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], 10);
    assert_eq!(
        world
            .value(1, "SELECT points FROM account WHERE id = 5")
            .await?,
        "2"
    );
    assert_eq!(world.value(0, SLOTS).await?, "0");
    world.expect_all_arrived().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_made_again_by_hand_hides_no_gap() -> Result<()> {
    let world = World::depot(Clusters::shared().await?, "slot_again").await?;
    world.dies_at("domicile.toml", "after-drained").await?;
    let write = "UPDATE account SET points = points + 1 WHERE id = 5";
    world.application(0).await?.batch_execute(write).await?;
    world.free().await?;
    lose_slot(&world, true).await?;
    // It bears our name, and what was written before it is not in it.
    let ran = world.apply("domicile.toml").run().await?.expect(1)?;
    let aside = ran.set_aside()?;
    ensure!(
        aside.len() == 1 && aside[0].0 == "5" && aside[0].1.starts_with("verification"),
        "{ran}"
    );
    world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(
        world
            .value(1, "SELECT points FROM account WHERE id = 5")
            .await?,
        "1"
    );
    world.expect_all_arrived().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal_behind_a_target_that_stands_still_is_let_go_at_the_cap() -> Result<()> {
    let world = World::depot(Clusters::own("cap").await?, "cap").await?;
    let file = world.path("domicile.toml");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(
        &file,
        text.replace("batch = {", "limits = { wal = \"16MiB\" }\nbatch = {"),
    )?;
    let hold = world.path("hold");
    let moving = world
        .apply("domicile.toml")
        .env("DOMICILE_HOLD", format!("after-drained={}", hold.display()))
        .start()?;
    support::wait_for_file(&hold, true).await?;
    // The target takes nothing more of user 5's.
    let blocker = connect(&world.admin_url(1)).await?;
    blocker
        .batch_execute("BEGIN; LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        .await?;
    let application = world.application(0).await?;
    application
        .batch_execute("UPDATE account SET points = 1 WHERE id = 5")
        .await?;
    std::fs::remove_file(&hold)?;
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'domicile %' AND wait_event_type = 'Lock'";
    world.wait_for(1, waits, "true").await?;
    // Others go on writing, a good deal more than the cap.
    let flood = "INSERT INTO orders SELECT 5000 + n, 11, repeat('x', 1900) FROM generate_series(1, 12000) AS n";
    application.batch_execute(flood).await?;
    world.wait_for(0, SLOTS, "0").await?;
    blocker.batch_execute("ROLLBACK").await?;
    let ran = moving.end().await?.expect(4)?;
    ensure!(ran.stderr.contains("more than limits.wal"), "{ran}");
    world.expect_one_home_each().await?;
    assert_eq!(
        world.value(1, "SELECT count(*) FROM account").await?,
        "0",
        "nobody is left half-way"
    );
    application
        .batch_execute("UPDATE account SET points = 2 WHERE id = 5")
        .await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(
        world
            .value(1, "SELECT points FROM account WHERE id = 5")
            .await?,
        "2"
    );
    world.expect_all_arrived().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_larger_than_memory_are_followed_whoevers_they_are() -> Result<()> {
    let world = World::depot(Clusters::own("large").await?, "large").await?;
    let admin = world.admin(0).await?;
    for setting in [
        "logical_decoding_work_mem = '64kB'",
        "wal_sender_timeout = '5s'",
    ] {
        admin
            .batch_execute(&format!("ALTER SYSTEM SET {setting}"))
            .await?;
    }
    admin.batch_execute("SELECT pg_reload_conf()").await?;
    for site in [0, 1] {
        let plain = "ALTER TABLE orders ALTER note SET STORAGE EXTERNAL";
        world.admin(site).await?.batch_execute(plain).await?;
    }
    let hold = world.path("hold");
    let mut moving = world
        .apply("domicile.toml")
        .env("DOMICILE_HOLD", format!("before-fence={}", hold.display()))
        .start()?;
    support::wait_for_file(&hold, true).await?;
    let application = world.application(0).await?;
    // Of one who stays: 150 MB in large rows, 50,000 small rows. Of those who move: 50 MB and 150 MB in large rows,
    // 20,000 small rows, and some undone.
    application
        .batch_execute("INSERT INTO orders SELECT 100000 + n, 11, repeat('x', 1000000) FROM generate_series(1, 150) AS n")
        .await?;
    application
        .batch_execute(
            "INSERT INTO orders SELECT 200000 + n, 12, 'y' FROM generate_series(1, 50000) AS n",
        )
        .await?;
    for (first, user, rows) in [(500000, 6, 50), (600000, 7, 150)] {
        let insert = format!(
            "INSERT INTO orders SELECT {first} + n, {user}, repeat('x', 1000000) FROM generate_series(1, {rows}) AS n"
        );
        application.batch_execute(&insert).await?;
    }
    application
        .batch_execute(
            "BEGIN; INSERT INTO orders SELECT 400000 + n, 5, 'z' FROM generate_series(1, 20000) AS n;
             SAVEPOINT s; DELETE FROM orders WHERE account_id = 5; ROLLBACK TO s;
             DELETE FROM orders WHERE id BETWEEN 400001 AND 405000; COMMIT",
        )
        .await?;
    std::fs::remove_file(&hold)?;
    let status = format!("/proc/{}/status", moving.id().context("it runs")?);
    let mut peak = 0_u64;
    wait_until("the move ends", PATIENCE, async || {
        // The peak so far; gone with the process.
        if let Ok(status) = std::fs::read_to_string(&status) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            peak = peak.max(kib.unwrap_or(0));
        }
        Ok(moving.ended()?.is_some())
    })
    .await?;
    moving.end().await?.expect(0)?;
    world.expect_one_home_each().await?;
    let rows = "SELECT concat_ws(' ', count(*), sum(id::bigint), sum(length(note))) FROM orders WHERE account_id <= 10";
    assert_eq!(world.value(1, rows).await?, world.value(0, rows).await?);
    let small = "SELECT count(*) FROM orders WHERE note = 'z'";
    assert_eq!(world.value(1, small).await?, "15000");
    let log = world.clusters.0[0].log_tail();
    ensure!(!log.contains("replication timeout"), "{log}");
    println!("peak of the mover's memory: {} MiB", peak / 1024);
    ensure!(peak < 256 * 1024, "{} MiB", peak / 1024);
    Ok(())
}
