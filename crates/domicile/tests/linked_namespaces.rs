//! Two daemons in two network namespaces: between them is a path of IP packets that is long and loses some, and neither can
//! reach the other's database. Only where the test runs as root.

#![cfg(feature = "planted-faults")]

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use support::linked::{Linked, met};
use testbed::{LongPath, Shore};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Has `port` of 127.0.0.1 there be that of 127.0.0.1 here.
fn bring(port: u16, there: &Shore, tasks: &mut JoinSet<()>) -> Result<()> {
    let listener = there.within(|| Ok(std::net::TcpListener::bind(("127.0.0.1", port))?))?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tasks.spawn(async move {
        let mut pipes = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            pipes.spawn(async move {
                if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_in_two_network_namespaces_move_a_shop_under_writers() -> Result<()> {
    if let Some(why) = LongPath::impossible() {
        println!("not tested: {why}");
        return Ok(());
    }
    let path = LongPath::open("move", Duration::from_millis(60), 0.01, 7)?;
    let (linked, movers) = Linked::shop("namespaces", 150).await?;
    let world = &linked.world;
    let port = linked.behind.rsplit(':').next().context("a port")?;
    let there = format!("{}:{port}", path.shore(1).address());
    for file in ["beijing.toml", "singapore.toml"] {
        let text = std::fs::read_to_string(world.path(file))?;
        let text = text.replace(linked.relay.address(), &there);
        std::fs::write(world.path(file), text.replace(&linked.behind, &there))?;
    }
    let mut tasks = JoinSet::new();
    let serve = async |site: usize| {
        let program = linked.serving(site).within(path.shore(site).name());
        linked.serve_as(site, program).await
    };
    for site in [0, 1] {
        bring(world.clusters.0[site].port(), path.shore(site), &mut tasks)?;
    }
    let both = [serve(0).await?, serve(1).await?];
    let status = met(&both).await;
    status.with_context(|| format!("{}\n{}", both[0].log(), both[1].log()))?;
    let workload = linked.writers().await?;
    let ran = linked.apply(0).run().await?;
    let ran = ran
        .expect(0)
        .map_err(|error| error.context(format!("{}\n{}", both[0].log(), both[1].log())))?;
    let summary = ran.summary()?;
    ensure!(summary["moved"] == movers.len(), "{summary}");
    ensure!(summary["mismatches"] == 0, "{summary}");
    println!("{summary}");
    linked.at_rest(workload, &movers).await?;
    // Nobody came past the path, and it was as long as it says.
    ensure!(linked.relay.connections() == 0);
    let status = both[0].status().await?;
    let trip = status["peers"][0]["round_trip_ms"].as_u64();
    ensure!(trip >= Some(55), "{status:#}");
    Ok(())
}
