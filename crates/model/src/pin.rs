//! Pins: public keys of sites, by their fingerprints.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The SHA-256 of a public key (its DER `SubjectPublicKeyInfo`), written `sha256/` and 44 letters of base64: the form
/// of RFC 7469. `openssl pkey -in KEY -pubout -outform DER | openssl dgst -sha256 -binary | base64` gives the same.
///
/// A pin is no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

/// Why a text is no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a pin is `sha256/` and the base64 of 32 bytes (44 characters); `domicile keys show` prints it"
)]
pub struct NotAPin;

// === impl Pin ===

impl Pin {
    /// The pin of a public key, given as DER `SubjectPublicKeyInfo`.
    pub fn of_spki(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }
}

impl FromStr for Pin {
    type Err = NotAPin;

    fn from_str(text: &str) -> Result<Self, NotAPin> {
        let text = text.strip_prefix("sha256/").ok_or(NotAPin)?;
        let bytes = STANDARD.decode(text).map_err(|_| NotAPin)?;
        bytes.try_into().map(Self).map_err(|_| NotAPin)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_reads_as_it_prints() {
        let pin = Pin::of_spki(b"some key");
        assert_eq!(pin.to_string().parse(), Ok(pin));
        assert_eq!(pin.to_string().len(), "sha256/".len() + 44);
    }

    #[test]
    fn what_is_no_pin_is_refused() {
        let pin = Pin::of_spki(b"some key").to_string();
        let short = pin.replacen("sha256/", "sha256/A", 1);
        for text in [
            "",
            "sha256/",
            "sha256/a",
            "sha1/AAAA",
            &pin[..pin.len() - 1],
            &short,
            &pin.to_uppercase(),
        ] {
            assert_eq!(text.parse::<Pin>(), Err(NotAPin), "{text}");
        }
    }
}
