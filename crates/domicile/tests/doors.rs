//! The gateways' door before a move of the real program: gateways that are slow, die, never answer, come and go.
//!
//! A gateway of these tests does what a real one promises, without HTTP, and checks what it is promised: nobody is fenced behind its
//! back.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Result, ensure};
use model::{BatchId, KeyKind, UserKey};
use postgres::connect::{Session, connect};
use residency::closings::TO_GATEWAYS;
use residency::gateways::{self, Stand};
use support::{Clusters, World};
use tokio::task::JoinHandle;

const LEASE: Duration = Duration::from_secs(3);
/// How often a gateway looks though nobody told it to.
const AGAIN: Duration = Duration::from_millis(100);

const CLOSINGS: &str = "SELECT count(*) FROM domicile.closing";

async fn shop(name: &str, customers: u32) -> Result<World> {
    World::shop(Clusters::shared().await?, name, customers, &[("IN", 1)]).await
}

async fn keys(world: &World) -> Result<Arc<Vec<UserKey>>> {
    let users = world.users_of(0, "IN").await?;
    let keys = users.into_iter().map(|user| UserKey::new(user.to_string()));
    Ok(Arc::new(keys.collect()))
}

/// A gateway, with what it has learnt.
struct Gateway {
    session: Session,
    name: String,
    users: Arc<Vec<UserKey>>,
    /// Whose door was closed when it registered, and whom it closed since.
    closed: BTreeSet<UserKey>,
    said: BTreeSet<BatchId>,
}

// === impl Gateway ===

impl Gateway {
    /// Registers, and finds out who is closed already.
    async fn open(
        url: &str,
        name: &str,
        users: &Arc<Vec<UserKey>>,
        lease: Duration,
    ) -> Result<Self> {
        let session = connect(url, "gateway").await?;
        ensure!(!gateways::register(&*session, name, lease).await?);
        let mut gateway = Self {
            session,
            name: name.to_owned(),
            users: Arc::clone(users),
            closed: BTreeSet::new(),
            said: BTreeSet::new(),
        };
        for closing in gateways::all_closings(&*gateway.session).await? {
            gateway.closed.extend(closing.users);
        }
        let fenced = gateways::fenced(&*gateway.session).await?;
        gateway.closed.extend(fenced);
        let gone = gateway.stands().await?.into_iter();
        let gone = gone.filter(|(_, stand)| matches!(stand, Stand::Elsewhere { .. }));
        gateway.closed.extend(gone.map(|(user, _)| user));
        gateway.check().await?;
        Ok(gateway)
    }

    async fn stands(&self) -> Result<Vec<(UserKey, Stand)>> {
        Ok(gateways::look(&*self.session, KeyKind::Integer, &self.users).await?)
    }

    /// Hears of closings, lets `delay` go by with each, and says that they are closed.
    async fn hear(&mut self, delay: Duration) -> Result<()> {
        for closing in gateways::closings(&*self.session, &[]).await? {
            if self.said.contains(&closing.batch) {
                continue;
            }
            tokio::time::sleep(delay).await;
            self.check().await?;
            self.closed.extend(closing.users);
            gateways::acknowledge(&*self.session, &self.name, &closing.batch, 0).await?;
            self.said.insert(closing.batch);
        }
        self.check().await
    }

    /// Whoever is not here was closed by us, or before us.
    async fn check(&self) -> Result<()> {
        let mut behind = self.stands().await?;
        behind.retain(|(user, stand)| {
            !matches!(stand, Stand::Here { .. }) && !self.closed.contains(user)
        });
        ensure!(
            behind.is_empty(),
            "{} was not asked before {behind:?} were fenced",
            self.name
        );
        Ok(())
    }
}

/// Gateways that live until they are stopped.
struct Stopping(Arc<AtomicBool>, Vec<JoinHandle<Result<usize>>>);

// === impl Stopping ===

impl Stopping {
    fn new() -> Self {
        Self(Arc::default(), Vec::new())
    }

    /// One more, which takes `delay` before each word; `answers` says whether it gives any. When this returns, it is registered.
    async fn add(
        &mut self,
        world: &World,
        name: &str,
        delay: Duration,
        answers: &Arc<AtomicBool>,
    ) -> Result<()> {
        let users = keys(world).await?;
        let mut gateway = Gateway::open(&world.mover_url(0), name, &users, LEASE).await?;
        let (stop, answers) = (Arc::clone(&self.0), Arc::clone(answers));
        self.1.push(tokio::spawn(async move {
            let mut bell = gateway.session.listen(TO_GATEWAYS).await?;
            while !stop.load(SeqCst) {
                ensure!(gateways::renew(&*gateway.session, &gateway.name, LEASE).await?);
                bell.hush();
                if answers.load(SeqCst) {
                    gateway.hear(delay).await?;
                }
                let _ = tokio::time::timeout(AGAIN, bell.rung()).await;
            }
            gateways::leave(&*gateway.session, &gateway.name).await?;
            Ok(gateway.said.len())
        }));
        Ok(())
    }

    /// Stops them; how many closings each has heard.
    async fn stop(self) -> Result<Vec<usize>> {
        self.0.store(true, SeqCst);
        let mut said = Vec::new();
        for gateway in self.1 {
            said.push(gateway.await??);
        }
        Ok(said)
    }
}

/// A file like `domicile.toml`, under which a batch is closed for so long at most.
fn bounded(world: &World, pause: &str) -> Result<&'static str> {
    let text = std::fs::read_to_string(world.path("domicile.toml"))?;
    let limits = format!("limits = {{ max_pause = \"{pause}\" }}\nbatch = ");
    std::fs::write(
        world.path("bounded.toml"),
        text.replacen("batch = ", &limits, 1),
    )?;
    Ok("bounded.toml")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_gateway_ever_was_nothing_is_written() -> Result<()> {
    let world = shop("doors_none", 40).await?;
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], 40);
    println!("pause without gateways: {}", ran.summary()?["pause_ms"]);
    assert_eq!(world.value(0, CLOSINGS).await?, "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fence_is_raised_before_every_gateway_has_closed_its_door() -> Result<()> {
    let world = shop("doors_slow", 120).await?;
    let mut gateways = Stopping::new();
    let answers = Arc::new(AtomicBool::new(true));
    for (name, delay) in [("prompt", 0), ("slow", 120)] {
        let delay = Duration::from_millis(delay);
        gateways.add(&world, name, delay, &answers).await?;
    }
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    let said = gateways.stop().await?;
    assert_eq!(ran.summary()?["moved"], 120);
    let batches = world
        .value(0, "SELECT count(*) FROM domicile.batch_log")
        .await?;
    let batches: usize = batches.parse()?;
    ensure!(
        said.iter().all(|said| *said >= batches),
        "{said:?} of {batches}"
    );
    let early =
        "SELECT count(*) FROM domicile.batch_log AS b JOIN domicile.closing AS c USING (batch)
                 WHERE (SELECT count(*) FROM domicile.closed AS d WHERE d.batch = b.batch
                          AND d.at BETWEEN c.closed_at AND b.departed_at) <> 2";
    assert_eq!(world.value(0, early).await?, "0");
    // Opened with the home and the epochs that the records have.
    let told = "SELECT count(*) FROM domicile.closing AS c, unnest(c.users, c.epochs) AS u(user_key, epoch)
                JOIN domicile.resident AS r USING (user_key, epoch)
                WHERE c.home = 'singapore' AND r.peer = c.home AND r.state = 'departed'";
    assert_eq!(world.value(0, told).await?, "120");
    let shut = "SELECT count(*) FROM domicile.closing WHERE opened_at IS NULL";
    assert_eq!(world.value(0, shut).await?, "0");
    let both = "SELECT count(*) > 0 FROM domicile.closing AS a JOIN domicile.closing AS b ON a.batch < b.batch
                WHERE a.closed_at < b.opened_at AND b.closed_at < a.opened_at";
    assert_eq!(world.value(0, both).await?, "true", "two lanes at once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_prompt_gateway_adds_to_a_pause() -> Result<()> {
    let world = shop("doors_prompt", 240).await?;
    let answers = Arc::new(AtomicBool::new(true));
    let mut gateways = Stopping::new();
    gateways
        .add(&world, "prompt", Duration::ZERO, &answers)
        .await?;
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    gateways.stop().await?;
    println!("pause with a gateway: {}", ran.summary()?["pause_ms"]);
    let took = "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM d.at - c.closed_at) * 1000)
                FROM domicile.closing AS c JOIN domicile.closed AS d USING (batch)";
    println!(
        "closing to word, median ms: {}",
        world.value(0, took).await?
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_died_holds_up_nobody_beyond_its_lease() -> Result<()> {
    let world = shop("doors_dead", 40).await?;
    let users = keys(&world).await?;
    let lease = Duration::from_millis(1500);
    drop(Gateway::open(&world.mover_url(0), "dead", &users, lease).await?);
    let file = bounded(&world, "300ms")?;
    let ran = world.apply(file).run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], 40);
    let passed = "SELECT passed_at >= lease_until FROM domicile.gateway";
    assert_eq!(world.value(0, passed).await?, "true");
    let early =
        "SELECT count(*) FROM domicile.batch_log, domicile.gateway WHERE departed_at < passed_at";
    assert_eq!(world.value(0, early).await?, "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_gateway_gives_no_word_users_stay_and_write() -> Result<()> {
    let world = shop("doors_mute", 12).await?;
    let answers = Arc::new(AtomicBool::new(false));
    let mut gateways = Stopping::new();
    gateways
        .add(&world, "mute", Duration::ZERO, &answers)
        .await?;
    let file = bounded(&world, "100ms")?;
    let moving = world.apply(file).start()?;
    let tried = "SELECT count(*) >= 3 FROM domicile.closing
                 WHERE home = 'beijing' AND cardinality(epochs) = cardinality(users)";
    world.wait_for(0, tried, "true").await?;
    let application = world.application(0).await?;
    let written = application
        .execute(
            "UPDATE customer SET first_name = 'M' WHERE country = 'IN'",
            &[],
        )
        .await?;
    assert_eq!(written, 12, "they live here as before");
    let fenced = "SELECT count(*) FROM domicile.resident WHERE state NOT IN ('settled', 'moving')";
    assert_eq!(world.value(0, fenced).await?, "0");
    answers.store(true, SeqCst);
    let ran = moving.end().await?.expect(0)?;
    gateways.stop().await?;
    assert_eq!(ran.summary()?["moved"], 12);
    assert_eq!(ran.set_aside()?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_come_and_go_are_never_overlooked() -> Result<()> {
    let world = shop("doors_come_and_go", 640).await?;
    let users = keys(&world).await?;
    let (over, met) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let coming = (0..3).map(|which| {
        let (url, users) = (world.mover_url(0), Arc::clone(&users));
        let (over, met) = (Arc::clone(&over), Arc::clone(&met));
        tokio::spawn(async move {
            let mut lives = 0_u64;
            while !over.load(SeqCst) {
                lives += 1;
                let name = format!("{which}-{lives}");
                let mut gateway = Gateway::open(&url, &name, &users, LEASE).await?;
                for _ in 0..(lives * 31 + which * 7) % 9 {
                    gateway.hear(Duration::ZERO).await?;
                    tokio::time::sleep(Duration::from_millis((lives * 13) % 11)).await;
                }
                gateways::leave(&*gateway.session, &name).await?;
                met.fetch_add(gateway.said.len(), SeqCst);
                tokio::time::sleep(Duration::from_millis((lives * 17 + which * 5) % 29)).await;
            }
            Ok::<_, anyhow::Error>(lives)
        })
    });
    let coming: Vec<_> = coming.collect();
    let ran = world.apply("domicile.toml").run().await?;
    over.store(true, SeqCst);
    let mut lives = 0;
    for one in coming {
        lives += one.await??;
    }
    let ran = ran.expect(0)?;
    let met = met.load(SeqCst);
    println!("{lives} gateways came and went, and closed {met} doors");
    ensure!(lives > 20 && met > 0, "{lives} and {met}");
    assert_eq!(ran.summary()?["moved"], 640);
    assert_eq!(ran.set_aside()?, []);
    Ok(())
}

#[cfg(feature = "planted-faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_that_dies_before_the_fence_leaves_nobody_closed() -> Result<()> {
    let world = shop("doors_killed", 12).await?;
    let users = keys(&world).await?;
    let answers = Arc::new(AtomicBool::new(true));
    let mut standing = Stopping::new();
    standing
        .add(&world, "stands", Duration::ZERO, &answers)
        .await?;
    world.dies_at("domicile.toml", "before-fence").await?;
    world.free_but_gateways().await?;
    let gateway = connect(&world.mover_url(0), "gateway").await?;
    let closings = gateways::closings(&*gateway, &[]).await?;
    let [closing] = closings.as_slice() else {
        anyhow::bail!("one batch was closed: {closings:?}");
    };
    ensure!(!gateways::reopen(&*gateway, &closing.batch).await?);
    // As if its time had gone by.
    let mover = world.admin(0).await?;
    let aged = "UPDATE domicile.closing SET until = clock_timestamp()";
    mover.batch_execute(aged).await?;
    ensure!(gateways::reopen(&*gateway, &closing.batch).await?);
    let stands = gateways::look(&*gateway, KeyKind::Integer, &closing.users).await?;
    ensure!(
        stands
            .iter()
            .all(|(_, stand)| matches!(stand, Stand::Here { .. })),
        "{stands:?}"
    );
    // The next closing of the same users does not mind one that still stands.
    world.dies_at("domicile.toml", "before-fence").await?;
    world.free_but_gateways().await?;
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], 12);
    let shut = "SELECT count(*) FROM domicile.closing WHERE opened_at IS NULL";
    assert_eq!(world.value(0, shut).await?, "1");
    let gone = gateways::look(&*gateway, KeyKind::Integer, &users).await?;
    ensure!(gone.iter().all(
        |(_, stand)| matches!(stand, Stand::Elsewhere { home, .. } if home.as_str() == "singapore")
    ));
    standing.stop().await?;
    Ok(())
}
