//! Moves between two daemons: each site opens its own database alone, and everything else goes over the link.

#![cfg(feature = "planted-faults")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use shop::workload::{Isolation, Workload, WorkloadOptions};
use support::linked::{Linked, SEALING, met};
use support::served::Served;
use support::{Clusters, PATIENCE, SITES, World, more_acknowledged};
use testbed::wait_until;

/// One in ten stays.
const MARKETS: [(&str, u32); 2] = [("IN", 9), ("CN", 1)];

/// Two linked sites with a shop, and who is to move.
async fn shop(name: &str, customers: u32) -> Result<(Linked, Vec<i32>)> {
    let world = World::shop(Clusters::shared().await?, name, customers, &MARKETS).await?;
    let movers = world.users_of(0, "IN").await?;
    Ok((Linked::new(world).await?, movers))
}

async fn writers(world: &World) -> Result<Workload> {
    let mut everybody = world.users_of(0, "IN").await?;
    everybody.extend(world.users_of(0, "CN").await?);
    let options = WorkloadOptions {
        writers: 6,
        isolations: Isolation::ALL.to_vec(),
        think: Duration::from_millis(25),
        ..WorkloadOptions::default()
    };
    let workload = world.writers("beijing", &everybody, options).await?;
    more_acknowledged(&workload, 60).await?;
    Ok(workload)
}

/// Waits until nobody is to move any more, stops the writers, and holds every row against what was acknowledged.
async fn at_rest(linked: &Linked, workload: Workload, movers: &[i32]) -> Result<()> {
    let world = &linked.world;
    let left = "SELECT count(*) FROM domicile.resident WHERE state = 'departed'";
    world.wait_for(0, left, &movers.len().to_string()).await?;
    let running = "SELECT count(*) FROM domicile.move WHERE state = 'running'";
    world.wait_for(0, running, "0").await?;
    more_acknowledged(&workload, 60).await?;
    let log = workload.stop().await?;
    let there = |user: i32| movers.contains(&user);
    world.expect_clean(&log, "beijing", there).await?;
    world.expect_rest_but_running().await?;
    world.expect_one_home_each().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_move_a_shop_under_writers() -> Result<()> {
    let (linked, movers) = shop("by_daemons", 400).await?;
    let both = linked.serve_both().await?;
    let workload = writers(&linked.world).await?;
    let ran = linked.apply(0).run().await?;
    let ran = ran
        .expect(0)
        .map_err(|error| error.context(format!("{}\n{}", both[0].log(), both[1].log())))?;
    let summary = ran.summary()?;
    assert_eq!(summary["moved"], movers.len(), "{summary}");
    assert_eq!(summary["mismatches"], 0, "{summary}");
    at_rest(&linked, workload, &movers).await?;
    let again = linked.apply(0).run().await?.expect(0)?;
    ensure!(!again.stdout.contains("\"event\":\"started\""), "{again}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_again_and_again_delays_a_move_and_loses_nothing() -> Result<()> {
    let (linked, movers) = shop("cut_link", 300).await?;
    let both = linked.serve_both().await?;
    let workload = writers(&linked.world).await?;
    let mut apply = linked.apply(0).start()?;
    let moved = "SELECT count(*) FROM domicile.resident WHERE state = 'departed'";
    let (mut cuts, mut before) = (0, 0);
    wait_until("the move is over", PATIENCE, async || {
        let more: usize = linked.world.value(0, moved).await?.parse()?;
        // Seldom, whenever it has come further: so it is cut at ever other steps.
        if more >= before + 48 || cuts == 0 {
            linked.relay.cut();
            (cuts, before) = (cuts + 1, more);
        }
        Ok(more == movers.len())
    })
    .await
    .with_context(|| format!("{}\n{}", both[0].log(), both[1].log()))?;
    ensure!(cuts > 2, "it was cut {cuts} times");
    at_rest(&linked, workload, &movers).await?;
    // It may have been told of a delay; what it says of users moved in its time is no more than the truth.
    wait_until("apply ends", PATIENCE, async || {
        Ok(apply.ended()?.is_some())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_link_is_down_offered_users_wait_and_no_second_home_appears() -> Result<()> {
    let (linked, movers) = shop("down_link", 120).await?;
    let hold = linked.world.path("hold");
    let held = linked
        .serving(1)
        .env("DOMICILE_HOLD", format!("after-accept={}", hold.display()));
    let both = [linked.serve(0).await?, linked.serve_as(1, held).await?];
    met(&both).await?;
    let workload = writers(&linked.world).await?;
    let apply = linked.apply(0).start()?;
    support::wait_for_file(&hold, true).await?;
    // The target has decided; the source does not hear of it.
    linked.relay.let_through(false);
    linked.relay.cut();
    std::fs::remove_file(&hold)?;
    let offered = "SELECT count(*) FROM domicile.resident WHERE state = 'offered'";
    ensure!(
        linked.world.value(0, offered).await? != "0",
        "nobody is in doubt"
    );
    both[0]
        .until("beijing knows that the link is down", |status| {
            status["peers"][0]["connected"] == false
        })
        .await?;
    ensure!(
        linked.world.value(0, offered).await? != "0",
        "somebody reopened the batch alone"
    );
    // The operator of the source is told of it, who knows his own database alone.
    let status = linked.at(0, &["status", "--json"]).run().await?.expect(1)?;
    let status: serde_json::Value = serde_json::from_str(&status.stdout)?;
    ensure!(status["in_doubt"][0]["to"] == "singapore", "{status}");
    linked.relay.let_through(true);
    at_rest(&linked, workload, &movers).await?;
    apply.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_told_to_end_comes_to_a_safe_point_and_the_next_goes_on() -> Result<()> {
    let (linked, movers) = shop("told_to_end", 600).await?;
    let [beijing, singapore] = linked.serve_both().await?;
    let workload = writers(&linked.world).await?;
    let apply = linked.apply(0).start()?;
    let begun = "SELECT count(*) > 0 FROM domicile.resident WHERE state = 'departed'";
    linked.world.wait_for(0, begun, "true").await?;
    let (ran, log, took) = beijing.terminate().await?;
    ensure!(ran.code == Some(0), "{ran}");
    ensure!(took < Duration::from_secs(10), "it took {took:?}: {log}");
    let closed = "SELECT count(*) FROM domicile.resident WHERE state IN ('fenced', 'offered')";
    assert_eq!(linked.world.value(0, closed).await?, "0", "{log}");
    let moved: usize = linked
        .world
        .value(
            0,
            "SELECT count(*) FROM domicile.resident WHERE state = 'departed'",
        )
        .await?
        .parse()?;
    ensure!(
        moved < movers.len(),
        "it was over before it was told to end"
    );
    let told = apply.end().await?.expect(3)?;
    ensure!(told.stderr.contains("goes on"), "{told}");
    more_acknowledged(&workload, 60).await?;
    let both = [linked.serve(0).await?, singapore];
    met(&both).await?;
    at_rest(&linked, workload, &movers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_whose_policies_differ_move_nobody_over_the_link() -> Result<()> {
    let (linked, _) = shop("policies_differ", 40).await?;
    let world = &linked.world;
    world.admin(1).await?.batch_execute(
        "INSERT INTO domicile.policy (version, body) SELECT 'sha256/other', body FROM domicile.policy ORDER BY n DESC LIMIT 1",
    ).await?;
    let _both = linked.serve_both().await?;
    let ran = linked.apply(0).run().await?.expect(2)?;
    ensure!(ran.stderr.contains("is of version"), "{ran}");
    let refused = "SELECT count(*) > 0 FROM domicile.entry WHERE kind = 'policy_refused'";
    assert_eq!(world.value(1, refused).await?, "true");
    let anybody = "SELECT count(*) FROM domicile.resident WHERE state <> 'settled'";
    for site in [0, 1] {
        assert_eq!(world.value(site, anybody).await?, "0");
    }
    Ok(())
}

/// The points that a daemon passed, each once.
fn passed(linked: &Linked, site: usize) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(linked.world.path(&format!("{}.points", SITES[site])))?;
    let name = |line: &str| line.split(':').next().unwrap_or(line).to_owned();
    Ok(text.lines().map(name).collect())
}

/// More groups than there are steps.
const GROUPS: usize = 70;
/// How many go together: two batches.
const TOGETHER: usize = 20;

/// A market with a phase of its own.
fn group(n: usize) -> String {
    format!("G{n:02}")
}

/// Group `n` moves from beijing to singapore under writers; `disturb` has the two daemons meanwhile.
async fn move_group(
    linked: &Linked,
    n: usize,
    both: [Served; 2],
    disturb: impl AsyncFnOnce(&Linked, [Served; 2]) -> Result<[Served; 2]>,
) -> Result<[Served; 2]> {
    let world = &linked.world;
    let users = world.users_of(0, &group(n)).await?;
    ensure!(!users.is_empty(), "nobody is of group {n}");
    let options = WorkloadOptions {
        writers: 3,
        think: Duration::from_millis(10),
        isolations: Isolation::ALL.to_vec(),
        ..WorkloadOptions::default()
    };
    let workload = world.writers("beijing", &users, options).await?;
    more_acknowledged(&workload, 5).await?;
    let apply = || linked.apply(0).arg("--phase").arg(&group(n));
    let first = apply().start()?;
    let both = disturb(linked, both).await?;
    first.end().await?;
    let there = format!(
        "SELECT count(*) = {} FROM domicile.resident WHERE state = 'settled' AND user_key = ANY (ARRAY{users:?})",
        users.len()
    );
    let running = "SELECT count(*) FROM domicile.move WHERE state = 'running'";
    wait_until("everybody has moved", PATIENCE, async || {
        if world.value(1, &there).await? == "true" {
            return Ok(world.value(0, running).await? == "0");
        }
        // What died before it had begun a move is asked for again.
        apply().run().await?;
        Ok(false)
    })
    .await
    .with_context(|| format!("{}\n{}", both[0].log(), both[1].log()))?;
    more_acknowledged(&workload, 5).await?;
    let log = workload.stop().await?;
    world.expect_clean(&log, "beijing", |_| true).await?;
    world.expect_rest_but_running().await?;
    world.expect_one_home_each().await?;
    Ok(both)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_daemon_dies_at_every_step() -> Result<()> {
    let names: Vec<String> = (0..GROUPS).map(group).collect();
    let markets: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let customers = (GROUPS * TOGETHER) as u32;
    let world = World::shop(Clusters::own("kills").await?, "kills", customers, &markets).await?;
    for name in &names {
        world.configure("domicile.toml", name, &[(name, "singapore")])?;
    }
    world.install().await?;
    std::fs::copy(world.path("installed.toml"), world.path("domicile.toml"))?;
    let linked = Linked::new(world).await?;
    let start = async |site: usize, env: &str, value: &str| {
        let program = linked.serving(site).env(env, value);
        linked.serve_as(site, program).await
    };
    // One move that says which points there are, at the source and at the target.
    let both = [
        start(0, "DOMICILE_POINTS", "beijing.points").await?,
        start(1, "DOMICILE_POINTS", "singapore.points").await?,
    ];
    met(&both).await?;
    drop(move_group(&linked, 0, both, async |_, both| Ok(both)).await?);
    let points = [passed(&linked, 0)?, passed(&linked, 1)?];
    ensure!(points[0].contains("after-offer"), "{points:?}");
    ensure!(points[1].contains("after-accept"), "{points:?}");
    let mut cases: Vec<(usize, &String)> = Vec::new();
    for victim in [0, 1] {
        // The ledgers are sealed beside the move: `linked_ledger.rs` kills daemons there.
        let of_move = |point: &&String| !SEALING.contains(&point.as_str());
        let points = points[victim].iter().filter(of_move);
        cases.extend(points.map(|point| (victim, point)));
    }
    ensure!(cases.len() > 15 && cases.len() < GROUPS, "{cases:?}");
    for (n, (victim, point)) in cases.into_iter().enumerate() {
        let stop = |site: usize| if site == victim { point.as_str() } else { "" };
        let both = [
            start(0, "DOMICILE_STOP", stop(0)).await?,
            start(1, "DOMICILE_STOP", stop(1)).await?,
        ];
        met(&both).await?;
        let moved = move_group(&linked, n + 1, both, async |linked, mut both| {
            wait_until("the daemon dies", PATIENCE, async || {
                Ok(both[victim].running.ended()?.is_some())
            })
            .await
            .with_context(|| format!("{}\n{}", both[0].log(), both[1].log()))?;
            both[victim] = linked.serve(victim).await?;
            Ok(both)
        });
        let died = || format!("death of {} at {point}", SITES[victim]);
        drop(moved.await.with_context(died)?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_fit_stays_with_the_targets_reason_and_the_others_move() -> Result<()> {
    let (linked, movers) = shop("misfits_linked", 60).await?;
    let world = &linked.world;
    let taken = "INSERT INTO customer (customer_id, first_name, last_name, email, country)
                 VALUES (900001, 'Some', 'Body', $1, 'SG')";
    let address = format!("user{}@example.com", movers[3]);
    world
        .application(1)
        .await?
        .execute(taken, &[&address])
        .await?;
    let both = linked.serve_both().await?;
    let ran = linked.apply(0).run().await?;
    let ran = ran
        .expect(1)
        .with_context(|| format!("{}\n{}", both[0].log(), both[1].log()))?;
    let aside = ran.set_aside()?;
    ensure!(
        aside.len() == 1
            && aside[0].0 == movers[3].to_string()
            && aside[0].1.contains("customer_email_key"),
        "{ran}"
    );
    assert_eq!(ran.summary()?["moved"], movers.len() - 1);
    world.expect_rest_but_running().await
}
