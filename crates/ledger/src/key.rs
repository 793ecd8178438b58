//! The Ed25519 keys of sites, and the pins by which peers know them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
pub use model::pin::Pin;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// What stands before the 32 bytes of an Ed25519 key in the DER of a SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The private key of a site. Never printed.
pub struct SiteKey(SigningKey);

/// The public key of a site; written as the base64 of its SubjectPublicKeyInfo in DER.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// The pins of each site: current and next.
pub type Pins = BTreeMap<String, Vec<Pin>>;

/// Something is no key. Says nothing of what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadKey {
    /// Not a private key.
    #[error("not an Ed25519 private key in PKCS#8 PEM")]
    Private,
    /// Not a public key.
    #[error("not the base64 of an Ed25519 public key's SubjectPublicKeyInfo")]
    Public,
}

// === impl SiteKey ===

impl SiteKey {
    /// Reads a private key in PKCS#8 PEM.
    pub fn from_pem(text: &str) -> Result<Self, BadKey> {
        let key = SigningKey::from_pkcs8_pem(text.trim()).map_err(|_| BadKey::Private)?;
        Ok(Self(key))
    }

    /// Makes one of 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteKey({})", self.public().pin())
    }
}

// === impl PublicKey ===

impl PublicKey {
    /// Takes the 32 bytes of a key.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, BadKey> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| BadKey::Public)?;
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| BadKey::Public)?;
        Ok(Self(key))
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Its fingerprint.
    pub fn pin(&self) -> Pin {
        Pin::of_spki(&self.spki())
    }

    /// Its SubjectPublicKeyInfo in DER.
    fn spki(&self) -> Vec<u8> {
        [&SPKI[..], self.0.as_bytes()].concat()
    }

    /// Whether `signature` is one of `message`, strictly: no other bytes are a signature of it by this key's owner.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.spki()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let bytes = STANDARD.decode(text).unwrap_or_default();
        let key = bytes.strip_prefix(&SPKI).ok_or(BadKey::Public)?;
        Self::from_slice(key)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use model::pin::NotAPin;

    use super::*;

    /// Of RFC 8410, section 10.3, and the key of section 10.1 that belongs to it.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

    #[test]
    fn the_keys_of_rfc_8410_are_read_and_written() {
        let key = SiteKey::from_pem(PRIVATE).unwrap();
        assert_eq!(key.public().to_string(), PUBLIC);
        let read: PublicKey = serde_json::from_str(&format!("\"{PUBLIC}\"")).unwrap();
        assert_eq!(read, key.public());
        let pin = key.public().pin();
        assert_eq!(pin.to_string().parse(), Ok(pin));
        assert!(!format!("{key:?}").contains("1O5y"));
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        assert_eq!(SiteKey::from_pem("secret").unwrap_err(), BadKey::Private);
        for pin in ["", "sha256/", "sha256/abc", "md5/AAAA"] {
            assert_eq!(pin.parse::<Pin>(), Err(NotAPin));
        }
        assert!(serde_json::from_str::<PublicKey>("\"AAAA\"").is_err());
    }
}
