//! Two sites on this machine, and what can be done to the path between them.
#![allow(dead_code, missing_docs, reason = "each test file uses a part")]

pub mod forger;

use std::time::Duration;

use bytes::Bytes;
use link::{Endpoint, Identity, Inbox, NewKey, Peer, PeerSettings, Pin, Settings};
use model::SiteName;
use testbed::Relay;
use tokio::time::timeout;

/// The site that listens.
pub const HOME: &str = "singapore";
/// The site that dials.
pub const AWAY: &str = "beijing";

/// No test waits longer for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The window of a pair with a relay between: much less than the transfers there.
pub const RELAYED_WINDOW: usize = 4 << 20;

pub fn key() -> NewKey {
    NewKey::draw().unwrap()
}

pub fn identity(key: &NewKey) -> Identity {
    Identity::from_pem(key.pem()).unwrap()
}

pub fn pin(key: &NewKey) -> Pin {
    identity(key).pin()
}

pub fn settings(site: &str, key: &NewKey, peers: Vec<PeerSettings>) -> Settings {
    Settings {
        site: site.into(),
        identity: identity(key),
        listen: None,
        flows: 4,
        window: Settings::WINDOW,
        silence: Settings::SILENCE,
        peers,
    }
}

pub fn peer(site: &str, key: &NewKey, dial: Option<String>) -> PeerSettings {
    PeerSettings {
        site: site.into(),
        pins: pin(key).into(),
        dial,
    }
}

/// An endpoint that listens, and expects `AWAY` with `away`.
pub async fn home(key: &NewKey, away: &NewKey) -> Endpoint {
    let mut settings = settings(HOME, key, vec![peer(AWAY, away, None)]);
    settings.listen = Some("127.0.0.1:0".into());
    Endpoint::start(settings).await.unwrap()
}

/// An endpoint that dials `HOME` at `address`.
pub async fn away(key: &NewKey, home: &NewKey, address: String) -> Endpoint {
    let peers = vec![peer(HOME, home, Some(address))];
    Endpoint::start(settings(AWAY, key, peers)).await.unwrap()
}

pub fn address(endpoint: &Endpoint) -> String {
    endpoint.listening().unwrap().to_string()
}

/// Two connected sites.
pub struct Pair {
    pub home: Endpoint,
    pub away: Endpoint,
    /// The peer as `home` has it.
    pub at_home: Peer,
    /// The peer as `away` has it.
    pub at_away: Peer,
}

impl Pair {
    pub async fn new() -> Self {
        let (home_key, away_key) = (key(), key());
        let home = home(&home_key, &away_key).await;
        let address = address(&home);
        Self::join(home, away(&away_key, &home_key, address).await).await
    }

    /// The same, over a path that can be cut, and with little memory.
    pub async fn relayed() -> (Self, Relay) {
        let (home_key, away_key) = (key(), key());
        let mut listens = settings(HOME, &home_key, vec![peer(AWAY, &away_key, None)]);
        listens.listen = Some("127.0.0.1:0".into());
        listens.window = RELAYED_WINDOW;
        let home = Endpoint::start(listens).await.unwrap();
        let relay = Relay::start(address(&home)).await.unwrap();
        let peers = vec![peer(HOME, &home_key, Some(relay.address().to_owned()))];
        let mut dials = settings(AWAY, &away_key, peers);
        dials.window = RELAYED_WINDOW;
        let away = Endpoint::start(dials).await.unwrap();
        (Self::join(home, away).await, relay)
    }

    pub async fn join(home: Endpoint, away: Endpoint) -> Self {
        let at_home = home.peer(&AWAY.into()).unwrap().clone();
        let at_away = away.peer(&HOME.into()).unwrap().clone();
        soon(at_home.connected()).await;
        soon(at_away.connected()).await;
        Self {
            home,
            away,
            at_home,
            at_away,
        }
    }

    pub fn inbox(&mut self, of: &str) -> Inbox {
        let other: SiteName = if of == HOME { AWAY } else { HOME }.into();
        let end = if of == HOME {
            &mut self.home
        } else {
            &mut self.away
        };
        end.take_inbox(&other).unwrap()
    }
}

/// What must happen within [`PATIENCE`].
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Bytes that compress about as well as rows do, different for each seed.
pub fn rows(seed: u64, length: usize) -> Bytes {
    let mut text = Vec::with_capacity(length + 100);
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    while text.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        text.extend_from_slice(format!("{state:016x},customer,SG,2014-04-01;").as_bytes());
    }
    text.truncate(length);
    text.into()
}

/// Receives all of a transfer.
pub async fn all(mut receiving: link::Receiving) -> Result<Vec<u8>, link::TransferError> {
    let mut all = Vec::new();
    while let Some(bytes) = receiving.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}
