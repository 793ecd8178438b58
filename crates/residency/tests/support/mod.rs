//! One throwaway cluster for the tests of a binary, and home databases in it: a small shop whose rows belong to
//! customers by column, by a path of one step and by a path of two.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod watched;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use handoff::record::{Event, Kept, Resident, State};
use model::ownership::Ownership;
use model::policy::Policy;
use model::table::HomeSchema;
use model::{Attempt, BatchId, Epoch, KeyKind, ServiceName, SiteName, UserKey};
use postgres::classify::{Declared, classify};
use residency::install::{Installation, install};
use residency::office::Office;
use residency::records::{self, Change};
use testbed::{Cluster, ClusterOptions};
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};

/// The attempt that [`Site::become_one`] uses.
pub const ATTEMPT: Attempt = Attempt(1);

/// The cluster, for as long as any test of this binary needs it.
static SHARED: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());

/// Numbers for databases.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The shared cluster, with `settings` where this is the test that starts it.
pub async fn cluster(settings: &[(&str, &str)]) -> Result<Arc<Cluster>> {
    let mut shared = SHARED.lock().await;
    if let Some(cluster) = shared.upgrade() {
        return Ok(cluster);
    }
    let mut options = ClusterOptions::named("residency");
    options.fsync = false;
    options.settings = settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let cluster = Arc::new(Cluster::start(options).await?);
    *shared = Arc::downgrade(&cluster);
    Ok(cluster)
}

/// How a home database of a test differs from the usual one.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The type of the user's key.
    pub key: &'static str,
    /// Whether this site is the origin.
    pub is_origin: bool,
    /// The mark told to a site that is not the origin.
    pub mark: Option<i64>,
    /// Appended to the foreign keys: `DEFERRABLE INITIALLY DEFERRED`.
    pub foreign_key: &'static str,
    /// Run before Domicile is installed.
    pub extra: &'static str,
    /// Tables of `extra`, with what owns their rows.
    pub extra_tables: &'static [(&'static str, &'static str)],
    /// Tables of `extra` with declarations that are more than a text.
    pub extra_forms: fn() -> Vec<(&'static str, Ownership)>,
    /// Users who stand in the user table at adoption.
    pub users: i64,
    /// `open` or `closed`.
    pub after_restart: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            key: "bigint",
            is_origin: true,
            mark: None,
            foreign_key: "",
            extra: "",
            extra_tables: &[],
            extra_forms: Vec::new,
            users: 12,
            after_restart: "open",
        }
    }
}

/// A home database with Domicile in it.
pub struct Site {
    pub cluster: Arc<Cluster>,
    pub database: String,
    pub home: HomeSchema,
    /// The role of the application: it owns nothing, and may do everything with the tables.
    pub app: String,
    /// The mover's role.
    pub mover: String,
    pub shape: Shape,
    pub policy: Policy,
}

pub fn here() -> SiteName {
    SiteName::from("beijing")
}

pub fn there() -> SiteName {
    SiteName::from("singapore")
}

pub fn service() -> ServiceName {
    ServiceName::from("shop")
}

/// A session of `role` in `database`.
pub async fn connect(cluster: &Cluster, role: &str, database: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&cluster.url(role, database), NoTls)
        .await
        .with_context(|| format!("connecting as {role}"))?;
    tokio::spawn(connection);
    Ok(client)
}

fn tables(shape: &Shape) -> String {
    let (key, deferred) = (shape.key, shape.foreign_key);
    let user = |n: &str| user_expression(key, n);
    format!(
        "CREATE TABLE customer (id {key} PRIMARY KEY, country text NOT NULL, name text);
         CREATE TABLE product (id integer PRIMARY KEY, title text);
         CREATE TABLE orders (id bigint PRIMARY KEY, total integer NOT NULL DEFAULT 0,
             customer_id {key} NOT NULL REFERENCES customer ON DELETE CASCADE ON UPDATE CASCADE {deferred});
         CREATE TABLE line (order_id bigint REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE {deferred},
             n integer, product_id integer REFERENCES product, what text, PRIMARY KEY (order_id, n));
         CREATE TABLE note (id bigint PRIMARY KEY, order_id bigint, n integer, body text,
             FOREIGN KEY (order_id, n) REFERENCES line ON DELETE CASCADE ON UPDATE CASCADE {deferred});
         INSERT INTO product VALUES (1, 'tea');
         INSERT INTO customer SELECT {of_u}, 'CN', 'n' FROM generate_series(1, {users}) AS u;
         INSERT INTO orders SELECT u * 10, 0, {of_u} FROM generate_series(1, {users}) AS u;
         INSERT INTO line SELECT u * 10, 1, 1, 'w' FROM generate_series(1, {users}) AS u;
         INSERT INTO note SELECT u, u * 10, 1, 'b' FROM generate_series(1, {users}) AS u;
         CREATE SEQUENCE more START 100000;
         {extra}",
        of_u = user("u"),
        users = shape.users,
        extra = shape.extra,
    )
}

/// The SQL expression for the key of user number `n`.
pub fn user_expression(key: &str, n: &str) -> String {
    match key {
        "uuid" => format!("lpad(to_hex({n}), 32, '0')::uuid"),
        "text" => format!("('user-' || {n})"),
        _ => n.to_owned(),
    }
}

// === impl Site ===

impl Site {
    /// A usual one.
    pub async fn new() -> Result<Self> {
        Self::shaped(Shape::default()).await
    }

    pub async fn shaped(shape: Shape) -> Result<Self> {
        let mut site = Self::bare(cluster(&[]).await?, shape).await?;
        site.install().await?;
        Ok(site)
    }

    /// The database before Domicile is installed in it.
    pub async fn bare(cluster: Arc<Cluster>, shape: Shape) -> Result<Self> {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let (database, app) = (format!("home{n}"), format!("app{n}"));
        cluster.create_database(&database).await?;
        let session = connect(&cluster, "postgres", &database).await?;
        session
            .batch_execute(&format!(
                "{}; CREATE ROLE {app} LOGIN;
                 GRANT ALL ON ALL TABLES IN SCHEMA public TO {app};
                 GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {app};",
                tables(&shape)
            ))
            .await
            .context("creating the application's tables")?;
        let home = read_home(&session, &shape).await?;
        Ok(Self {
            cluster,
            database,
            home,
            app,
            mover: format!("mover{n}"),
            shape,
            policy: Policy::default(),
        })
    }

    /// Installs Domicile as the superuser, or again.
    pub async fn install(&mut self) -> Result<Vec<String>> {
        let mut session = self.session("postgres").await?;
        self.install_as(&mut session).await
    }

    pub async fn install_as(&mut self, session: &mut Client) -> Result<Vec<String>> {
        let mark = if self.shape.is_origin {
            residency::install::mark_at_origin(session, &self.home).await?
        } else {
            self.shape.mark
        };
        let (service, site, origin) = (service(), here(), self.origin());
        Ok(install(
            session,
            &Installation {
                service: &service,
                site: &site,
                origin: &origin,
                home: &self.home,
                mover: (&self.mover, None),
                policy: &self.policy,
                mark,
                after_restart: self.shape.after_restart,
            },
        )
        .await?)
    }

    pub fn origin(&self) -> SiteName {
        if self.shape.is_origin {
            here()
        } else {
            "shanghai".into()
        }
    }

    pub fn kind(&self) -> KeyKind {
        self.home.users.kind
    }

    /// The key of user number `n`.
    pub fn user(&self, n: i64) -> UserKey {
        UserKey::new(match self.shape.key {
            "uuid" => format!("00000000-0000-0000-0000-{n:012x}"),
            "text" => format!("user-{n}"),
            _ => n.to_string(),
        })
    }

    pub async fn session(&self, role: &str) -> Result<Client> {
        connect(&self.cluster, role, &self.database).await
    }

    pub async fn app(&self) -> Result<Client> {
        self.session(&self.app).await
    }

    pub async fn mover(&self) -> Result<Client> {
        self.session(&self.mover).await
    }

    /// Writes the record of user number `n` as if the protocol had led there.
    pub async fn become_one(&self, n: i64, state: State) -> Result<()> {
        let resident = Resident {
            state,
            seen: Epoch(7),
            attempt_seen: ATTEMPT,
        };
        let mover = self.mover().await?;
        let record = format!(
            "INSERT INTO domicile.resident (user_key, state, epoch, seen)
             SELECT $1::text::{}, 'settled', 0, 0 ON CONFLICT DO NOTHING",
            self.kind().sql_type()
        );
        let user = self.user(n);
        mover.execute(&record, &[&user.as_str()]).await?;
        records::write(&mover, self.kind(), &[user], &[resident], Some(&[3])).await?;
        Ok(())
    }

    /// Enrols users in a transaction that is left to the caller to end; returns its id.
    pub async fn enrol(
        &self,
        tx: &(impl tokio_postgres::GenericClient + Sync),
        users: &[i64],
    ) -> Result<i64> {
        let changes: Vec<Change> = users
            .iter()
            .map(|n| Change {
                user: self.user(*n),
                event: Event::Enrol {
                    to: there(),
                    attempt: ATTEMPT,
                },
            })
            .collect();
        records::change(tx, self.kind(), &changes, Some(&vec![3; changes.len()])).await?;
        Ok(residency::journal::current_xid(tx).await?)
    }

    /// Takes the office of departures in `mover`.
    pub async fn office(&self, mover: &Client) -> Result<Office> {
        Ok(Office::take(mover, Office::DEPARTURES).await?)
    }

    /// The record of user number `n`.
    pub async fn record(&self, n: i64) -> Result<Option<Resident>> {
        let mover = self.mover().await?;
        let mut found = records::look(&mover, self.kind(), &[self.user(n)]).await?;
        Ok(found.pop().flatten())
    }
}

/// The classified tables, as the catalog gives them.
pub async fn read_home(session: &Client, shape: &Shape) -> Result<HomeSchema> {
    let catalog = postgres::catalog::read(session).await?;
    let usual = [
        ("orders", "customer_id"),
        ("line", "order_id -> orders"),
        ("note", "(order_id, n) -> line"),
        ("product", "reference"),
    ];
    let mut tables = BTreeMap::new();
    for (table, owner) in usual.iter().chain(shape.extra_tables) {
        tables.insert((*table).to_owned(), Ownership::parse(owner)?);
    }
    for (table, owner) in (shape.extra_forms)() {
        tables.insert(table.to_owned(), owner);
    }
    let declared = Declared {
        user_table: "customer".into(),
        key: "id".into(),
        market: Some("country".into()),
        tables,
    };
    classify(&catalog, &declared).map_err(|errors| anyhow::anyhow!("{errors:?}"))
}

/// Every state in which a user can be here, with a name.
pub fn states() -> Vec<State> {
    let (epoch, to, attempt) = (Epoch(7), there(), ATTEMPT);
    let batch = BatchId::from("m/1");
    let kept = Some(Kept {
        to: "oregon".into(),
        epoch: Epoch(5),
    });
    vec![
        State::Settled { epoch },
        State::Moving {
            epoch,
            to: to.clone(),
            attempt,
        },
        State::Fenced {
            epoch,
            to: to.clone(),
            batch: batch.clone(),
            attempt,
        },
        State::Offered {
            epoch,
            to: to.clone(),
            batch,
            attempt,
        },
        State::Departed {
            to: to.clone(),
            epoch,
            erased: false,
        },
        State::Arriving {
            from: to.clone(),
            attempt,
            kept: kept.clone(),
        },
        State::Clearing {
            from: to,
            attempt,
            kept,
        },
        State::Lost { epoch },
    ]
}

/// What came of a statement: `ok`, or the SQLSTATE.
pub async fn outcome(session: &Client, sql: &str) -> String {
    match session.batch_execute(sql).await {
        Ok(()) => "ok".to_owned(),
        Err(error) => refusal(&error).0,
    }
}

/// What came of a statement that is undone at once.
pub async fn tried(session: &Client, sql: &str) -> Result<String> {
    session.batch_execute("BEGIN").await?;
    let said = outcome(session, sql).await;
    session.batch_execute("ROLLBACK").await?;
    Ok(said)
}

/// The SQLSTATE and the DETAIL of an error.
pub fn refusal(error: &tokio_postgres::Error) -> (String, Option<String>) {
    match error.as_db_error() {
        Some(said) => (
            said.code().code().to_owned(),
            said.detail().map(str::to_owned),
        ),
        None => (format!("{error:?}"), None),
    }
}

/// Waits until `session`'s query, a count, is not zero.
pub async fn until(session: &Client, what: &str, count: &str) -> Result<()> {
    testbed::wait_until(what, Duration::from_secs(20), async || {
        Ok(session.query_one(count, &[]).await?.get::<_, i64>(0) > 0)
    })
    .await
}

/// One number.
pub async fn number(session: &Client, sql: &str) -> Result<i64> {
    Ok(session.query_one(sql, &[]).await?.get(0))
}

/// The process id of a session.
pub async fn pid(session: &Client) -> Result<i32> {
    let pid = session
        .query_one("SELECT pg_backend_pid()", &[])
        .await?
        .get(0);
    ensure!(pid > 0);
    Ok(pid)
}
