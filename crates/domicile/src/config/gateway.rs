//! `gateway` of a site and `upstream` of a service: where requests come in, and where the application is asked.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use model::SiteName;

use super::link::host_and_port;
use super::reader::{Node, Table};
use super::service::by_site;
use super::site::Site;
use super::{ConfigError, quantity};

/// The most threads that a gateway may have; beyond the cores of a machine they only take turns.
const THREADS_MAX: u64 = 256;

/// A site's gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Where clients reach it, `host:port`.
    pub listen: String,
    /// Whose headers it believes: the networks of the proxies in front of it. Default: nobody's.
    pub fronts: Vec<IpNet>,
    /// With what it speaks TLS to clients; `None`: it does not.
    pub tls: Option<Tls>,
    /// Where the gateways of other sites reach it; `None`: they do not.
    pub peers: Option<GatewayPeers>,
    /// Where this site's applications claim and locate names, a loopback address; `None`: they do not.
    pub claims: Option<String>,
    /// How many threads carry requests; `None`: one for each core.
    pub threads: Option<u64>,
    /// The longest body, in bytes, that is kept so that a request can be sent again. Default 64 KiB.
    pub resend: u64,
    /// How much waits while a user changes home.
    pub park: Park,
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The file of the certificate and those that vouch for it.
    pub certificate: PathBuf,
    /// The file of its private key.
    pub key: PathBuf,
}

/// Where gateways of other sites reach this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPeers {
    /// Where it listens, `host:port`.
    pub listen: String,
    /// Where the others dial it, `host:port`.
    pub address: String,
}

/// The bounds of the waiting room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Park {
    /// At most this many requests. Default 10,000.
    pub requests: u64,
    /// At most this many bytes of their bodies. Default 64 MiB.
    pub bytes: u64,
    /// How long each waits at most. Default 5 s: a pause is shorter by far, and clients wait longer.
    pub time: Duration,
}

impl Default for Park {
    fn default() -> Self {
        Self {
            requests: 10_000,
            bytes: 64 << 20,
            time: Duration::from_secs(5),
        }
    }
}

pub(super) fn read_gateway(node: &Node<'_>) -> Result<Gateway, ConfigError> {
    let mut table = node.table()?;
    let listen = place(&table.need("listen")?, 0)?;
    let fronts = table.take("fronts").map(|node| read_fronts(&node));
    let tls = table.take("tls").map(|node| {
        let mut table = node.table()?;
        let (certificate, key) = (table.need("certificate")?, table.need("key")?);
        table.finish()?;
        Ok(Tls {
            certificate: file(&certificate)?,
            key: file(&key)?,
        })
    });
    let peers = table.take("peers").map(|node| {
        let mut table = node.table()?;
        let (listen, address) = (table.need("listen")?, table.need("address")?);
        table.finish()?;
        Ok(GatewayPeers {
            listen: place(&listen, 0)?,
            address: place(&address, 1)?,
        })
    });
    let claims = table.take("claims").map(|node| {
        let loopback = |text: &str| {
            let address: Option<SocketAddr> = text.parse().ok();
            address.is_some_and(|address| address.ip().is_loopback() && address.port() > 0)
        };
        let read = |text: &str| loopback(text).then(|| text.to_owned());
        node.read(
            "an address of this machine alone, as in \"127.0.0.1:8701\": names are sent there as they are, and nobody is asked who he is",
            read,
        )
    });
    let threads = table.take("threads").map(|node| match node.positive()? {
        threads @ 1..=THREADS_MAX => Ok(threads),
        _ => Err(node.error(format_args!("at most {THREADS_MAX} threads"))),
    });
    let resend = table.take("resend").map(|node| {
        // "0B" is an answer: nothing with a body is sent again.
        node.read("a size such as \"64KiB\"", quantity::size)
    });
    let park = table.take("park").map(|node| read_park(&node));
    let gateway = Gateway {
        listen,
        fronts: fronts.transpose()?.unwrap_or_default(),
        tls: tls.transpose()?,
        peers: peers.transpose()?,
        claims: claims.transpose()?,
        threads: threads.transpose()?,
        resend: resend.transpose()?.unwrap_or(64 << 10),
        park: park.transpose()?.unwrap_or_default(),
    };
    table.finish()?;
    Ok(gateway)
}

fn read_park(node: &Node<'_>) -> Result<Park, ConfigError> {
    let mut park = Park::default();
    let mut table = node.table()?;
    if let Some(requests) = table.take("requests") {
        park.requests = requests.positive()?;
    }
    if let Some(bytes) = table.take("bytes") {
        let read = |text: &str| quantity::size(text).filter(|size| *size > 0);
        park.bytes = bytes.read("a size above zero such as \"64MiB\"", read)?;
    }
    if let Some(time) = table.take("time") {
        let read = |text: &str| quantity::duration(text).filter(|time| !time.is_zero());
        park.time = time.read("a duration above zero such as \"5s\"", read)?;
    }
    table.finish()?;
    Ok(park)
}

fn read_fronts(node: &Node<'_>) -> Result<Vec<IpNet>, ConfigError> {
    let mut fronts = Vec::new();
    for node in node.nodes()? {
        let network = |text: &str| match text.parse::<IpAddr>() {
            Ok(address) => Some(IpNet::from(address)),
            Err(_) => text.parse().ok(),
        };
        let front = node.read("an address or a network, as \"10.0.0.0/8\"", network)?;
        if front.prefix_len() == 0 {
            return Err(node.error(
                "everybody would be a front, and anybody could say who he is; name the networks of the proxies",
            ));
        }
        if front.trunc() != front {
            return Err(node.error(format_args!(
                "{front} is an address inside a network; write {} for the network, or the address alone",
                front.trunc()
            )));
        }
        fronts.push(front);
    }
    Ok(fronts)
}

/// Where the application of a service is asked, `host:port`, at each site.
pub(super) fn read_upstreams(
    table: &mut Table<'_>,
    sites: &BTreeMap<SiteName, Site>,
) -> Result<BTreeMap<SiteName, String>, ConfigError> {
    let Some(node) = table.take("upstream") else {
        return Ok(BTreeMap::new());
    };
    let mut upstreams = BTreeMap::new();
    for (site, node) in by_site(&node, sites)? {
        let place = node.string()?.strip_prefix("http://");
        let place = place.filter(|place| host_and_port(place, 1));
        // The text is not repeated: it may hold a name and a password.
        let place =
            place.ok_or_else(|| node.error("expected \"http://HOST:PORT\", with no path"))?;
        upstreams.insert(site, place.to_owned());
    }
    Ok(upstreams)
}

fn place(node: &Node<'_>, least: u16) -> Result<String, ConfigError> {
    let read = |text: &str| host_and_port(text, least).then(|| text.to_owned());
    node.read("HOST:PORT, as in \"0.0.0.0:8443\"", read)
}

/// The whole path of a file, which is relative to the configuration.
pub(super) fn file(node: &Node<'_>) -> Result<PathBuf, ConfigError> {
    let name = node.string()?;
    // Whoever writes a key itself here should not find it in an error again.
    if name.is_empty() || name.contains('\n') || name.contains("-----") {
        return Err(node.error("expected the path of a file"));
    }
    Ok(node.file().parent().unwrap_or(Path::new(".")).join(name))
}
