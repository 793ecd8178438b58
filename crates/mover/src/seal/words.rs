//! What a site and a peer say to each other about a head. Plain values: they may go over the link.

use ledger::key::PublicKey;
use ledger::tree::Hash;
use ledger::witness::Refusal;
use model::SiteName;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ports::Soon;

/// A head that a site shows to a peer. Well below 16 KiB: a note of three short lines, and a proof of at most 128 hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The head with the site's own signature, and no other.
    pub note: String,
    /// The key that signed it.
    pub key: PublicKey,
    /// The size of the last head that the peer countersigned, as far as the site knows.
    pub held: u64,
    /// The consistency proof between that one and this.
    pub proof: Vec<Hash>,
}

/// What the peer says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// It continues what was countersigned before, or is that.
    Countersigned {
        /// The line of the countersignature.
        line: String,
        /// The key that made it.
        key: Box<PublicKey>,
    },
    /// It is older than what was countersigned, and a part of it: there is nothing to countersign.
    Late,
    /// The last head that was countersigned is of so many entries, not of those of the proof: to be shown again.
    Holds(u64),
    /// It contradicts what was countersigned; both heads are kept.
    Refused(Refusal),
    /// It is not signed, as this site's, by a key that the peer's pins name. Nothing is kept.
    Unsigned,
}

/// A peer, in this process or at another site.
pub trait Witness: Send {
    /// Its site.
    fn site(&self) -> &SiteName;

    /// Shows it a head. May be said again.
    ///
    /// # Errors
    /// Where it is not reached, or its database is not; it may have countersigned then, and says so when it is shown again.
    fn show(&mut self, shown: Shown) -> Soon<'_, Result<Said>>;
}
