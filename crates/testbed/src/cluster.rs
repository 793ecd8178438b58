//! One throwaway cluster: started, crashed, started again, removed.

mod back;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::account::{Account, clean_command};
use crate::install::ensure_postgres_installed;
use crate::programs::client_program;
use crate::settings::{free_port, settings};
use crate::template::{Template, run};

pub use back::Backup;

/// How long a server may take to start; crash recovery on a busy machine included.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server may take to end after SIGQUIT: it kills its own children after five seconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const POLL_EVERY: Duration = Duration::from_millis(5);
/// Ports that we try; another process may take a port between our look and the server's bind.
const PORT_ATTEMPTS: u32 = 10;

/// What a cluster is to be like. `..ClusterOptions::default()` fills in the rest.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Part of the directory's name, for people who look around: letters, digits, `-`.
    pub name: String,
    /// Whether commits are flushed to disk. Off is faster, and a crash of the machine (not of the
    /// server) then loses data.
    pub fsync: bool,
    /// Further lines of `postgresql.conf`, as (name, value); they win over ours.
    pub settings: Vec<(String, String)>,
}

impl Default for ClusterOptions {
    fn default() -> ClusterOptions {
        ClusterOptions {
            name: "cluster".to_owned(),
            fsync: true,
            settings: Vec::new(),
        }
    }
}

impl ClusterOptions {
    /// The defaults under `name`.
    pub fn named(name: &str) -> ClusterOptions {
        ClusterOptions {
            name: name.to_owned(),
            ..ClusterOptions::default()
        }
    }
}

/// A throwaway PostgreSQL cluster on a free port of 127.0.0.1, superuser `postgres` without a
/// password, `wal_level = logical`.
///
/// Dropping it ends the server at once and removes its directory, also while a panic unwinds. It
/// stays behind where our process ends without dropping it (kill -9, `std::process::exit`).
#[derive(Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: ClusterOptions,
    bindir: PathBuf,
    account: Account,
    port: u16,
    data: PathBuf,
    state: Mutex<State>,
    /// Kept so that a cluster that starts later finds the template made.
    _template: Arc<Template>,
}

#[derive(Debug)]
struct State {
    /// The postmaster; `None` while stopped.
    postmaster: Option<Child>,
    /// `None` once the cluster is kept.
    dir: Option<TempDir>,
}

/// How one attempt to start a server ended.
enum Started {
    Ready(Child),
    /// The server ended by itself.
    Ended,
}

// === impl Cluster ===

impl Cluster {
    /// Makes a cluster and returns when it takes connections. Installs PostgreSQL where it is
    /// missing and we may ([`ensure_postgres_installed`]).
    ///
    /// # Errors
    ///
    /// Where PostgreSQL is missing or does not start; the error carries the end of its log.
    pub async fn start(options: ClusterOptions) -> Result<Cluster> {
        spawn_blocking(move || Inner::create(&options))
            .await?
            .map(|inner| Cluster {
                inner: Arc::new(inner),
            })
    }

    /// Makes a streaming standby of this cluster with `pg_basebackup` and returns when it takes connections, which
    /// can only read. Its settings are this cluster's, its port its own.
    ///
    /// # Errors
    ///
    /// Where the copy fails or the standby does not start; the error carries the end of its log.
    pub async fn standby(&self, name: &str) -> Result<Cluster> {
        let name = name.to_owned();
        let inner = self.blocking(move |primary| primary.make_standby(&name));
        Ok(Cluster {
            inner: Arc::new(inner.await?),
        })
    }

    /// The name given in the options.
    pub fn name(&self) -> &str {
        &self.inner.options.name
    }

    /// The TCP port; the same after [`Cluster::start_again`].
    pub fn port(&self) -> u16 {
        self.inner.port
    }

    /// The directory of the server's programs.
    pub fn bindir(&self) -> &Path {
        &self.inner.bindir
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.inner.data
    }

    /// A connection URL for `user` and `database`, both plain names that need no escaping.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port())
    }

    /// Creates an empty database.
    ///
    /// # Errors
    ///
    /// Where it exists or the server does not answer.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let statement = format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""));
        self.psql("postgres", &statement).await.map(drop)
    }

    /// Runs `sql` as `postgres` with psql, stopping at the first error; returns what it printed,
    /// unaligned, without headers.
    ///
    /// # Errors
    ///
    /// psql's own message, where a statement fails or the server does not answer.
    pub async fn psql(&self, database: &str, sql: &str) -> Result<String> {
        self.run_psql(database, "-c", sql.into()).await
    }

    /// Runs the SQL file at `path` as `postgres` with psql, stopping at the first error.
    ///
    /// # Errors
    ///
    /// psql's own message, where a statement fails or the server does not answer.
    pub async fn load_sql_file(&self, database: &str, path: &Path) -> Result<()> {
        self.run_psql(database, "-f", path.into()).await.map(drop)
    }

    /// Ends the server as a crash would (`pg_ctl stop -m immediate`) and waits until it is gone.
    /// Does nothing where it is stopped.
    ///
    /// # Errors
    ///
    /// Where the server cannot be signalled.
    pub async fn stop_immediate(&self) -> Result<()> {
        self.blocking(Inner::stop_immediate).await
    }

    /// Kills the postmaster with SIGKILL. Its backends notice and end by themselves, a moment
    /// later; one in the middle of a statement may live to the end of that statement.
    ///
    /// # Errors
    ///
    /// Where the server cannot be signalled.
    pub async fn kill9(&self) -> Result<()> {
        self.blocking(Inner::kill9).await
    }

    /// Starts a stopped cluster on the same port and returns when it takes connections. Does
    /// nothing where it runs.
    ///
    /// # Errors
    ///
    /// Where it does not come up within a minute; the error carries the end of its log.
    pub async fn start_again(&self) -> Result<()> {
        self.blocking(Inner::start_again).await
    }

    /// Whether the postmaster is there.
    pub fn is_running(&self) -> bool {
        let mut state = self.inner.lock();
        match &mut state.postmaster {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        self.inner.log_tail()
    }

    /// Leaves the cluster running and its directory in place, and returns that directory (`data`
    /// and `log` are in it).
    pub fn keep(self) -> PathBuf {
        let mut state = self.inner.lock();
        // Dropping a `Child` leaves the process alone.
        state.postmaster = None;
        match state.dir.take() {
            Some(dir) => dir.keep(),
            None => unreachable!("only `keep` takes the directory, and it consumes the cluster"),
        }
    }

    async fn run_psql(
        &self,
        database: &str,
        kind: &'static str,
        what: std::ffi::OsString,
    ) -> Result<String> {
        let url = self.url("postgres", database);
        self.blocking(move |inner| {
            let mut psql = clean_command(&client_program(&inner.bindir, "psql"));
            psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &url])
                .arg(kind)
                .arg(what);
            run(&mut psql, "psql")
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        spawn_blocking(move || work(&inner)).await?
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let kept = self.lock().dir.is_none();
        if kept {
            return;
        }
        if let Err(error) = self.stop_immediate() {
            tracing::warn!(cluster = self.options.name, error = %error, "cannot stop a throwaway cluster");
        }
    }
}

// === impl Inner ===

impl Inner {
    fn create(options: &ClusterOptions) -> Result<Inner> {
        let bindir = ensure_postgres_installed()?;
        let account = Account::choose()?;
        let template = Template::shared(&bindir, account)?;
        let dir = fresh_dir(&options.name, account)?;
        let data = template.copy_to(dir.path())?;
        Inner {
            options: options.clone(),
            bindir,
            account,
            port: 0,
            data,
            state: Mutex::new(State {
                postmaster: None,
                dir: Some(dir),
            }),
            _template: template,
        }
        .start_on_free_port()
    }

    fn make_standby(&self, name: &str) -> Result<Inner> {
        let dir = fresh_dir(name, self.account)?;
        let data = dir.path().join("data");
        let mut backup = self.account.command(&self.bindir.join("pg_basebackup"));
        backup
            .args([
                "--write-recovery-conf",
                "--wal-method=stream",
                "--checkpoint=fast",
            ])
            .args(["--no-sync", "-U", "postgres", "-h", "127.0.0.1", "-p"])
            .arg(self.port.to_string())
            .arg("-D")
            .arg(&data);
        run(&mut backup, "pg_basebackup")?;
        Inner {
            options: ClusterOptions {
                name: name.to_owned(),
                ..self.options.clone()
            },
            bindir: self.bindir.clone(),
            account: self.account,
            port: 0,
            data,
            state: Mutex::new(State {
                postmaster: None,
                dir: Some(dir),
            }),
            _template: Arc::clone(&self._template),
        }
        .start_on_free_port()
    }

    fn start_on_free_port(mut self) -> Result<Inner> {
        let conf = self.data.join("postgresql.conf");
        let original = fs::read_to_string(&conf).context("cannot read postgresql.conf")?;
        for _ in 0..PORT_ATTEMPTS {
            self.port = free_port()?;
            let settings = original.clone() + &settings(&self.options, self.port, self.dir());
            // Written in place: owner and mode stay those of the template.
            fs::write(&conf, settings).context("cannot write postgresql.conf")?;
            match self.launch()? {
                Started::Ready(postmaster) => {
                    self.lock().postmaster = Some(postmaster);
                    return Ok(self);
                }
                Started::Ended if self.log_tail().contains("could not bind") => {}
                Started::Ended => break,
            }
        }
        bail!("PostgreSQL does not start: {}", self.log_tail());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in another test leaves nothing half-changed here: a field is set or it is not.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self) -> &Path {
        self.data.parent().unwrap_or(&self.data)
    }

    fn log_file(&self) -> PathBuf {
        self.dir().join("log")
    }

    fn log_tail(&self) -> String {
        let text = fs::read(self.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Starts the server and waits until it takes connections or ends.
    fn launch(&self) -> Result<Started> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .context("cannot open the server's log")?;
        let mut child = self
            .account
            .command(&self.bindir.join("postgres"))
            .arg("-D")
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the server's log")?)
            .stderr(log)
            // Ctrl-C at the terminal is for us: we end the server ourselves.
            .process_group(0)
            .spawn()
            .context("cannot start postgres")?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if child.try_wait().context("cannot watch postgres")?.is_some() {
                return Ok(Started::Ended);
            }
            if self.says_ready(child.id()) {
                return Ok(Started::Ready(child));
            }
            if Instant::now() >= deadline {
                end(&mut child)?;
                bail!(
                    "PostgreSQL was not ready within {START_TIMEOUT:?}: {}",
                    self.log_tail()
                );
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Whether `postmaster.pid` is of this very process and its eighth line says `ready`.
    fn says_ready(&self, pid: u32) -> bool {
        let Ok(text) = fs::read_to_string(self.data.join("postmaster.pid")) else {
            return false;
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first().and_then(|line| line.parse().ok()) == Some(pid)
            && lines.get(7) == Some(&"ready")
    }

    fn start_again(&self) -> Result<()> {
        let mut state = self.lock();
        if let Some(child) = &mut state.postmaster
            && child.try_wait().context("cannot watch postgres")?.is_none()
        {
            return Ok(());
        }
        // After SIGKILL the old backends may hold the shared memory and the port for a while.
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Started::Ready(postmaster) = self.launch()? {
                state.postmaster = Some(postmaster);
                return Ok(());
            }
            std::thread::sleep(POLL_EVERY * 20);
        }
        bail!("PostgreSQL does not start again: {}", self.log_tail());
    }

    fn stop_immediate(&self) -> Result<()> {
        match self.lock().postmaster.take() {
            Some(mut child) => end(&mut child),
            None => Ok(()),
        }
    }

    fn kill9(&self) -> Result<()> {
        let Some(mut child) = self.lock().postmaster.take() else {
            return Ok(());
        };
        child.kill().context("cannot kill postgres")?;
        child.wait().context("cannot await postgres")?;
        Ok(())
    }
}

/// A directory for a cluster, in the hands of its server's account.
fn fresh_dir(name: &str, account: Account) -> Result<TempDir> {
    let dir = tempfile::Builder::new()
        .prefix(&format!("testbed-{name}-"))
        .tempdir()
        .context("cannot make a temporary directory")?;
    account.give(dir.path())?;
    Ok(dir)
}

/// Ends a server with SIGQUIT, which makes it end its children too, and waits for it.
fn end(child: &mut Child) -> Result<()> {
    if child.try_wait().context("cannot watch postgres")?.is_some() {
        return Ok(());
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.context("postgres has no process id")?;
    kill_process(pid, Signal::QUIT).context("cannot stop postgres")?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    while child.try_wait().context("cannot watch postgres")?.is_none() {
        if Instant::now() >= deadline {
            child.kill().context("cannot kill postgres")?;
            child.wait().context("cannot await postgres")?;
            break;
        }
        std::thread::sleep(POLL_EVERY);
    }
    Ok(())
}
