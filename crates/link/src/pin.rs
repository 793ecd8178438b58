//! Pins: the public keys by which peers know each other.

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

/// The keys that a peer may use: its present one, and while it changes keys the next.
#[derive(Clone, PartialEq, Eq)]
pub struct Pins(Vec<Pin>);

/// Why pins cannot be a peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PinsError {
    /// A peer without a pin could be anybody.
    #[error("a peer needs at least one pin")]
    None,
    /// More than [`Pins::MAX`]: every further key that is trusted is one that can be stolen.
    #[error(
        "at most {} pins: the present key's and the next one's, and room for a mistake",
        Pins::MAX
    )]
    TooMany,
    /// The same pin twice: probably the next key's was meant.
    #[error("the same pin stands there twice")]
    Twice,
}

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

// === impl Pins ===

impl Pins {
    /// The most that a peer may have.
    pub const MAX: usize = 4;

    /// One to [`MAX`](Self::MAX) different pins.
    pub fn new(pins: Vec<Pin>) -> Result<Self, PinsError> {
        let twice = |n: usize| pins[..n].contains(&pins[n]);
        match pins.len() {
            0 => Err(PinsError::None),
            n if n > Self::MAX => Err(PinsError::TooMany),
            n if (1..n).any(twice) => Err(PinsError::Twice),
            _ => Ok(Self(pins)),
        }
    }

    /// Whether `pin` is among them.
    pub fn contain(&self, pin: &Pin) -> bool {
        self.0.contains(pin)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pin> {
        self.0.iter()
    }
}

impl From<Pin> for Pins {
    fn from(pin: Pin) -> Self {
        Self(vec![pin])
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
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

    #[test]
    fn a_peer_has_one_to_four_different_pins() {
        let pins: Vec<Pin> = (0..5_u8).map(|n| Pin::of_spki(&[n])).collect();
        assert_eq!(Pins::new(Vec::new()), Err(PinsError::None));
        assert_eq!(Pins::new(pins.clone()), Err(PinsError::TooMany));
        assert_eq!(
            Pins::new(vec![pins[0], pins[1], pins[0]]),
            Err(PinsError::Twice)
        );
        let four = Pins::new(pins[..4].to_vec()).unwrap();
        assert!(four.contain(&pins[3]) && !four.contain(&pins[4]));
    }
}
