//! A running move is steered from another process: paused, slowed, ended; and what `status` says of it meanwhile. By the
//! real program, under writers, whose log says what was acknowledged.

#![cfg(feature = "planted-faults")]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shop::workload::{Isolation, Workload, WorkloadOptions};
use support::program::{Ran, Running};
use support::{Clusters, PATIENCE, World, more_acknowledged, wait_for_file};
use testbed::wait_until;

/// Users of a batch, as the tests' configuration says.
const BATCH: usize = 16;

/// A shop with everybody to move, and writers of every one of them.
struct Scene {
    world: World,
    movers: Vec<i32>,
}

// === impl Scene ===

impl Scene {
    async fn new(name: &str, customers: u32) -> Result<Scene> {
        let world = World::shop(Clusters::shared().await?, name, customers, &[("IN", 1)]).await?;
        let movers = world.users_of(0, "IN").await?;
        Ok(Scene { world, movers })
    }

    async fn writers(&self) -> Result<Workload> {
        let options = WorkloadOptions {
            writers: 4,
            isolations: Isolation::ALL.to_vec(),
            think: Duration::from_millis(20),
            ..WorkloadOptions::default()
        };
        let workload = self.world.writers("beijing", &self.movers, options).await?;
        more_acknowledged(&workload, 20).await?;
        Ok(workload)
    }

    /// `apply`, held where `point` says; returns when it is.
    async fn held(&self, point: &str) -> Result<(Running, PathBuf)> {
        let hold = self.world.path("hold");
        let spec = format!("{point}={}", hold.display());
        let apply = self.world.apply("domicile.toml");
        let held = apply.env("DOMICILE_HOLD", spec).start()?;
        wait_for_file(&hold, true).await?;
        Ok((held, hold))
    }

    async fn run(&self, args: &[&str], code: i32) -> Result<Ran> {
        let ran = self.world.program(args).run().await?;
        ran.expect(code).with_context(|| args.join(" "))
    }

    async fn document(&self, args: &[&str], code: i32) -> Result<Value> {
        let ran = self.run(&[args, &["--json"]].concat(), code).await?;
        serde_json::from_str(&ran.stdout).with_context(|| ran.to_string())
    }

    /// What `status` says of the last move, as soon as `seen` is content with it.
    async fn status(&self, what: &str, seen: impl Fn(&Value) -> bool) -> Result<Value> {
        let last = std::cell::RefCell::new(Value::Null);
        let waited = wait_until(what, PATIENCE, async || {
            let ran = self.world.program(&["status", "--json"]).run().await?;
            let status: Value = serde_json::from_str(&ran.stdout)?;
            let moves = status["moves"].as_array().context("no moves")?;
            let Some(found) = moves.last() else {
                return Ok(false);
            };
            *last.borrow_mut() = found.clone();
            Ok(seen(found))
        })
        .await;
        let last = last.into_inner();
        waited.with_context(|| format!("status says: {last}"))?;
        Ok(last)
    }

    /// Waits until the run has heard that it is to hold still, or to end.
    async fn heard(&self) -> Result<()> {
        let sql = "SELECT doing ->> 'held' FROM domicile.activity ORDER BY at DESC LIMIT 1";
        self.world.wait_for(0, sql, "true").await
    }

    async fn moved(&self) -> Result<usize> {
        let sql = "SELECT count(*) FROM domicile.resident WHERE state = 'departed'";
        Ok(self.world.value(0, sql).await?.parse()?)
    }

    async fn id(&self) -> Result<String> {
        let sql = "SELECT move_id FROM domicile.move ORDER BY started_at DESC LIMIT 1";
        self.world.value(0, sql).await
    }

    /// Stops the writers and checks: what was acknowledged stands once where each user lives by now, and nothing is left of
    /// the move. Returns how many live at singapore.
    async fn at_rest(&self, workload: Workload) -> Result<usize> {
        more_acknowledged(&workload, 30).await?;
        let log = workload.stop().await?;
        let homes = self.world.expect_rest().await?;
        let moved = |user: i32| homes[&user.to_string()] == "singapore";
        self.world.expect_clean(&log, "beijing", moved).await?;
        for user in self.movers.iter().filter(|user| !moved(**user)) {
            let rows = format!("SELECT count(*) FROM customer WHERE customer_id = {user}");
            ensure!(
                self.world.value(1, &rows).await? == "0",
                "rows of user {user} are left at singapore"
            );
        }
        Ok(homes.values().filter(|home| **home == "singapore").count())
    }

    /// Adds limits to the configuration.
    fn limit(&self, limits: &str) -> Result<()> {
        let file = self.world.path("domicile.toml");
        let text = std::fs::read_to_string(&file)?;
        let text = text.replace("batch = {", &format!("limits = {{ {limits} }}\nbatch = {{"));
        std::fs::write(&file, text)?;
        Ok(())
    }
}

/// Some batches have moved: of those that passed the point, but for one whose fence was held up, and one that was begun
/// beside them and had not come to the point yet.
fn whole_batches(moved: usize, passed: usize) -> Result<()> {
    let whole = moved > 0 && moved.is_multiple_of(BATCH) && moved <= (passed + 1) * BATCH;
    ensure!(
        whole,
        "{moved} users moved, and {passed} batches passed the point"
    );
    Ok(())
}

fn slow(status: &Value) -> String {
    status["slow"].to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_through_a_kill_until_somebody_resumes() -> Result<()> {
    let scene = Scene::new("paused", 120).await?;
    let everybody = scene.movers.len();
    let workload = scene.writers().await?;
    let (apply, hold) = scene.held("before-fence:3").await?;
    scene.run(&["slot", "drop", "--reason", "test"], 2).await?;
    let pausing = scene.world.program(&["pause", "--json"]).start()?;
    scene.heard().await?;
    let status = scene.status("pausing", |m| m["state"] == "pausing").await?;
    assert_eq!(status["carried"], true, "{status}");
    std::fs::remove_file(&hold)?;
    let said: Value = serde_json::from_str(&pausing.end().await?.expect(0)?.stdout)?;
    assert_eq!(said["moves"][0]["paused"], true, "{said}");
    // The batch that was begun is handed off, and no other.
    let expected = 3 * BATCH;
    let still = async |what: &str| -> Result<()> {
        more_acknowledged(&workload, 60).await?;
        ensure!(scene.moved().await? == expected, "{what}: users went on");
        let closed = "SELECT count(*) FROM domicile.resident WHERE state IN ('fenced', 'offered')";
        ensure!(scene.world.value(0, closed).await? == "0", "{what}: closed");
        Ok(())
    };
    still("paused").await?;
    let status = scene.status("paused", |m| m["state"] == "paused").await?;
    assert_eq!(
        (&status["carried"], &status["doing"]),
        (&true.into(), &"paused".into())
    );
    assert!(slow(&status).contains("resume"), "{status}");

    apply.kill().await?;
    let status = scene.status("gone", |m| m["carried"] == false).await?;
    assert_eq!(status["state"], "paused", "{status}");
    assert!(slow(&status).contains("not running"), "{status}");

    let again = scene.world.apply("domicile.toml").start()?;
    scene.status("paused", |m| m["doing"] == "paused").await?;
    still("paused and killed").await?;
    let resumed = scene.document(&["resume"], 0).await?;
    assert_eq!(resumed["moves"][0]["wish"], "go", "{resumed}");
    let ran = again.end().await?.expect(0)?;
    for event in ["paused", "resumed"] {
        let event = format!(r#"{{"event":"{event}","#);
        assert!(ran.stdout.contains(&event), "{ran}");
    }
    assert_eq!(scene.at_rest(workload).await?, everybody);
    for command in ["pause", "resume"] {
        let refused = scene.run(&[command], 2).await?;
        assert!(refused.stderr.contains("no move runs"), "{refused}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_told_once_every_batch_under_way_has_come_to_its_end() -> Result<()> {
    let scene = Scene::new("paused_beside", 1_200).await?;
    let apply = scene.world.apply("domicile.toml").start()?;
    let begun = "SELECT count(*) > 0 FROM domicile.resident WHERE state = 'departed'";
    scene.world.wait_for(0, begun, "true").await?;
    scene.run(&["pause"], 0).await?;
    let closed = "SELECT count(*) FROM domicile.resident WHERE state IN ('fenced', 'offered')";
    assert_eq!(scene.world.value(0, closed).await?, "0");
    let moved = scene.moved().await?;
    assert!(
        moved < scene.movers.len(),
        "it was over before it was paused"
    );
    scene.status("paused", |m| m["doing"] == "paused").await?;
    assert_eq!(scene.moved().await?, moved);
    scene.run(&["resume"], 0).await?;
    apply.end().await?.expect(0)?;
    assert_eq!(scene.moved().await?, scene.movers.len());
    scene.world.expect_rest().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cap_on_wal_holds_in_a_pause() -> Result<()> {
    let scene = Scene::new("capped", 40).await?;
    scene.limit("wal = \"64MiB\"")?;
    let (apply, hold) = scene.held("before-copy").await?;
    let pausing = scene.world.program(&["pause"]).start()?;
    scene.heard().await?;
    std::fs::remove_file(&hold)?;
    let said = pausing.end().await?.expect(0)?;
    assert!(said.stdout.contains("is paused"), "{said}");
    // Written by a transaction that stays open: the slot cannot let go of it, however fast the move follows.
    let open = scene.world.admin(0).await?;
    open.batch_execute(
        "BEGIN; SELECT pg_logical_emit_message(true, 'test', 'open');
         SELECT count(pg_logical_emit_message(false, 'test', repeat('x', 1048576)))
           FROM generate_series(1, 80)",
    )
    .await?;
    let ran = apply.end().await?.expect(4)?;
    open.batch_execute("ROLLBACK").await?;
    assert!(ran.stderr.contains("limits.wal"), "{ran}");
    scene.world.expect_rest_but_running().await?;
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(scene.world.value(0, slots).await?, "0");
    // Nothing of that takes the pause back.
    scene.status("paused", |m| m["state"] == "paused").await?;
    scene.run(&["resume"], 0).await?;
    scene.world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(scene.moved().await?, scene.movers.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_aborted_in_the_middle_and_throttled() -> Result<()> {
    let scene = Scene::new("aborted_copy", 240).await?;
    let workload = scene.writers().await?;
    scene.limit("rate = \"5kB/s\"")?;
    let apply = scene.world.apply("domicile.toml").start()?;
    let status = scene.status("copying", |m| m["doing"] == "copying").await?;
    assert_eq!(
        (&status["rate"], &status["state"]),
        (&5_000.into(), &"running".into())
    );
    assert!(slow(&status).contains("throttled to 4.9 KiB/s"), "{status}");
    let id = scene.id().await?;
    let aborted = scene.document(&["abort", &id], 0).await?;
    assert_eq!(
        (&aborted["state"], &aborted["moved"]),
        (&"aborted".into(), &0.into())
    );
    let ran = apply.end().await?.expect(1)?;
    assert!(ran.stderr.contains("was aborted"), "{ran}");
    assert_eq!(scene.at_rest(workload).await?, 0);
    scene.status("aborted", |m| m["state"] == "aborted").await?;
    for wrong in [id.as_str(), "nobody-s-move"] {
        scene.run(&["abort", wrong], 2).await?;
    }
    scene.run(&["pause", "--move", &id], 2).await?;

    // Another try: the throttle outdoes the configuration, is heard while a chunk is copied, and shows.
    let workload = scene.writers().await?;
    let (apply, hold) = scene.held("before-copy").await?;
    scene.run(&["throttle", "fast"], 2).await?;
    let told = scene.document(&["throttle", "60kB/s"], 0).await?;
    assert_eq!(told["moves"][0]["rate"], 60_000, "{told}");
    std::fs::remove_file(&hold)?;
    let fast = |m: &Value| m["bytes_per_second"].as_u64().unwrap_or_default();
    let status = scene.status("a rate", |m| fast(m) > 15_000).await?;
    assert!(fast(&status) < 120_000, "{status}");
    assert_eq!(status["rate"], 60_000, "{status}");
    scene.run(&["throttle", "unlimited"], 0).await?;
    apply.end().await?.expect(0)?;
    assert_eq!(scene.at_rest(workload).await?, scene.movers.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_between_batches_leaves_who_moved_and_puts_back_the_others() -> Result<()> {
    let scene = Scene::new("aborted_half", 120).await?;
    let workload = scene.writers().await?;
    let (apply, hold) = scene.held("before-fence:2").await?;
    let id = scene.id().await?;
    let aborting = scene.world.program(&["abort", &id]).start()?;
    scene.heard().await?;
    scene
        .status("aborting", |m| m["state"] == "aborting")
        .await?;
    // That word stands.
    let refused = scene.run(&["resume"], 2).await?;
    assert!(refused.stderr.contains("being aborted"), "{refused}");
    std::fs::remove_file(&hold)?;
    let aborted = aborting.end().await?.expect(0)?;
    assert!(aborted.stdout.contains("32 users had moved"), "{aborted}");
    let ran = apply.end().await?.expect(1)?;
    assert_eq!(ran.summary()?["moved"], 2 * BATCH, "{ran}");
    assert_eq!(scene.at_rest(workload).await?, 2 * BATCH);
    let entry = "SELECT body ->> 'move' FROM domicile.entry WHERE kind = 'aborted'";
    assert_eq!(scene.world.value(0, entry).await?, id);
    // Rollback is the other command.
    scene.run(&["rollback", &id], 0).await?;
    assert!(
        scene
            .world
            .expect_rest()
            .await?
            .values()
            .all(|home| *home == "beijing")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_nobody_carries_is_aborted_or_goes_on_without_its_slot() -> Result<()> {
    let scene = Scene::new("nobody", 120).await?;
    let workload = scene.writers().await?;
    let died = async |point: &str| -> Result<()> {
        let apply = scene
            .world
            .apply("domicile.toml")
            .env("DOMICILE_STOP", point);
        let ran = apply.run().await?;
        ensure!(ran.code.is_none(), "{point} was not reached: {ran}");
        Ok(())
    };
    // In doubt: the target is asked, and has not heard of that batch.
    died("after-offer:3").await?;
    let id = scene.id().await?;
    let status = scene
        .status("gone", |m| m["state"] == "interrupted")
        .await?;
    assert!(slow(&status).contains("run apply to go on"), "{status}");
    let aborted = scene.document(&["abort", &id], 0).await?;
    let moved = scene.moved().await?;
    assert_eq!(aborted["moved"], moved, "{aborted}");
    whole_batches(moved, 3)?;
    scene.world.expect_rest().await?;

    // Decided, and not heard: the target is asked, and says yes.
    died("after-accept").await?;
    scene.run(&["slot", "drop"], 2).await?;
    scene.run(&["slot", "drop", "--reason", " "], 2).await?;
    let drop = ["slot", "drop", "--reason", "the disk fills", "--site"];
    let nothing = scene.run(&[&drop[..], &["singapore"]].concat(), 2).await?;
    assert!(nothing.stderr.contains("no slot"), "{nothing}");
    scene.status("gone", |m| m["carried"] == false).await?;
    let dropped = scene
        .document(&[&drop[..], &["beijing"]].concat(), 0)
        .await?;
    assert_eq!(dropped["chunks"], 1, "{dropped}");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(scene.world.value(0, slots).await?, "0");
    let entry = "SELECT body ->> 'reason' FROM domicile.entry WHERE kind = 'slot_dropped'";
    assert_eq!(scene.world.value(0, entry).await?, "the disk fills");
    let interrupted = scene.status("gone", |m| m["carried"] == false).await?;
    assert_eq!(interrupted["state"], "interrupted", "{interrupted}");

    let (ran, _) = scene.world.apply_until("domicile.toml", 0, 3).await?;
    assert_eq!(ran.summary()?["mismatches"], 0, "{ran}");
    assert_eq!(scene.at_rest(workload).await?, scene.movers.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_names_who_holds_a_move_up() -> Result<()> {
    let scene = Scene::new("held_up", 40).await?;
    let user = scene.movers[0];
    let touch = format!("UPDATE customer SET company = 'busy' WHERE customer_id = {user}");
    let writer = scene.world.application(0).await?;
    let pid: i32 = writer
        .query_one("SELECT pg_backend_pid()", &[])
        .await?
        .get(0);
    let named = format!("process {pid} of shop");
    let begin = async || writer.batch_execute(&format!("BEGIN; {touch}")).await;
    let named_in = async |words: &str| -> Result<Value> {
        let content = |m: &Value| slow(m).contains(&named) && m["doing"] == words;
        scene.status(&format!("{words}: {named}"), content).await
    };

    begin().await?;
    let hold = scene.world.path("hold");
    let apply = scene.world.apply("domicile.toml");
    let spec = format!("before-enrol={}", hold.display());
    let apply = apply.env("DOMICILE_HOLD", spec).start()?;
    named_in("making the slot").await?;
    writer.batch_execute("COMMIT").await?;

    wait_for_file(&hold, true).await?;
    begin().await?;
    std::fs::remove_file(&hold)?;
    named_in("waiting for open transactions").await?;
    // The barrier's wait ends at once where the move is to end.
    let id = scene.id().await?;
    scene.run(&["abort", &id], 0).await?;
    apply.end().await?.expect(1)?;
    writer.batch_execute("COMMIT").await?;
    scene.world.expect_rest().await?;

    let (apply, hold) = scene.held("before-fence").await?;
    begin().await?;
    std::fs::remove_file(&hold)?;
    let status = named_in("waiting for writers to close a batch").await?;
    assert!(slow(&status).contains("idle in transaction"), "{status}");
    writer.batch_execute("COMMIT").await?;
    apply.end().await?.expect(0)?;
    assert_eq!(scene.moved().await?, scene.movers.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_set_aside_go_when_apply_is_run_again_and_the_reason_is_mended() -> Result<()> {
    let scene = Scene::new("retried", 40).await?;
    let (one, other) = (scene.movers[3], scene.movers[20]);
    let target = scene.world.application(1).await?;
    for (n, user) in [(1, one), (2, other)] {
        let address = format!("user{user}@example.com");
        let sql = "INSERT INTO customer (customer_id, first_name, last_name, email, country)
                   VALUES ($2, 'Some', 'Body', $1, 'SG')";
        target.execute(sql, &[&address, &(900_000 + n)]).await?;
    }
    let mend = "DELETE FROM customer WHERE customer_id = $1";
    let ran = scene.world.apply("domicile.toml").run().await?.expect(1)?;
    assert_eq!(ran.set_aside()?.len(), 2, "{ran}");
    let status = scene.document(&["status"], 1).await?;
    assert_eq!(status["set_aside_reasons"][0]["users"], 2, "{status}");

    // One of them alone; the other has not been mended.
    target.execute(mend, &[&900_001]).await?;
    let user = one.to_string();
    let args = ["apply", "--yes", "--json", "--users", &user];
    let ran = scene.run(&args, 0).await?;
    assert_eq!(ran.summary()?["moved"], 1, "{ran}");
    let ran = scene.world.apply("domicile.toml").run().await?.expect(1)?;
    assert_eq!(ran.set_aside()?[0].0, other.to_string(), "{ran}");
    target.execute(mend, &[&900_002]).await?;
    let ran = scene.world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], 1, "{ran}");
    let status = scene.document(&["status"], 0).await?;
    assert_eq!(status["set_aside"], serde_json::json!([]), "{status}");
    assert_eq!(scene.moved().await?, scene.movers.len());
    Ok(())
}
