//! Connections between the gateways of two sites: sealed and believed as the link is, with HTTP inside.

use std::io;
use std::time::Duration;

use model::SiteName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use crate::tls::{CLAIMS, HTTP, Tls};
use crate::trust::Trusted;
use crate::{Identity, Pins, socket};

/// How long a handshake may take: three round trips of the longest path, ten times over.
const GREETING: Duration = Duration::from_secs(10);

/// What a connection between gateways is for, which both sides name in the handshake: neither can be taken for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Requests of users (ALPN `domicile-http/1`).
    Requests,
    /// Claims of names (ALPN `domicile-claims/1`).
    Claims,
}

/// A site as its peers' gateways see it: the same certificate and the same pins as on the link, other protocols inside, so that none can be taken
/// for another.
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
        Self(Tls::new(
            site,
            identity,
            Trusted::new(peers),
            &[HTTP, CLAIMS],
        ))
    }

    /// Connects to the gateway of `peer` at `address` (`host:port`) for `purpose`; the address comes from the configuration and from nowhere else.
    pub async fn connect(
        &self,
        address: &str,
        peer: &SiteName,
        purpose: Purpose,
    ) -> io::Result<TlsStream<TcpStream>> {
        let stream = socket::dial(address).await?;
        let protocol = match purpose {
            Purpose::Requests => HTTP,
            Purpose::Claims => CLAIMS,
        };
        timeout(GREETING, self.0.connect(stream, peer, protocol)).await?
    }

    /// Lets a peer's gateway in, and says whose it is and what it comes for.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, SiteName, Purpose)> {
        socket::prepare(&stream)?;
        let (stream, peer, protocol) = timeout(GREETING, self.0.accept(stream)).await??;
        let purpose = match protocol == CLAIMS {
            true => Purpose::Claims,
            false => Purpose::Requests,
        };
        Ok((stream, peer, purpose))
    }
}
