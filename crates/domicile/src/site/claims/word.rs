//! What gateways ask each other about claims, and what they say. No name can stand in any of it.

use model::{ServiceName, SiteName, UserKey};
use residency::claims::{Answer, Hash};
use serde::{Deserialize, Serialize};

/// A question about a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    pub service: ServiceName,
    /// Of whoever asks: see [`Hasher::key`](super::hash::Hasher::key).
    pub key: Text,
    pub what: What,
}

/// What is asked. All but [`What::Hold`] goes to the registry; that one goes from the registry to homes. Each may be asked twice.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum What {
    Claim {
        operation: Text,
        kind: String,
        name: Text,
        user: UserKey,
    },
    Release {
        operation: Text,
        kind: String,
        name: Text,
        user: UserKey,
    },
    Locate {
        name: Text,
    },
    /// A site begins to tell all its names of a kind.
    Begin {
        kind: String,
    },
    Tell {
        kind: String,
        names: Vec<(UserKey, Text)>,
    },
    /// It has told them.
    End {
        kind: String,
    },
    /// Have all sites told them often enough?
    Filled {
        kind: String,
    },
    /// Does each of these users hold that name?
    Hold {
        claims: Vec<Held>,
    },
}

/// A hash in its text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Text(pub Hash);

/// Whether a user holds a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Held {
    pub kind: String,
    pub user: UserKey,
    pub name: Text,
    /// What that site said last: see [`Word::Lacks`].
    pub since_us: Option<i64>,
}

/// What a site says of a user and a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub(super) enum Word {
    /// He lives here and holds it.
    Holds,
    /// He lives here and does not. With a moment of that site's clock: transactions that began up to it have not ended, so it
    /// is to be asked again with it.
    Lacks { since_us: Option<i64> },
    /// He lives elsewhere, as a rule there.
    Elsewhere { site: SiteName },
    /// Nothing is known of him; the moment is as above.
    Unknown { since_us: Option<i64> },
    /// Nothing can be said now: he is changing home, or the site was not reached.
    Unsure,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub(super) enum Said {
    Answer {
        answer: Answer,
        lease_ms: u64,
    },
    Located {
        located: Option<Located>,
    },
    /// Names of users that others have: whose they are told to be, and whose they are.
    Told {
        conflicts: Vec<(Text, UserKey, UserKey)>,
    },
    /// Whether all sites have told their names often enough.
    Ended {
        filled: bool,
    },
    Done,
    Words {
        words: Vec<Word>,
    },
    /// The operation's id was used for something else.
    Reused,
    /// The keys of the two sites differ.
    OtherKey,
    /// Not all sites have told their names yet.
    Filling,
    /// A database or a site was not reached: nothing is known to be done.
    Unreached,
    /// It cannot be asked, or not of this site.
    Refused {
        why: String,
    },
}

/// Whose a name is, and where he lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Located {
    pub user: UserKey,
    pub site: SiteName,
    /// Since when, as the registry's records say; 0 where they say nothing.
    pub epoch: i64,
    /// Whether his home has confirmed it.
    pub held: bool,
}

// === impl Text ===

impl TryFrom<String> for Text {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Hash::try_from(text).map(Self)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0.into()
    }
}
