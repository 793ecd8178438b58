//! Daemons in this process, over home databases that hold what the daemon asks for and no application.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use daemon::{
    Admin, Daemon, DaemonError, DatabaseUrl, Ending, Leading, Service, Settings, Soon, View, Work,
    WorkError,
};
use model::KeyKind;
use tempfile::TempDir;
use testbed::{Cluster, ClusterOptions, wait_until};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

pub const PATIENCE: Duration = Duration::from_secs(60);

static SHARED: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());

/// The cluster, for as long as any test of this binary needs it.
pub async fn cluster() -> Result<Arc<Cluster>> {
    let mut shared = SHARED.lock().await;
    if let Some(cluster) = shared.upgrade() {
        return Ok(cluster);
    }
    let mut options = ClusterOptions::named("daemon");
    options.fsync = false;
    let cluster = Arc::new(Cluster::start(options).await?);
    *shared = Arc::downgrade(&cluster);
    Ok(cluster)
}

/// A site with home databases of services.
pub struct Site {
    pub cluster: Arc<Cluster>,
    pub name: &'static str,
    pub services: Vec<String>,
    pub folder: TempDir,
}

/// A daemon that runs; ended when dropped.
pub struct Running {
    pub view: View,
    pub ending: Ending,
    pub socket: PathBuf,
    task: JoinHandle<Result<(), DaemonError>>,
}

// === impl Site ===

impl Site {
    /// Databases of `services`, which are theirs alone in the cluster.
    pub async fn new(name: &'static str, services: &[&str]) -> Result<Site> {
        let cluster = cluster().await?;
        for service in services {
            let database = format!("{service}_{name}");
            cluster.create_database(&database).await?;
            let client = connect(&cluster, &database).await?;
            client
                .batch_execute(&residency::schema::statements(KeyKind::Integer))
                .await?;
            let home = "INSERT INTO domicile.home (service, site, origin, is_origin, key_kind, known_by, version, secret, fingerprint)
                        VALUES ($1, $2, 'beijing', $2 = 'beijing', 'integer', 'row', 1, '', '')";
            client.execute(home, &[service, &name]).await?;
        }
        Ok(Site {
            cluster,
            name,
            services: services.iter().map(|one| (*one).to_owned()).collect(),
            folder: tempfile::tempdir()?,
        })
    }

    /// The settings of a daemon without a link, whose socket is called `socket`.
    pub fn settings(&self, socket: &str) -> Settings {
        let service = |name: &String| Service {
            name: name.as_str().into(),
            origin: "beijing".into(),
            database: DatabaseUrl::new(
                self.cluster
                    .url("postgres", &format!("{name}_{}", self.name)),
            ),
        };
        Settings {
            site: self.name.into(),
            version: "1.2.3".to_owned(),
            services: self.services.iter().map(service).collect(),
            link: None,
            admin: Admin {
                socket: self.folder.path().join(socket),
                listen: None,
            },
            patience: Settings::PATIENCE,
        }
    }

    /// A session with the home database of the `n`th service.
    pub async fn client(&self, n: usize) -> Result<Client> {
        connect(
            &self.cluster,
            &format!("{}_{}", self.services[n], self.name),
        )
        .await
    }

    /// Ends the session that holds the office of the `n`th service.
    pub async fn end_session(&self, n: usize) -> Result<()> {
        let sql = "SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
                   WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()";
        let ended = self.client(n).await?.query(sql, &[]).await?;
        ensure!(ended.len() == 1, "{} sessions held it", ended.len());
        Ok(())
    }
}

// === impl Running ===

impl Running {
    pub fn start(daemon: Daemon, socket: PathBuf) -> Running {
        let (view, ending) = (daemon.view().clone(), Ending::default());
        let task = tokio::spawn(daemon.run(ending.clone()));
        Running {
            view,
            ending,
            socket,
            task,
        }
    }

    /// Whether it leads `service`.
    pub fn leads(&self, service: &str) -> bool {
        self.view.office(&service.into()).is_some()
    }

    /// Waits until it leads just these.
    pub async fn until_it_leads(&self, services: &[&str], not: &[&str]) -> Result<()> {
        wait_until(
            &format!("{services:?} are led, {not:?} not"),
            PATIENCE,
            async || {
                ensure!(!self.task.is_finished(), "it has ended");
                Ok(services.iter().all(|one| self.leads(one))
                    && !not.iter().any(|one| self.leads(one)))
            },
        )
        .await
    }

    /// How it ends.
    pub async fn end(mut self) -> Result<Result<(), DaemonError>> {
        self.ending.gently.cancel();
        Ok(tokio::time::timeout(PATIENCE, &mut self.task)
            .await
            .context("it does not end")??)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(cluster: &Cluster, database: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(&cluster.url("postgres", database), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// What a [`Task`] does once it is told to stop.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Ends after this time.
    After(Duration),
    /// Never.
    Never,
    /// Fails at once, before it is told anything, so many times; then waits to be told.
    Fails(u32),
    /// The same by a panic.
    Panics(u32),
}

/// What became of a [`Task`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Calls so far.
    pub calls: u32,
    /// Calls that run.
    pub running: u32,
    /// Calls that came to their safe point.
    pub safe: u32,
    /// The terms under which it was called.
    pub terms: Vec<i64>,
}

/// Work that does what a test wants.
pub struct Task {
    pub when: When,
    pub seen: watch::Sender<Seen>,
}

/// Counts a call as running for as long as it lives, also where it is dropped.
struct Counted<'a>(&'a watch::Sender<Seen>);

impl Task {
    pub fn new(when: When) -> Arc<Task> {
        Arc::new(Task {
            when,
            seen: watch::Sender::default(),
        })
    }

    /// Waits until it was seen so.
    pub async fn until(&self, what: &str, mut so: impl FnMut(&Seen) -> bool) -> Result<Seen> {
        let mut seen = self.seen.subscribe();
        let waited = tokio::time::timeout(PATIENCE, seen.wait_for(|seen| so(seen))).await;
        let seen = waited.with_context(|| format!("{what}: {:?}", *self.seen.borrow()))?;
        Ok(seen?.clone())
    }
}

impl Work for Task {
    fn name(&self) -> &'static str {
        "task"
    }

    fn lead(&self, leading: Leading) -> Soon<'_, Result<(), WorkError>> {
        Box::pin(async move {
            self.seen.send_modify(|seen| {
                seen.calls += 1;
                seen.running += 1;
                seen.terms.push(leading.office.term());
            });
            let _counted = Counted(&self.seen);
            let calls = self.seen.borrow().calls;
            match self.when {
                When::Fails(times) if calls <= times => return Err("it went wrong".into()),
                When::Panics(times) if calls <= times => panic!("it went very wrong"),
                _ => leading.stop.cancelled().await,
            }
            match self.when {
                When::After(time) => tokio::time::sleep(time).await,
                When::Never => std::future::pending().await,
                When::Fails(_) | When::Panics(_) => {}
            }
            self.seen.send_modify(|seen| seen.safe += 1);
            Ok(())
        })
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|seen| seen.running -= 1);
    }
}
