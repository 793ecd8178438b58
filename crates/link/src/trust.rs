//! Who is believed to be a peer: the one place where a certificate is judged.
//!
//! Certificates are read and their signatures, times and uses checked by `webpki`; which key may speak for which site
//! is ours to say. No trust store is consulted, and there is no way to leave a check out.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::SiteName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::certificate::site_of;
use crate::{Pin, Pins};

/// The peers that may be spoken with, and their keys.
#[derive(Clone, Debug)]
pub(crate) struct Trusted(BTreeMap<SiteName, Pins>);

/// Why a certificate is not believed. Names sites and pins, which are no secrets.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error("the peer shows {0} certificates; one is expected")]
    Chain(usize),
    #[error("the certificate cannot be read: {0}")]
    Malformed(webpki::Error),
    #[error("the certificate names no site (`domicile:site:NAME`) or more than one")]
    NoSite,
    #[error("the certificate is {found}'s, and {expected} was expected")]
    OtherSite { found: SiteName, expected: SiteName },
    #[error("{0} is no peer of this site")]
    Unknown(SiteName),
    #[error("the key of {site} is {pin}, which is not among its pins")]
    Pin { site: SiteName, pin: Pin },
    #[error("the certificate is not valid: {0}")]
    Invalid(webpki::Error),
}

/// Which end the peer is at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// The peer was dialled.
    Server,
    /// The peer dialled.
    Client,
}

/// What `rustls` asks.
#[derive(Debug)]
pub(crate) struct Verifier {
    trusted: Trusted,
    algorithms: WebPkiSupportedAlgorithms,
}

// === impl Trusted ===

impl Trusted {
    pub fn new(peers: impl IntoIterator<Item = (SiteName, Pins)>) -> Self {
        Self(peers.into_iter().collect())
    }

    /// The same, for one of them alone.
    pub fn only(&self, site: &SiteName) -> Self {
        let found = self.0.get_key_value(site);
        Self::new(found.map(|(site, pins)| (site.clone(), pins.clone())))
    }

    /// The site that shows `certificate`. That it holds the key as well is shown by its signature of the handshake.
    pub fn identify(
        &self,
        certificate: &CertificateDer<'_>,
        further: usize,
        side: Side,
        now: UnixTime,
    ) -> Result<SiteName, Refusal> {
        if further > 0 {
            return Err(Refusal::Chain(further + 1));
        }
        let read = EndEntityCert::try_from(certificate).map_err(Refusal::Malformed)?;
        let mut names = read.valid_uri_names();
        let (Some(name), None) = (names.next(), names.next()) else {
            return Err(Refusal::NoSite);
        };
        let site = site_of(name).ok_or(Refusal::NoSite)?;
        let Some(pins) = self.0.get(&site) else {
            return Err(match self.0.keys().next() {
                Some(expected) if self.0.len() == 1 => Refusal::OtherSite {
                    found: site,
                    expected: expected.clone(),
                },
                _ => Refusal::Unknown(site),
            });
        };
        let pin = Pin::of_spki(&read.subject_public_key_info());
        if !pins.contain(&pin) {
            return Err(Refusal::Pin { site, pin });
        }
        // From here on the key is known to be the peer's, so it may stand as the anchor of its own certificate:
        // `webpki` then checks signature, times, uses, and that it is no authority.
        let anchor = [anchor_from_trusted_cert(certificate).map_err(Refusal::Malformed)?];
        let usage = match side {
            Side::Server => KeyUsage::server_auth(),
            Side::Client => KeyUsage::client_auth(),
        };
        let algorithms = ring::default_provider().signature_verification_algorithms;
        read.verify_for_usage(algorithms.all, &anchor, &[], now, usage, None, None)
            .map_err(Refusal::Invalid)?;
        Ok(site)
    }
}

// === impl Verifier ===

impl Verifier {
    pub fn new(trusted: Trusted) -> Arc<Self> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        Arc::new(Self {
            trusted,
            algorithms,
        })
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<(), Error> {
        let found = self
            .trusted
            .identify(certificate, intermediates.len(), side, now);
        match found {
            Ok(_) => Ok(()),
            Err(refusal) => Err(Error::InvalidCertificate(CertificateError::Other(
                OtherError(Arc::new(refusal)),
            ))),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // The address that was dialled. Names of hosts say nothing about sites; the site's name stands in the URI.
        _address: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, Side::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A list would tell a stranger who our peers are.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, Side::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The versions that are offered leave TLS 1.2 out, so this is never reached.
fn no_tls12() -> Error {
    Error::General("TLS 1.2 is not spoken here".to_owned())
}
