//! A bundle: everything that the sites of a programme have in their ledgers, in one JSON document that is checked offline.
//!
//! Nothing in it is secret, and nothing is believed for standing in it: keys are held against pins, heads against the keys,
//! entries against the heads, and the heads of a site against those that its peers countersigned.

use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::key::Pins;
use crate::keyring::Keys;
use crate::tree::Hash;
use crate::verify;
use crate::witness::Refusal;

/// What the field `format` says.
pub const FORMAT: &str = "domicile ledger 1";

/// The ledgers of a programme's sites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// [`FORMAT`].
    pub format: String,
    /// The sites whose ledgers it holds, where whoever wrote it reached these alone; absent: of all sites that there are. Of
    /// others' logs it has what these countersigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Vec<String>>,
    /// The public keys with which anything here is signed.
    pub keys: Keys,
    /// A log for each service and site.
    pub logs: Vec<Log>,
    /// What sites countersigned of each other.
    pub witnessed: Vec<Witnessed>,
    /// What sites refused to countersign.
    pub refused: Vec<Refused>,
}

/// The log of one service at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The service.
    pub service: String,
    /// The site.
    pub site: String,
    /// The entries, in the order of the log.
    pub leaves: Vec<Leaf>,
    /// The signed heads, with the countersignatures that the site holds; of any size, in any order.
    pub heads: Vec<String>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// Its hash, as the log has it.
    pub hash: Hash,
    /// Its canonical text; absent where the site has lost the entry.
    pub entry: Option<String>,
}

/// A head that a site countersigned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witnessed {
    /// The site that did.
    pub by: String,
    /// The service of the log.
    pub service: String,
    /// The site of the log.
    pub of: String,
    /// The head with both signatures.
    pub note: String,
}

/// A head that a site refused to countersign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// The site that refused.
    pub by: String,
    /// The service of the log.
    pub service: String,
    /// The site of the log.
    pub of: String,
    /// The last head that it had countersigned.
    pub held: String,
    /// The head that it was shown.
    pub shown: String,
    /// Why not.
    pub reason: Refusal,
}

/// What was found out about a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The sites that it is about, where it is not all; see [`Bundle::of`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<Vec<String>>,
    /// Each log.
    pub logs: Vec<LogReport>,
    /// What is wrong; nothing where all is well.
    pub findings: Vec<Finding>,
}

/// How far one log is vouched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogReport {
    /// The service.
    pub service: String,
    /// The site.
    pub site: String,
    /// Entries.
    pub entries: u64,
    /// How many of them the newest head signed by a pinned key covers.
    pub signed: u64,
    /// How many of them the newest head covers that a peer countersigned: what stands after these, the site could still
    /// rewrite unseen.
    pub witnessed: u64,
    /// By whom that was.
    pub by: Vec<Vouched>,
}

/// Somebody countersigned a head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vouched {
    /// The site that did.
    pub site: String,
    /// When, by its own word: seconds since 1970.
    pub time: u64,
}

impl Bundle {
    /// Checks everything in it against `pins`.
    pub fn verify(&self, pins: &Pins) -> Report {
        verify::bundle(self, pins)
    }
}
