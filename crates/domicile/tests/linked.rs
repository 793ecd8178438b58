//! Moves between two daemons: each site opens its own database alone, and everything else goes over the link.

#![cfg(feature = "planted-faults")]

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use shop::workload::{Isolation, Workload, WorkloadOptions};
use support::linked::{Linked, met};
use support::{Clusters, World, more_acknowledged};

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
