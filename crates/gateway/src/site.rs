//! What a gateway is told, and what it knows of the sites and services. Plain values: whoever starts it has read the configuration.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use model::{KeyKind, Market, ServiceName, SiteName, UserKey};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::clean::Clean;
use crate::doors::{Bounds, Doors};
use crate::homes::{Homes, SiteId};
use crate::identify::Rules;
use crate::lines::Lines;
use crate::tally::Tally;

/// A boxed future, so that what stands behind a gateway can be chosen at run time.
pub type Soon<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One gateway: what all its threads share.
pub struct Gateway {
    /// This site.
    pub here: SiteId,
    /// All sites, this one among them, by their numbers.
    pub sites: Vec<SiteName>,
    /// The services, by their numbers.
    pub services: Vec<Service>,
    /// Whose a request is.
    pub rules: Rules,
    /// What of it goes on.
    pub clean: Clean,
    /// Whose requests wait.
    pub doors: Doors,
    /// Who knows about users of whom the memory knows nothing.
    pub residents: Arc<dyn Residents>,
    /// The ways to the gateways of other sites.
    pub peers: Option<Arc<Peers>>,
    /// Who takes what peers' gateways come with about claims of names; `None`: nobody does.
    pub claims: Option<Arc<dyn Claims>>,
    /// The certificate that clients are shown, where they come by TLS; may be replaced while it runs.
    pub front: RwLock<Option<Arc<ServerConfig>>>,
    /// What became of the last request of each connection that a peer's gateway made to this one.
    pub lines: Arc<Lines>,
    /// What was done.
    pub tally: Tally,
    /// Bounds.
    pub limits: Limits,
}

/// The ways to the gateways of other sites.
#[derive(Debug)]
pub struct Peers {
    /// This site, as they believe it, and they, as it believes them.
    pub sealed: link::Sealed,
    /// Where each site's gateways listen for others' (`host:port`), by the sites' numbers.
    pub addresses: Vec<Option<String>>,
}

/// A service, as the gateway of this site knows it.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its origin: where whoever is unknown is asked for.
    pub origin: SiteId,
    /// The application at this site (`host:port`).
    pub upstream: Option<String>,
    /// Where its users live.
    pub homes: Homes,
    /// Whether this gateway's word counts with the service's mover now.
    pub lease: Lease,
}

/// Bounds of a gateway, each per what it says.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of a body, in bytes, up to which it is kept, so that the request can be sent again.
    pub resend: usize,
    /// Of requests that wait while their user changes home.
    pub parking: Bounds,
    /// How long an answer may take to begin.
    pub answer: Duration,
    /// How long a client's connection may rest between requests, and a head or body take without a word.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            resend: 64 << 10,
            parking: Bounds {
                requests: 10_000,
                bytes: 64 << 20,
                time: Duration::from_secs(5),
            },
            answer: Duration::from_secs(60),
            idle: Duration::from_secs(75),
        }
    }
}

/// Until when this gateway is registered with a service's home database. After that the mover does not wait for its word, and it lets nobody
/// pass to the application.
#[derive(Debug, Default)]
pub struct Lease {
    /// By the clock that counts while the machine sleeps, too: the database's does.
    until_ms: AtomicU64,
}

/// A moment by that clock.
#[derive(Clone, Copy, Debug)]
pub struct Moment(u64);

/// How a user stands with this site's home database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stand {
    /// He lives here.
    Here {
        /// Since this epoch.
        epoch: i64,
    },
    /// He is changing home.
    Closed,
    /// He lives elsewhere.
    Elsewhere {
        /// There.
        site: SiteName,
        /// Since this epoch.
        epoch: i64,
    },
    /// He is on his way here, or gave that up: as a rule he lives there still.
    Arriving {
        /// There.
        site: SiteName,
        /// The highest epoch that was seen of him.
        epoch: i64,
    },
    /// Nobody may serve him until an operator has looked.
    Lost,
    /// No record, and the origin does not know him from before; or this is not the origin.
    Unknown,
}

/// The home database could not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAsked;

/// Who lives here, from the home databases; and where policy wants whom.
pub trait Residents: Send + Sync {
    /// How `user` of the service of that number stands.
    fn look(&self, service: u16, user: UserKey) -> Soon<'static, Result<Stand, NotAsked>>;

    /// Of which kind the service's keys are; `None` where the home database has not said so yet.
    fn kind(&self, service: u16) -> Option<KeyKind>;

    /// Whether `user`, of whom memory knows nothing, has lived here since before there were records.
    fn is_native(&self, service: u16, user: &UserKey) -> bool;

    /// What the guard of the service's home database shows with each refusal.
    fn nonce(&self, service: u16) -> Option<Arc<str>>;

    /// Where policy sends a newcomer of `market`: said at the origin alone, which knows how far the programme has come.
    fn policy(&self, service: u16, market: &Market) -> Option<SiteId>;
}

/// Takes the connections of peers' gateways that are about claims of names: they come to the same address as requests do, and this room knows
/// nothing of what is said in them.
pub trait Claims: Send + Sync {
    /// Serves a connection of `peer` to its end; after `end` it takes nothing further.
    fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        peer: SiteName,
        end: CancellationToken,
    ) -> Soon<'static, ()>;
}

// === impl Gateway ===

impl Gateway {
    /// The site of that name.
    pub fn site(&self, name: &SiteName) -> Option<SiteId> {
        let at = self.sites.iter().position(|site| site == name)?;
        u8::try_from(at).ok().map(SiteId)
    }

    /// The number of the service of that name.
    pub fn service(&self, name: &ServiceName) -> Option<u16> {
        let at = self
            .services
            .iter()
            .position(|service| service.name == *name)?;
        u16::try_from(at).ok()
    }

    /// Where whoever is about to become a user of `market` goes: the origin knows how far the programme has come.
    pub fn newcomers(&self, service: u16, market: Option<&Market>) -> SiteId {
        let known = self.services.get(usize::from(service));
        let origin = known.map_or(self.here, |service| service.origin);
        let wanted = market.and_then(|market| self.residents.policy(service, market));
        match wanted {
            Some(site) if origin == self.here => site,
            _ => origin,
        }
    }

    /// A site's name.
    pub fn name(&self, site: SiteId) -> &str {
        self.sites
            .get(usize::from(site.0))
            .map_or("", SiteName::as_str)
    }
}

// === impl Lease ===

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let milliseconds = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0);
        Self(seconds * 1000 + milliseconds)
    }
}

impl Lease {
    /// It stands for `term` from the moment `asked` at which it was asked for: before the database gave it, so that it ends here
    /// before it ends there.
    pub fn renewed(&self, asked: Moment, term: Duration) {
        let term = u64::try_from(term.as_millis()).unwrap_or(u64::MAX);
        self.until_ms
            .store(asked.0.saturating_add(term), Ordering::Release);
    }

    /// It is over.
    pub fn end(&self) {
        self.until_ms.store(0, Ordering::Release);
    }

    /// Whether it stands.
    pub fn stands(&self) -> bool {
        self.until_ms.load(Ordering::Acquire) > Moment::now().0
    }
}
