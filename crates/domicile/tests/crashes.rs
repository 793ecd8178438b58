//! A crash at every durable step: of the program, of the source, of the target. Run again, `apply` finishes, and
//! what the writers' log says was acknowledged stands once.
//!
//! The steps are learnt from a run that names every point it passes; whoever adds one adds cases. Users travel there
//! and back between the same databases, so that most cases load nothing. One user's e-mail address is taken at the
//! target and one refers to a clerk whom only the source knows: they reach the steps of refusal and cancellation.

#![cfg(feature = "planted-faults")]

mod support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use shop::workload::{Isolation, Workload, WorkloadOptions};
use support::program::Running;
use support::{Clusters, PATIENCE, SITES, World, more_acknowledged};
use testbed::wait_until;

/// Users of the market that moves; two more never fit.
const CUSTOMERS: u32 = 36;
/// How often `apply` may have to be run again after one crash: the dead process' sessions may still be ending.
const RUNS_MAX: usize = 6;

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Program,
    Source,
    Target,
}

/// A point, and which passing of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    point: String,
    passing: u32,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.point, self.passing)
    }
}

/// A world whose users travel.
struct Travellers {
    world: World,
    /// Where those who fit live now.
    home: &'static str,
    users: Vec<i32>,
    misfits: [i32; 2],
    journey: usize,
}

// === impl Travellers ===

impl Travellers {
    async fn new(name: &str) -> Result<Travellers> {
        let clusters: Arc<Clusters> = Clusters::own(name).await?;
        let world = World::shop(clusters, name, CUSTOMERS, &[("IN", 1)]).await?;
        let mut users = world.users_of(0, "IN").await?;
        let misfits = [users.remove(20), users.remove(7)];
        let source = world.admin(0).await?;
        source
            .batch_execute(&format!(
                "INSERT INTO employee (employee_id, last_name, first_name) VALUES (99, 'New', 'Clerk');
                 UPDATE customer SET country = 'XX' WHERE customer_id IN ({}, {});
                 UPDATE customer SET support_rep_id = 99 WHERE customer_id = {}",
                misfits[0], misfits[1], misfits[1]
            ))
            .await?;
        let taken = "INSERT INTO customer (customer_id, first_name, last_name, email, country)
                     VALUES (900001, 'Some', 'Body', $1, 'SG')";
        let address = format!("user{}@example.com", misfits[0]);
        world
            .application(1)
            .await?
            .execute(taken, &[&address])
            .await?;
        let phases: [(&str, &[(&str, &str)]); 3] = [
            ("out", &[("IN", "singapore")]),
            ("out-all", &[("IN", "singapore"), ("XX", "singapore")]),
            ("back", &[("IN", "beijing")]),
        ];
        for (phase, home) in phases {
            world.configure(&format!("{phase}.toml"), phase, home)?;
        }
        world.install().await?;
        Ok(Travellers {
            world,
            home: SITES[0],
            users,
            misfits,
            journey: 0,
        })
    }

    /// The journey from where they are; with those who do not fit only from the origin.
    fn configuration(&self, misfits: bool) -> &'static str {
        match (self.home == SITES[0], misfits) {
            (true, true) => "out-all.toml",
            (true, false) => "out.toml",
            (false, _) => "back.toml",
        }
    }

    async fn writers(&self) -> Result<Workload> {
        let options = WorkloadOptions {
            writers: 3,
            think: Duration::from_millis(10),
            isolations: Isolation::ALL.to_vec(),
            seed: self.journey as u64,
            ..WorkloadOptions::default()
        };
        let workload = self.world.writers(self.home, &self.users, options).await?;
        more_acknowledged(&workload, 5).await?;
        Ok(workload)
    }

    /// The journey: `disturb` starts and disturbs the first run; then `apply` runs until it finishes. Everything is
    /// checked. Returns the number of runs after the first.
    async fn travel(
        &mut self,
        misfits: bool,
        disturb: impl AsyncFnOnce(&World, &str) -> Result<()>,
    ) -> Result<usize> {
        let configuration = self.configuration(misfits);
        let workload = self.writers().await?;
        disturb(&self.world, configuration).await?;
        let code = i32::from(misfits && self.home == SITES[0]);
        let (_, runs) = self
            .world
            .apply_until(configuration, code, RUNS_MAX)
            .await?;
        more_acknowledged(&workload, 5).await?;
        let log = workload.stop().await?;
        let from = self.home;
        self.world.expect_clean(&log, from, |_| true).await?;
        self.home = support::other(from);
        self.journey += 1;
        let homes = self.world.expect_rest().await?;
        for user in &self.users {
            ensure!(
                homes[&user.to_string()] == self.home,
                "user {user} is not at {}",
                self.home
            );
        }
        for user in &self.misfits {
            ensure!(
                homes[&user.to_string()] == SITES[0],
                "user {user} is not at home"
            );
            let left = format!("SELECT count(*) FROM customer WHERE customer_id = {user}");
            ensure!(
                self.world.value(1, &left).await? == "0",
                "rows of user {user} are left"
            );
        }
        Ok(runs)
    }

    /// One case.
    async fn case(&mut self, victim: Victim, step: &Step, misfits: bool) -> Result<usize> {
        if misfits && self.home != SITES[0] {
            self.travel(false, async |_, _| Ok(())).await?;
        }
        let source = usize::from(self.home != SITES[0]);
        let dying = match victim {
            Victim::Program => None,
            Victim::Source => Some(source),
            Victim::Target => Some(1 - source),
        };
        self.travel(misfits, async |world, configuration| match dying {
            None => {
                let ran = world
                    .apply(configuration)
                    .env("DOMICILE_STOP", step.to_string())
                    .run()
                    .await?;
                ensure!(
                    ran.code.is_none(),
                    "{step} was not reached in {configuration}: {ran}"
                );
                Ok(())
            }
            Some(site) => {
                let hold = world.path("hold");
                let mut held = world
                    .apply(configuration)
                    .env("DOMICILE_HOLD", format!("{step}={}", hold.display()))
                    .start()?;
                wait_until("the program is held", PATIENCE, async || {
                    ensure!(
                        held.ended()?.is_none(),
                        "{step} was not reached in {configuration}"
                    );
                    Ok(hold.exists())
                })
                .await?;
                let cluster = &world.clusters.0[site];
                cluster.stop_immediate().await?;
                cluster.start_again().await?;
                std::fs::remove_file(&hold)?;
                let running: Running = held;
                running.end().await?;
                Ok(())
            }
        })
        .await
    }
}

/// The points that an undisturbed journey passes, with how often.
async fn points(travellers: &mut Travellers, misfits: bool) -> Result<BTreeMap<String, u32>> {
    let file = travellers.world.path("points");
    travellers
        .travel(misfits, async |world, configuration| {
            let ran = world.apply(configuration).env("DOMICILE_POINTS", &file);
            ran.run().await.map(drop)
        })
        .await?;
    let mut points = BTreeMap::new();
    for line in std::fs::read_to_string(&file)?.lines() {
        let (point, passing) = line.split_once(':').context("point:passing")?;
        points.insert(point.to_owned(), passing.parse()?);
    }
    std::fs::remove_file(&file)?;
    Ok(points)
}

/// Steps that only a journey with users who do not fit takes.
const OF_MISFITS: [&str; 3] = ["refuse", "cancel", "cleared"];

/// Runs every case of `victims`, in two worlds side by side: most of a case is waiting.
async fn every_step(name: &str, victims: &[Victim]) -> Result<()> {
    let mut travellers = Travellers::new(name).await?;
    let with_misfits = points(&mut travellers, true).await?;
    let without = points(&mut travellers, false).await?;
    let all: BTreeSet<&String> = with_misfits.keys().chain(without.keys()).collect();
    for wanted in [
        "begin", "enrol", "copied", "drained", "fence", "offer", "accept", "departed",
    ] {
        for side in ["before", "after"] {
            let point = format!("{side}-{wanted}");
            ensure!(without.contains_key(&point), "no journey passes {point}");
        }
    }
    for wanted in OF_MISFITS {
        let point = format!("after-{wanted}");
        ensure!(
            with_misfits.contains_key(&point),
            "no journey passes {point}"
        );
    }
    let (mut of_misfits, mut plain) = (VecDeque::new(), VecDeque::new());
    for point in all {
        let misfits = !without.contains_key(point);
        let passings = if misfits {
            with_misfits[point]
        } else {
            without[point]
        };
        // How often changes are applied is up to the writers.
        let sure = if point.ends_with("-apply") { 1 } else { 2 };
        let step = Step {
            point: point.clone(),
            // The second passing, where there is one: then some users have gone and some have not.
            passing: passings.min(sure),
        };
        let queue = if misfits { &mut of_misfits } else { &mut plain };
        queue.extend(victims.iter().map(|victim| (*victim, step.clone())));
    }
    let waiting = Mutex::new(Cases { of_misfits, plain });
    let first = take_cases(name.to_owned(), travellers, &waiting);
    let second = async {
        let name = format!("{name}_beside");
        let travellers = Travellers::new(&name).await?;
        take_cases(name, travellers, &waiting).await
    };
    let (first, second) = tokio::try_join!(first, second)?;
    let cases = first.0 + second.0;
    let failed = [first.1, second.1].concat();
    println!("{cases} cases, {} failed", failed.len());
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// What has still to be run.
struct Cases {
    of_misfits: VecDeque<(Victim, Step)>,
    plain: VecDeque<(Victim, Step)>,
}

/// Runs cases as long as there are any; prints them. How many, and those that failed.
async fn take_cases(
    name: String,
    mut travellers: Travellers,
    waiting: &Mutex<Cases>,
) -> Result<(usize, Vec<String>)> {
    let (mut cases, mut failed) = (0, Vec::new());
    loop {
        let next = {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // Those who do not fit go out only: the way back is for another case.
            let out = travellers.home == SITES[0] || waiting.plain.is_empty();
            let next = if out {
                waiting.of_misfits.pop_front()
            } else {
                None
            };
            let misfits = next.is_some();
            next.or_else(|| waiting.plain.pop_front())
                .map(|(victim, step)| (victim, step, misfits))
        };
        let Some((victim, step, misfits)) = next else {
            return Ok((cases, failed));
        };
        let started = Instant::now();
        let outcome = travellers.case(victim, &step, misfits).await;
        let seconds = started.elapsed().as_secs_f64();
        cases += 1;
        let case = format!("{:<18} {:<8}", step.to_string(), format!("{victim:?}"));
        match outcome {
            Ok(runs) => println!("{case} ok, {runs} more runs, {seconds:.1} s"),
            Err(error) => {
                println!("{case} FAILED after {seconds:.1} s: {error:#}");
                failed.push(format!("{case}: {error:#}"));
                // The databases may be in any state now: the next case begins with fresh ones.
                travellers = Travellers::new(&format!("{name}_{cases}")).await?;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_dies_at_every_step() -> Result<()> {
    every_step("program", &[Victim::Program]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_dies_at_every_step() -> Result<()> {
    every_step("database", &[Victim::Source, Victim::Target]).await
}

/// Kills in one journey.
const KILLS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_deaths_at_random_steps_of_one_journey() -> Result<()> {
    let seed: u64 = match std::env::var("DOMICILE_TEST_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => std::time::UNIX_EPOCH.elapsed()?.as_millis() as u64,
    };
    println!("DOMICILE_TEST_SEED={seed}");
    let mut travellers = Travellers::new("deaths").await?;
    let points = points(&mut travellers, true).await?;
    travellers.travel(false, async |_, _| Ok(())).await?;
    let mut random = seed;
    let mut choose = move |below: u64| {
        // An LCG is random enough to pick steps, and its seed repeats them.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let runs = travellers
        .travel(true, async |world, configuration| {
            let names: Vec<&String> = points.keys().collect();
            let mut kills = 0;
            for _ in 0..4 * KILLS {
                if kills == KILLS {
                    break;
                }
                let point = names[choose(names.len() as u64) as usize];
                // Late passings come seldom, and end the journey before its time.
                let passing = 1 + choose(2);
                let stop = format!("{point}:{passing}");
                let ran = world.apply(configuration).env("DOMICILE_STOP", &stop);
                let ran = ran.run().await?;
                match ran.code {
                    None => kills += 1,
                    // Finished, or the dead one's sessions were still there.
                    Some(1..=3) => {}
                    other => anyhow::bail!("{stop}: {other:?}: {ran}"),
                }
                println!("{stop}: {:?}", ran.code);
            }
            println!("{kills} kills");
            Ok(())
        })
        .await?;
    println!("finished after {runs} more runs");
    Ok(())
}
