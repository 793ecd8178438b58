//! Deaths in the middle of moves between two daemons, at every step of the protocol: of either daemon, of both at once, of
//! either site's database. Nothing that was acknowledged is lost, doubled or misplaced.
//!
//! The steps are learnt from a move that names every point it passes, and held against the list that stands beside the
//! protocol. For each case a group of users of its own moves under writers; where the step is one of refusal, some do not fit.

#![cfg(feature = "planted-faults")]

mod support;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use handoff::steps::{End, OF_A_MOVE, Step};
use shop::workload::{Isolation, WorkloadOptions};
use support::linked::{Linked, SEALING, met};
use support::served::Served;
use support::{Clusters, PATIENCE, SITES, World, more_acknowledged};
use testbed::wait_until;

/// How many go together: two batches.
const TOGETHER: usize = 20;
/// Longer than either of the two tests takes on a busy machine.
const BOUND: Duration = Duration::from_secs(500);

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// The daemon of the site, without a moment more.
    Daemon(usize),
    /// Both daemons at once.
    Both,
    /// The site's database, as by an immediate shutdown.
    Database(usize),
    /// The site's database, by SIGKILL to its first process.
    Postmaster(usize),
}

/// Deaths in one move, one after the other, each at a point that the daemon of a site passes.
struct Case {
    at: usize,
    deaths: Vec<(String, Death)>,
}

/// A market with a phase of its own.
fn group(n: usize) -> String {
    format!("G{n:02}")
}

/// Two daemons, and groups of users who have not moved yet.
struct Matrix {
    linked: Linked,
    both: [Served; 2],
    /// The points that the daemon of each site passes in a move of people who fit.
    plain: [BTreeSet<String>; 2],
    /// The same, where some do not fit.
    points: [BTreeSet<String>; 2],
    moved: usize,
}

/// The site at which a step is taken, and the points before and after it.
fn around(step: &Step) -> (usize, [String; 2]) {
    let at = usize::from(step.end == End::Target);
    (
        at,
        ["before", "after"].map(|when| format!("{when}-{}", step.name)),
    )
}

// === impl Case ===

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", SITES[self.at])?;
        for (point, death) in &self.deaths {
            write!(f, " {death:?} at {point}")?;
        }
        Ok(())
    }
}

// === impl Matrix ===

impl Matrix {
    /// So many groups; the first has moved and told which points there are.
    async fn new(name: &str, groups: usize) -> Result<Matrix> {
        let names: Vec<String> = (0..groups).map(group).collect();
        let markets: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let customers = (groups * TOGETHER) as u32;
        let clusters = Clusters::own(name).await?;
        let world = World::shop(clusters, name, customers, &markets).await?;
        for name in &names {
            world.configure("domicile.toml", name, &[(name, "singapore")])?;
        }
        world.install().await?;
        std::fs::copy(world.path("installed.toml"), world.path("domicile.toml"))?;
        let clerk =
            "INSERT INTO employee (employee_id, last_name, first_name) VALUES (99, 'New', 'Clerk')";
        world.admin(0).await?.batch_execute(clerk).await?;
        let linked = Linked::new(world).await?;
        let start = async |site: usize| {
            let log = format!("{}.points", SITES[site]);
            let program = linked.serving(site).env("DOMICILE_POINTS", log);
            linked.serve_as(site, program).await
        };
        let both = [start(0).await?, start(1).await?];
        met(&both).await?;
        let mut matrix = Matrix {
            linked,
            both,
            plain: Default::default(),
            points: Default::default(),
            moved: 0,
        };
        matrix.move_group(false, async |_| Ok(())).await?;
        matrix.plain = [matrix.passed(0)?, matrix.passed(1)?];
        matrix.move_group(true, async |_| Ok(())).await?;
        matrix.points = [matrix.passed(0)?, matrix.passed(1)?];
        matrix.expect_every_step()?;
        for daemon in &matrix.both {
            daemon.signal("KILL").await?;
        }
        Ok(matrix)
    }

    /// The points that the daemon of `site` passed, each once.
    fn passed(&self, site: usize) -> Result<BTreeSet<String>> {
        let file = format!("{}.points", SITES[site]);
        let text = std::fs::read_to_string(self.linked.world.path(&file))?;
        let name = |line: &str| line.split(':').next().unwrap_or(line).to_owned();
        // The ledgers are sealed beside the move: `linked_ledger.rs` kills daemons there.
        let of_move = |point: &String| !SEALING.contains(&point.as_str());
        Ok(text.lines().map(name).filter(of_move).collect())
    }

    /// Every step of the protocol was passed, before and after, at its end.
    fn expect_every_step(&self) -> Result<()> {
        for (at, around) in OF_A_MOVE.iter().map(around) {
            let points = &self.points[at];
            for point in around {
                ensure!(points.contains(&point), "{point} is missing: {points:?}");
            }
        }
        Ok(())
    }

    /// Every further point, with the site whose daemon passes it.
    fn beside_steps(&self) -> impl Iterator<Item = (usize, String)> {
        let of_step = |point: &String| {
            let mut steps = OF_A_MOVE.iter();
            steps.any(|step| around(step).1.contains(point))
        };
        let at = |site: usize| self.points[site].iter().map(move |one| (site, one.clone()));
        at(0).chain(at(1)).filter(move |(_, point)| !of_step(point))
    }

    /// Starts a daemon so that it holds where it is told.
    async fn serve(&self, site: usize) -> Result<Served> {
        let [order, hold] = self.files(site);
        let hold = format!("@{order}={hold}");
        let program = self.linked.serving(site).env("DOMICILE_HOLD", hold);
        self.linked.serve_as(site, program).await
    }

    /// Starts it so that it dies where it is told, and does not wait there.
    async fn serve_dying(&self, site: usize) -> Result<Served> {
        let [order, _] = self.files(site);
        let program = self.linked.serving(site);
        let program = program.env("DOMICILE_STOP", format!("@{order}"));
        self.linked.serve_as(site, program).await
    }

    /// Where a daemon is told a point, and where it says that it is held there.
    fn files(&self, site: usize) -> [String; 2] {
        ["order", "hold"].map(|what| format!("{}.{what}", SITES[site]))
    }

    /// The next group moves from beijing to singapore under writers, but for those who do not fit, while `disturb` is
    /// done.
    async fn move_group(
        &mut self,
        with_misfits: bool,
        disturb: impl AsyncFnOnce(&mut Matrix) -> Result<()>,
    ) -> Result<()> {
        let name = group(self.moved);
        self.moved += 1;
        let users = self.linked.world.users_of(0, &name).await?;
        let misfits = match with_misfits {
            true => self.misfits(&users).await?,
            false => Vec::new(),
        };
        let options = WorkloadOptions {
            writers: 3,
            think: Duration::from_millis(10),
            isolations: Isolation::ALL.to_vec(),
            ..WorkloadOptions::default()
        };
        let workload = self.linked.world.writers(SITES[0], &users, options).await?;
        more_acknowledged(&workload, 5).await?;
        let apply = |linked: &Linked| linked.apply(0).arg("--phase").arg(&name);
        let first = apply(&self.linked).start()?;
        disturb(self).await?;
        first.end().await?;
        let world = &self.linked.world;
        let there = format!(
            "SELECT count(*) = {} FROM domicile.resident WHERE state = 'settled' AND user_key = ANY (ARRAY{users:?})",
            users.len() - misfits.len()
        );
        let running = "SELECT count(*) FROM domicile.move WHERE state = 'running'";
        wait_until("everybody has moved", PATIENCE, async || {
            if world.value(1, &there).await? == "true" && world.value(0, running).await? == "0" {
                return Ok(true);
            }
            // What died before it had begun a move is asked for again.
            apply(&self.linked).run().await?;
            Ok(false)
        })
        .await
        .with_context(|| self.logs())?;
        more_acknowledged(&workload, 5).await?;
        let log = workload.stop().await?;
        let went = |user: i32| !misfits.contains(&user);
        world.expect_clean(&log, SITES[0], went).await?;
        world.expect_rest_but_running().await?;
        world.expect_one_home_each().await
    }

    fn logs(&self) -> String {
        format!("{}\n{}", self.both[0].log(), self.both[1].log())
    }

    /// Has two of a group not fit: the e-mail address of one is taken at the target, which shows while he is copied; one is
    /// served by a clerk whom only the source knows, which shows when he is to be accepted.
    async fn misfits(&self, users: &[i32]) -> Result<Vec<i32>> {
        let one = |n: usize| users.get(n).copied().context("a group of more");
        let (known, served) = (one(3)?, one(12)?);
        let taken = "INSERT INTO customer (customer_id, first_name, last_name, email, country)
                     VALUES (900000 + $1, 'Some', 'Body', 'user' || $1 || '@example.com', 'SG')";
        let (source, target) = (
            self.linked.world.admin(0).await?,
            self.linked.world.admin(1).await?,
        );
        target.execute(taken, &[&known]).await?;
        let serve = "UPDATE customer SET support_rep_id = 99 WHERE customer_id = $1";
        source.execute(serve, &[&served]).await?;
        Ok(vec![known, served])
    }

    /// One group moves, and somebody dies at each point of the case.
    async fn case(&mut self, case: &Case) -> Result<()> {
        let [order, hold] = self.files(case.at);
        let world = &self.linked.world;
        let (order, hold) = (world.path(&order), world.path(&hold));
        let plain = &self.plain[case.at];
        let with_misfits = !case.deaths.iter().all(|(point, _)| plain.contains(point));
        self.move_group(with_misfits, async |matrix| {
            for (point, death) in &case.deaths {
                std::fs::write(&order, point)?;
                let there = wait_until("the point is reached", PATIENCE, async || match *death {
                    Death::Daemon(site) => Ok(matrix.both[site].running.ended()?.is_some()),
                    _ => Ok(hold.exists()),
                });
                let there = there.await;
                there.with_context(|| format!("{point}: {}", matrix.logs()))?;
                matrix.die(*death, &hold).await?;
            }
            Ok(())
        })
        .await
        .with_context(|| case.to_string())
    }

    /// The death, and the life after it. Whoever is held at a point is let go.
    async fn die(&mut self, death: Death, hold: &Path) -> Result<()> {
        match death {
            Death::Daemon(site) => self.both[site] = self.serve_dying(site).await?,
            Death::Both => {
                for daemon in &self.both {
                    daemon.signal("KILL").await?;
                }
                std::fs::remove_file(hold)?;
                self.both = [self.serve(0).await?, self.serve(1).await?];
            }
            Death::Database(site) | Death::Postmaster(site) => {
                let cluster = &self.linked.world.clusters.0[site];
                match death {
                    Death::Postmaster(_) => cluster.kill9().await?,
                    _ => cluster.stop_immediate().await?,
                }
                cluster.start_again().await?;
                std::fs::remove_file(hold)?;
            }
        }
        Ok(())
    }

    /// All `cases`, within [`BOUND`] since `began`.
    async fn run(&mut self, cases: &[Case], began: Instant) -> Result<()> {
        for case in cases {
            self.case(case).await?;
            println!("{:6.1} s {case}", began.elapsed().as_secs_f32());
            if began.elapsed() > BOUND {
                bail!("it takes too long: {case}");
            }
        }
        let deaths: usize = cases.iter().map(|case| case.deaths.len()).sum();
        println!("{deaths} deaths in {} s", began.elapsed().as_secs());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_daemon_dies_at_every_step() -> Result<()> {
    let began = Instant::now();
    let mut matrix = Matrix::new("deaths", 60).await?;
    let mut cases: Vec<Case> = OF_A_MOVE
        .iter()
        .map(|step| {
            let (at, [before, after]) = around(step);
            let death = Death::Daemon(at);
            // What dies before the step is committed has it taken again, and so comes to what is after it.
            let deaths = vec![(before, death), (after, death)];
            Case { at, deaths }
        })
        .collect();
    cases.extend(matrix.beside_steps().map(|(at, point)| Case {
        at,
        deaths: vec![(point, Death::Daemon(at))],
    }));
    matrix.both = [matrix.serve_dying(0).await?, matrix.serve_dying(1).await?];
    met(&matrix.both).await?;
    matrix.run(&cases, began).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_daemons_at_once_and_either_database_die_at_every_step() -> Result<()> {
    let began = Instant::now();
    let mut matrix = Matrix::new("more_deaths", 60).await?;
    let mut cases = Vec::new();
    let mut how = [Death::Database, Death::Postmaster].into_iter().cycle();
    let mut database = |at| how.next().map(|death| death(at)).context("it goes round");
    for step in OF_A_MOVE {
        let (at, [before, after]) = around(&step);
        // What dies before the step is committed has it taken again, and so meets the next death there.
        let deaths = vec![
            (before.clone(), database(at)?),
            (before, Death::Both),
            (after.clone(), Death::Both),
        ];
        cases.push(Case { at, deaths });
        if ["offer", "accept", "departed"].contains(&step.name) {
            let deaths = vec![(after, database(at)?)];
            cases.push(Case { at, deaths });
        }
    }
    for (at, point) in matrix.beside_steps() {
        let deaths = vec![(point, Death::Both)];
        cases.push(Case { at, deaths });
    }
    matrix.both = [matrix.serve(0).await?, matrix.serve(1).await?];
    met(&matrix.both).await?;
    matrix.run(&cases, began).await
}
