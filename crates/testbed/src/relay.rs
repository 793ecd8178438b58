//! A path between two programs that a test can cut, close, or lead elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A relay of bytes on a free port of 127.0.0.1. It ends TCP at both sides: what TCP makes of a long or lossy path does not
/// show through it. Dropping it ends its connections.
#[derive(Debug)]
pub struct Relay {
    address: String,
    /// How often was cut, and which connection; none: all.
    cuts: watch::Sender<(u64, Option<u64>)>,
    /// Where new connections are led; none: nowhere.
    way: watch::Sender<(String, bool)>,
    connections: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
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
        let (cuts, way) = (
            watch::Sender::new((0, None)),
            watch::Sender::new((to, true)),
        );
        let connections = Arc::new(AtomicU64::new(0));
        let (cut, led, counted) = (cuts.clone(), way.clone(), Arc::clone(&connections));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let (to, open) = led.borrow().clone();
                if open {
                    let own = counted.fetch_add(1, Ordering::SeqCst);
                    pipes.spawn(carry(near, to, own, cut.subscribe()));
                }
            }
        });
        Ok(Relay {
            address,
            cuts,
            way,
            connections,
            _tasks: tasks,
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

    /// Cuts every connection that stands.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts = (cuts.0 + 1, None));
    }

    /// Cuts the connection that came as number `which`, counted from 0.
    pub fn cut_one(&self, which: u64) {
        self.cuts
            .send_modify(|cuts| *cuts = (cuts.0 + 1, Some(which)));
    }

    /// Lets no new connection through, or lets them again.
    pub fn let_through(&self, open: bool) {
        self.way.send_modify(|way| way.1 = open);
    }

    /// Leads new connections to `to`; those that stand, stand.
    pub fn lead_to(&self, to: String) {
        self.way.send_modify(|way| way.0 = to);
    }
}

/// Carries bytes until one side ends, or it is cut.
async fn carry(
    mut near: TcpStream,
    to: String,
    own: u64,
    mut cut: watch::Receiver<(u64, Option<u64>)>,
) {
    let before = cut.borrow().0;
    let Ok(mut far) = TcpStream::connect(to).await else {
        return;
    };
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = cut.wait_for(|(cuts, which)| *cuts > before && which.is_none_or(|n| n == own)) => {}
    }
}
