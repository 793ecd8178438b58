//! The pins of one peer.

use std::fmt;

use model::pin::Pin;
use thiserror::Error;

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
