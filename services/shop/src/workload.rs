//! Writers that keep the shop busy, and log every write that was acknowledged.
//!
//! Each operation is one transaction of one user: a new invoice with lines, a change of an invoice
//! or of the user's own row, a line more or less, an invoice less. A refused operation is tried
//! again with the same ids; one whose COMMIT was cut off is logged as unknown and left alone.

mod ids;
mod journal;
mod transaction;
mod user;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

pub use self::ids::Ids;
pub use self::journal::Pause;

use self::journal::Journal;
use self::user::{OwnInvoice, User};
use self::writer::Writer;
use crate::log::{Line, Log, cents};
use crate::rows::{self, RowKey, RowValue, Rows};
use crate::site::{Connection, Site};

/// A user for whom the writers write.
#[derive(Clone, Debug)]
pub struct UserSpec {
    /// `customer_id`
    pub key: i32,
    /// Name of the site where he lives at the start.
    pub first_home: String,
}

/// Isolation level of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// READ COMMITTED
    ReadCommitted,
    /// REPEATABLE READ
    RepeatableRead,
    /// SERIALIZABLE
    Serializable,
}

/// How often each kind of operation comes, as weights.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// A new invoice with one to four lines; also what comes where another kind finds nothing to
    /// change.
    pub create_invoice: u32,
    /// A new address and total for an invoice.
    pub edit_invoice: u32,
    /// A new company for the user's own row.
    pub edit_user: u32,
    /// One line more in an invoice.
    pub add_line: u32,
    /// One line less in an invoice.
    pub delete_line: u32,
    /// An invoice and its lines less.
    pub delete_invoice: u32,
}

/// What a workload does. `..WorkloadOptions::default()` fills in the rest.
#[derive(Clone, Debug)]
pub struct WorkloadOptions {
    /// All sites at which users may live.
    pub sites: Vec<Site>,
    /// Whom the writers write for, evenly; at least one.
    pub users: Vec<UserSpec>,
    /// Concurrent writers, each with at most one connection per site.
    pub writers: usize,
    /// Pause of a writer between two operations.
    pub think: Duration,
    /// How long a transaction stays open before COMMIT.
    pub hold: Duration,
    /// Isolation levels, taken in turn; at least one.
    pub isolations: Vec<Isolation>,
    /// Weights of the operations.
    pub mix: Mix,
    /// Where ids come from; `None`: above everything that stands at the sites when it starts.
    pub ids: Option<Arc<Ids>>,
    /// New users that the writers create: (market, site of creation), taken at random.
    pub newcomers: Vec<(String, String)>,
    /// Percentage of operations that create a user, where `newcomers` are given.
    pub newcomers_percent: u32,
    /// Where the log is written as well, one JSON object a line.
    pub log_file: Option<PathBuf>,
    /// Seed of the operations' choice (not of their interleaving).
    pub seed: u64,
}

/// A running workload. Dropping it aborts the writers; [`Workload::stop`] ends them in good order.
pub struct Workload {
    shared: Arc<Shared>,
    writers: JoinSet<Result<()>>,
}

struct Shared {
    options: WorkloadOptions,
    ids: Arc<Ids>,
    /// Distinguishes the stamps of this workload from those of others.
    run: String,
    tracks: Vec<i32>,
    newcomers: Vec<(String, usize)>,
    users: RwLock<Vec<Arc<User>>>,
    journal: Journal,
    next_operation: AtomicU64,
    acknowledged: AtomicUsize,
    stopping: AtomicBool,
}

// === impl Isolation ===

impl Isolation {
    /// The three levels.
    pub const ALL: [Isolation; 3] = [
        Isolation::ReadCommitted,
        Isolation::RepeatableRead,
        Isolation::Serializable,
    ];

    fn begin(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Isolation::RepeatableRead => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            Isolation::Serializable => "BEGIN ISOLATION LEVEL SERIALIZABLE",
        }
    }
}

// === impl Mix ===

impl Default for Mix {
    fn default() -> Mix {
        Mix {
            create_invoice: 30,
            edit_invoice: 20,
            edit_user: 15,
            add_line: 15,
            delete_line: 12,
            delete_invoice: 8,
        }
    }
}

impl Mix {
    fn total(&self) -> u32 {
        self.create_invoice
            + self.edit_invoice
            + self.edit_user
            + self.add_line
            + self.delete_line
            + self.delete_invoice
    }
}

// === impl WorkloadOptions ===

impl Default for WorkloadOptions {
    fn default() -> WorkloadOptions {
        WorkloadOptions {
            sites: Vec::new(),
            users: Vec::new(),
            writers: 4,
            think: Duration::ZERO,
            hold: Duration::ZERO,
            isolations: vec![Isolation::ReadCommitted],
            mix: Mix::default(),
            ids: None,
            newcomers: Vec::new(),
            newcomers_percent: 1,
            log_file: None,
            seed: 1,
        }
    }
}

// === impl Workload ===

impl Workload {
    /// Reads the users' rows as they stand at their first homes and starts the writers.
    ///
    /// # Errors
    ///
    /// Where the options are incomplete or name an unknown site, or a site cannot be read.
    pub async fn start(options: WorkloadOptions) -> Result<Workload> {
        ensure!(!options.users.is_empty(), "a workload needs users");
        ensure!(
            !options.isolations.is_empty(),
            "a workload needs an isolation level"
        );
        ensure!(options.mix.total() > 0, "all weights of the mix are zero");
        let ids = match &options.ids {
            Some(ids) => Arc::clone(ids),
            None => Arc::new(Ids::above_existing(&options.sites).await?),
        };
        let newcomers = options
            .newcomers
            .iter()
            .map(|(market, home)| Ok((market.clone(), site_index(&options.sites, home)?)))
            .collect::<Result<_>>()?;
        let tracks =
            read_tracks(&options.sites[site_index(&options.sites, &options.users[0].first_home)?])
                .await?;
        let (users, baseline) = read_users(&options).await?;
        let log = Log {
            users: users.iter().map(|user| user.key).collect(),
            baseline,
            ..Log::default()
        };
        let names = options.sites.iter().map(|site| site.name.clone()).collect();
        let journal = Journal::new(names, log, options.log_file.as_deref())?;
        let shared = Arc::new(Shared {
            ids,
            run: format!("{:08x}", rand::random::<u32>()),
            tracks,
            newcomers,
            users: RwLock::new(users),
            journal,
            next_operation: AtomicU64::new(1),
            acknowledged: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            options,
        });
        let mut writers = JoinSet::new();
        for number in 0..shared.options.writers {
            let seed = shared.options.seed.wrapping_mul(1_000_003) + number as u64;
            let rng = SmallRng::seed_from_u64(seed);
            writers.spawn(Writer::new(Arc::clone(&shared), rng).run());
        }
        Ok(Workload { shared, writers })
    }

    /// Number of acknowledged operations so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Lengths of the pauses so far, one for each change of home that a writer met with a refused
    /// try; see [`Pause::length`].
    pub fn pauses(&self) -> Vec<Duration> {
        let records = self.pause_records();
        records.into_iter().map(|pause| pause.length).collect()
    }

    /// The pauses so far, with user and sites.
    pub fn pause_records(&self) -> Vec<Pause> {
        self.shared.journal.pauses()
    }

    /// Stops the writers, each after the try that it is in, and returns the log. An operation that
    /// was being refused is given up: it did not happen.
    ///
    /// # Errors
    ///
    /// Where a writer failed (it could not write the log file) or panicked.
    pub async fn stop(mut self) -> Result<Log> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended.context("a writer panicked")??;
        }
        self.shared.journal.log()
    }
}

// === impl Shared ===

impl Shared {
    fn any_user(&self, rng: &mut SmallRng) -> Arc<User> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&users[rng.random_range(0..users.len())])
    }

    fn add_user(&self, user: Arc<User>) {
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        users.push(user);
    }

    fn site_named(&self, name: &str) -> Option<usize> {
        site_index(&self.options.sites, name).ok()
    }
}

fn site_index(sites: &[Site], name: &str) -> Result<usize> {
    sites
        .iter()
        .position(|site| site.name == name)
        .with_context(|| format!("no site is called {name}"))
}

async fn read_tracks(site: &Site) -> Result<Vec<i32>> {
    let connection = Connection::open(site).await?;
    let rows = connection
        .client
        .query(
            "SELECT track_id FROM track ORDER BY track_id LIMIT 10000",
            &[],
        )
        .await
        .context("cannot read the catalogue")?;
    ensure!(!rows.is_empty(), "the catalogue is empty");
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The users with what they own, and all their rows.
async fn read_users(options: &WorkloadOptions) -> Result<(Vec<Arc<User>>, Rows)> {
    let mut keys_at: HashMap<usize, Vec<i32>> = HashMap::new();
    for user in &options.users {
        let home = site_index(&options.sites, &user.first_home)?;
        keys_at.entry(home).or_default().push(user.key);
    }
    let mut users = Vec::with_capacity(options.users.len());
    let mut baseline = Rows::new();
    for (home, keys) in keys_at {
        let rows = rows::read(&options.sites[home], &keys, &[]).await?;
        for key in &keys {
            ensure!(
                rows.contains_key(&RowKey::Customer(*key)),
                "user {key} is not at {}",
                options.sites[home].name
            );
        }
        let mut owned = belongings(&rows);
        users.extend(keys.into_iter().map(|key| {
            let invoices = owned.remove(&key).unwrap_or_default();
            Arc::new(User::new(key, home, invoices))
        }));
        baseline.extend(rows);
    }
    Ok((users, baseline))
}

/// The invoices of each customer.
fn belongings(rows: &Rows) -> HashMap<i32, Vec<OwnInvoice>> {
    let mut lines: HashMap<i32, Vec<Line>> = HashMap::new();
    let mut owned: HashMap<i32, Vec<OwnInvoice>> = HashMap::new();
    for (key, values) in rows {
        if let (
            RowKey::Line(id),
            Some(RowValue::Line {
                invoice,
                track,
                price,
                quantity,
            }),
        ) = (key, values.first())
        {
            lines.entry(*invoice).or_default().push(Line {
                id: *id,
                track: *track,
                cents: cents(price).unwrap_or_default(),
                quantity: *quantity,
            });
        }
    }
    for (key, values) in rows {
        if let (
            RowKey::Invoice(id),
            Some(RowValue::Invoice {
                customer, total, ..
            }),
        ) = (key, values.first())
        {
            owned.entry(*customer).or_default().push(OwnInvoice {
                id: *id,
                held: false,
                cents: cents(total).unwrap_or_default(),
                lines: lines.remove(id).unwrap_or_default(),
            });
        }
    }
    owned
}
