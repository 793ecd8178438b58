//! Writers of the zoo: each writes for users of its own, one after the other, and knows what was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _, seq::IndexedRandom as _};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::bundle::{Bundle, Kind, Operation, create};
use crate::support::{PATIENCE, connect};

/// What is known of one user.
#[derive(Debug, Default)]
pub struct Known {
    /// The site that took his last write.
    pub site: usize,
    /// His bundles.
    pub bundles: Vec<Bundle>,
}

/// Every user with what is known of him.
pub type World = BTreeMap<i64, Known>;

/// Writers at work.
pub struct Writers {
    tasks: JoinSet<Result<World>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

// === impl Writers ===

impl Writers {
    /// Starts `count` writers for the users in `world`, at the sites with these URLs.
    pub fn start(world: World, urls: [String; 2], count: usize, first_id: i64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut parts: Vec<World> = (0..count).map(|_| World::new()).collect();
        for (n, (user, known)) in world.into_iter().enumerate() {
            parts[n % count].insert(user, known);
        }
        let mut tasks = JoinSet::new();
        for (n, world) in parts.into_iter().enumerate() {
            let (urls, stop, acknowledged) = (urls.clone(), stop.clone(), acknowledged.clone());
            tasks.spawn(async move {
                let mut writer = Writer {
                    sites: [connect(&urls[0]).await?, connect(&urls[1]).await?],
                    rng: SmallRng::seed_from_u64(n as u64),
                    next: first_id + n as i64 * 1_000_000,
                    values: 0,
                    name: n,
                    world,
                };
                while !stop.load(Ordering::Relaxed) {
                    writer.one().await?;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
                Ok(writer.world)
            });
        }
        Self {
            tasks,
            stop,
            acknowledged,
        }
    }

    /// Waits until so many operations more are acknowledged.
    pub async fn more(&mut self, count: usize) -> Result<()> {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        let started = Instant::now();
        while self.acknowledged.load(Ordering::Relaxed) < goal {
            if let Some(ended) = self.tasks.try_join_next() {
                ended??;
                bail!("a writer ended by itself");
            }
            if started.elapsed() > PATIENCE {
                bail!("the writers stand");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Lets them finish; gives what they know.
    pub async fn stop(mut self) -> Result<World> {
        self.stop.store(true, Ordering::Relaxed);
        let mut world = World::new();
        while let Some(part) = self.tasks.join_next().await {
            world.extend(part??);
        }
        Ok(world)
    }
}

struct Writer {
    sites: [Client; 2],
    rng: SmallRng,
    next: i64,
    values: u32,
    name: usize,
    world: World,
}

// === impl Writer ===

impl Writer {
    fn fresh(&mut self) -> i64 {
        self.next += 10;
        self.next
    }

    /// One operation of some user, to its end.
    async fn one(&mut self) -> Result<()> {
        let users: Vec<i64> = self.world.keys().copied().collect();
        let user = *users.choose(&mut self.rng).context("users")?;
        self.values += 1;
        let v = format!("w{}v{}", self.name, self.values);
        let known = &self.world[&user];
        let dice = self.rng.random_range(0..100);
        let at = match known.bundles.len() {
            0 => None,
            n => Some(self.rng.random_range(0..n)),
        };
        match at {
            Some(at) if dice < 60 || dice < 80 && known.bundles.len() < 4 => {
                let fresh = self.fresh();
                let operation =
                    self.world[&user].bundles[at].change(user, &v, fresh, &mut self.rng);
                self.run(user, &operation, false).await?;
                let known = self.world.get_mut(&user).context("a user")?;
                known.bundles[at] = operation.after.context("a change leaves something")?;
            }
            Some(at) if dice < 75 => {
                let operation = self.world[&user].bundles[at].delete(&mut self.rng);
                self.run(user, &operation, true).await?;
                let known = self.world.get_mut(&user).context("a user")?;
                known.bundles.swap_remove(at);
            }
            _ => {
                let kind = *Kind::ALL.choose(&mut self.rng).context("kinds")?;
                loop {
                    let n = self.fresh();
                    let operation = create(kind, n, user, &v, &mut self.rng);
                    if self.run(user, &operation, false).await? {
                        let known = self.world.get_mut(&user).context("a user")?;
                        known.bundles.extend(operation.after);
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs the operation's transactions where the user lives. False where he left between two of them and the later
    /// one was not taken: what the first one wrote was nobody's yet.
    async fn run(&mut self, user: i64, operation: &Operation, may_be_gone: bool) -> Result<bool> {
        for (n, statements) in operation.transactions.iter().enumerate() {
            let started = Instant::now();
            let mut switched = 0;
            loop {
                let site = self.world[&user].site;
                match self.transaction(site, statements).await? {
                    Ended::Committed => break,
                    Ended::Again => {}
                    Ended::Elsewhere => {
                        switched += 1;
                        if n > 0 && switched > 2 {
                            // What stayed behind of nobody's may be at either site, or deleted with a copy of it.
                            return Ok(may_be_gone);
                        }
                        self.world.get_mut(&user).context("a user")?.site = 1 - site;
                    }
                }
                if started.elapsed() > PATIENCE {
                    bail!("no site takes for user {user}: {statements:?}");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(true)
    }

    async fn transaction(&mut self, site: usize, statements: &[String]) -> Result<Ended> {
        let level = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
            .choose(&mut self.rng)
            .context("levels")?;
        let client = &self.sites[site];
        client
            .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))
            .await?;
        let mut ended = Ended::Committed;
        for statement in statements {
            ended = match client.execute(statement.as_str(), &[]).await {
                Ok(0) => Ended::Elsewhere,
                Ok(_) => continue,
                Err(error) => judged(error, statement)?,
            };
            break;
        }
        if ended == Ended::Committed {
            return match client.batch_execute("COMMIT").await {
                Ok(()) => Ok(Ended::Committed),
                Err(error) => judged(error, "COMMIT"),
            };
        }
        client.batch_execute("ROLLBACK").await?;
        Ok(ended)
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Committed,
    Again,
    Elsewhere,
}

fn judged(error: tokio_postgres::Error, statement: &str) -> Result<Ended> {
    match error.code().map(|state| state.code().to_owned()).as_deref() {
        Some("40001" | "40P01") => Ok(Ended::Again),
        Some("DM421" | "23503") => Ok(Ended::Elsewhere),
        _ => Err(error).with_context(|| statement.to_owned()),
    }
}
