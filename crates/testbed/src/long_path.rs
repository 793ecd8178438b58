//! A long and lossy path between two network namespaces, over which TCP is real.
//!
//! Each namespace has a TUN device with an MTU of 1,500. What the kernel sends into one is read here as IP packets, dropped
//! now and then, and written to the other after half a round trip. Nothing is segmented or put together on the way: what is
//! dropped is one segment of somebody's TCP. There is no bound to what the path carries but this machine's.

use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tun_rs::{DeviceBuilder, SyncDevice};

/// What a packet may have.
const MTU: u16 = 1_500;
/// Packets that wait to be read by us; more than any window here.
const QUEUE: &str = "20000";

/// Two network namespaces and the path between them. Dropping it removes them.
#[derive(Debug)]
pub struct LongPath {
    shores: [Shore; 2],
}

/// One end: a network namespace, with threads that live there.
#[derive(Debug)]
pub struct Shore {
    name: String,
    address: IpAddr,
    /// `None` while it is dropped.
    runtime: Option<Runtime>,
}

// === impl LongPath ===

impl LongPath {
    /// Why there can be none here, if there can be none.
    pub fn impossible() -> Option<&'static str> {
        if !rustix::process::geteuid().is_root() {
            return Some("only root may make network namespaces");
        }
        if !std::path::Path::new("/dev/net/tun").exists() {
            return Some("there is no /dev/net/tun");
        }
        let listed = Command::new("ip").args(["netns", "list"]).output();
        match listed {
            Ok(listed) if listed.status.success() => None,
            _ => Some("`ip netns` does not work"),
        }
    }

    /// Opens a path whose round trip takes `rtt`, and which loses a packet with probability `loss`, each way; which ones,
    /// `seed` decides. `name` is part of the namespaces' names.
    ///
    /// # Errors
    ///
    /// Where [`LongPath::impossible`] says why, and where the kernel or `ip` refuse something.
    pub fn open(name: &str, rtt: Duration, loss: f64, seed: u64) -> Result<LongPath> {
        if let Some(why) = Self::impossible() {
            bail!("{why}");
        }
        let shore = |n: usize| Shore::make(&format!("{name}-{}-{n}", std::process::id()), n);
        let shores = [shore(0)?, shore(1)?];
        let devices = [shores[0].device()?, shores[1].device()?];
        for from in [0, 1] {
            let (out, into) = (Arc::clone(&devices[from]), Arc::clone(&devices[1 - from]));
            let chance = StdRng::seed_from_u64(seed * 2 + from as u64);
            carry(out, into, rtt / 2, loss, chance);
        }
        Ok(LongPath { shores })
    }

    /// An end, 0 or 1.
    pub fn shore(&self, n: usize) -> &Shore {
        &self.shores[n]
    }
}

/// Carries packets one way, until a device is gone.
fn carry(
    out: Arc<SyncDevice>,
    into: Arc<SyncDevice>,
    delay: Duration,
    loss: f64,
    mut chance: StdRng,
) {
    let (send, under_way) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut packet = vec![0; usize::from(MTU)];
        while let Ok(length) = out.recv(&mut packet) {
            let due = Instant::now() + delay;
            if !chance.random_bool(loss) && send.send((due, packet[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        while let Ok((due, packet)) = under_way.recv() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // A device that is down, or full, loses a packet as a path does.
            if into
                .send(&packet)
                .is_err_and(|why| why.kind() == io::ErrorKind::NotConnected)
            {
                return;
            }
        }
    });
}

// === impl Shore ===

impl Shore {
    fn make(name: &str, n: usize) -> Result<Shore> {
        ip(&["netns", "add", name])?;
        let mut shore = Shore {
            name: name.to_owned(),
            address: IpAddr::from([10, 77, 0, 1 + u8::try_from(n)?]),
            runtime: None,
        };
        // In a namespace of its own everybody starts with a device that is down.
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        let within = name.to_owned();
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(move || enter(&within).expect("the namespace stands"))
            .build()?;
        shore.runtime = Some(runtime);
        Ok(shore)
    }

    /// Makes its device, with an address.
    fn device(&self) -> Result<Arc<SyncDevice>> {
        let device = self.within(|| Ok(DeviceBuilder::new().name("path").build_sync()?))?;
        let (name, address) = (&self.name, format!("{}/24", self.address));
        ip(&["-n", name, "address", "add", &address, "dev", "path"])?;
        let mtu = MTU.to_string();
        let set = [
            "-n",
            name,
            "link",
            "set",
            "path",
            "mtu",
            &mtu,
            "txqueuelen",
            QUEUE,
            "up",
        ];
        ip(&set)?;
        Ok(Arc::new(device))
    }

    /// Its name among the system's namespaces, as `ip netns exec` wants it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the path.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Runs something in a thread that lives there: its sockets are of this namespace, and stay so.
    ///
    /// # Errors
    ///
    /// Those of `act`, and where the namespace cannot be entered.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                enter(&self.name)?;
                act()
            });
            match running.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts a task on threads that live there; so do the processes that it starts.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        match &self.runtime {
            Some(runtime) => runtime.spawn(task),
            None => unreachable!("it is there until the shore is dropped"),
        }
    }

    /// Sets a parameter of the kernel's for this namespace alone, for instance `net/ipv4/tcp_congestion_control`.
    ///
    /// # Errors
    ///
    /// Where the kernel has no such parameter or value.
    pub fn set(&self, parameter: &str, value: &str) -> Result<()> {
        self.within(|| {
            fs::write(format!("/proc/sys/{parameter}"), value)
                .with_context(|| format!("cannot set {parameter} to {value}"))
        })
    }
}

impl Drop for Shore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            tracing::warn!(%error, "cannot remove a network namespace");
        }
    }
}

/// Moves the calling thread into a namespace.
fn enter(name: &str) -> Result<()> {
    let place = fs::File::open(format!("/run/netns/{name}"))?;
    move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    let ran = Command::new("ip")
        .args(args)
        .output()
        .context("cannot run ip")?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(
        ran.status.success(),
        "ip {}: {}",
        args.join(" "),
        said.trim()
    );
    Ok(())
}
