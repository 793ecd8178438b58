//! Connections between the gateways of two sites: sealed and believed as the link is, with HTTP inside.

use std::io;
use std::time::Duration;

use model::SiteName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use crate::tls::{HTTP, Tls};
use crate::trust::Trusted;
use crate::{Identity, Pins, socket};

/// How long a handshake may take: three round trips of the longest path, ten times over.
const GREETING: Duration = Duration::from_secs(10);

/// A site as its peers' gateways see it: the same certificate and the same pins as on the link, another protocol inside (ALPN
/// `domicile-http/1`), so that neither can be taken for the other.
#[derive(Debug)]
pub struct Sealed(Tls);

// === impl Sealed ===

impl Sealed {
    /// `site` with its key, and the peers that it believes.
    pub fn new(
        site: SiteName,
        identity: Identity,
        peers: impl IntoIterator<Item = (SiteName, Pins)>,
    ) -> Self {
        Self(Tls::new(site, identity, Trusted::new(peers), HTTP))
    }

    /// Connects to the gateway of `peer` at `address` (`host:port`), which comes from the configuration and from nowhere else.
    pub async fn connect(
        &self,
        address: &str,
        peer: &SiteName,
    ) -> io::Result<TlsStream<TcpStream>> {
        let stream = socket::dial(address).await?;
        timeout(GREETING, self.0.connect(stream, peer)).await?
    }

    /// Lets a peer's gateway in, and says whose it is.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, SiteName)> {
        socket::prepare(&stream)?;
        timeout(GREETING, self.0.accept(stream)).await?
    }
}
