//! A shop at two sites, each a PostgreSQL cluster of its own, and the real program between them.

#![allow(dead_code, reason = "every test file uses a part of it")]

pub mod claimants;
pub mod depot;
pub mod linked;
pub mod program;
pub mod refusal;
pub mod scan;
pub mod served;
pub mod visitors;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use shop::Site;
use shop::check::{Residence, Verdict, check};
use shop::generate::{self, Size};
use shop::log::Log;
use shop::workload::{UserSpec, Workload, WorkloadOptions};
use tempfile::TempDir;
use testbed::{Cluster, ClusterOptions, wait_until};
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};

/// How long a test waits for a state that must come, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The two sites, the origin first.
pub const SITES: [&str; 2] = ["beijing", "singapore"];

/// Two clusters, for all worlds of a test file that live at the same time.
#[derive(Debug)]
pub struct Clusters(pub [Cluster; 2]);

static SHARED: Mutex<Weak<Clusters>> = Mutex::const_new(Weak::new());

// === impl Clusters ===

impl Clusters {
    /// Clusters that no other test uses: it may stop them.
    pub async fn own(name: &str) -> Result<Arc<Clusters>> {
        let start = |site: &str| {
            Cluster::start(ClusterOptions {
                fsync: false,
                settings: vec![("autovacuum_naptime".into(), "5s".into())],
                ..ClusterOptions::named(&format!("{name}-{site}"))
            })
        };
        let clusters = Clusters([start(SITES[0]).await?, start(SITES[1]).await?]);
        for cluster in &clusters.0 {
            cluster.psql("postgres", "CREATE ROLE shop LOGIN").await?;
        }
        Ok(Arc::new(clusters))
    }

    /// The clusters that tests running now share; gone with the last of them.
    pub async fn shared() -> Result<Arc<Clusters>> {
        let mut shared = SHARED.lock().await;
        if let Some(clusters) = shared.upgrade() {
            return Ok(clusters);
        }
        let clusters = Clusters::own("moves").await?;
        *shared = Arc::downgrade(&clusters);
        Ok(clusters)
    }
}

/// Two databases, one at each site, and a folder with `domicile.toml`.
#[derive(Debug)]
pub struct World {
    /// The clusters, by site.
    pub clusters: Arc<Clusters>,
    /// Name of the service and of both databases.
    pub name: String,
    /// Where the program runs.
    pub folder: TempDir,
    /// What is installed: a configuration without phases, and the phases of all files by their names. One policy permits
    /// what different files ask for.
    installed: std::sync::Mutex<(String, BTreeMap<String, String>)>,
}

/// A user who is not between two sites: where he lives.
pub type Homes = BTreeMap<String, &'static str>;

/// The classification of Chinook's tables.
pub const SHOP_TABLES: &str = r#"
invoice        = "customer_id"
invoice_line   = "invoice_id -> invoice"
artist         = "reference"
album          = "reference"
employee       = "reference"
genre          = "reference"
media_type     = "reference"
playlist       = "reference"
playlist_track = "reference"
track          = "reference"
"#;

// === impl World ===

impl World {
    /// Two empty databases.
    pub async fn empty(clusters: Arc<Clusters>, name: &str) -> Result<World> {
        for cluster in &clusters.0 {
            cluster.create_database(name).await?;
        }
        Ok(World {
            clusters,
            name: name.to_owned(),
            folder: tempfile::tempdir()?,
            installed: std::sync::Mutex::default(),
        })
    }

    /// A shop of `customers` users at beijing, of the markets `markets`, and its catalogue at singapore. E-mail
    /// addresses are unique. Installed, and configured so that market IN goes to singapore.
    pub async fn shop(
        clusters: Arc<Clusters>,
        name: &str,
        customers: u32,
        markets: &[(&str, u32)],
    ) -> Result<World> {
        let world = World::empty(clusters, name).await?;
        let options = generate::Options {
            size: Size {
                customers,
                invoices_per_customer: 3,
                lines_per_invoice: 3,
            },
            markets: markets.iter().map(|(m, n)| ((*m).into(), *n)).collect(),
            unique_email: true,
        };
        generate::generate(&world.admin(0).await?, &options).await?;
        let target = world.admin(1).await?;
        shop::chinook::load_catalogue(&target).await?;
        let index = "CREATE UNIQUE INDEX customer_email_key ON customer (email)";
        target.batch_execute(index).await?;
        world.configure("domicile.toml", "out", &[("IN", "singapore")])?;
        world.install().await?;
        Ok(world)
    }

    /// Writes a configuration of the shop whose only phase is `phase`.
    pub fn configure(&self, file: &str, phase: &str, home: &[(&str, &str)]) -> Result<()> {
        let user = r#"{ table = "customer", key = "customer_id", market = "country" }"#;
        self.write_configuration(file, user, SHOP_TABLES, phase, home)
    }

    /// Writes a configuration.
    pub fn write_configuration(
        &self,
        file: &str,
        user: &str,
        tables: &str,
        phase: &str,
        home: &[(&str, &str)],
    ) -> Result<()> {
        let name = &self.name;
        let home: Vec<String> = home.iter().map(|(m, s)| format!("{m} = \"{s}\"")).collect();
        let base = format!(
            "[site.beijing]\n[site.singapore]\n\n[service.{name}]\norigin = \"beijing\"\n\
             user = {user}\nids = \"application\"\n\
             database.beijing = \"{}\"\ndatabase.singapore = \"{}\"\n\
             batch = {{ users = 16, rows = 20000 }}\n\n[service.{name}.tables]\n{tables}\n",
            self.mover_url(0),
            self.mover_url(1),
        );
        let block = format!(
            "[[phase]]\nname = \"{phase}\"\nservice = [\"{name}\"]\nhome = {{ {} }}\n\
             basis = {{ code = \"test\", document = \"T-1\", expires = \"2999-01-01\" }}\n",
            home.join(", "),
        );
        std::fs::write(self.folder.path().join(file), format!("{base}{block}"))?;
        let mut installed = self.installed.lock().expect("no test panics here");
        installed.0 = base;
        installed.1.insert(phase.to_owned(), block);
        Ok(())
    }

    /// Both sites are closed after a restart from now on, by `domicile.toml`.
    pub async fn close_after_restarts(&self) -> Result<()> {
        let closing = |text: &str| {
            let mut text = text.to_owned();
            for site in SITES {
                let block = format!("[site.{site}]\n");
                text = text.replace(&block, &format!("{block}after_restart = \"closed\"\n"));
            }
            text
        };
        let file = self.path("domicile.toml");
        std::fs::write(&file, closing(&std::fs::read_to_string(&file)?))?;
        {
            let mut installed = self.installed.lock().expect("no test panics here");
            installed.0 = closing(&installed.0);
        }
        self.install().await
    }

    /// The arguments of `install` as administrator, with the phases of all files that were configured so far.
    fn installing(&self) -> Result<Vec<String>> {
        let installed = self.installed.lock().expect("no test panics here");
        let mut args = Vec::new();
        if !installed.1.is_empty() {
            let phases: Vec<&str> = installed.1.values().map(String::as_str).collect();
            let text = format!("{}{}", installed.0, phases.concat());
            std::fs::write(self.folder.path().join("installed.toml"), text)?;
            args.extend(["--config".to_owned(), "installed.toml".to_owned()]);
        }
        args.push("install".to_owned());
        for n in [0, 1] {
            args.push("--admin".to_owned());
            args.push(format!("{}={}", SITES[n], self.admin_url(n)));
        }
        Ok(args)
    }

    /// Runs `install` as administrator, and lets the application's role use its tables.
    pub async fn install(&self) -> Result<()> {
        let args = self.installing()?;
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.program(&args).run().await?.expect(0)?;
        for n in [0, 1] {
            let grant = "GRANT ALL ON ALL TABLES IN SCHEMA public TO shop;
                         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO shop";
            self.admin(n).await?.batch_execute(grant).await?;
        }
        Ok(())
    }

    /// The program, to be run in our folder.
    pub fn program(&self, args: &[&str]) -> program::Program {
        program::Program::new(self.folder.path(), args)
    }

    /// `apply --yes --json` with the configuration `file`.
    pub fn apply(&self, file: &str) -> program::Program {
        self.program(&["--config", file, "apply", "--yes", "--json"])
    }

    /// `apply`, held at `point` (the `n`-th passing where it says `point:n`) until `act` has been done.
    pub async fn held(
        &self,
        file: &str,
        point: &str,
        environment: &[(&str, &str)],
        act: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<program::Ran> {
        let hold = self.path("hold");
        let mut program = self
            .apply(file)
            .env("DOMICILE_HOLD", format!("{point}={}", hold.display()));
        for (name, value) in environment {
            program = program.env(name, value);
        }
        let mut running = program.start()?;
        wait_until("the program is held or ends", PATIENCE, async || {
            Ok(hold.exists() || running.ended()?.is_some())
        })
        .await?;
        if !hold.exists() {
            let ran = running.end().await?;
            anyhow::bail!("{point} was not reached: {ran}");
        }
        let acted = tokio::time::timeout(PATIENCE, act()).await;
        std::fs::remove_file(&hold)?;
        let ran = running.end().await?;
        acted
            .context("what is done meanwhile takes too long")
            .and_then(|acted| acted)
            .with_context(|| format!("at {point}: {ran}"))?;
        Ok(ran)
    }

    /// `apply`, dying at `point`.
    pub async fn dies_at(&self, file: &str, point: &str) -> Result<()> {
        let ran = self.apply(file).env("DOMICILE_STOP", point).run().await?;
        ensure!(ran.code.is_none(), "{point} was not reached: {ran}");
        Ok(())
    }

    /// Waits until the sessions of a program that died have ended.
    pub async fn free(&self) -> Result<()> {
        self.free_of("domicile %").await
    }

    /// As [`free`](Self::free), where gateways of the test go on.
    pub async fn free_but_gateways(&self) -> Result<()> {
        for purpose in ["mover", "verify", "door", "office"] {
            self.free_of(&format!("domicile {purpose}%")).await?;
        }
        Ok(())
    }

    async fn free_of(&self, names: &str) -> Result<()> {
        let sessions = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name LIKE '{names}'"
        );
        self.wait_for(0, &sessions, "0").await?;
        self.wait_for(1, &sessions, "0").await
    }

    /// Runs `apply` again until it ends with `code`, at most `times`.
    pub async fn apply_until(
        &self,
        file: &str,
        code: i32,
        times: usize,
    ) -> Result<(program::Ran, usize)> {
        let mut last = None;
        for time in 1..=times {
            let ran = self.apply(file).run().await?;
            ensure!(
                !ran.stdout.contains("verification:"),
                "rows differed: {ran}"
            );
            if ran.code == Some(code) {
                return Ok((ran, time));
            }
            last = Some(ran);
        }
        let last = last.context("tried at least once")?;
        anyhow::bail!("apply did not end with {code} in {times} runs; the last: {last}")
    }

    /// The mover's URL.
    pub fn mover_url(&self, site: usize) -> String {
        let role = format!("mover_{}", self.name);
        self.clusters.0[site].url(&role, &self.name)
    }

    /// The superuser's URL.
    pub fn admin_url(&self, site: usize) -> String {
        self.clusters.0[site].url("postgres", &self.name)
    }

    /// A session as superuser.
    pub async fn admin(&self, site: usize) -> Result<Client> {
        connect(&self.admin_url(site)).await
    }

    /// A session as the application.
    pub async fn application(&self, site: usize) -> Result<Client> {
        connect(&self.clusters.0[site].url("shop", &self.name)).await
    }

    /// The sites as the application knows them.
    pub fn sites(&self) -> Vec<Site> {
        let site = |n: usize| Site::new(SITES[n], self.clusters.0[n].url("shop", &self.name));
        vec![site(0), site(1)]
    }

    /// The keys of the users of `market` whose row stands at `site`.
    pub async fn users_of(&self, site: usize, market: &str) -> Result<Vec<i32>> {
        let sql = "SELECT customer_id FROM customer WHERE country = $1 ORDER BY 1";
        let rows = self.admin(site).await?.query(sql, &[&market]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Starts writers for `users`, who live at `home`.
    pub async fn writers(
        &self,
        home: &str,
        users: &[i32],
        options: WorkloadOptions,
    ) -> Result<Workload> {
        let spec = |key: &i32| UserSpec {
            key: *key,
            first_home: home.to_owned(),
        };
        Workload::start(WorkloadOptions {
            sites: self.sites(),
            users: users.iter().map(spec).collect(),
            ..options
        })
        .await
    }

    /// Holds both sites against the writers' log: users of `moved` went from `from` to the other site.
    pub async fn judge(
        &self,
        log: &Log,
        from: &'static str,
        moved: impl Fn(i32) -> bool,
    ) -> Result<Verdict> {
        let to = other(from);
        check(&self.sites(), log, |user| {
            if moved(user) {
                Residence::at(from).then(to)
            } else {
                Residence::at(from)
            }
        })
        .await
    }

    /// As [`World::judge`]: nothing may have been lost, duplicated or misplaced, and no anomaly met.
    pub async fn expect_clean(
        &self,
        log: &Log,
        from: &'static str,
        moved: impl Fn(i32) -> bool,
    ) -> Result<Verdict> {
        let verdict = self.judge(log, from, moved).await?;
        ensure!(
            verdict.is_clean() && log.anomalies.is_empty(),
            "{verdict:#?}\nanomalies: {:#?}",
            log.anomalies
        );
        Ok(verdict)
    }

    /// Every user with the sites whose records say that he lives there; fails where somebody is between two sites.
    pub async fn homes(&self) -> Result<BTreeMap<String, Vec<&'static str>>> {
        let mut homes: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
        for (n, site) in SITES.into_iter().enumerate() {
            let client = self.admin(n).await?;
            let rows = client
                .query("SELECT user_key::text, state FROM domicile.resident", &[])
                .await?;
            let mut recorded = BTreeMap::new();
            for row in &rows {
                recorded.insert(row.get::<_, String>(0), row.get::<_, String>(1));
            }
            for (user, state) in &recorded {
                ensure!(
                    ["settled", "departed"].contains(&state.as_str()),
                    "user {user} is {state} at {site}"
                );
                let here = homes.entry(user.clone()).or_default();
                if state == "settled" {
                    here.push(site);
                }
            }
            if n == 0 {
                let sql = "SELECT u::text FROM domicile.home, LATERAL (SELECT customer_id AS u FROM customer) AS c \
                           WHERE domicile.known(u)";
                for row in client.query(sql, &[]).await? {
                    let user: String = row.get(0);
                    if !recorded.contains_key(&user) {
                        homes.entry(user).or_default().push(site);
                    }
                }
            }
        }
        Ok(homes)
    }

    /// As [`World::homes`], of tables of any shape: nobody has two homes or is between two sites.
    pub async fn expect_one_home_each(&self) -> Result<()> {
        let sql =
            "SELECT user_key::text || ' ' || state FROM domicile.resident WHERE state = 'settled'";
        let twice = "SELECT string_agg(user_key::text, ',') FROM domicile.resident
                     WHERE state NOT IN ('settled', 'departed')";
        let mut settled = std::collections::BTreeSet::new();
        for site in [0, 1] {
            let between = self.value(site, twice).await?;
            ensure!(
                between.is_empty(),
                "{}: between two sites: {between}",
                SITES[site]
            );
            for row in self.admin(site).await?.query(sql, &[]).await? {
                let user: String = row.get(0);
                ensure!(settled.insert(user.clone()), "two homes: {user}");
            }
        }
        Ok(())
    }

    /// What must hold after a run that was stopped by a limit: nobody is between two sites.
    pub async fn expect_rest_but_running(&self) -> Result<()> {
        for (user, homes) in self.homes().await? {
            ensure!(homes.len() == 1, "user {user} lives at {homes:?}");
        }
        Ok(())
    }

    /// What must hold whenever no move runs: every user has one home, no slot is left, no chunk is open, nothing
    /// is spooled.
    pub async fn expect_rest(&self) -> Result<Homes> {
        let mut one = Homes::new();
        for (user, homes) in self.homes().await? {
            ensure!(homes.len() == 1, "user {user} lives at {homes:?}");
            one.insert(user, homes[0]);
        }
        for (n, site) in SITES.into_iter().enumerate() {
            let client = self.admin(n).await?;
            let left =
                "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()),
                               (SELECT count(*) FROM domicile.chunk WHERE state <> 'finished'),
                               (SELECT count(*) FROM domicile.inbound WHERE state <> 'finished'),
                               (SELECT count(*) FROM domicile.spool),
                               (SELECT count(*) FROM domicile.move WHERE state = 'running')";
            let row = client.query_one(left, &[]).await?;
            let counts: Vec<i64> = (0..5).map(|n| row.get(n)).collect();
            ensure!(
                counts == [0; 5],
                "{site}: left (slots, chunks, inbound, spool, moves): {counts:?}"
            );
        }
        Ok(one)
    }

    /// One value as text, as superuser; the empty string for NULL.
    pub async fn value(&self, site: usize, sql: &str) -> Result<String> {
        let client = self.admin(site).await?;
        let row = client
            .query_one(&format!("SELECT ({sql})::text"), &[])
            .await?;
        Ok(row.get::<_, Option<String>>(0).unwrap_or_default())
    }

    /// Waits until `sql` says `wanted` at `site`.
    pub async fn wait_for(&self, site: usize, sql: &str, wanted: &str) -> Result<()> {
        let client = self.admin(site).await?;
        let sql = format!("SELECT ({sql})::text");
        wait_until(&format!("{sql} is {wanted}"), PATIENCE, async || {
            let row = client.query_one(&sql, &[]).await?;
            Ok(row.get::<_, Option<String>>(0).unwrap_or_default() == wanted)
        })
        .await
    }

    /// The folder.
    pub fn path(&self, file: &str) -> std::path::PathBuf {
        self.folder.path().join(file)
    }
}

/// The other site.
pub fn other(site: &str) -> &'static str {
    if site == SITES[0] { SITES[1] } else { SITES[0] }
}

/// Waits until the writers have acknowledged `count` operations more.
pub async fn more_acknowledged(workload: &Workload, count: usize) -> Result<()> {
    let goal = workload.acknowledged() + count;
    wait_until("the writers went on", PATIENCE, async || {
        Ok(workload.acknowledged() >= goal)
    })
    .await
}

/// Waits until somebody has made, or removed, a file.
pub async fn wait_for_file(path: &Path, there: bool) -> Result<()> {
    wait_until(
        &format!("{} changes", path.display()),
        PATIENCE,
        async || Ok(path.exists() == there),
    )
    .await
}

/// A session.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// What an update of `user` says at `site`: `ok`, or the SQLSTATE.
pub async fn write(world: &World, site: usize, user: i32) -> Result<String> {
    let application = world.application(site).await?;
    let sql = "UPDATE customer SET first_name = first_name || '!' WHERE customer_id = $1";
    Ok(match application.execute(sql, &[&user]).await {
        Ok(1) => "ok".to_owned(),
        Ok(n) => format!("{n} rows"),
        Err(error) => code(&error),
    })
}

/// The SQLSTATE.
pub fn code(error: &tokio_postgres::Error) -> String {
    error
        .code()
        .map_or_else(|| error.to_string(), |code| code.code().to_owned())
}
