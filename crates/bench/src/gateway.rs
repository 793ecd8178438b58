//! The figures about the gateway: beside nginx and HAProxy, each with a map of the same users, before the same upstream.
//!
//! The proxy under test has the first core for itself; the clients (`wrk`), the upstream (nginx, which answers 1 KiB from memory) and the
//! home database share the second.

mod peers;
mod stage;
mod wrk;

use std::hint::black_box;
use std::time::{Duration, Instant};

use ::gateway::homes::{Homes, SiteId};
use anyhow::{Context as _, Result};
use rand::RngExt as _;
use serde_json::json;

use crate::cost;
use crate::report::{Figure, Report, Series};
use peers::{Haproxy, Nginx, Proxy};
use stage::Stage;

/// Users in each map.
const USERS: u32 = 1_000_000;

/// Users of whom memory is measured.
const MANY: u32 = 10_000_000;

/// How long one slice is.
const SLICE: Duration = Duration::from_secs(4);

/// Clients' connections.
const CONNECTIONS: [u32; 2] = [64, 512];

/// What one proxy did in all slices of one number of connections.
#[derive(Default)]
struct Measured {
    rps: Series,
    p99: Series,
}

/// Measures everything about the gateway; `scale` counts users, `rounds` slices.
pub(crate) async fn measure(scale: f64, rounds: usize, report: &mut Report) -> Result<()> {
    let scaled = |users: u32| ((f64::from(users) * scale) as u32).max(1000);
    let users = scaled(USERS);
    lookups(users, "", report)?;
    lookups(scaled(MANY), ".10m", report)?;
    println!("gateway: {users} users in each map, proxies on one core");
    let mut stage = Stage::build(users).await?;
    let upstream = stage.upstream();
    let nginx = Nginx::start(stage.folder(), users, upstream).await?;
    let haproxy = Haproxy::start(stage.folder(), users, upstream).await?;
    let ours = stage.serve().await?;
    let proxies = [("gateway", &ours), ("nginx", &nginx), ("haproxy", &haproxy)];
    for connections in CONNECTIONS {
        let mut measured: [Measured; 3] = Default::default();
        for _ in 0..rounds.max(3) {
            for ((_, proxy), measured) in proxies.iter().zip(&mut measured) {
                slice(proxy, connections, users, measured).await?;
            }
        }
        let [ours, nginx, haproxy] = measured;
        let peers = [("nginx", &nginx), ("haproxy", &haproxy)];
        for (name, peer) in peers {
            report.add(Figure {
                bench: format!("gateway.rps_vs_{name}.{connections}"),
                unit: "req/s",
                ours: ours.rps.clone(),
                peer: Some((name, peer.rps.clone())),
                more: vec![("users", json!(users))],
            })?;
        }
        let bench = match connections {
            64 => "gateway.p99_vs_nginx".to_owned(),
            more => format!("gateway.p99_vs_nginx.{more}"),
        };
        report.add(Figure {
            bench,
            unit: "ms",
            ours: ours.p99,
            peer: Some(("nginx", nginx.p99)),
            more: vec![],
        })?;
    }
    drop((ours, nginx, haproxy));
    let many = scaled(MANY);
    stage.have(many).await?;
    println!("gateway: a home database of {many} users");
    let began = Instant::now();
    let ours = stage.serve().await?;
    let followed = began.elapsed();
    let resident = cost::resident_mib(ours.pid).context("the gateway is gone")?;
    report.add(Figure {
        bench: "gateway.rss_mib_10m_users".into(),
        unit: "MiB",
        ours: Series::of(resident),
        peer: None,
        more: vec![
            ("users", json!(many)),
            ("peak_mib", json!(cost::peak_mib(ours.pid))),
            ("ready_after_s", json!(followed.as_secs_f64())),
        ],
    })
}

async fn slice(proxy: &Proxy, connections: u32, users: u32, measured: &mut Measured) -> Result<()> {
    let before = cost::of_threads(proxy.pid);
    let ran = wrk::run(proxy.port, connections, users, SLICE).await?;
    let used = cost::of_threads(proxy.pid).saturating_sub(before);
    let cpu = used.as_secs_f64() * 1e6 / ran.requests as f64;
    measured.rps.add(ran.per_second, cpu);
    measured.p99.values.push(ran.p99_ms);
    Ok(())
}

/// Looks users up in a map, as a request does: from the text of their keys.
fn lookups(users: u32, more: &str, report: &mut Report) -> Result<()> {
    let homes = Homes::new(SiteId(0));
    for user in 0..users {
        homes.record(homes.user(&user.to_string()), SiteId(1), 3);
    }
    let mut rng = rand::rng();
    let mut keys = || -> Vec<String> {
        let one = |_| rng.random_range(0..users).to_string();
        (0..1_000_000).map(one).collect()
    };
    let (mut found, mut changed) = (Series::default(), Series::default());
    for _ in 0..5 {
        let wanted = keys();
        let began = Instant::now();
        for key in &wanted {
            black_box(homes.find(homes.user(key)));
        }
        found
            .values
            .push(wanted.len() as f64 / began.elapsed().as_secs_f64());
        let began = Instant::now();
        for key in &wanted {
            let user = homes.user(key);
            homes.record(user, SiteId(2), 4);
            black_box(homes.find(user));
        }
        changed
            .values
            .push(began.elapsed().as_secs_f64() * 1e6 / wanted.len() as f64);
    }
    let figure = |bench: &str, unit, ours| Figure {
        bench: format!("{bench}{more}"),
        unit,
        ours,
        peer: None,
        more: vec![("users", json!(users))],
    };
    report.add(figure("gateway.lookups_per_s", "1/s", found))?;
    report.add(figure("gateway.route_change_us", "us", changed))
}
