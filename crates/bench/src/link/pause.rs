//! How long users pause when they move between two daemons, by the round-trip time between these.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::delay::Path;
use crate::program::Running;
use crate::report::{Figure, Report, Series};
use crate::rows::data::COUNTRIES;
use crate::rows::pause::pauses;
use crate::rows::stage::{Stage, Tuning};
use crate::rows::{Group, Options};

/// Round-trip times, in milliseconds; for each its own users move.
const ROUND_TRIPS: [u64; 5] = [0, 30, 100, 200, 300];

/// 50,000 users: enough for the batches of each round-trip time.
const SCALE: f64 = 0.05;
const BATCHES: usize = 20;
const WRITERS: usize = 16;

const SITES: [&str; 2] = ["source", "target"];

/// With `profile` the daemons write what they log, by DOMICILE_LOG, to `SITE.RTT.log` where the figures are.
pub(super) async fn measure(profile: bool, report: &mut Report) -> Result<()> {
    let options = Options {
        scale: SCALE,
        rounds: 1,
        profile: false,
        groups: vec![Group::Pause],
    };
    let stage = Stage::build(&options).await?;
    let usual = Tuning {
        file: "usual.toml",
        lines: String::new(),
        by_country: true,
    };
    stage.fresh_shop(&usual).await?;
    let mut pins = Vec::new();
    for site in SITES {
        let key = format!("{site}.key");
        let made = ["keys", "new", "--site", site, "--out", &key, "--json"];
        let made = stage.domicile.run(&made).await?.last;
        pins.push(made["pins"][0].as_str().context("a pin")?.to_owned());
    }
    for (rtt, country) in ROUND_TRIPS.into_iter().zip(COUNTRIES.into_iter().skip(5)) {
        let daemons = Daemons::start((&stage, usual.file), rtt, &pins, profile).await?;
        println!("link: a round trip of {rtt} ms");
        let args = [
            "--config",
            "source.toml",
            "apply",
            "--yes",
            "--json",
            "--site",
            "source",
            "--phase",
            country,
            "--users",
            "users",
        ];
        let paused = pauses(&stage, (WRITERS, country, BATCHES), &args).await?;
        // Gone before the next begin: a socket that answers is not taken over.
        daemons.end().await?;
        report.add(paused.figure(&format!("link.pause_p99_ms.{rtt}")))?;
        report.add(Figure {
            bench: format!("link.pause_p99_over_half_rtt_ms.{rtt}"),
            unit: "ms",
            ours: Series::of(paused.p99() - rtt as f64 / 2.0),
            peer: None,
            more: vec![("half_rtt", json!(rtt / 2))],
        })?;
    }
    Ok(())
}

/// A daemon at each site, and the path between them.
struct Daemons {
    _path: Path,
    running: Vec<Running>,
}

// === impl Daemons ===

impl Daemons {
    async fn end(self) -> Result<()> {
        for daemon in self.running {
            daemon.kill().await?;
        }
        Ok(())
    }

    async fn start(
        (stage, base): (&Stage, &str),
        rtt: u64,
        pins: &[String],
        profile: bool,
    ) -> Result<Self> {
        let ports = [free_port().await?, free_port().await?];
        let to = format!("127.0.0.1:{}", ports[1]);
        let path = Path::open(to, Duration::from_millis(rtt)).await?;
        let text = stage.read(base)?;
        let mut running = Vec::new();
        for (own, site) in SITES.into_iter().enumerate() {
            let mut text = text.clone();
            for (n, peer) in SITES.into_iter().enumerate() {
                let listen = format!("127.0.0.1:{}", ports[n]);
                // The one whose name sorts first dials.
                let address = if n == 1 { &path.address } else { &listen };
                let key = match n == own {
                    true => format!("key = {{ file = \"{peer}.key\" }}\n"),
                    false => String::new(),
                };
                let head = format!("[site.{peer}]\n");
                let linked = format!(
                    "{head}{key}admin = {{ socket = \"{peer}.sock\" }}\n\
                     link = {{ listen = \"{listen}\", address = \"{address}\", pins = [\"{}\"] }}\n",
                    pins[n]
                );
                text = text.replace(&head, &linked);
            }
            let other = format!("database.{} ", SITES[1 - own]);
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| !line.starts_with(&other))
                .collect();
            let file = format!("{site}.toml");
            stage.write(&file, &lines.join("\n"))?;
            let log = match profile {
                true => Some(File::create(format!("target/bench/{site}.{rtt}.log"))?),
                false => None,
            };
            let args = ["--config", &file, "serve", "--site", site];
            running.push(stage.domicile.serve(&args, log)?);
        }
        // Until it answers: who plans asks no other site.
        let plan = [
            "--config",
            "source.toml",
            "apply",
            "--json",
            "--site",
            "source",
            "--phase",
            "none",
            "--yes",
        ];
        let mut said = Value::Null;
        for _ in 0..200 {
            match stage.domicile.run(&plan).await {
                Err(error) if format!("{error:#}").contains("cannot ask the daemon") => {
                    said = json!(format!("{error:#}"));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                // It answers: there is no such phase.
                _ => {
                    return Ok(Self {
                        _path: path,
                        running,
                    });
                }
            }
        }
        anyhow::bail!("the daemon does not answer: {said}")
    }
}

async fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.port())
}
