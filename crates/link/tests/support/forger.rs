//! Whoever speaks the protocol by hand: made from `docs/link.md` and not from the crate's code, and believing everybody.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use link::NewKey;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519, SanType};
use rcgen::{DnType, ExtendedKeyUsagePurpose};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

pub type Wire = Framed<TlsStream<TcpStream>, LengthDelimitedCodec>;

pub const ALPN: &str = "domicile-link/1";

/// What a forger shows.
pub struct Papers {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
    pub alpn: Option<&'static str>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
}

/// A certificate, as it is to be.
pub struct Form {
    pub uris: Vec<String>,
    /// Further names, as the world's clients look for them.
    pub hosts: Vec<&'static str>,
    pub hours: (i64, i64),
    pub authority: bool,
    pub uses: Vec<ExtendedKeyUsagePurpose>,
}

impl Form {
    pub fn of(site: &str) -> Self {
        Self {
            uris: vec![format!("domicile:site:{site}")],
            hosts: Vec::new(),
            hours: (-1, 24),
            authority: false,
            uses: Vec::new(),
        }
    }

    fn params(&self) -> CertificateParams {
        let now = OffsetDateTime::from(SystemTime::now());
        let mut params = CertificateParams::default();
        let names = self.uris.iter();
        params.subject_alt_names = names
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()))
            .collect();
        if self.uris.is_empty() {
            let dns = "singapore.example".try_into().unwrap();
            params.subject_alt_names = vec![SanType::DnsName(dns)];
        }
        let hosts = self.hosts.iter();
        let hosts = hosts.map(|host| SanType::DnsName((*host).try_into().unwrap()));
        params.subject_alt_names.extend(hosts);
        params.not_before = now + time::Duration::hours(self.hours.0);
        params.not_after = now + time::Duration::hours(self.hours.1);
        params.extended_key_usages = self.uses.clone();
        if self.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }
}

pub fn pair_of(key: &NewKey) -> KeyPair {
    let der = PrivatePkcs8KeyDer::from_pem_slice(key.pem().as_bytes()).unwrap();
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519).unwrap()
}

impl Papers {
    /// A self-signed certificate of that form and key.
    pub fn new(key: &NewKey, form: &Form) -> Self {
        let key = pair_of(key);
        let certificate = form.params().self_signed(&key).unwrap();
        Self {
            chain: vec![certificate.der().clone()],
            key,
            alpn: Some(ALPN),
            versions: vec![&TLS13],
        }
    }

    /// The same form and key, vouched for by an authority.
    pub fn vouched(key: &NewKey, form: &Form, with_authority: bool) -> Self {
        let (issuer, root) = authority();
        let key = pair_of(key);
        let certificate = form.params().signed_by(&key, &issuer).unwrap();
        let mut chain = vec![certificate.der().clone()];
        if with_authority {
            chain.push(root);
        }
        Self {
            chain,
            key,
            alpn: Some(ALPN),
            versions: vec![&TLS13],
        }
    }

    pub fn tls12(mut self) -> Self {
        self.versions = vec![&TLS12];
        self
    }

    fn shown(&self) -> Arc<SingleCertAndKey> {
        let der = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let key = ring::sign::any_supported_type(&der).unwrap();
        Arc::new(CertifiedKey::new(self.chain.clone(), key).into())
    }

    fn alpn(&self) -> Vec<Vec<u8>> {
        self.alpn
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect()
    }

    pub async fn connect(&self, address: &str) -> std::io::Result<Wire> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous));
        let mut config = match self.chain.is_empty() {
            true => config.with_no_client_auth(),
            false => config.with_client_cert_resolver(self.shown()),
        };
        config.alpn_protocols = self.alpn();
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("singapore.example").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        Ok(Framed::new(
            TlsStream::from(stream),
            LengthDelimitedCodec::new(),
        ))
    }

    pub async fn accept(&self, listener: &TcpListener) -> std::io::Result<Wire> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_client_cert_verifier(Arc::new(Credulous))
            .with_cert_resolver(self.shown());
        config.alpn_protocols = self.alpn();
        let (stream, _) = listener.accept().await?;
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
        Ok(Framed::new(
            TlsStream::from(stream),
            LengthDelimitedCodec::new(),
        ))
    }
}

/// An authority that the world trusts.
pub fn authority() -> (Issuer<'static, KeyPair>, CertificateDer<'static>) {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "World Wide Trust");
    let root = params.self_signed(&key).unwrap().der().clone();
    (Issuer::new(params, key), root)
}

pub fn hello(from: &str, to: &str, session: u64, flow: Option<u16>) -> Bytes {
    let flow = flow.map_or("null".to_owned(), |flow| flow.to_string());
    format!(
        r#"{{"protocol":1,"version":"9","from":"{from}","to":"{to}","life":7,"session":{session},"flow":{flow}}}"#
    )
    .into()
}

/// Says hello and gives the answer; `None` where the connection ends first.
pub async fn greet(wire: &mut Wire, hello: Bytes) -> Option<String> {
    // Whoever is refused may find that out when he writes, or when he reads.
    let _ = wire.send(hello).await;
    let answer = wire.next().await?.ok()?;
    Some(String::from_utf8(answer.to_vec()).unwrap())
}

/// Believes every certificate; that the forger is cheated as well is his affair.
#[derive(Debug)]
struct Credulous;

fn signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = ring::default_provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, certificate, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Credulous {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature(message, certificate, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
