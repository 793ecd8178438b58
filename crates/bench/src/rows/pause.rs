//! How long users pause, seen by clients that keep trying.
//!
//! Writers write for the users whose turn is next: a random one of this batch or the following. The first who is refused in
//! a batch keeps trying at both sites until one takes the write; whoever else is refused there waits for that and then
//! tries himself: one commit opens them all, and sixteen writers who try each millisecond are most of the load of this
//! machine's cores, which is not what is measured. A user's pause is from the last write that the source
//! acknowledged for anybody of his batch (one commit closes them all) to the first that the target acknowledged for him.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::RngExt as _;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Statement};

use super::data::{self, COUNTRIES};
use super::stage::{SHOP, Server, Stage, Tuning};
use crate::program::Ran;
use crate::report::{Figure, Report, Series};
use crate::stats::percentile;

const THINK: Duration = Duration::from_millis(20);
const BATCH: usize = 64;
const BATCHES: usize = 120;
/// Batches that are written for at once: the one whose turn it is and its successor.
const WINDOW: usize = 2;
/// Between two tries of a client that keeps trying.
const TRY_EVERY: Duration = Duration::from_millis(1);
/// A pause longer than this is a failure, not a figure.
const LONGEST: Duration = Duration::from_secs(60);

/// What the writers share.
struct Scene {
    began: Instant,
    /// In the order in which they move.
    users: Vec<User>,
    /// The first batch of which nobody was taken by the target yet.
    turn: AtomicUsize,
    /// Per batch, when the source acknowledged a write for the last time, in microseconds.
    last: Vec<AtomicU64>,
    /// Per batch, whether somebody keeps trying.
    trying: Vec<watch::Sender<bool>>,
    /// Transactions acknowledged at the source.
    acknowledged: AtomicU64,
}

/// A user and the latest of his invoices.
#[derive(Clone, Copy)]
struct User {
    customer: i32,
    invoice: i32,
}

/// A user whose writer met the fence, and when the target first took a write of his, in microseconds.
struct Met {
    batch: usize,
    /// When this writer was refused.
    refused_at: u64,
    taken_at: u64,
}

/// A connection to one site with its statements.
struct Seat {
    client: Client,
    update_customer: Statement,
    update_invoice: Statement,
}

/// Measures a move in one process.
pub(crate) async fn measure(
    stage: &Stage,
    report: &mut Report,
    usual: &Tuning,
    writers: usize,
    bench: &str,
) -> Result<()> {
    let country = COUNTRIES[if writers == 64 { 5 } else { 6 }];
    let args = [
        "--config", usual.file, "apply", "--yes", "--json", "--phase", country, "--users", "users",
    ];
    let paused = pauses(stage, (writers, country, BATCHES), &args).await?;
    report.add(paused.figure(bench))
}

/// What `writers` writers met while `batches` batches of the users of `country` moved.
pub(crate) struct Paused {
    pauses: Vec<f64>,
    seen: Vec<f64>,
    batches: usize,
    writes: f64,
    ran: Ran,
}

// === impl Paused ===

impl Paused {
    /// The 99th percentile of the pauses, in milliseconds.
    pub(crate) fn p99(&self) -> f64 {
        percentile(&self.pauses, 99.0)
    }

    /// The same with what belongs to it.
    pub(crate) fn figure(&self, bench: &str) -> Figure {
        let of = |values: &[f64], percent: f64| {
            json!((percentile(values, percent) * 100.0).round() / 100.0)
        };
        let (pauses, seen, ran) = (&self.pauses, &self.seen, &self.ran);
        Figure {
            bench: bench.to_owned(),
            unit: "ms",
            ours: Series::of(self.p99()),
            peer: None,
            more: vec![
                ("p50", of(pauses, 50.0)),
                ("p95", of(pauses, 95.0)),
                ("longest", of(pauses, 100.0)),
                ("users_met", json!(pauses.len())),
                ("batches", json!(self.batches)),
                ("refused_to_taken_p50", of(seen, 50.0)),
                ("refused_to_taken_p99", of(seen, 99.0)),
                ("told_by_apply_p50", json!(ran.number("pause_ms.p50"))),
                ("told_by_apply_p99", json!(ran.number("pause_ms.p99"))),
                ("seconds", json!(ran.number("seconds"))),
                (
                    "writes_per_s",
                    json!((self.writes / ran.wall.as_secs_f64()).round()),
                ),
            ],
        }
    }
}

/// Runs `domicile` with `args`, which moves the users in the file `users`, under writers.
pub(crate) async fn pauses(
    stage: &Stage,
    (writers, country, batches_max): (usize, &str, usize),
    args: &[&str],
) -> Result<Paused> {
    let source = stage.source.connect("postgres", SHOP).await?;
    let sql = format!(
        "SELECT customer_id, max(invoice_id) FROM customer JOIN invoice USING (customer_id)
         WHERE country = '{country}' GROUP BY customer_id ORDER BY customer_id LIMIT {}",
        BATCH * batches_max
    );
    let user = |row: &tokio_postgres::Row| User {
        customer: row.get(0),
        invoice: row.get(1),
    };
    let rows = source.query(&sql, &[]).await?;
    let mut users: Vec<User> = rows.iter().map(user).collect();
    users.truncate(users.len() / BATCH * BATCH);
    let batches = users.len() / BATCH;
    println!("pause: {writers} writers, {THINK:?} think, {batches} batches of {BATCH} users");
    let lines: Vec<String> = users.iter().map(|user| user.customer.to_string()).collect();
    stage.write("users", &lines.join("\n"))?;
    let scene = Arc::new(Scene {
        began: Instant::now(),
        users,
        turn: AtomicUsize::new(0),
        last: (0..batches).map(|_| AtomicU64::new(0)).collect(),
        trying: (0..batches).map(|_| watch::Sender::new(false)).collect(),
        acknowledged: AtomicU64::new(0),
    });
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let here = Seat::take(&stage.source).await?;
        let there = Seat::take(&stage.target).await?;
        tasks.spawn(write(Arc::clone(&scene), here, there));
    }
    let applied = async {
        let ran = stage.domicile.run(args).await?;
        // Whoever was not taken by now never will be: the writers stop.
        scene.turn.store(batches, Ordering::Relaxed);
        anyhow::Ok(ran)
    };
    let written = async {
        let mut met = Vec::new();
        while let Some(done) = tasks.join_next().await {
            met.extend(done.context("a writer panicked")??);
        }
        anyhow::Ok(met)
    };
    let (ran, met) = tokio::try_join!(applied, written)?;
    let since = |from: u64, met: &Met| met.taken_at.saturating_sub(from) as f64 / 1e3;
    let last = |met: &Met| scene.last[met.batch].load(Ordering::Relaxed);
    let pauses: Vec<f64> = met
        .iter()
        .filter(|met| last(met) > 0)
        .map(|met| since(last(met), met))
        .collect();
    let writes = scene.acknowledged.load(Ordering::Relaxed) as f64;
    // By batch: a tail that belongs to a few of them has another cause than one that belongs to all.
    let mut slowest = std::collections::BTreeMap::new();
    for met in met.iter().filter(|met| last(met) > 0) {
        let longest = slowest.entry(met.batch).or_insert(0.0_f64);
        *longest = longest.max(since(last(met), met));
    }
    let mut slowest: Vec<(usize, f64)> = slowest.into_iter().collect();
    slowest.sort_by(|a, b| b.1.total_cmp(&a.1));
    let told = |(batch, ms): &(usize, f64)| format!("{batch}: {ms:.0} ms");
    let told: Vec<String> = slowest.iter().take(8).map(told).collect();
    println!("  slowest batches {}", told.join(", "));
    if pauses.is_empty() {
        bail!("no writer met a fence");
    }
    let seen: Vec<f64> = met.iter().map(|met| since(met.refused_at, met)).collect();
    Ok(Paused {
        pauses,
        seen,
        batches,
        writes,
        ran,
    })
}

/// One writer, until everybody has moved.
async fn write(scene: Arc<Scene>, here: Seat, there: Seat) -> Result<Vec<Met>> {
    let batches = scene.last.len();
    let mut met = Vec::new();
    loop {
        let turn = scene.turn.load(Ordering::Relaxed);
        if turn >= batches {
            return Ok(met);
        }
        let batch = (turn + rand::rng().random_range(0..WINDOW)).min(batches - 1);
        let user = scene.users[batch * BATCH + rand::rng().random_range(0..BATCH)];
        if here.write(user).await? {
            scene.last[batch].fetch_max(scene.now(), Ordering::Relaxed);
            scene.acknowledged.fetch_add(1, Ordering::Relaxed);
        } else {
            let refused_at = scene.now();
            let deadline = Instant::now() + LONGEST;
            let mut tries = scene.try_alone(batch, deadline).await;
            loop {
                if there.write(user).await? {
                    let taken_at = scene.now();
                    scene.turn.fetch_max(batch + 1, Ordering::Relaxed);
                    met.push(Met {
                        batch,
                        refused_at,
                        taken_at,
                    });
                    break;
                }
                if here.write(user).await? {
                    // The fence was given up: it comes again.
                    scene.last[batch].fetch_max(scene.now(), Ordering::Relaxed);
                    break;
                }
                if Instant::now() > deadline {
                    bail!("nobody takes a user's writes for {LONGEST:?}");
                }
                tokio::time::sleep(TRY_EVERY).await;
            }
            tries.done();
        }
        tokio::time::sleep(THINK).await;
    }
}

/// Whoever keeps trying, for all others of his batch; told to them when dropped.
struct Tries<'a>(Option<&'a watch::Sender<bool>>);

// === impl Tries ===

impl Tries<'_> {
    /// The batch takes writes again.
    fn done(&mut self) {
        if let Some(trying) = self.0.take() {
            trying.send_replace(false);
        }
    }
}

impl Drop for Tries<'_> {
    fn drop(&mut self) {
        self.done();
    }
}

// === impl Scene ===

impl Scene {
    /// Waits while somebody else keeps trying for `batch`.
    async fn try_alone(&self, batch: usize, deadline: Instant) -> Tries<'_> {
        let trying = &self.trying[batch];
        if !trying.send_replace(true) {
            return Tries(Some(trying));
        }
        let mut others = trying.subscribe();
        let others = others.wait_for(|trying| !trying);
        let _ = tokio::time::timeout_at(deadline.into(), others).await;
        // Batches need not be as we think: whoever is still refused tries as well.
        Tries(None)
    }

    /// Microseconds since the beginning.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

// === impl Seat ===

impl Seat {
    async fn take(server: &Server) -> Result<Self> {
        let client = server.connect(data::ROLE, SHOP).await?;
        Ok(Self {
            update_customer: client
                .prepare("UPDATE customer SET phone = phone WHERE customer_id = $1")
                .await?,
            update_invoice: client
                .prepare("UPDATE invoice SET total = total + 0.01 WHERE invoice_id = $1")
                .await?,
            client,
        })
    }

    /// One transaction: the customer and one of his invoices. Whether it was acknowledged.
    async fn write(&self, user: User) -> Result<bool> {
        let told = async {
            self.client.batch_execute("BEGIN").await?;
            // Where he has no row yet, there is nothing to refuse and nothing to acknowledge.
            let customer = &self.update_customer;
            let there = self.client.execute(customer, &[&user.customer]).await?;
            let invoice = &self.update_invoice;
            self.client.execute(invoice, &[&user.invoice]).await?;
            self.client.batch_execute("COMMIT").await?;
            Ok::<_, tokio_postgres::Error>(there == 1)
        };
        match told.await {
            Ok(taken) => Ok(taken),
            Err(error) if error.as_db_error().is_some() => {
                self.client.batch_execute("ROLLBACK").await?;
                Ok(false)
            }
            Err(error) => Err(error).context("a writer lost its connection"),
        }
    }
}
