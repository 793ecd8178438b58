//! What daemons ask each other about the history of requests: nothing in it is about one user.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use model::Market;
use residency::left::Left;
use residency::traffic::Traffic;
use serde::{Deserialize, Serialize};

/// When users of each market moved: first and last departures, in order, none within another.
pub type Cuts = BTreeMap<Market, Vec<(SystemTime, SystemTime)>>;

/// A question about the history of a service at the peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// When users left. -> [`Said::Left`]
    Left,
    /// What came in there, summed up by home between the cuts of each market: so that the answer does not grow with time. -> [`Said::Traffic`]
    Traffic {
        /// Of the last so long only.
        since: Option<Duration>,
        /// When users moved, from whichever site.
        cuts: Cuts,
    },
}

/// An answer to [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// By move and market.
    Left(Vec<Left>),
    /// Each as long as what was summed up.
    Traffic(Vec<Traffic>),
}
