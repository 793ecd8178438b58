//! Two databases that agree in their tables and in little else, and the real copy, stream and apply between them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use model::UserKey;
use model::ownership::Ownership;
use model::table::HomeSchema;
use postgres::classify::{Declared, classify};
use postgres::connect::{Session, connect};
use postgres::digest::{BatchDigest, DigestKey};
use postgres::pace::{Limit, Pace};
use postgres::stream::{ChangeStream, Said};
use postgres::{apply, catalog, copy, replica, verify};
use testbed::{Cluster, ClusterOptions};

/// What an operator may have set on a database, and what a session of ours must not depend on.
const SOURCE_SETTINGS: &[(&str, &str)] = &[
    ("TimeZone", "Asia/Shanghai"),
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-5"),
];
const TARGET_SETTINGS: &[(&str, &str)] = &[
    ("TimeZone", "America/St_Johns"),
    ("DateStyle", "German, YMD"),
    ("IntervalStyle", "iso_8601"),
    ("extra_float_digits", "0"),
    ("array_nulls", "off"),
    ("xmloption", "document"),
    ("standard_conforming_strings", "off"),
    ("search_path", "nowhere"),
    ("transform_null_equals", "on"),
];

/// A cluster for both databases.
pub async fn cluster(name: &str) -> Result<Cluster> {
    let options = ClusterOptions {
        fsync: false,
        ..ClusterOptions::named(name)
    };
    Cluster::start(options).await
}

/// The two ends.
pub struct World {
    pub cluster: Cluster,
    pub source: Session,
    pub target: Session,
    pub from: HomeSchema,
    pub to: HomeSchema,
}

impl World {
    /// Two databases in `cluster` with these tables.
    pub async fn new(
        cluster: Cluster,
        source: &str,
        target: &str,
        tables: &[(&str, &str)],
    ) -> Result<Self> {
        cluster.create_database("source").await?;
        let icu = "SELECT count(*) FROM pg_collation WHERE collname = 'und-x-icu' \
                   AND current_setting('server_version_num')::int >= 150000";
        let other = if cluster.psql("postgres", icu).await?.trim() == "1" {
            "CREATE DATABASE target TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'"
        } else {
            "CREATE DATABASE target"
        };
        cluster.psql("postgres", other).await?;
        for (database, settings) in [("source", SOURCE_SETTINGS), ("target", TARGET_SETTINGS)] {
            for (name, value) in settings {
                let set = format!("ALTER DATABASE {database} SET {name} = '{value}'");
                cluster.psql("postgres", &set).await?;
            }
        }
        let parse = |text: &&str| Ownership::parse(text).expect("a classification");
        let declared = Declared {
            user_table: "member".to_owned(),
            key: "id".to_owned(),
            market: None,
            tables: tables
                .iter()
                .map(|(name, text)| ((*name).to_owned(), parse(text)))
                .collect(),
        };
        let end = async |database: &str, sql: &str| -> Result<(Session, HomeSchema)> {
            let session = connect(&cluster.url("postgres", database), "test").await?;
            session
                .batch_execute(&format!("SET search_path = public; {sql}"))
                .await?;
            session
                .batch_execute("SET search_path = pg_catalog, pg_temp")
                .await?;
            let home = read(&session, &declared).await?;
            Ok((session, home))
        };
        let (source, from) = end("source", source).await.context("the source's tables")?;
        let (target, to) = end("target", target).await.context("the target's tables")?;
        assert_eq!(from.fingerprint, to.fingerprint, "the two ends agree");
        source
            .batch_execute("CREATE PUBLICATION stream FOR ALL TABLES")
            .await?;
        source
            .batch_execute("SELECT pg_create_logical_replication_slot('stream', 'pgoutput')")
            .await?;
        Ok(Self {
            cluster,
            source,
            target,
            from,
            to,
        })
    }

    /// A session such as the mover's, at the source or the target.
    pub async fn session(&self, database: &str) -> Result<Session> {
        Ok(connect(&self.cluster.url("postgres", database), "test").await?)
    }

    /// Copies all rows of `users`.
    pub async fn copy(&self, users: &[UserKey]) -> Result<u64> {
        let (mut reading, mut writing) =
            (self.session("source").await?, self.session("target").await?);
        let reader = copy::open(&mut reading, &self.from, users).await?;
        let tx = writing.transaction().await?;
        replica::assume(&tx).await?;
        let (_limit, unbounded) = tokio::sync::watch::channel(Limit::Rate(None));
        let mut pace = Pace::new(unbounded, Arc::default());
        let (pieces, mut come) = tokio::sync::mpsc::channel(1);
        let read = async {
            let read = reader.read(&self.from, &pieces, &mut pace, u64::MAX).await;
            drop(pieces);
            read
        };
        let written = async {
            let mut writer = copy::Writer::default();
            while let Some(piece) = come.recv().await {
                writer.write(&tx, &self.to, piece).await?;
            }
            writer.finish()
        };
        let (_, rows) = tokio::try_join!(read, written)?;
        reader.close().await?;
        tx.commit().await?;
        Ok(rows)
    }

    /// Reads the stream until it has brought `count` changes, and applies them.
    pub async fn follow(&self, count: usize) -> Result<()> {
        let url = self.cluster.url("postgres", "source");
        let mut stream = ChangeStream::open(&url, "stream", "stream", &self.from).await?;
        let mut changes = Vec::new();
        while changes.len() < count {
            let said = tokio::time::timeout(Duration::from_secs(60), stream.next());
            match said.await.context("the stream says nothing more")?? {
                Said::Committed(transaction) => {
                    if !transaction.unresolved.is_empty() || !transaction.departures.is_empty() {
                        bail!("{:?} {:?}", transaction.unresolved, transaction.departures);
                    }
                    changes.extend(transaction.changes);
                    stream.confirm(transaction.end_lsn);
                }
                Said::Idle(_) => {}
            }
        }
        stream.close().await;
        let mut session = self.session("target").await?;
        let kept = session.kept();
        let mut tx = session.transaction().await?;
        replica::assume(&tx).await?;
        let spoilt = apply::apply(&mut tx, &kept, &self.to, &changes, &HashSet::new()).await?;
        if !spoilt.is_empty() {
            bail!("not applied: {spoilt:?}");
        }
        tx.commit().await?;
        Ok(())
    }

    /// What the two ends' digests of `users` are, each read by a session of its own.
    pub async fn digests(&self, users: &[UserKey]) -> Result<[BatchDigest; 2]> {
        Ok([
            self.digest("source", &self.from, users).await?,
            self.digest("target", &self.to, users).await?,
        ])
    }

    async fn digest(
        &self,
        database: &str,
        home: &HomeSchema,
        users: &[UserKey],
    ) -> Result<BatchDigest> {
        let mut session = self.session(database).await?;
        let tx = session.transaction().await?;
        Ok(verify::digest(&tx, home, users, &key()).await?)
    }
}

pub fn key() -> DigestKey {
    DigestKey::new([9; 32])
}

async fn read(session: &Session, declared: &Declared) -> Result<HomeSchema> {
    let catalog = catalog::read(session).await?;
    classify(&catalog, declared).map_err(|errors| {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow!("{}", texts.join("; "))
    })
}

/// Users by number.
pub fn users(numbers: &[i64]) -> Vec<UserKey> {
    numbers
        .iter()
        .map(|n| UserKey::new(n.to_string()))
        .collect()
}

/// A list by key, for comparisons.
pub type ByKey = BTreeMap<String, String>;
