//! A site's end of all its links: who listens, who dials, and the connections' lives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::SiteName;
use rand::RngExt as _;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::block::BLOCK_MAX;
use crate::dial::{Dialler, keep};
use crate::hello::FLOWS_MAX;
use crate::inbox::{Inbox, WAITING_MAX};
use crate::listen::{Door, listen};
use crate::peer::Peer;
use crate::shared::Shared;
use crate::tls::{ALPN, Tls};
use crate::trust::Trusted;
use crate::{Identity, Pin, Pins};

/// What an end of the link is to be.
#[derive(Debug)]
pub struct Settings {
    /// This site.
    pub site: SiteName,
    /// Its key.
    pub identity: Identity,
    /// Where to listen (`host:port`); none: only dials.
    pub listen: Option<String>,
    /// Bulk connections to each peer that this site dials. 1 to [`FLOWS_MAX`].
    pub flows: u16,
    /// The memory for blocks under way, in bytes, for each peer and direction. A path is filled up to this much per
    /// round trip. Each of at most [`TRANSFERS_MAX`](crate::TRANSFERS_MAX) transfers has 1 MiB beside it.
    pub window: usize,
    /// How long a peer may say nothing on the control connection, where it says six times as often that it is there,
    /// before the session is ended. The longest message (1 MiB) must pass in this time.
    pub silence: Duration,
    /// The peers. Only these are spoken with.
    pub peers: Vec<PeerSettings>,
}

/// A peer, as the configuration has it.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// Its site.
    pub site: SiteName,
    /// Its keys.
    pub pins: Pins,
    /// Where to dial it (`host:port`); none: it dials.
    pub dial: Option<String>,
}

/// Which of two sites dials. Between two only one does, so that they have one session and not two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dials {
    /// This site dials the other.
    Own,
    /// The other dials this one.
    Peer,
}

/// Why an endpoint cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The site has itself for a peer, by name or by key.
    #[error("{0} is this site itself, by its name or its pin: it cannot be a peer")]
    Itself(SiteName),
    /// A site stands among the peers twice.
    #[error("{0} stands among the peers twice")]
    Twice(SiteName),
    /// One key would speak for two sites.
    #[error("{0} and {1} share the pin {2}: each site needs a key of its own")]
    SharedPin(SiteName, SiteName, Pin),
    /// The number of flows.
    #[error("{0} bulk connections: it must be 1 to {FLOWS_MAX}")]
    Flows(u16),
    /// The listening address cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A site's end of its links. Dropping it ends all connections.
#[derive(Debug)]
pub struct Endpoint {
    peers: BTreeMap<SiteName, Peer>,
    inboxes: BTreeMap<SiteName, Inbox>,
    listening: Option<SocketAddr>,
    refused: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

/// Who dials between `own` and `peer`, by who can be reached: where both can, the one whose name sorts first; where
/// neither can, `None`.
pub fn who_dials(own: (&SiteName, bool), peer: (&SiteName, bool)) -> Option<Dials> {
    match (own.1, peer.1) {
        (false, false) => None,
        (false, true) => Some(Dials::Own),
        (true, false) => Some(Dials::Peer),
        (true, true) if own.0 < peer.0 => Some(Dials::Own),
        (true, true) => Some(Dials::Peer),
    }
}

// === impl Settings ===

impl Settings {
    /// Bulk connections, if nothing else is wanted: a loss halves the rate of one in eight.
    pub const FLOWS: u16 = 8;

    /// The window, if nothing else is wanted: 64 MiB, 335 MB/s at a round trip of 200 ms.
    pub const WINDOW: usize = 64 << 20;

    /// The silence, if nothing else is wanted: 30 s, so that 35 kB/s carry the longest message.
    pub const SILENCE: Duration = Duration::from_secs(30);

    fn check(&self) -> Result<(), StartError> {
        if !(1..=FLOWS_MAX).contains(&self.flows) {
            return Err(StartError::Flows(self.flows));
        }
        let mut owners: BTreeMap<Pin, &SiteName> = BTreeMap::new();
        let mut seen: Vec<&SiteName> = Vec::new();
        for peer in &self.peers {
            if peer.site == self.site || peer.pins.contain(&self.identity.pin()) {
                return Err(StartError::Itself(peer.site.clone()));
            }
            if seen.contains(&&peer.site) {
                return Err(StartError::Twice(peer.site.clone()));
            }
            seen.push(&peer.site);
            for pin in peer.pins.iter() {
                if let Some(other) = owners.insert(*pin, &peer.site) {
                    return Err(StartError::SharedPin(
                        other.clone(),
                        peer.site.clone(),
                        *pin,
                    ));
                }
            }
        }
        Ok(())
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Listens and dials as the settings say. That a peer cannot be reached is no error: it is tried for ever.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        settings.check()?;
        let listener =
            match &settings.listen {
                None => None,
                Some(address) => Some(TcpListener::bind(address.as_str()).await.map_err(
                    |source| {
                        let address = address.clone();
                        StartError::Listen { address, source }
                    },
                )?),
            };
        let listening = listener.as_ref().and_then(|bound| bound.local_addr().ok());
        let pins = settings.peers.iter();
        let trusted = Trusted::new(pins.map(|peer| (peer.site.clone(), peer.pins.clone())));
        let (site, identity) = (settings.site.clone(), settings.identity);
        let tls = Arc::new(Tls::new(site, identity, trusted, &[ALPN]));
        let life: u64 = rand::rng().random();
        let names = Arc::new(AtomicU64::new(rand::rng().random()));
        let refused = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let (mut peers, mut inboxes, mut guests) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let pool = (settings.window / BLOCK_MAX) as u64;
        for PeerSettings { site, dial, .. } in settings.peers {
            let (sender, inbox) = mpsc::channel(WAITING_MAX);
            let shared = Shared::new(site.clone(), pool, settings.silence, sender);
            match dial {
                Some(address) => {
                    let dialler = Dialler {
                        own: settings.site.clone(),
                        address,
                        life,
                        tls: Arc::clone(&tls),
                        shared: Arc::clone(&shared),
                    };
                    tasks.spawn(keep(dialler, settings.flows));
                }
                None => drop(guests.insert(site.clone(), Arc::clone(&shared))),
            }
            let names = Arc::clone(&names);
            peers.insert(site.clone(), Peer { shared, names });
            inboxes.insert(site, Inbox(inbox));
        }
        if let Some(listener) = listener {
            let door = Door {
                own: settings.site,
                life,
                tls,
                guests,
                refused: Arc::clone(&refused),
            };
            tasks.spawn(listen(listener, Arc::new(door)));
        }
        Ok(Self {
            peers,
            inboxes,
            listening,
            refused,
            tasks,
        })
    }

    /// A peer of the settings.
    pub fn peer(&self, site: &SiteName) -> Option<&Peer> {
        self.peers.get(site)
    }

    /// What a peer says; can be taken once. Where nobody takes it, requests are answered "busy".
    pub fn take_inbox(&mut self, site: &SiteName) -> Option<Inbox> {
        self.inboxes.remove(site)
    }

    /// The address that it listens on, with the port where 0 was asked for.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.listening
    }

    /// Incoming connections that were refused since the start. More than a few are somebody at the door.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.tasks.abort_all();
        for peer in self.peers.values() {
            peer.shared.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_sites_exactly_one_dials_if_any_can() {
        let (a, b): (SiteName, SiteName) = ("a".into(), "b".into());
        for (a_listens, b_listens) in [(true, true), (true, false), (false, true)] {
            let from_a = who_dials((&a, a_listens), (&b, b_listens));
            let from_b = who_dials((&b, b_listens), (&a, a_listens));
            let expected = match from_a {
                Some(Dials::Own) => Dials::Peer,
                Some(Dials::Peer) => Dials::Own,
                None => panic!("one of them can be reached"),
            };
            assert_eq!(from_b, Some(expected));
        }
        assert_eq!(who_dials((&a, false), (&b, false)), None);
    }
}
