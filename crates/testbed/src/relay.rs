//! A path between two programs that a test can cut, close, or lead elsewhere.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A relay of bytes on a free port of 127.0.0.1. It ends TCP at both sides: what TCP makes of a long or lossy path does not
/// show through it. Dropping it ends its connections.
#[derive(Debug)]
pub struct Relay {
    address: String,
    ways: Arc<Mutex<Ways>>,
    connections: Arc<AtomicU64>,
    _accepting: JoinSet<()>,
}

/// Where connections are led.
#[derive(Debug)]
struct Ways {
    to: String,
    open: bool,
    /// Those that were let through, by their numbers; some have ended.
    carried: BTreeMap<u64, JoinHandle<()>>,
}

// === impl Relay ===

impl Relay {
    /// Relays to `to` (`host:port`).
    ///
    /// # Errors
    ///
    /// Where no port can be had.
    pub async fn start(to: String) -> Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.context("cannot listen")?;
        let address = listener.local_addr()?.to_string();
        let ways = Arc::new(Mutex::new(Ways {
            to,
            open: true,
            carried: BTreeMap::new(),
        }));
        let connections = Arc::new(AtomicU64::new(0));
        let (led, counted) = (Arc::clone(&ways), Arc::clone(&connections));
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // Whether it is let through and that it is known are one step: none slips past a cut.
                let mut ways = lock(&led);
                if ways.open {
                    let own = counted.fetch_add(1, Ordering::SeqCst);
                    let carrying = tokio::spawn(carry(near, ways.to.clone()));
                    ways.carried.insert(own, carrying);
                }
            }
        });
        Ok(Relay {
            address,
            ways,
            connections,
            _accepting: accepting,
        })
    }

    /// Where it is dialled, `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How many connections it let through so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Cuts every connection that stands. When it returns, nothing goes through them any more.
    pub async fn cut(&self) {
        let carried = std::mem::take(&mut lock(&self.ways).carried);
        end(carried.into_values()).await;
    }

    /// Cuts the connection that came as number `which`, counted from 0. When it returns, nothing goes through it any more.
    pub async fn cut_one(&self, which: u64) {
        let carried = lock(&self.ways).carried.remove(&which);
        end(carried.into_iter()).await;
    }

    /// Lets no new connection through, or lets them again.
    pub fn let_through(&self, open: bool) {
        lock(&self.ways).open = open;
    }

    /// Leads new connections to `to`; those that stand, stand.
    pub fn lead_to(&self, to: String) {
        lock(&self.ways).to = to;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let mut ways = lock(&self.ways);
        ways.open = false;
        for carrying in ways.carried.values() {
            carrying.abort();
        }
    }
}

fn lock(ways: &Mutex<Ways>) -> MutexGuard<'_, Ways> {
    ways.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the carriers, and waits until they are gone: one that is told to end may still hand on what it has just read.
async fn end(carried: impl Iterator<Item = JoinHandle<()>>) {
    let carried: Vec<_> = carried.inspect(JoinHandle::abort).collect();
    for carrying in carried {
        // It was cut, or had ended before.
        let _ = carrying.await;
    }
}

/// Carries bytes until one side ends.
async fn carry(mut near: TcpStream, to: String) {
    if let Ok(mut far) = TcpStream::connect(to).await {
        // However it ends, both sides see it.
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }
}
