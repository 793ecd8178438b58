//! What the source's half of a move asks of the target's, and what is answered: the words that pass between two sites.
//!
//! They go in order along a [`Line`](crate::far::Line). What both halves know anyhow (the service, the two sites, the phase) is said once, in
//! the [`Call`]. No word names an address, a database or a statement.

use std::collections::BTreeMap;
use std::time::Duration;

use handoff::decision::Decision;
use handoff::judge::Handoff;
use model::table::TableName;
use model::{Attempt, BatchId, Epoch, ServiceName, SiteName, UserKey};
use postgres::copy::Piece;
use postgres::digest::BatchDigest;
use postgres::preflight::ReferenceDigest;
use postgres::snapshot::Snapshot;
use residency::inbound::Inbound;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::portion::Work;

/// What a source says when it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The service.
    pub service: ServiceName,
    /// Where the users live. A peer speaks for his own site alone.
    pub from: SiteName,
    /// The phase of the policy under which they go; `None` on the way back.
    pub phase: Option<String>,
    /// How long a batch may wait for the stream.
    pub pause_max: Duration,
    /// How long putting the guard on may take.
    pub patience: Duration,
}

/// What is asked of the target.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Whether its own copy of the policy permits the move, and is of the source's version. -> `Done`
    Permit {
        /// The version of the source's copy.
        version: String,
    },
    /// The guard on every table. -> `Done`
    Raise,
    /// The tables, to be watched from now on. -> `Done`
    Watch,
    /// Whether they are what they were. -> `Done`
    LookAgain,
    /// A part of the catalogue tables, to be added where it lacks. Told.
    References(Piece),
    /// That was all of them. -> `Done`
    Referred,
    /// The digests of the catalogue tables. -> `Digests`
    ReferenceDigests,
    /// The highest attempt used. -> `Attempt`
    HighestAttempt,
    /// To let these arrive. -> `Begun`
    Begin {
        /// The attempt.
        attempt: Attempt,
        /// The slot's identity.
        slot: String,
        /// The users.
        users: Vec<UserKey>,
    },
    /// To take the rows of an attempt; told by `Copying` after it until `Copied`. -> `Written` or `Unfit`, as soon as
    /// that is known
    Copy {
        /// The attempt.
        attempt: Attempt,
        /// Its users.
        users: Vec<UserKey>,
        /// Whether rows of theirs may stand there.
        returning: bool,
    },
    /// A part of that copy. Told.
    Copying(Piece),
    /// The copy is whole. Told.
    Copied {
        /// What it saw.
        snapshot: Snapshot,
        /// Its bytes, in COPY's form.
        bytes: u64,
    },
    /// Changes, to be applied or spooled. -> `Done`
    Write(Vec<Work>),
    /// What is spooled of an attempt, to be applied. -> `Done`
    Drain {
        /// The attempt.
        attempt: Attempt,
        /// What its copy saw.
        snapshot: Snapshot,
    },
    /// The stream has passed the fence of this batch: everything before it was told. Told.
    Passed(BatchId),
    /// Whether a batch may be closed. -> `Spoilt`
    Ready {
        /// Its attempt.
        attempt: Attempt,
    },
    /// To read what a handoff stands on, once the stream has passed its fence; `Judge` follows. Told.
    Look {
        /// The handoff.
        handoff: Handoff,
        /// The key of its digests.
        key: [u8; 32],
    },
    /// The offer. -> `Decided`, `Undrained` or `Differs`
    Judge(Read),
    /// The digest of each user, where the whole differs. -> `Decided`
    Each(BTreeMap<UserKey, BatchDigest>),
    /// What became of a batch; if nothing did, nothing will. -> `Decided`
    Became {
        /// The batch.
        batch: BatchId,
        /// Its users, with the epochs under which they were offered.
        users: Vec<(UserKey, Epoch)>,
    },
    /// To clean up after these users. -> `Done`
    Clear {
        /// Their attempt.
        attempt: Attempt,
        /// The users.
        users: Vec<UserKey>,
    },
    /// To clean up after everybody of an attempt. -> `Done`
    ClearAttempt {
        /// The attempt.
        attempt: Attempt,
    },
    /// To end an attempt of which nobody is left. -> `Done`
    Finish {
        /// The attempt.
        attempt: Attempt,
    },
    /// The attempts that are not ended. -> `Inbound`
    Inbound,
    /// Who arrives or is being cleared. -> `Arriving`
    Arriving,
    /// Which of these live there. -> `Users`
    Living {
        /// The users.
        users: Vec<UserKey>,
    },
}

/// What the source read of a batch after its fence.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Read {
    /// The digest of its rows.
    pub digest: BatchDigest,
    /// The digests of the other stores.
    #[serde(with = "as_json")]
    pub manifests: Map<String, Value>,
}

/// What the target answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// An attempt's number.
    Attempt(Attempt),
    /// Digests of tables.
    Digests(BTreeMap<TableName, ReferenceDigest>),
    /// Who arrives.
    Begun {
        /// Whose records do not allow it, with the reasons; everybody else arrives.
        aside: Vec<(UserKey, String)>,
        /// Whether rows of theirs may stand there.
        returning: bool,
    },
    /// The copy is durable.
    Written {
        /// Rows.
        rows: u64,
    },
    /// Rows of some user do not fit; nothing was copied. The reason holds no values.
    Unfit(String),
    /// Users to whom a change could not be applied, with the reasons.
    Spoilt(Vec<(UserKey, String)>),
    /// The decision, durable.
    Decided(Decision),
    /// The stream did not pass the fence in time; nothing is decided.
    Undrained,
    /// The digests differ; `Each` is wanted.
    Differs,
    /// Attempts.
    Inbound(Vec<Inbound>),
    /// Users, by attempt.
    Arriving(Vec<(Attempt, Vec<UserKey>)>),
    /// Users.
    Users(Vec<UserKey>),
}

// === impl Read ===

impl Read {
    /// Both as they are stored with the decision.
    pub fn stored(&self) -> Value {
        let mut stored = self.manifests.clone();
        stored.insert("rows".to_owned(), serde_json::json!(self.digest));
        Value::Object(stored)
    }
}

/// A JSON object as a string: the form between sites does not describe itself, and JSON does.
mod as_json {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};
    use serde_json::{Map, Value};

    pub fn serialize<S: Serializer>(map: &Map<String, Value>, to: S) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(map).map_err(S::Error::custom)?;
        to.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Map<String, Value>, D::Error> {
        let text = String::deserialize(from)?;
        serde_json::from_str(&text).map_err(D::Error::custom)
    }
}
