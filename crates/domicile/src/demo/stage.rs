//! The places of the demo: throwaway clusters, each with the shop's database, and the configuration.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use shop::generate::{Options, Size, generate};
use tempfile::TempDir;
use testbed::{Cluster, ClusterOptions};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use super::programme::{self, MARKETS, ORIGIN, PLACES};

const DATABASE: &str = "shop";
const SUPERUSER: &str = "postgres";
/// The role that the mover works as; `install` makes it.
const MOVER: &str = "domicile";
/// The shop's own role: what it may, any application may.
const APPLICATION: &str = "shop";

const SIZE: Size = Size {
    customers: 0,
    invoices_per_customer: 2,
    lines_per_invoice: 3,
};

/// The tables belong to a role that nobody logs in as, so that nobody drops the guard's triggers.
const ROLES: &str = "
CREATE ROLE shop_owner NOLOGIN;
DO $$ DECLARE t text; BEGIN
    FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('ALTER TABLE public.%I OWNER TO shop_owner', t);
    END LOOP;
END $$;
CREATE ROLE shop LOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO shop;";

/// What a slot may keep back of a throwaway cluster's disk.
const SLOT_WAL_MAX: &str = "4GB";

/// The sites, running, with everybody in Beijing. Dropping it ends the clusters and removes their
/// folders.
#[derive(Debug)]
pub struct Stage {
    /// In the order of [`PLACES`].
    clusters: Vec<Cluster>,
    folder: TempDir,
    users: Vec<(i32, String)>,
}

/// A stage that was left standing.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Site and URL of an administrator.
    pub databases: Vec<(String, String)>,
    /// The configuration file.
    pub config_file: PathBuf,
    /// A script that stops the clusters and removes everything, itself included.
    pub stop: PathBuf,
}

// === impl Stage ===

impl Stage {
    /// Starts the clusters and loads the shop with `users` users. Installs PostgreSQL where it is
    /// missing, saying so.
    ///
    /// # Errors
    /// Where PostgreSQL is missing and may not be installed, or does not start. Whatever was started by
    /// then is ended.
    pub async fn build(users: u32) -> Result<Stage> {
        let mut starting = JoinSet::new();
        for (number, place) in PLACES.iter().enumerate() {
            starting.spawn(async move {
                let site = place.name;
                let cluster = start(site, users)
                    .await
                    .with_context(|| format!("cannot set up the site {site}"))?;
                anyhow::Ok((number, cluster))
            });
        }
        let mut clusters = Vec::with_capacity(PLACES.len());
        while let Some(started) = starting.join_next().await {
            clusters.push(started.context("setting up a site panicked")??);
        }
        clusters.sort_by_key(|(number, _)| *number);
        let clusters: Vec<Cluster> = clusters.into_iter().map(|(_, cluster)| cluster).collect();
        let urls: Vec<String> = clusters.iter().map(|c| c.url(MOVER, DATABASE)).collect();
        let folder = tempfile::Builder::new()
            .prefix("domicile-demo-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        let stage = Stage {
            users: markets_of_users(&clusters[0]).await?,
            clusters,
            folder,
        };
        std::fs::write(stage.config_file(), programme::configuration(&urls))
            .context("cannot write the configuration")?;
        Ok(stage)
    }

    /// `domicile.toml`
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("domicile.toml")
    }

    /// Every user's key and market.
    pub fn users(&self) -> &[(i32, String)] {
        &self.users
    }

    /// The keys of a market's users.
    pub(super) fn users_of(&self, market: &str) -> Vec<i32> {
        let of_market = self.users.iter().filter(|(_, of)| of == market);
        of_market.map(|(key, _)| *key).collect()
    }

    /// The sites as the shop knows them, with the application's role.
    pub(super) fn shop_sites(&self) -> Vec<shop::Site> {
        self.urls(APPLICATION)
            .map(|(site, url)| shop::Site::new(site, url))
            .collect()
    }

    /// Site and URL for an administrator.
    pub(super) fn administrators(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.urls(SUPERUSER)
    }

    /// Site and URL for the mover.
    pub(super) fn movers(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.urls(MOVER)
    }

    fn urls(&self, role: &'static str) -> impl Iterator<Item = (&'static str, String)> {
        let pairs = PLACES.iter().zip(&self.clusters);
        pairs.map(move |(place, cluster)| (place.name, cluster.url(role, DATABASE)))
    }

    /// Leaves everything running.
    ///
    /// # Errors
    /// Where the script that stops it cannot be written; then everything is ended.
    pub fn keep(self) -> Result<Kept> {
        let databases = self
            .administrators()
            .map(|(site, url)| (site.to_owned(), url))
            .collect();
        let stop = self.folder.path().join("stop");
        // Empty, but there is room for it, before anything is let go of.
        std::fs::write(&stop, "").context("cannot write the script that stops the sites")?;
        let config_file = self.config_file();
        let folder = self.folder.keep();
        let clusters: Vec<PathBuf> = self.clusters.into_iter().map(Cluster::keep).collect();
        std::fs::write(&stop, stop_script(&folder, &clusters))
            .context("cannot write the script that stops the sites")?;
        Ok(Kept {
            databases,
            config_file,
            stop,
        })
    }
}

async fn start(site: &str, users: u32) -> Result<Cluster> {
    let slot_wal_max = ("max_slot_wal_keep_size".to_owned(), SLOT_WAL_MAX.to_owned());
    let cluster = Cluster::start(ClusterOptions {
        settings: vec![slot_wal_max],
        ..ClusterOptions::named(site)
    })
    .await?;
    cluster.create_database(DATABASE).await?;
    let (client, connection) = tokio_postgres::connect(&cluster.url(SUPERUSER, DATABASE), NoTls)
        .await
        .context("cannot connect")?;
    let load = async move {
        match site {
            ORIGIN => generate(&client, &shop(users)).await?,
            _ => shop::chinook::load_catalogue(&client).await?,
        }
        client
            .batch_execute(ROLES)
            .await
            .context("cannot make the application's roles")
    };
    // The connection ends when the client is dropped, with `load`.
    let (loaded, _) = tokio::join!(load, connection);
    loaded?;
    Ok(cluster)
}

fn shop(users: u32) -> Options {
    Options {
        size: Size {
            customers: users,
            ..SIZE
        },
        markets: MARKETS.map(|(code, share)| (code.to_owned(), share)).into(),
        unique_email: false,
    }
}

async fn markets_of_users(origin: &Cluster) -> Result<Vec<(i32, String)>> {
    let listed = origin
        .psql(DATABASE, "SELECT customer_id, country FROM customer")
        .await
        .context("cannot list the users")?;
    let user = |line: &str| {
        let (key, market) = line.split_once('|')?;
        Some((key.parse().ok()?, market.to_owned()))
    };
    listed
        .lines()
        .map(|line| user(line).context("psql printed no user"))
        .collect()
}

fn stop_script(folder: &Path, clusters: &[PathBuf]) -> String {
    let quoted =
        |path: &PathBuf| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let clusters: Vec<String> = clusters.iter().map(quoted).collect();
    format!(
        "#!/bin/sh\n\
         # Stops the sites of `domicile demo --keep` and removes everything that it left.\n\
         for site in {clusters}; do\n\
         \x20   pid=$(head -n 1 \"$site/data/postmaster.pid\" 2>/dev/null) && kill -QUIT \"$pid\" &&\n\
         \x20       while kill -0 \"$pid\" 2>/dev/null; do sleep 0.1; done\n\
         \x20   rm -rf \"$site\"\n\
         done\n\
         rm -rf {folder}\n",
        clusters = clusters.join(" "),
        folder = quoted(&folder.to_owned()),
    )
}
