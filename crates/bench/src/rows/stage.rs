//! Two throwaway servers, the databases on them, and the configuration.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use testbed::{Cluster, ClusterOptions};
use tokio_postgres::{Client, NoTls};

use super::Options;
use super::data::{self, COUNTRIES, MOVED};
use crate::cost;
use crate::profile;
use crate::program::Domicile;

/// The full database, never moved.
pub(crate) const FULL: &str = "full";
/// The empty one.
pub(crate) const EMPTY: &str = "empty";
/// What moves, at both ends.
pub(crate) const SHOP: &str = "shop";

/// Everything that is measured stands here. Dropping it ends the servers and removes their folders.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) source: Server,
    pub(crate) target: Server,
    pub(crate) domicile: Domicile,
    pub(crate) options: Options,
    folder: TempDir,
}

/// A server and its first process.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) cluster: Cluster,
    pub(crate) postmaster: u32,
}

/// What of the configuration differs from figure to figure.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    /// The file's name.
    pub(crate) file: &'static str,
    /// Lines of `[service.shop]`.
    pub(crate) lines: String,
    /// A phase for each of [`COUNTRIES`] that may move; else one phase for the first [`MOVED`].
    pub(crate) by_country: bool,
}

// === impl Stage ===

impl Stage {
    /// Starts both servers and fills the source.
    pub(crate) async fn build(options: &Options) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("domicile-bench-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        let (source, target) = tokio::try_join!(
            Server::start("source", options),
            Server::start("target", options)
        )?;
        let stage = Self {
            source,
            target,
            domicile: Domicile::find(folder.path())?,
            options: options.clone(),
            folder,
        };
        let customers = data::customers(options.scale);
        for server in [&stage.source, &stage.target] {
            let role = format!("CREATE ROLE {} LOGIN", data::ROLE);
            server.sql("postgres", &role).await?;
        }
        stage.source.cluster.create_database(FULL).await?;
        stage.target.cluster.create_database(EMPTY).await?;
        let (schema, keys) = (data::SCHEMA, data::KEYS);
        let grant = format!(
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
             GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role};",
            role = data::ROLE
        );
        let fill = data::fill(customers);
        let (here, there) = (data::number_from("0"), data::number_from("1000000000"));
        stage
            .source
            .sql(FULL, &format!("{schema}{fill}{keys}{here}{grant}"))
            .await?;
        stage.source.sql(FULL, "VACUUM (FREEZE, ANALYZE)").await?;
        stage
            .target
            .sql(EMPTY, &format!("{schema}{keys}{there}{grant}"))
            .await?;
        Ok(stage)
    }

    /// A fresh shop at both ends, Domicile installed, everybody at the source.
    pub(crate) async fn fresh_shop(&self, tuning: &Tuning) -> Result<()> {
        self.source.copy_database(FULL, SHOP).await?;
        self.target.copy_database(EMPTY, SHOP).await?;
        self.configure(tuning)?;
        let admin = |site: &str, server: &Server| {
            format!("{site}={}", server.cluster.url("postgres", SHOP))
        };
        self.domicile
            .run(&[
                "--config",
                tuning.file,
                "install",
                "--admin",
                &admin("source", &self.source),
                "--admin",
                &admin("target", &self.target),
            ])
            .await?;
        Ok(())
    }

    /// Writes a configuration file.
    pub(crate) fn configure(&self, tuning: &Tuning) -> Result<()> {
        let mut text = format!(
            "[site.source]\ncountry = \"US\"\nprovider = \"here\"\n[site.target]\ncountry = \"BR\"\nprovider = \"here\"\n\
             [service.shop]\norigin = \"source\"\nids = \"application\"\n\
             user = {{ table = \"customer\", key = \"customer_id\", market = \"country\" }}\n\
             database.source = \"{}\"\ndatabase.target = \"{}\"\n{}\n\
             [service.shop.tables]\ninvoice = \"customer_id\"\ninvoice_line = \"invoice_id -> invoice\"\n",
            self.source.cluster.url("domicile", SHOP),
            self.target.cluster.url("domicile", SHOP),
            tuning.lines,
        );
        let mut phase = |name: &str, countries: &[&str]| {
            let homes: Vec<String> = countries
                .iter()
                .map(|code| format!("{code} = \"target\""))
                .collect();
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n[[phase]]\nname = \"{name}\"\nservice = [\"shop\"]\nhome = {{ {} }}\n\
                 basis = {{ code = \"bench\", document = \"B-1\", expires = \"2999-01-01\" }}\n",
                homes.join(", ")
            );
        };
        if tuning.by_country {
            for code in &COUNTRIES[..data::SETTLED_FROM] {
                phase(code, &[code]);
            }
        } else {
            phase("all", &COUNTRIES[..MOVED]);
        }
        fs::write(self.folder.path().join(tuning.file), text)
            .context("cannot write the configuration")
    }

    /// Reads a file of the program's folder.
    pub(crate) fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.folder.path().join(name))
            .with_context(|| format!("cannot read {name}"))
    }

    /// Writes a file into the program's folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.folder.path().join(name), text)
            .with_context(|| format!("cannot write {name}"))
    }

    /// Before each run: what the one before it left to be written is written.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.source.sql("postgres", "CHECKPOINT").await?;
        self.target.sql("postgres", "CHECKPOINT").await
    }

    /// CPU that both servers and our children that ended used so far, in seconds.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu {
            source: cost::of_server(self.source.postmaster)?.as_secs_f64(),
            target: cost::of_server(self.target.postmaster)?.as_secs_f64(),
            children: cost::of_our_children().as_secs_f64(),
        })
    }
}

/// CPU in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    pub(crate) source: f64,
    pub(crate) target: f64,
    /// The programs that we ran: the mover, or the peer's clients.
    pub(crate) children: f64,
}

// === impl Cpu ===

impl Cpu {
    /// What was used since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            source: self.source - before.source,
            target: self.target - before.target,
            children: self.children - before.children,
        }
    }

    pub(crate) fn all(self) -> f64 {
        self.source + self.target + self.children
    }
}

// === impl Server ===

impl Server {
    async fn start(name: &str, options: &Options) -> Result<Self> {
        let mut settings = vec![
            ("shared_buffers", "1GB"),
            ("max_wal_size", "8GB"),
            ("autovacuum", "off"),
            ("max_connections", "300"),
            // Refusals are what some figures wait for: not to be measured with their lines in a log.
            ("log_min_messages", "fatal"),
        ];
        if options.profile {
            settings.push(("shared_preload_libraries", profile::LIBRARY));
        }
        let settings = settings
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let cluster = Cluster::start(ClusterOptions {
            settings: settings.collect(),
            ..ClusterOptions::named(&format!("bench-{name}"))
        })
        .await?;
        let folder = cluster.psql("postgres", "SHOW data_directory").await?;
        let file = fs::read_to_string(format!("{}/postmaster.pid", folder.trim()))
            .context("cannot read postmaster.pid")?;
        let postmaster = file
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok());
        Ok(Self {
            cluster,
            postmaster: postmaster.context("no process id in postmaster.pid")?,
        })
    }

    pub(crate) async fn sql(&self, database: &str, sql: &str) -> Result<()> {
        self.cluster.psql(database, sql).await.map(drop)
    }

    /// Makes `to` a copy of `from`; nobody may be connected to that.
    pub(crate) async fn copy_database(&self, from: &str, to: &str) -> Result<()> {
        self.drop_database(to).await?;
        // File by file: through the WAL it would be written twice.
        let copy = format!("CREATE DATABASE {to} TEMPLATE {from} STRATEGY file_copy");
        self.sql("postgres", &copy).await
    }

    pub(crate) async fn drop_database(&self, name: &str) -> Result<()> {
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        self.sql("postgres", &drop).await
    }

    /// A connection of `role`; it ends when the client is dropped.
    pub(crate) async fn connect(&self, role: &str, database: &str) -> Result<Client> {
        let url = self.cluster.url(role, database);
        let (client, connection) = tokio_postgres::connect(&url, NoTls)
            .await
            .context("cannot connect")?;
        tokio::spawn(async {
            // Its error, if any, is told to whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(client)
    }
}
