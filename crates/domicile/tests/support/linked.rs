//! Two sites with daemons and a link between them, each with a configuration of its own that knows its own database alone.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::program::Program;
use super::served::{Served, free_port, leads, sees};
use super::{SITES, World};

/// The points that a daemon passes when it seals a ledger.
pub const SEALING: [&str; 3] = ["after-take", "after-head", "after-witness"];

/// The two sites of a world, linked.
pub struct Linked {
    /// The world.
    pub world: World,
    /// Between them: beijing dials singapore through it.
    pub relay: Relay,
}

// === impl Linked ===

impl Linked {
    /// Makes keys, and of `domicile.toml` the configurations `beijing.toml` and `singapore.toml`.
    pub async fn new(world: World) -> Result<Linked> {
        let pins = keys(&world).await?;
        let ports = [free_port().await?, free_port().await?];
        let relay = Relay::start(format!("127.0.0.1:{}", ports[1])).await?;
        let linked = Linked { world, relay };
        for n in [0, 1] {
            linked.configure(n, &ports, &pins)?;
        }
        linked.configure_all(&pins)?;
        Ok(linked)
    }

    fn configure(&self, own: usize, ports: &[u16], pins: &[String]) -> Result<()> {
        let mut text = std::fs::read_to_string(self.world.path("domicile.toml"))?;
        for (n, site) in SITES.into_iter().enumerate() {
            let listen = ports[n];
            let address = match n {
                1 => self.relay.address.clone(),
                _ => format!("127.0.0.1:{listen}"),
            };
            let link = format!(
                "link = {{ listen = \"127.0.0.1:{listen}\", address = \"{address}\", pins = [\"{}\"], flows = 2 }}\n",
                pins[n]
            );
            let key = match n == own {
                true => format!("key = {{ file = \"{site}.key\" }}\n"),
                false => String::new(),
            };
            let socket = format!("admin = {{ socket = \"{site}.sock\" }}\n");
            let head = format!("[site.{site}]\n");
            text = text.replace(&head, &format!("{head}{key}{link}{socket}"));
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

/// A relay of bytes that can be cut.
pub struct Relay {
    address: String,
    cuts: watch::Sender<u64>,
    open: Arc<watch::Sender<bool>>,
    _tasks: JoinSet<()>,
}

// === impl Relay ===

impl Relay {
    /// Relays to `to`.
    pub async fn start(to: String) -> Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (cuts, open) = (watch::Sender::new(0), Arc::new(watch::Sender::new(true)));
        let (cut, is_open) = (cuts.clone(), Arc::clone(&open));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                if !*is_open.borrow() {
                    continue;
                }
                let (mut cut, to) = (cut.subscribe(), to.clone());
                let before = *cut.borrow();
                pipes.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(to).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.wait_for(|cuts| *cuts > before) => {}
                    }
                });
            }
        });
        Ok(Relay {
            address,
            cuts,
            open,
            _tasks: tasks,
        })
    }

    /// Cuts every connection that stands.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Lets no new connection through, or lets them again.
    pub fn let_through(&self, open: bool) {
        self.open.send_replace(open);
    }
}
