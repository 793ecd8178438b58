//! The target's word on one batch: a row inserted once, never updated.

use model::{Epoch, UserKey};
use serde::{Deserialize, Serialize};

/// What the target said of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Decision {
    /// Every user of the batch lives at the target.
    Accepted,
    /// None does.
    Refused {
        /// The users because of whom, each with a reason that holds no row values. Empty where the source
        /// itself gave the batch up.
        named: Vec<(UserKey, String)>,
        /// The highest epoch that the target has seen of any user of the batch.
        highest: Epoch,
    },
}

/// What came of wishing for a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The wish is now the decision.
    Decided(Decision),
    /// Another was there first; the loser repeats it.
    Standing(Decision),
}

/// Wishes for `wish` where `standing` is what the row says already.
pub fn decide(standing: Option<&Decision>, wish: Decision) -> Outcome {
    match standing {
        Some(standing) => Outcome::Standing(standing.clone()),
        None => Outcome::Decided(wish),
    }
}

impl Outcome {
    /// The word that counts.
    pub fn word(&self) -> &Decision {
        match self {
            Self::Decided(word) | Self::Standing(word) => word,
        }
    }
}
