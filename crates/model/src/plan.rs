//! A plan: the difference between where users live and where policy says they should.

use serde::{Deserialize, Serialize};

use crate::{Market, ServiceName, SiteName};

/// Users of one market of one service that are to go from one site to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// The service.
    pub service: ServiceName,
    /// The market.
    pub market: Market,
    /// Where they live.
    pub from: SiteName,
    /// Where they belong.
    pub to: SiteName,
    /// How many users.
    pub users: u64,
    /// How many of their rows.
    pub rows: u64,
    /// The size of those rows as stored, in bytes.
    pub bytes: u64,
}

/// Users of one market that live where they belong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// The service.
    pub service: ServiceName,
    /// The market.
    pub market: Market,
    /// Where they live.
    pub site: SiteName,
    /// How many users.
    pub users: u64,
    /// The rule that keeps them, in words.
    pub rule: String,
}

/// Users who live elsewhere than the phases already carried out say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// The service.
    pub service: ServiceName,
    /// The market.
    pub market: Market,
    /// Where they live.
    pub site: SiteName,
    /// Where they belong.
    pub home: SiteName,
    /// How many users.
    pub users: u64,
}

/// What `plan` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The phase, where one is planned.
    pub phase: Option<String>,
    /// Who moves where.
    pub moves: Vec<PlannedMove>,
    /// Who stays, and why.
    pub stay: Vec<Stay>,
    /// Who lives where nobody expects him.
    pub drift: Vec<Drift>,
    /// Whether rows and bytes are estimated, and not counted.
    #[serde(skip)]
    pub estimated: bool,
    /// Estimated time of the moves, in seconds.
    pub estimate_s: u64,
}
