//! What a daemon is told. Plain values: whoever starts it has read the configuration.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use link::PeerSettings;
use model::{ServiceName, SiteName};

/// One daemon.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its site.
    pub site: SiteName,
    /// The program's version, for peers and operators.
    pub version: String,
    /// The services that have a home database at this site.
    pub services: Vec<Service>,
    /// The link to other sites; `None`: the site is alone.
    pub link: Option<Link>,
    /// Where it is asked how it is, and told what to do.
    pub admin: Admin,
    /// How long work may take to come to a safe point when the daemon ends: [`Settings::PATIENCE`] but in tests.
    pub patience: Duration,
}

/// A service at this site.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its origin: a database that is installed with another one is not ours.
    pub origin: SiteName,
    /// Its home database at this site.
    pub database: DatabaseUrl,
}

/// A connection URL, which may hold a password: `Debug` hides it.
#[derive(Clone)]
pub struct DatabaseUrl(String);

/// The link, as far as this site has a part in it.
#[derive(Clone, Debug)]
pub struct Link {
    /// The file of the site's key. Read each time this daemon begins to lead, so that a new key needs no restart of those
    /// that stand by.
    pub key: PathBuf,
    /// Where to listen, `host:port`; `None`: only dials.
    pub listen: Option<String>,
    /// Bulk connections to each peer that this site dials.
    pub flows: u16,
    /// The peers.
    pub peers: Vec<PeerSettings>,
}

/// The admin API.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The unix socket: everything, and for this account alone.
    pub socket: PathBuf,
    /// A TCP address, `host:port`, for health and metrics alone.
    pub listen: Option<String>,
}

// === impl Settings ===

impl Settings {
    /// Eight seconds: a service manager is told that the daemon is gone within ten.
    pub const PATIENCE: Duration = Duration::from_secs(8);
}

// === impl DatabaseUrl ===

impl DatabaseUrl {
    /// Hides `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL itself, for the connection alone.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}
