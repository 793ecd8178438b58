//! TLS 1.3 between two sites, both of which show who they are. No resumption, no early data, no SNI, no trust store.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use model::SiteName;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::trust::{Side, Trusted, Verifier};
use crate::{Identity, certificate};

/// What is spoken inside; both sides must name it, and the same.
pub(crate) const ALPN: &[u8] = b"domicile-link/1";
/// HTTP between the sites' gateways: requests of users.
pub(crate) const HTTP: &[u8] = b"domicile-http/1";
/// HTTP between the sites' gateways: claims of names.
pub(crate) const CLAIMS: &[u8] = b"domicile-claims/1";

/// A site as it appears to others.
#[derive(Debug)]
pub(crate) struct Tls {
    site: SiteName,
    identity: Identity,
    trusted: Trusted,
    /// What may be spoken inside.
    protocols: &'static [&'static [u8]],
}

impl Tls {
    pub fn new(
        site: SiteName,
        identity: Identity,
        trusted: Trusted,
        protocols: &'static [&'static [u8]],
    ) -> Self {
        Self {
            site,
            identity,
            trusted,
            protocols,
        }
    }

    /// Speaks first, with `peer` alone and in that protocol alone.
    pub async fn connect(
        &self,
        stream: TcpStream,
        peer: &SiteName,
        protocol: &'static [u8],
    ) -> io::Result<TlsStream<TcpStream>> {
        // An address and not a name: so no SNI tells those on the way who is wanted.
        let address = ServerName::IpAddress(stream.peer_addr()?.ip().into());
        let config = Arc::new(self.client(peer, protocol)?);
        let stream = TlsConnector::from(config).connect(address, stream).await?;
        let stream = TlsStream::from(stream);
        self.speaker(&stream, Side::Server, &[protocol])?;
        Ok(stream)
    }

    /// Answers one of the peers, and says which, and in which protocol.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, SiteName, &'static [u8])> {
        let config = Arc::new(self.server()?);
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let stream = TlsStream::from(stream);
        let (site, protocol) = self.speaker(&stream, Side::Client, self.protocols)?;
        Ok((stream, site, protocol))
    }

    /// Whom a finished handshake was with, and which of `protocols` they agreed on. The handshake has judged the certificate already; this is its name, read by
    /// the same function, and a second look that costs little.
    fn speaker(
        &self,
        stream: &TlsStream<TcpStream>,
        side: Side,
        protocols: &[&'static [u8]],
    ) -> io::Result<(SiteName, &'static [u8])> {
        let (_, session) = stream.get_ref();
        // `rustls` refuses another protocol, but lets a peer pass that names none.
        let mut known = protocols.iter();
        let agreed = known.find(|known| session.alpn_protocol() == Some(**known));
        let Some(protocol) = agreed else {
            let named = |protocol: &&[u8]| String::from_utf8_lossy(protocol).into_owned();
            let wanted: Vec<_> = protocols.iter().map(named).collect();
            return Err(io::Error::other(format!(
                "the peer does not speak {}",
                wanted.join(" or ")
            )));
        };
        let shown: &[CertificateDer<'_>] = session.peer_certificates().unwrap_or_default();
        let Some((first, further)) = shown.split_first() else {
            return Err(io::Error::other("the peer shows no certificate"));
        };
        self.trusted
            .identify(first, further.len(), side, UnixTime::now())
            .map(|site| (site, *protocol))
            .map_err(io::Error::other)
    }

    fn shown(&self) -> io::Result<Arc<SingleCertAndKey>> {
        let certificate = certificate::issue(&self.identity, &self.site, SystemTime::now())
            .map_err(io::Error::other)?;
        let key = CertifiedKey::new(vec![certificate], Arc::clone(&self.identity.signer));
        Ok(Arc::new(SingleCertAndKey::from(key)))
    }

    fn client(&self, peer: &SiteName, protocol: &'static [u8]) -> io::Result<ClientConfig> {
        let verifier = Verifier::new(self.trusted.only(peer));
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.shown()?);
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_early_data = false;
        Ok(config)
    }

    fn server(&self) -> io::Result<ServerConfig> {
        let verifier = Verifier::new(self.trusted.clone());
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.shown()?);
        config.alpn_protocols = self.protocols.iter().map(|one| one.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }
}
