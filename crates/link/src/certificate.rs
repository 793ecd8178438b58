//! The certificate that a site shows: self-signed, made in memory for one connection, bound to the site's name.
//!
//! Its form, which [`trust`](crate::trust) holds the peer's to: X.509 version 3, signed by the key that it carries, no
//! authority (no CA), for TLS servers and clients, valid for a day, and in the subject's alternative names exactly one
//! URI, `domicile:site:NAME`. Nobody vouches for it; the pin alone does.

use std::time::{Duration, SystemTime};

use model::SiteName;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::Identity;

/// What stands before a site's name in the URI.
const SCHEME: &str = "domicile:site:";

/// How far a peer's clock may be behind ours.
const BEHIND: Duration = Duration::from_secs(3_600);

/// How far a peer's clock may be ahead of ours. A certificate is used at once, so it need not live longer.
const AHEAD: Duration = Duration::from_secs(24 * 3_600);

/// The URI of a site.
pub(crate) fn uri(site: &SiteName) -> String {
    format!("{SCHEME}{site}")
}

/// The site that a URI names, if it is one of ours.
pub(crate) fn site_of(uri: &str) -> Option<SiteName> {
    uri.strip_prefix(SCHEME)
        .filter(|name| !name.is_empty())
        .map(SiteName::from)
}

/// A fresh certificate for `site`.
///
/// One for every connection: a daemon that runs for a year would otherwise show an expired one.
pub(crate) fn issue(
    identity: &Identity,
    site: &SiteName,
    now: SystemTime,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let now = OffsetDateTime::from(now);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, site.as_str());
    params.subject_alt_names = vec![SanType::URI(uri(site).as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = now - BEHIND;
    params.not_after = now + AHEAD;
    Ok(params.self_signed(&identity.issuer)?.der().clone())
}
