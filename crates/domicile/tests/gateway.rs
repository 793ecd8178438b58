//! Requests come through gateways while their users move: each is answered, executed once, and by the user's home.

#![cfg(feature = "planted-faults")]

mod support;

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use support::PATIENCE;
use support::linked::{Linked, met};
use support::served::free_port;
use support::visitors::Gateways;
use testbed::wait_until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_market_moves_under_visitors_and_no_request_fails() -> Result<()> {
    let markets = ["IN", "CN", "BR", "DE", "JP", "US"];
    let weighed: Vec<_> = markets.iter().map(|market| (*market, 1)).collect();
    // `just visits` sets it.
    let scale: u32 = std::env::var("DOMICILE_SCALE").map_or(Ok(1), |scale| scale.parse())?;
    let users = 900 * scale;
    let (linked, movers) = Linked::markets("visited", users, &weighed).await?;
    let gateways = Gateways::new(linked).await?;
    let linked = &gateways.linked;
    let both = [linked.serve(0).await?, linked.serve(1).await?];
    met(&both).await?;
    let logs = || format!("{}\n{}", both[0].log(), both[1].log());
    gateways.ready(movers[0]).await.with_context(logs)?;
    let mut everybody = Vec::new();
    for market in markets {
        everybody.extend(linked.world.users_of(0, market).await?);
    }
    // So that each visitor has some of each.
    everybody.sort_unstable();
    assert_eq!(everybody.len(), users as usize);
    let visitors = gateways.visit(&everybody, 12, false);
    visitors.more(100).await.with_context(logs)?;
    let ran = linked.apply(0).run().await?.expect(0).with_context(logs)?;
    assert_eq!(ran.summary()?["moved"], movers.len());
    for _ in 0..scale {
        visitors.more(1000).await.with_context(logs)?;
    }
    let seen = visitors.stop().await?;
    println!(
        "{} written, longest {:?}, {}",
        seen.acknowledged.len(),
        seen.longest,
        ran.summary()?
    );
    gateways.check(&seen, &movers).await.with_context(logs)?;
    linked.world.expect_rest_but_running().await
}

/// The handler that is shown for Flask and psycopg, in an application that runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_in_python_keeps_to_the_contract() -> Result<()> {
    let python = tokio::task::spawn_blocking(testbed::ensure_flask_installed).await??;
    let (linked, movers) = Linked::shop("in_python", 200).await?;
    let port = free_port().await?;
    let shop = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/shop.py");
    let handler = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/application");
    let url = linked.world.clusters.0[0].url("shop", &linked.world.name);
    let log = std::fs::File::create(linked.world.path("python.log"))?;
    let _application = tokio::process::Command::new(python)
        .args([shop, &port.to_string(), "beijing"])
        .env("PYTHONPATH", handler)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SHOP_DATABASE", url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("starting the shop in Python")?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let gateways = Gateways::before(linked, Some(address)).await?;
    let linked = &gateways.linked;
    let both = [linked.serve(0).await?, linked.serve(1).await?];
    met(&both).await?;
    let logs = || {
        let python = std::fs::read_to_string(linked.world.path("python.log"));
        let python = python.unwrap_or_default();
        format!("{}\n{}\n{python}", both[0].log(), both[1].log())
    };
    gateways.ready(movers[0]).await.with_context(logs)?;
    let visitors = gateways.visit(&movers, 8, false);
    visitors.more(40).await.with_context(logs)?;
    let ran = linked.apply(0).run().await?.expect(0).with_context(logs)?;
    assert_eq!(ran.summary()?["moved"], movers.len());
    visitors.more(200).await.with_context(logs)?;
    let seen = visitors.stop().await?;
    gateways.check(&seen, &movers).await.with_context(logs)?;
    // Straight at the application, past the gateways.
    let nonce = linked
        .world
        .value(0, "SELECT nonce FROM domicile.home")
        .await?;
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let (user, body) = (movers[0], "{\"invoice\": 1999999999}");
    let request = format!(
        "POST /users/{user}/invoices HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let lower = answer.to_ascii_lowercase();
    ensure!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    ensure!(
        lower.contains(&format!("domicile-refused: {nonce}\r\n")),
        "{answer}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_between_gateways_that_is_cut_costs_tries_and_no_write() -> Result<()> {
    let (linked, movers) = Linked::shop("cut_off", 300).await?;
    let gateways = Gateways::new(linked).await?;
    let linked = &gateways.linked;
    let both = [linked.serve(0).await?, linked.serve(1).await?];
    met(&both).await?;
    let logs = || format!("{}\n{}", both[0].log(), both[1].log());
    gateways.ready(movers[0]).await.with_context(logs)?;
    let visitors = gateways.visit(&movers, 8, true);
    let mut apply = linked.apply(0).start()?;
    let mut cuts = 0;
    wait_until("the move is over", PATIENCE, async || {
        visitors.more(20).await?;
        for relay in &gateways.relays {
            relay.cut().await;
        }
        cuts += 1;
        Ok(apply.ended()?.is_some())
    })
    .await
    .with_context(logs)?;
    visitors.more(200).await.with_context(logs)?;
    let seen = visitors.stop().await?;
    println!(
        "{cuts} cuts, {} written, {} tried again",
        seen.acknowledged.len(),
        seen.again
    );
    ensure!(seen.unknown == 0, "of {} writes nobody knew", seen.unknown);
    gateways.check(&seen, &movers).await.with_context(logs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_again_and_again_costs_tries_and_no_write() -> Result<()> {
    let (linked, movers) = Linked::shop("killed_gateway", 300).await?;
    let gateways = Gateways::new(linked).await?;
    let linked = &gateways.linked;
    // At the source the mover alone, and two gateways beside each other that share their addresses.
    let args = [
        "--config",
        "beijing.toml",
        "serve",
        "--site",
        "beijing",
        "--role",
        "mover",
    ];
    let mover = linked.world.program(&args);
    let both = [linked.serve_as(0, mover).await?, linked.serve(1).await?];
    met(&both).await?;
    let gateway = async |name: &str| {
        let socket = format!("{name}.sock");
        let args = [
            "--config",
            "beijing.toml",
            "serve",
            "--site",
            "beijing",
            "--role",
            "gateway",
            "--socket",
            &socket,
        ];
        let served = linked
            .world
            .served(linked.world.program(&args), name)
            .await?;
        served
            .until_ready(200, "ready: it leads no service")
            .await?;
        anyhow::Ok(served)
    };
    let mut running = vec![gateway("first").await?, gateway("second").await?];
    let logs = || format!("{}\n{}", both[0].log(), both[1].log());
    gateways.ready(movers[0]).await.with_context(logs)?;
    let visitors = gateways.visit(&movers, 8, true);
    visitors.more(50).await?;
    let mut apply = linked.apply(0).start()?;
    let mut kills = 0;
    let left = "SELECT count(*) FROM domicile.resident WHERE state = 'departed'";
    while apply.ended()?.is_none() {
        running.remove(0).signal("KILL").await?;
        kills += 1;
        running.push(gateway(&format!("next-{kills}")).await?);
        // The door waits for the lease of the one that was killed: the next is killed when users leave again.
        let before: i64 = linked.world.value(0, left).await?.parse()?;
        wait_until("more users have left", PATIENCE, async || {
            let now: i64 = linked.world.value(0, left).await?.parse()?;
            Ok(now >= before + 40 || apply.ended()?.is_some())
        })
        .await
        .with_context(logs)?;
    }
    ensure!(kills > 1, "the move was over too early");
    visitors.more(200).await.with_context(logs)?;
    let seen = visitors.stop().await?;
    println!(
        "{kills} gateways killed, {} written, {} tried again, of {} writes nobody knew",
        seen.acknowledged.len(),
        seen.again,
        seen.unknown
    );
    gateways.check(&seen, &movers).await.with_context(logs)
}
