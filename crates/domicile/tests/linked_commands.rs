//! Commands at one site that need the other: they ask the daemon of their machine, which asks the other site's.

#![cfg(feature = "planted-faults")]

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shop::check::{Residence, check};
use shop::workload::{Isolation, Workload, WorkloadOptions};
use support::linked::{Linked, met};
use support::program::Program;
use support::{Clusters, PATIENCE, World, more_acknowledged};
use testbed::wait_until;

async fn shop(name: &str, customers: u32) -> Result<(Linked, Vec<i32>)> {
    let markets = [("IN", 9), ("CN", 1)];
    let world = World::shop(Clusters::shared().await?, name, customers, &markets).await?;
    let movers = world.users_of(0, "IN").await?;
    Ok((Linked::new(world).await?, movers))
}

/// Users whose old rows stand at beijing.
async fn left_behind(linked: &Linked, movers: &[i32]) -> Result<String> {
    let rows = format!("SELECT count(*) FROM customer WHERE customer_id = ANY (ARRAY{movers:?})");
    linked.world.value(0, &rows).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_erased_before_the_targets_daemon_has_shown_that_it_holds_it() -> Result<()> {
    let (linked, movers) = shop("erased_linked", 150).await?;
    let [beijing, singapore] = linked.serve_both().await?;
    linked.apply(0).run().await?.expect(0)?;
    let everybody = movers.len().to_string();
    let erase = |code: i32| {
        let program = linked.at(0, &["erase", "--now", "--json"]);
        async move {
            let ran = program.run().await?.expect(code)?;
            Ok::<Value, anyhow::Error>(serde_json::from_str(&ran.stdout).unwrap_or_default())
        }
    };
    // Nobody can say it.
    singapore.terminate().await?;
    erase(3).await?;
    ensure!(left_behind(&linked, &movers).await? == everybody);
    // It says so of all batches but of one, which it did not accept of this site.
    let singapore = linked.serve(1).await?;
    let both = [beijing, singapore];
    met(&both).await?;
    let one = "SELECT min(batch) FROM domicile.decision";
    let batch = linked.world.value(1, one).await?;
    let of = |source: &str| {
        format!("UPDATE domicile.decision SET source = '{source}' WHERE batch = '{batch}'")
    };
    let admin = linked.world.admin(1).await?;
    let off = "ALTER TABLE domicile.decision DISABLE TRIGGER keep";
    admin.batch_execute(off).await?;
    admin.batch_execute(&of("auckland")).await?;
    let erased = erase(1).await?;
    let frozen = erased["frozen"].as_array().context("frozen")?;
    let reason = format!("singapore shows no acceptance of batch {batch}");
    ensure!(
        !frozen.is_empty() && frozen.iter().all(|one| one["reason"] == *reason),
        "{erased}"
    );
    let left = frozen.len();
    ensure!(
        left_behind(&linked, &movers).await? == left.to_string(),
        "{erased}"
    );
    assert_eq!(erased["users"], movers.len() - left, "{erased}");
    // Then of that one as well; with receipts that hold where there is no database.
    admin.batch_execute(&of("beijing")).await?;
    let folder = linked.world.path("receipts").display().to_string();
    let ran = linked.at(0, &["erase", "--now", "--json", "--receipt", &folder]);
    let ran = ran.run().await?.expect(0).with_context(|| both[1].log())?;
    let erased: Value = serde_json::from_str(&ran.stdout)?;
    assert_eq!(erased["users"], left, "{erased}");
    ensure!(left_behind(&linked, &movers).await? == "0");
    let pins = linked.pins()?;
    let mut receipts = 0;
    for receipt in std::fs::read_dir(&folder)? {
        let file = receipt?.path().display().to_string();
        let elsewhere = tempfile::tempdir()?;
        let check = ["ledger", "verify", "--file", &file, &pins[0], &pins[1]];
        let checked = Program::new(elsewhere.path(), &check)
            .run()
            .await?
            .expect(0)?;
        ensure!(
            checked.stdout.contains("countersigned by singapore"),
            "{checked}"
        );
        receipts += 1;
    }
    ensure!(receipts > 1, "{erased}");
    // At the other site there is nothing to erase; who lives here is erased here.
    let there = linked
        .at(1, &["erase", "--now", "--json"])
        .run()
        .await?
        .expect(0)?;
    assert_eq!(serde_json::from_str::<Value>(&there.stdout)?["users"], 0);
    let stayed = linked.world.users_of(0, "CN").await?[0];
    let user = stayed.to_string();
    let forgotten = linked.at(0, &["erase", "--user", &user, "--yes", "--json"]);
    let forgotten: Value = serde_json::from_str(&forgotten.run().await?.expect(0)?.stdout)?;
    assert_eq!(forgotten["users"], 1, "{forgotten}");
    ensure!(left_behind(&linked, &[stayed]).await? == "0");
    // Without the own daemon nobody can be asked, and there is nothing left to ask about.
    let [beijing, _singapore] = both;
    beijing.terminate().await?;
    assert_eq!(erase(0).await?["users"], 0);
    Ok(())
}

async fn writers(world: &World, home: &str, users: &[i32]) -> Result<Workload> {
    let options = WorkloadOptions {
        writers: 4,
        isolations: Isolation::ALL.to_vec(),
        think: Duration::from_millis(25),
        ..WorkloadOptions::default()
    };
    let workload = world.writers(home, users, options).await?;
    more_acknowledged(&workload, 40).await?;
    Ok(workload)
}

/// How many of those who went live at beijing again.
const BACK: &str = "SELECT count(*) FROM domicile.resident WHERE state = 'settled'";

/// The move from a site of which there is one.
async fn the_move(linked: &Linked, site: usize) -> Result<String> {
    linked
        .world
        .value(site, "SELECT move_id FROM domicile.move")
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_where_they_went_takes_everybody_home_under_writers() -> Result<()> {
    let (linked, movers) = shop("back_linked", 150).await?;
    let both = linked.serve_both().await?;
    let world = &linked.world;
    let workload = writers(world, "beijing", &movers).await?;
    linked.apply(0).run().await?.expect(0)?;
    let id = the_move(&linked, 0).await?;
    let rollback = |site: usize, id: &str| {
        linked.at(
            site,
            &["rollback", id, "--json", "--site", support::SITES[site]],
        )
    };
    let wrong = rollback(0, &id).run().await?.expect(2)?;
    ensure!(wrong.stderr.contains("run it at singapore"), "{wrong}");
    let unknown = rollback(1, "nobody-1").run().await?.expect(2)?;
    ensure!(
        unknown.stderr.contains("there is no move nobody-1"),
        "{unknown}"
    );
    more_acknowledged(&workload, 40).await?;
    let ran = rollback(1, &id).run().await?;
    let ran = ran
        .expect(0)
        .map_err(|error| error.context(format!("{}\n{}", both[0].log(), both[1].log())))?;
    assert_eq!(ran.summary()?["moved"], movers.len(), "{ran}");
    more_acknowledged(&workload, 40).await?;
    let log = workload.stop().await?;
    let there_and_back = |_| Residence::at("beijing").then("singapore").then("beijing");
    let verdict = check(&world.sites(), &log, there_and_back).await?;
    ensure!(
        verdict.is_clean() && log.anomalies.is_empty(),
        "{verdict:#?}"
    );
    world.expect_rest_but_running().await?;
    world.expect_one_home_each().await?;
    ensure!(world.value(0, BACK).await? == movers.len().to_string());
    // Once more there is nobody to take home.
    let again = rollback(1, &id).run().await?.expect(0)?;
    assert_eq!(again.summary()?["moved"], 0, "{again}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_home_that_was_cut_off_goes_on_by_itself_with_everybody() -> Result<()> {
    let (linked, movers) = shop("back_cut", 300).await?;
    let [beijing, singapore] = linked.serve_both().await?;
    let world = &linked.world;
    linked.apply(0).run().await?.expect(0)?;
    let workload = writers(world, "singapore", &movers).await?;
    let id = the_move(&linked, 0).await?;
    let rollback = linked
        .at(1, &["rollback", &id, "--json", "--site", "singapore"])
        .start()?;
    wait_until("some are back", PATIENCE, async || {
        Ok(world.value(0, BACK).await?.parse::<usize>()? > 0)
    })
    .await
    .with_context(|| format!("{}\n{}", beijing.log(), singapore.log()))?;
    singapore.signal("KILL").await?;
    rollback.end().await?;
    drop(singapore);
    let back: usize = world.value(0, BACK).await?.parse()?;
    ensure!(back < movers.len(), "it was over before it was cut off");
    let both = [beijing, linked.serve(1).await?];
    wait_until("everybody is back", PATIENCE, async || {
        Ok(world.value(0, BACK).await? == movers.len().to_string())
    })
    .await
    .with_context(|| format!("{}\n{}", both[0].log(), both[1].log()))?;
    let running = "SELECT count(*) FROM domicile.move WHERE state = 'running'";
    world.wait_for(1, running, "0").await?;
    more_acknowledged(&workload, 40).await?;
    let log = workload.stop().await?;
    world.expect_clean(&log, "singapore", |_| true).await?;
    world.expect_one_home_each().await
}

/// Their keys alone are more than one answer holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passengers_whose_keys_are_long_are_named_in_several_answers() -> Result<()> {
    let world = World::empty(Clusters::shared().await?, "long_keys").await?;
    let people = "CREATE TABLE person (address text PRIMARY KEY, country text NOT NULL);
                  CREATE TABLE letter (id bigint PRIMARY KEY, address text NOT NULL REFERENCES person)";
    for site in [0, 1] {
        world.admin(site).await?.batch_execute(people).await?;
    }
    // 240 keys of 1,500 letters; those answers may be of 256 KiB.
    let fill =
        "INSERT INTO person SELECT n || repeat('x', 1500), 'IN' FROM generate_series(1, 240) AS n";
    world.admin(0).await?.batch_execute(fill).await?;
    let user = r#"{ table = "person", key = "address", market = "country" }"#;
    let policy = [("IN", "singapore")];
    world.write_configuration(
        "domicile.toml",
        user,
        "letter = \"address\"",
        "out",
        &policy,
    )?;
    world.install().await?;
    let linked = Linked::new(world).await?;
    let _both = linked.serve_both().await?;
    let ran = linked.apply(0).run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], 240);
    let id = the_move(&linked, 0).await?;
    let back = linked.at(1, &["rollback", &id, "--json", "--site", "singapore"]);
    assert_eq!(back.run().await?.expect(0)?.summary()?["moved"], 240);
    ensure!(linked.world.value(0, BACK).await? == "240");
    Ok(())
}
