//! What the link carries over a path that is long and loses packets, beside one TCP stream of `COPY`.
//!
//! The path is real to TCP: two network namespaces, and between them a relay of IP packets ([`LongPath`]). In one a
//! PostgreSQL with the shop, in the other whoever reads. Both ways carry the same bytes, table after table and again from
//! the first, for the same time; what has come at the far end counts, as binary COPY. Reading is all that is done there:
//! rows that were written as well would come no faster.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::link::{Endpoint, NewKey, Receiving, Settings};
use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, pin_mut};
use serde_json::json;
use testbed::{Cluster, ClusterOptions, LongPath, Shore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use super::{SHOP, settings};
use crate::report::{Figure, Report, Series};
use crate::rows::data::{self, TABLES};

const ROUND_TRIP: Duration = Duration::from_millis(200);
/// Of the packets, each way.
const LOSS: f64 = 0.01;
/// How long each carries.
const TIME: Duration = Duration::from_secs(20);
/// 97 MB as binary COPY.
const CUSTOMERS: u64 = 100_000;

/// What is measured with each kind of congestion control: Linux's default, and one that does not take every lost packet for
/// a full path. Both sides use the same, whatever this machine's default is.
const CONTROLS: [(&str, &str); 2] = [
    ("cubic", "link.lossy_vs_tcp"),
    ("bbr", "link.lossy_vs_tcp_bbr"),
];

/// Two places with a lossy path between, and a shop at the first.
struct Coast {
    path: LongPath,
    cluster: Cluster,
}

pub(super) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    if let Some(why) = LongPath::impossible() {
        println!("link: no figure of a lossy path: {why}");
        return Ok(());
    }
    println!("link: a path of {ROUND_TRIP:?} that loses {LOSS} of the packets each way");
    let coast = Coast::build().await?;
    for (control, bench) in CONTROLS {
        let allowed = Allowed::also(control);
        if let Err(why) = allowed.and_then(|allowed| coast.control(control).map(|()| drop(allowed)))
        {
            println!("link: not measured with {control}: {why:#}");
            continue;
        }
        let (mut ours, mut peer, mut wire) = (Series::default(), Series::default(), Vec::new());
        for _ in 0..rounds {
            peer.values.push(coast.stream().await?);
            let (raw, sent) = coast.link().await?;
            ours.values.push(raw);
            wire.push(json!(sent.round()));
        }
        report.add(Figure {
            bench: bench.into(),
            unit: "kB/s",
            ours,
            peer: Some(("COPY, one TCP", peer)),
            more: vec![
                ("rtt_ms", json!(ROUND_TRIP.as_millis())),
                ("loss", json!(LOSS)),
                ("seconds", json!(TIME.as_secs())),
                ("congestion", json!(control)),
                ("flows", json!(Settings::FLOWS)),
                ("wire_kb_per_s", json!(wire)),
            ],
        })?;
    }
    Ok(())
}

/// The kinds of congestion control that a namespace may be set to: Linux gives it none but those that stand in a list of the
/// whole machine's. Dropped, the list is again as it was.
struct Allowed(String);

// === impl Allowed ===

impl Allowed {
    const LIST: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

    fn also(control: &str) -> Result<Self> {
        let before = fs::read_to_string(Self::LIST).context("cannot read what is allowed")?;
        let list = format!("{} {control}", before.trim());
        fs::write(Self::LIST, list).context("this machine has no such congestion control")?;
        Ok(Self(before))
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        // What was read can be written; and if not, one more is allowed than before.
        let _ = fs::write(Self::LIST, self.0.trim());
    }
}

// === impl Coast ===

impl Coast {
    async fn build() -> Result<Self> {
        let path = LongPath::open("bench", ROUND_TRIP, LOSS, 1)?;
        let folder = tempfile::tempdir()?;
        let rules = folder.path().join("hba.conf");
        fs::write(&rules, "local all all trust\nhost all all samenet trust\n")?;
        // The server runs under another account.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let settings = [
            ("listen_addresses", "*"),
            ("hba_file", rules.to_str().context("a path")?),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let options = ClusterOptions {
            settings: settings.into(),
            ..ClusterOptions::named("lossy")
        };
        let starting = path.shore(0).spawn(async move {
            let cluster = Cluster::start(options).await?;
            cluster.create_database(SHOP).await?;
            let (schema, fill) = (data::SCHEMA, data::fill(CUSTOMERS));
            cluster.psql(SHOP, &format!("{schema}{fill}")).await?;
            anyhow::Ok(cluster)
        });
        let cluster = starting.await??;
        Ok(Self { path, cluster })
    }

    fn near(&self) -> &Shore {
        self.path.shore(0)
    }

    fn far(&self) -> &Shore {
        self.path.shore(1)
    }

    /// What TCP does from now on about lost packets; it keeps no memory of earlier connections.
    fn control(&self, control: &str) -> Result<()> {
        for shore in [self.near(), self.far()] {
            shore.set("net/ipv4/tcp_congestion_control", control)?;
            shore.set("net/ipv4/tcp_no_metrics_save", "1")?;
        }
        Ok(())
    }

    /// One TCP stream of `COPY`: kB/s.
    async fn stream(&self) -> Result<f64> {
        let url = format!(
            "postgres://postgres@{}:{}/{SHOP}",
            self.near().address(),
            self.cluster.port()
        );
        let count = Arc::new(AtomicU64::new(0));
        let came = Arc::clone(&count);
        let client = self.far().spawn(connect(url)).await??;
        let reading = self.far().spawn(async move {
            loop {
                for table in TABLES {
                    let rows = client.copy_out(&copy(table)).await?;
                    pin_mut!(rows);
                    while let Some(row) = rows.next().await {
                        came.fetch_add(row?.len() as u64, Ordering::Relaxed);
                    }
                }
            }
        });
        rate(&count, reading).await
    }

    /// The link, as it is by default: kB/s of COPY, and kB/s on the wire.
    async fn link(&self) -> Result<(f64, f64)> {
        let (source, target) = (NewKey::draw()?, NewKey::draw()?);
        let mut listens = settings("target", &target, "source", &source)?;
        listens.listen = Some(format!("{}:0", self.far().address()));
        let target_end = self.far().spawn(Endpoint::start(listens)).await??;
        let address = target_end.listening().context("it listens")?.to_string();
        let mut dials = settings("source", &source, "target", &target)?;
        for peer in &mut dials.peers {
            peer.dial = Some(address.clone());
        }
        let source_end = self.near().spawn(Endpoint::start(dials)).await??;
        let to = source_end.peer(&"target".into()).context("a peer")?.clone();
        let from = target_end.peer(&"source".into()).context("a peer")?.clone();
        to.connected().await;
        from.connected().await;
        let url = self.cluster.url("postgres", SHOP);
        let client = self.near().spawn(connect(url)).await??;
        let mut sending = to.send()?;
        let receiving = from.receive(sending.id())?;
        let count = Arc::new(AtomicU64::new(0));
        let reading = self.far().spawn(receive(receiving, Arc::clone(&count)));
        let mut sends = JoinSet::new();
        let writing = self.near().spawn(async move {
            loop {
                for table in TABLES {
                    let rows = client.copy_out(&copy(table)).await?;
                    pin_mut!(rows);
                    while let Some(row) = rows.next().await {
                        sending.write(row?).await?;
                    }
                }
            }
        });
        let writing_ends = writing.abort_handle();
        sends.spawn(writing);
        let raw = tokio::select! {
            raw = rate(&count, reading) => raw?,
            Some(ended) = sends.join_next() => {
                let never: Result<std::convert::Infallible> = ended??;
                match never? {}
            }
        };
        writing_ends.abort();
        let sent = to.traffic().wire_sent as f64 / TIME.as_secs_f64() / 1e3;
        Ok((raw, sent))
    }
}

/// What `reading` counts in [`TIME`], in kB/s; then it is ended.
async fn rate(
    count: &AtomicU64,
    mut reading: tokio::task::JoinHandle<Result<std::convert::Infallible>>,
) -> Result<f64> {
    tokio::select! {
        ended = &mut reading => match ended?? {},
        () = sleep(TIME) => {}
    }
    let came = count.load(Ordering::Relaxed);
    reading.abort();
    Ok(came as f64 / TIME.as_secs_f64() / 1e3)
}

async fn receive(mut from: Receiving, count: Arc<AtomicU64>) -> Result<std::convert::Infallible> {
    loop {
        let bytes = from.next().await?.context("the transfer ended")?;
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

async fn connect(url: String) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(async {
        // Its error, if any, is told to whoever reads.
        let _ = connection.await;
    });
    Ok(client)
}

fn copy(table: &str) -> String {
    format!("COPY (SELECT * FROM {table}) TO STDOUT (FORMAT binary)")
}
