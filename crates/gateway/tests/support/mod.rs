//! Two sites on this machine: each with a gateway, an application that remembers what it heard, and a home database of a map.
#![allow(dead_code, missing_docs, reason = "each test file uses a part")]

pub mod application;
pub mod servers;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gateway::clean::Clean;
use gateway::doors::Doors;
use gateway::homes::{Homes, SiteId};
use gateway::identify::{Nobody, Prefix, Route, Rules, Source};
use gateway::site::{
    Gateway, Lease, Limits, Moment, NotAsked, Peers, Residents, Service, Soon, Stand,
};
use gateway::tally::Tally;
use gateway::thread::{Callers, listen, run};
use link::{Identity, NewKey, Sealed};
use model::{KeyKind, Market, SiteName, UserKey};
use testbed::Relay;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

pub use application::Application;

pub const SITES: [&str; 2] = ["beijing", "singapore"];
/// What the guard shows with its refusals.
pub const NONCE: &str = "5f4dcc3b5aa765d61d8327deb882cf99";
/// No test waits longer for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A home database, as far as a gateway asks it.
#[derive(Default)]
pub struct Records {
    pub stands: Mutex<HashMap<String, Stand>>,
    /// Where policy sends every newcomer.
    pub policy: Mutex<Option<SiteId>>,
    pub looks: Mutex<u32>,
}

impl Residents for Records {
    fn look(&self, _: u16, user: UserKey) -> Soon<'static, Result<Stand, NotAsked>> {
        *self.looks.lock().unwrap() += 1;
        let stand = self.stands.lock().unwrap().get(user.as_str()).cloned();
        Box::pin(async move { Ok(stand.unwrap_or(Stand::Unknown)) })
    }

    fn kind(&self, _: u16) -> Option<KeyKind> {
        Some(KeyKind::Integer)
    }

    fn is_native(&self, _: u16, _: &UserKey) -> bool {
        false
    }

    fn nonce(&self, _: u16) -> Option<Arc<str>> {
        Some(Arc::from(NONCE))
    }

    fn policy(&self, _: u16, _: &Market) -> Option<SiteId> {
        *self.policy.lock().unwrap()
    }
}

impl Records {
    pub fn set(&self, user: &str, stand: Stand) {
        self.stands.lock().unwrap().insert(user.to_owned(), stand);
    }
}

/// One site.
pub struct Site {
    pub gateway: Arc<Gateway>,
    pub records: Arc<Records>,
    pub application: Application,
    pub clients: SocketAddr,
    /// Before the place where the other's gateway reaches this one.
    pub relay: Relay,
    end: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Both sites, linked.
pub async fn world() -> [Site; 2] {
    world_with(Limits::default()).await
}

pub async fn world_with(limits: Limits) -> [Site; 2] {
    world_before(limits, None).await
}

/// With another application at the first site, at `first`.
pub async fn world_before(limits: Limits, first: Option<SocketAddr>) -> [Site; 2] {
    let keys = SITES.map(|_| NewKey::draw().unwrap());
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let peers = SITES.map(|_| listen(any).unwrap());
    let mut relays = Vec::new();
    for peer in &peers {
        let address = peer.local_addr().unwrap().to_string();
        relays.push(Relay::start(address).await.unwrap());
    }
    let addresses: Vec<Option<String>> = relays
        .iter()
        .map(|relay| Some(relay.address().to_owned()))
        .collect();
    let mut relays = relays.into_iter();
    let route = Route {
        service: "shop".into(),
        host: None,
        path: Prefix::default(),
        user: vec![Source::Header("x-user".to_owned())],
        market: None,
        nobody: Nobody::Local,
    };
    let rules = Rules::new(vec![route], vec!["127.0.0.0/8".parse().unwrap()]);
    let mut sites = Vec::new();
    for (number, peer) in peers.into_iter().enumerate() {
        let identity = |key: &NewKey| Identity::from_pem(key.pem()).unwrap();
        let other = 1 - number;
        let pins = (
            SiteName::from(SITES[other]),
            identity(&keys[other]).pin().into(),
        );
        let here = SiteId(number as u8);
        let application = Application::start(SITES[number]).await;
        let records = Arc::new(Records::default());
        let service = Service {
            name: "shop".into(),
            origin: SiteId(0),
            upstream: Some(match first.filter(|_| number == 0) {
                Some(other) => other.to_string(),
                None => application.address.to_string(),
            }),
            homes: Homes::new(here),
            lease: Lease::default(),
        };
        service
            .lease
            .renewed(Moment::now(), Duration::from_secs(3600));
        let gateway = Arc::new(Gateway {
            here,
            sites: SITES.map(SiteName::from).into(),
            services: vec![service],
            clean: Clean::new(&rules),
            rules: rules.clone(),
            doors: Doors::default(),
            residents: Arc::clone(&records) as Arc<dyn Residents>,
            claims: None,
            peers: Some(Arc::new(Peers {
                sealed: Sealed::new(SITES[number].into(), identity(&keys[number]), [pins]),
                addresses: addresses.clone(),
            })),
            front: Default::default(),
            lines: Default::default(),
            tally: Tally::new(BTreeSet::new()),
            limits,
        });
        let clients = listen(any).unwrap();
        let end = CancellationToken::new();
        sites.push(Site {
            gateway: Arc::clone(&gateway),
            records,
            application,
            clients: clients.local_addr().unwrap(),
            relay: relays.next().unwrap(),
            end: end.clone(),
            thread: Some(std::thread::spawn(move || {
                let listeners = vec![(clients, Callers::Clients), (peer, Callers::Peers)];
                run(gateway, listeners, end, Duration::ZERO).unwrap();
            })),
        });
    }
    sites.try_into().map_err(|_| "two sites").unwrap()
}

impl Site {
    /// A client's connection.
    pub async fn connect(&self) -> Client {
        Client {
            stream: TcpStream::connect(self.clients).await.unwrap(),
            read: Vec::new(),
        }
    }

    /// A request of one user without a body.
    pub async fn get(&self, user: &str, path: &str) -> Reply {
        let mut client = self.connect().await;
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nhost: shop\r\nx-user: {user}\r\n\r\n"
            ))
            .await;
        client.reply().await
    }

    pub async fn post(&self, user: &str, path: &str, body: &[u8]) -> Reply {
        let mut client = self.connect().await;
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: shop\r\nx-user: {user}\r\ncontent-length: {length}\r\n\r\n"
        );
        client.send([head.as_bytes(), body].concat()).await;
        client.reply().await
    }

    pub fn homes(&self) -> &Homes {
        &self.gateway.services[0].homes
    }

    pub fn hash(&self, user: &str) -> gateway::homes::UserHash {
        self.homes().user(user)
    }
}

pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Client {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next answer, which has a length.
    pub async fn reply(&mut self) -> Reply {
        self.next().await.expect("an answer")
    }

    /// The next answer, or `None` where the connection ended before one.
    pub async fn next(&mut self) -> Option<Reply> {
        loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                let head = String::from_utf8(self.read[..end + 4].to_vec()).unwrap();
                let status = head[9..12].parse().unwrap();
                let lower = head.to_ascii_lowercase();
                let length = lower.split("content-length: ").nth(1);
                let length: usize = length.map_or(0, |text| {
                    text.split("\r\n").next().unwrap().parse().unwrap()
                });
                if lower.contains("transfer-encoding: chunked") {
                    let Some(last) = find(&self.read[end + 4..], b"0\r\n\r\n") else {
                        self.more().await?;
                        continue;
                    };
                    let all: Vec<u8> = self.read.drain(..end + 4 + last + 5).collect();
                    let body = String::from_utf8_lossy(&all[end + 4..]).into_owned();
                    return Some(Reply { status, head, body });
                }
                if self.read.len() >= end + 4 + length {
                    let all: Vec<u8> = self.read.drain(..end + 4 + length).collect();
                    let body = String::from_utf8(all[end + 4..].to_vec()).unwrap();
                    return Some(Reply { status, head, body });
                }
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Option<()> {
        let mut piece = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut piece));
        match read.await.expect("the gateway says something in time") {
            Ok(0) | Err(_) => None,
            Ok(n) => {
                self.read.extend_from_slice(&piece[..n]);
                Some(())
            }
        }
    }

    /// Whether the gateway closes the connection, having said nothing more.
    pub async fn ended(&mut self) -> bool {
        self.read.is_empty() && self.next().await.is_none()
    }
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub async fn until(mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "it never became so");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
