//! Two sites with daemons and a link between them, each with a configuration of its own that knows its own database alone.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use shop::workload::{Isolation, Workload, WorkloadOptions};
use testbed::Relay;

use super::program::Program;
use super::served::{Served, free_port, leads, sees};
use super::{Clusters, SITES, World, more_acknowledged};

/// The points that a daemon passes when it seals a ledger.
pub const SEALING: [&str; 3] = ["after-take", "after-head", "after-witness"];

/// The two sites of a world, linked.
pub struct Linked {
    /// The world.
    pub world: World,
    /// Between them: beijing dials singapore through it.
    pub relay: Relay,
    /// Where singapore listens.
    pub behind: String,
}

// === impl Linked ===

impl Linked {
    /// Two linked sites with a shop at the first, of whose customers one in ten stays. Returns who is to move.
    pub async fn shop(name: &str, customers: u32) -> Result<(Linked, Vec<i32>)> {
        Self::markets(name, customers, &[("IN", 9), ("CN", 1)]).await
    }

    /// The same with customers in these countries, each with its weight.
    pub async fn markets(
        name: &str,
        customers: u32,
        markets: &[(&str, u32)],
    ) -> Result<(Linked, Vec<i32>)> {
        let world = World::shop(Clusters::shared().await?, name, customers, markets).await?;
        let movers = world.users_of(0, "IN").await?;
        Ok((Linked::new(world).await?, movers))
    }

    /// Makes keys, and of `domicile.toml` the configurations `beijing.toml` and `singapore.toml`.
    pub async fn new(world: World) -> Result<Linked> {
        let pins = keys(&world).await?;
        let ports = [free_port().await?, free_port().await?];
        let behind = format!("127.0.0.1:{}", ports[1]);
        let relay = Relay::start(behind.clone()).await?;
        let linked = Linked {
            world,
            relay,
            behind,
        };
        for n in [0, 1] {
            linked.configure(n, &ports, &pins)?;
        }
        linked.configure_all(&pins)?;
        Ok(linked)
    }

    fn configure(&self, own: usize, ports: &[u16; 2], pins: &[String]) -> Result<()> {
        let text = std::fs::read_to_string(self.world.path("domicile.toml"))?;
        let addresses = [
            format!("127.0.0.1:{}", ports[0]),
            self.relay.address().to_owned(),
        ];
        let mut text = with_link(&text, own, ports, &addresses, pins);
        for site in SITES {
            let head = format!("[site.{site}]\n");
            let socket = format!("admin = {{ socket = \"{site}.sock\" }}\n");
            text = text.replace(&head, &format!("{head}{socket}"));
        }
        let other = format!("database.{} ", SITES[1 - own]);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with(&other))
            .collect();
        std::fs::write(self.world.path(&file(own)), lines.join("\n"))?;
        Ok(())
    }

    /// Of somebody who reaches both databases, with nobody's key: `all.toml`.
    fn configure_all(&self, pins: &[String]) -> Result<()> {
        let mut text = std::fs::read_to_string(self.world.path("domicile.toml"))?;
        for (site, pin) in SITES.into_iter().zip(pins) {
            let head = format!("[site.{site}]\n");
            text = text.replace(&head, &format!("{head}link = {{ pins = [\"{pin}\"] }}\n"));
        }
        std::fs::write(self.world.path("all.toml"), text)?;
        Ok(())
    }

    /// The sites' pins, as flags.
    pub fn pins(&self) -> Result<Vec<String>> {
        let pin = |site: &&str| {
            let pem = std::fs::read_to_string(self.world.path(&format!("{site}.key")))?;
            let key = ledger::key::SiteKey::from_pem(&pem)?;
            Ok(format!("--pin={site}={}", key.public().pin()))
        };
        SITES.iter().map(pin).collect()
    }

    /// A command of somebody who reaches both databases.
    pub fn everywhere(&self, args: &[&str]) -> Program {
        self.world
            .program(&[&["--config", "all.toml"], args].concat())
    }

    /// A command at a site, with its configuration.
    pub fn at(&self, site: usize, args: &[&str]) -> Program {
        let file = file(site);
        self.world
            .program(&[&["--config", file.as_str()], args].concat())
    }

    /// `serve` of a site.
    pub fn serving(&self, site: usize) -> Program {
        self.world
            .program(&["--config", &file(site), "serve", "--site", SITES[site]])
            .env("RUST_LOG", "info,mover=debug")
    }

    /// Starts both daemons, which see each other; singapore's is held at `point` as long as the file that is returned stands.
    pub async fn serve_holding(&self, point: &str) -> Result<([Served; 2], PathBuf)> {
        let hold = self.world.path("hold");
        let held = self
            .serving(1)
            .env("DOMICILE_HOLD", format!("{point}={}", hold.display()));
        let both = [self.serve(0).await?, self.serve_as(1, held).await?];
        met(&both).await?;
        Ok((both, hold))
    }

    /// Starts the daemon of a site.
    pub async fn serve(&self, site: usize) -> Result<Served> {
        self.serve_as(site, self.serving(site)).await
    }

    /// Starts `program`, which is the daemon of a site.
    pub async fn serve_as(&self, site: usize, program: Program) -> Result<Served> {
        self.world.served(program, SITES[site]).await
    }

    /// Starts both, and waits until they see each other.
    pub async fn serve_both(&self) -> Result<[Served; 2]> {
        let both = [self.serve(0).await?, self.serve(1).await?];
        met(&both).await?;
        Ok(both)
    }

    /// Writers of all customers of [`Linked::shop`], at work.
    pub async fn writers(&self) -> Result<Workload> {
        let mut everybody = self.world.users_of(0, "IN").await?;
        everybody.extend(self.world.users_of(0, "CN").await?);
        let options = WorkloadOptions {
            writers: 6,
            isolations: Isolation::ALL.to_vec(),
            think: Duration::from_millis(25),
            ..WorkloadOptions::default()
        };
        let workload = self.world.writers("beijing", &everybody, options).await?;
        more_acknowledged(&workload, 60).await?;
        Ok(workload)
    }

    /// Waits until all `movers` have moved, stops the writers, and holds every row against what was acknowledged.
    pub async fn at_rest(&self, workload: Workload, movers: &[i32]) -> Result<()> {
        let world = &self.world;
        let left = "SELECT count(*) FROM domicile.resident WHERE state = 'departed'";
        world.wait_for(0, left, &movers.len().to_string()).await?;
        let running = "SELECT count(*) FROM domicile.move WHERE state = 'running'";
        world.wait_for(0, running, "0").await?;
        more_acknowledged(&workload, 60).await?;
        let log = workload.stop().await?;
        let there = |user: i32| movers.contains(&user);
        world.expect_clean(&log, "beijing", there).await?;
        world.expect_rest_but_running().await?;
        world.expect_one_home_each().await
    }

    /// `apply`, by the daemon of `site`.
    pub fn apply(&self, site: usize) -> Program {
        let file = file(site);
        let args = [
            "--config",
            &file,
            "apply",
            "--yes",
            "--json",
            "--site",
            SITES[site],
        ];
        self.world.program(&args)
    }
}

/// Makes a key for each site, `SITE.key`. Returns their pins.
pub async fn keys(world: &World) -> Result<Vec<String>> {
    let mut pins = Vec::new();
    for site in SITES {
        let file = format!("{site}.key");
        let args = ["keys", "new", "--site", site, "--out", &file, "--json"];
        let made: Value =
            serde_json::from_str(&world.program(&args).run().await?.expect(0)?.stdout)?;
        pins.push(made["pins"][0].as_str().context("a pin")?.to_owned());
    }
    Ok(pins)
}

/// The configuration `text` with what site `own` knows of the link: its key, and of both sites where they listen (`ports`),
/// where they are dialled, and their pins.
pub fn with_link(
    text: &str,
    own: usize,
    ports: &[u16; 2],
    addresses: &[String; 2],
    pins: &[String],
) -> String {
    let mut text = text.to_owned();
    for (n, site) in SITES.into_iter().enumerate() {
        let link = format!(
            "link = {{ listen = \"127.0.0.1:{}\", address = \"{}\", pins = [\"{}\"], flows = 2 }}\n",
            ports[n], addresses[n], pins[n]
        );
        let key = match n == own {
            true => format!("key = {{ file = \"{site}.key\" }}\n"),
            false => String::new(),
        };
        let head = format!("[site.{site}]\n");
        text = text.replace(&head, &format!("{head}{key}{link}"));
    }
    text
}

fn file(site: usize) -> String {
    format!("{}.toml", SITES[site])
}

/// Waits until both lead and see each other.
pub async fn met(both: &[Served; 2]) -> Result<()> {
    for n in [0, 1] {
        both[n]
            .until("both lead and see each other", |status| {
                leads(status) && sees(status, SITES[1 - n])
            })
            .await?;
    }
    Ok(())
}
