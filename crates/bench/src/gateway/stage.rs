//! A home database of many users, the gateway before it, and an upstream.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use testbed::{Cluster, ClusterOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::peers::{Nginx, Proxy, begin, free_port};
use crate::program::Domicile;

const SHOP: &str = "shop";
const FILE: &str = "domicile.toml";

/// How long the gateway may take to have read its home database.
const PATIENCE: Duration = Duration::from_secs(300);

/// Everything but the proxies. Dropping it ends the servers and removes their folders.
pub(super) struct Stage {
    cluster: Cluster,
    domicile: Domicile,
    upstream: Proxy,
    port: u16,
    users: u32,
    folder: TempDir,
}

// === impl Stage ===

impl Stage {
    /// A home database of `users`, all of whom came from elsewhere.
    pub async fn build(users: u32) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("domicile-bench-")
            .tempdir()?;
        let cluster = Cluster::start(ClusterOptions::named("gateway")).await?;
        cluster.psql("postgres", "CREATE ROLE mover LOGIN").await?;
        cluster.create_database(SHOP).await?;
        cluster
            .psql(
                SHOP,
                "CREATE TABLE customer (customer_id bigint PRIMARY KEY, country text NOT NULL)",
            )
            .await?;
        let upstream = Nginx::upstream(folder.path()).await?;
        let port = free_port().await?;
        let text = format!(
            "[site.here]\ngateway = {{ listen = \"127.0.0.1:{port}\", fronts = [\"127.0.0.1\"], threads = 1 }}\n\
             [service.shop]\norigin = \"here\"\nids = \"ranges\"\n\
             user = {{ table = \"customer\", key = \"customer_id\", market = \"country\" }}\n\
             database.here = \"{}\"\nupstream.here = \"http://127.0.0.1:{}\"\n\
             [[route]]\nservice = \"shop\"\nuser = {{ header = \"x-user\" }}\n",
            cluster.url("mover", SHOP),
            upstream.port,
        );
        std::fs::write(folder.path().join(FILE), text)?;
        let mut stage = Self {
            domicile: Domicile::find(folder.path())?,
            cluster,
            upstream,
            port,
            users: 0,
            folder,
        };
        let admin = format!("here={}", stage.cluster.url("postgres", SHOP));
        stage
            .domicile
            .run(&["--config", FILE, "install", "--json", "--admin", &admin])
            .await?;
        stage.have(users).await?;
        Ok(stage)
    }

    /// Lets so many users live here, as if each had come by a move; those of before are among them.
    pub async fn have(&mut self, users: u32) -> Result<()> {
        let from = std::mem::replace(&mut self.users, users);
        self.cluster
            .psql(
                SHOP,
                &format!(
                    "INSERT INTO domicile.resident (user_key, state, epoch, seen, told)
                         SELECT n, 'settled', 3, 3, n + 1 FROM generate_series({from}, {users} - 1) AS n;
                     INSERT INTO domicile.telling (position)
                         SELECT least(n + 400, {users}) FROM generate_series({from}, {users} - 1, 400) AS n;
                     ANALYZE domicile.resident, domicile.telling; CHECKPOINT;"
                ),
            )
            .await?;
        Ok(())
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn upstream(&self) -> u16 {
        self.upstream.port
    }

    /// The gateway, on the first core, when it serves.
    pub async fn serve(&self) -> Result<Proxy> {
        let mut command = Command::new("taskset");
        command
            .current_dir(self.folder.path())
            .args(["-c", "0"])
            .arg(self.domicile.path())
            .args([
                "--config", FILE, "serve", "--site", "here", "--role", "gateway", "--log", "warn",
            ]);
        let proxy = begin(command, self.port, "domicile").await?;
        let end = Instant::now() + PATIENCE;
        while !serves(self.port).await? {
            if Instant::now() > end {
                bail!("the gateway does not serve");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(proxy)
    }
}

/// Whether a user is served.
async fn serves(port: u16) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let ask = b"GET / HTTP/1.1\r\nhost: shop\r\nx-user: 1\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).await?;
    let mut said = Vec::new();
    stream
        .read_to_end(&mut said)
        .await
        .context("the gateway says nothing")?;
    Ok(said.starts_with(b"HTTP/1.1 200"))
}
