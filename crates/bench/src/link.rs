//! The figures about the link: what goes over the wire, what comes over a bad path, how long users pause.

mod delay;
mod lossy;
mod pause;

use std::time::Instant;

use ::link::{Endpoint, Identity, NewKey, PeerSettings, Receiving, Sending, Settings, Traffic};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt as _, pin_mut};
use serde_json::json;
use testbed::{Cluster, ClusterOptions};
use tokio_postgres::{Client, NoTls};

use crate::report::{Figure, Report, Series};
use crate::rows::Group;
use crate::rows::data::{self, COUNTRIES, MOVED, TABLES};

/// Where the rows stand.
const SHOP: &str = "shop";

/// More customers than this change no figure here; each has three invoices and 10.5 lines.
const CUSTOMERS_MAX: u64 = 200_000;

/// Two linked sites.
struct Linked {
    source: Endpoint,
    target: Endpoint,
}

/// Measures everything about the link, or `only` the pauses, where these are named.
pub(crate) async fn measure(
    (scale, rounds, profile): (f64, usize, bool),
    only: &[Group],
    report: &mut Report,
) -> Result<()> {
    if !only.contains(&Group::Pause) {
        wire(scale, rounds, report).await?;
        lossy::measure(rounds, report).await?;
    }
    pause::measure(profile, report).await
}

/// Sends the rows that a move would copy, as binary COPY, through a link on this machine, `rounds` times.
async fn wire(scale: f64, rounds: usize, report: &mut Report) -> Result<()> {
    let customers = data::customers(scale).min(CUSTOMERS_MAX);
    println!("link: the rows of a fifth of {customers} users, as binary COPY");
    let cluster = Cluster::start(ClusterOptions::named("link")).await?;
    cluster.create_database(SHOP).await?;
    let (schema, fill) = (data::SCHEMA, data::fill(customers));
    cluster.psql(SHOP, &format!("{schema}{fill}")).await?;
    let (client, connection) = tokio_postgres::connect(&cluster.url("postgres", SHOP), NoTls)
        .await
        .context("cannot connect")?;
    let driver = tokio::spawn(connection);
    let (mut wire, mut raw, mut rate) = (Series::default(), Series::default(), Vec::new());
    for _ in 0..rounds {
        let linked = Linked::start().await?;
        let began = Instant::now();
        for table in TABLES {
            linked.copy(&client, table).await?;
        }
        let seconds = began.elapsed().as_secs_f64();
        let traffic = linked.traffic()?;
        wire.values.push(traffic.wire_sent as f64);
        raw.values.push(traffic.raw_sent as f64);
        rate.push(json!((traffic.raw_sent as f64 / seconds / 1e6).round()));
    }
    drop(client);
    driver.await.context("the connection's task")??;
    report.add(Figure {
        bench: "link.wire_vs_copy".into(),
        unit: "bytes",
        ours: wire,
        peer: Some(("binary COPY", raw)),
        more: vec![("users", json!(customers)), ("copy_mb_per_s", json!(rate))],
    })
}

/// Of `site`, whose key is `own`, with one peer.
fn settings(site: &str, own: &NewKey, other: &str, theirs: &NewKey) -> Result<Settings> {
    Ok(Settings {
        site: site.into(),
        identity: Identity::from_pem(own.pem())?,
        listen: None,
        flows: Settings::FLOWS,
        window: Settings::WINDOW,
        silence: Settings::SILENCE,
        peers: vec![PeerSettings {
            site: other.into(),
            pins: Identity::from_pem(theirs.pem())?.pin().into(),
            dial: None,
        }],
    })
}

// === impl Linked ===

impl Linked {
    async fn start() -> Result<Self> {
        let (source, target) = (NewKey::draw()?, NewKey::draw()?);
        let mut listens = settings("target", &target, "source", &source)?;
        listens.listen = Some("127.0.0.1:0".into());
        let mut dials = settings("source", &source, "target", &target)?;
        let target = Endpoint::start(listens).await?;
        let address = target.listening().context("it listens")?.to_string();
        for peer in &mut dials.peers {
            peer.dial = Some(address.clone());
        }
        let source = Endpoint::start(dials).await?;
        source
            .peer(&"target".into())
            .context("a peer")?
            .connected()
            .await;
        Ok(Self { source, target })
    }

    /// Copies a table through the link; both ends count the same bytes.
    async fn copy(&self, client: &Client, table: &str) -> Result<()> {
        let to = self.source.peer(&"target".into()).context("a peer")?;
        let from = self.target.peer(&"source".into()).context("a peer")?;
        let sending = to.send()?;
        let receiving = from.receive(sending.id())?;
        let (sent, received) = tokio::try_join!(send(client, table, sending), receive(receiving))?;
        ensure!(sent == received, "{sent} bytes were sent, {received} came");
        Ok(())
    }

    fn traffic(&self) -> Result<Traffic> {
        let peer = self.source.peer(&"target".into()).context("a peer")?;
        Ok(peer.traffic())
    }
}

/// From a row to its customer.
fn way(table: &str) -> &'static str {
    match table {
        "invoice" => "JOIN customer USING (customer_id)",
        "invoice_line" => "JOIN invoice USING (invoice_id) JOIN customer USING (customer_id)",
        _ => "",
    }
}

async fn send(client: &Client, table: &str, mut sending: Sending) -> Result<u64> {
    let (moved, way) = (data::list(&COUNTRIES[..MOVED]), way(table));
    let out = format!(
        "COPY (SELECT t.* FROM {table} AS t {way} WHERE country IN ({moved})) TO STDOUT (FORMAT binary)"
    );
    let rows = client.copy_out(&out).await.context("cannot copy")?;
    pin_mut!(rows);
    let mut sent = 0;
    while let Some(row) = rows.next().await {
        let row: Bytes = row.context("cannot copy")?;
        sent += row.len() as u64;
        sending.write(row).await?;
    }
    sending.finish().await?;
    Ok(sent)
}

async fn receive(mut receiving: Receiving) -> Result<u64> {
    let mut received = 0;
    while let Some(bytes) = receiving.next().await? {
        received += bytes.len() as u64;
    }
    Ok(received)
}
