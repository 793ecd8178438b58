//! What one site says of itself when users' records and rows are looked back at, independently of the moves: a bounded page at a time.
//!
//! [`say`] answers from one database, and knows nothing of the others: whoever holds the answers of several sites against each other is
//! elsewhere, and need not know whether a site answered in this process or over the link. The site's own people hear everything. A peer hears of those
//! users alone who changed home once (every peer is told of them anyway: [`residency::tidings`]) or are on their way between the two sites, of batches that
//! went to it, and nobody's rows: digests under a key that it made for the purpose, of rows that it once had itself.

mod say;

use handoff::record::State;
use model::table::TableName;
use model::{BatchId, Epoch, SiteName, UserKey};
use postgres::audit::Held;
use postgres::digest::BatchDigest;
use postgres::preflight::ReferenceDigest;
use residency::journal::BatchRow;
use serde::{Deserialize, Serialize};

pub use say::{Here, say};

/// The most users of one question, or of one answer.
pub const USERS_MAX: usize = 2_000;

/// The most bytes of users' keys in one of them: with what stands around each, well below what the link takes.
pub const KEYS_MAX: usize = 256 << 10;

/// The most batches of one answer.
const BATCHES_MAX: usize = 2_000;

/// Owners of misplaced rows who are named, for each table in one answer.
const STRAYS: u32 = 20;

/// Users of a batch who are named.
const NAMED: usize = 5;

/// A key for digests, made for one run.
pub type Key = [u8; 32];

/// What a site is asked about one service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Who stands in the user table above this key. -> [`Said::Users`]
    Users(Option<UserKey>),
    /// Which of these stand there. -> [`Said::Users`], in the order of their names
    Standing(Vec<UserKey>),
    /// The records of these; beside each whether he lives at the asker's by its own. -> [`Said::Records`]
    Records(Vec<(UserKey, bool)>),
    /// The rows of these, or of everybody, which only the site itself may ask. -> [`Said::Held`]
    Held(Option<Vec<UserKey>>),
    /// The batches that left, from this one on; with users those alone in which one of them went. -> [`Said::Batches`]
    Batches(u32, Option<Vec<UserKey>>),
    /// The digest in the decision on a batch that arrived. -> [`Said::Decided`]
    Decided(BatchId),
    /// Whether what a batch left behind is still what both sides agreed on: by the site's journal, or by this digest of the other side's where that has
    /// none. -> [`Said::Frozen`]
    Frozen(BatchId, Option<BatchDigest>),
    /// Each user's rows that a batch left behind, from this user of it on. -> [`Said::Each`]
    Each(BatchId, Key, u32),
    /// For whom of a batch that arrived the rows are still these. -> [`Said::Compared`]
    Unchanged(BatchId, Key, Vec<(UserKey, [u8; 32])>),
    /// A reference table. -> [`Said::Reference`]
    Reference(TableName, Key),
}

/// What it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Said {
    /// Users; after a page without any there are no more.
    Users(Vec<UserKey>),
    /// In the order of the question; `None` where there is no record, or none that concerns the asker.
    Records(Vec<Option<Stands>>),
    /// Table by table.
    Held(Vec<Held>),
    /// Batches, with the sites that they went to; after a page without any there are no more.
    Batches(Vec<(BatchId, SiteName)>),
    /// `None` where no such batch was accepted, or its decision has none.
    Decided(Option<BatchDigest>),
    /// Of a batch.
    Frozen(Frozen),
    /// Users with one hash for all rows of each; and from which user on there are more.
    Each(Vec<(UserKey, [u8; 32])>, Option<u32>),
    /// Of those who live here.
    Compared {
        /// Whose rows are the same.
        unchanged: u64,
        /// Whose rows are others.
        changed: u64,
    },
    /// `None` where that is no reference table here.
    Reference(Option<ReferenceDigest>),
}

/// What a site says of what a batch left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frozen {
    /// There is nothing to compare: somebody has come back, gone on or been erased; or no such batch left for the asker.
    Past,
    /// No digest stands there that it could be compared with.
    Undigested,
    /// It was compared.
    Compared {
        /// The tables that differ.
        differing: Vec<String>,
        /// The first of its users.
        named: Vec<UserKey>,
        /// How many more there are.
        more: u64,
    },
}

/// Where a user stands by one site's record: what is needed to hold it against another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stands {
    /// He lives there.
    Settled {
        /// His epoch.
        epoch: Epoch,
    },
    /// He lives there, and is about to leave.
    Leaving,
    /// He lives there unless that site has accepted him.
    Offered {
        /// The epoch that he will have there.
        epoch: Epoch,
        /// Where he goes.
        to: SiteName,
    },
    /// He lives elsewhere.
    Departed,
    /// He lives elsewhere, and is coming or was.
    Coming,
    /// A peer knows more of him.
    Lost,
}

// === impl Ask ===

impl Ask {
    /// Whether it is longer than a question may be.
    pub fn is_too_long(&self) -> bool {
        fn bytes<'a>(users: impl Iterator<Item = &'a UserKey>) -> (usize, usize) {
            users.fold((0, 0), |(n, bytes), user| {
                (n + 1, bytes + user.as_str().len())
            })
        }
        let (users, bytes) = match self {
            Self::Standing(users) | Self::Held(Some(users)) | Self::Batches(_, Some(users)) => {
                bytes(users.iter())
            }
            Self::Records(users) => bytes(users.iter().map(|(user, _)| user)),
            Self::Unchanged(_, _, users) => bytes(users.iter().map(|(user, _)| user)),
            Self::Users(_)
            | Self::Held(None)
            | Self::Batches(_, None)
            | Self::Decided(_)
            | Self::Frozen(..)
            | Self::Each(..)
            | Self::Reference(..) => (0, 0),
        };
        users > USERS_MAX || bytes > KEYS_MAX
    }
}

// === impl Said ===

impl Said {
    /// Whether it is an answer to `ask`.
    pub fn answers(&self, ask: &Ask) -> bool {
        match (ask, self) {
            (Ask::Users(after), Self::Users(users)) => {
                // Else who lists them would not come to an end.
                after.is_none() || users.last() != after.as_ref()
            }
            (Ask::Records(users), Self::Records(records)) => users.len() == records.len(),
            (Ask::Each(_, _, from), Self::Each(_, next)) => next.is_none_or(|next| next > *from),
            (Ask::Standing(_), Self::Users(_))
            | (Ask::Held(_), Self::Held(_))
            | (Ask::Batches(..), Self::Batches(_))
            | (Ask::Decided(_), Self::Decided(_))
            | (Ask::Frozen(..), Self::Frozen(_))
            | (Ask::Unchanged(..), Self::Compared { .. })
            | (Ask::Reference(..), Self::Reference(_)) => true,
            (
                _,
                Self::Users(_)
                | Self::Records(_)
                | Self::Held(_)
                | Self::Batches(_)
                | Self::Decided(_)
                | Self::Frozen(_)
                | Self::Each(..)
                | Self::Compared { .. }
                | Self::Reference(_),
            ) => false,
        }
    }
}

// === impl Stands ===

impl Stands {
    /// Whether the site is his home.
    pub fn is_home(&self) -> bool {
        match self {
            Self::Settled { .. } | Self::Leaving | Self::Offered { .. } => true,
            Self::Departed | Self::Coming | Self::Lost => false,
        }
    }
}

impl From<&State> for Stands {
    fn from(state: &State) -> Self {
        match state {
            State::Settled { epoch } => Self::Settled { epoch: *epoch },
            State::Moving { .. } | State::Fenced { .. } => Self::Leaving,
            State::Offered { epoch, to, .. } => Self::Offered {
                epoch: *epoch,
                to: to.clone(),
            },
            State::Departed { .. } => Self::Departed,
            State::Arriving { .. } | State::Clearing { .. } => Self::Coming,
            State::Lost { .. } => Self::Lost,
        }
    }
}

/// How many of the first `users` go into one question or answer; one at least.
pub fn page<'a>(users: impl IntoIterator<Item = &'a UserKey>) -> usize {
    let mut bytes = 0;
    let fits = users.into_iter().take(USERS_MAX).take_while(|user| {
        bytes += user.as_str().len();
        bytes <= KEYS_MAX
    });
    fits.count().max(1)
}

/// Whose batch it is: bounded, whatever its size.
fn named(batch: &BatchRow) -> (Vec<UserKey>, u64) {
    let users = batch.users.iter().map(|(user, _)| user.clone());
    let named: Vec<UserKey> = users.take(NAMED).collect();
    let more = batch.users.len() - named.len();
    (named, more as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(count: usize, bytes: usize) -> Vec<UserKey> {
        let key = |n| UserKey::new(format!("{n:0>bytes$}"));
        (0..count).map(key).collect()
    }

    #[test]
    fn a_page_is_bounded_in_users_and_in_bytes_and_makes_a_question_that_may_be_asked() {
        for (all, fits) in [
            (users(3, 4), 3),
            (users(USERS_MAX + 1, 4), USERS_MAX),
            (users(300, 1_000), KEYS_MAX / 1_000),
        ] {
            assert_eq!(page(&all), fits);
            assert!(!Ask::Standing(all[..fits].to_vec()).is_too_long());
            let more = Ask::Held(Some(all.clone()));
            assert_eq!(more.is_too_long(), fits < all.len());
        }
        assert_eq!(page(&[] as &[UserKey]), 1);
    }

    #[test]
    fn an_answer_of_another_kind_or_length_or_that_never_ends_is_none() {
        let all = users(2, 4);
        let records = Ask::Records(all.iter().map(|user| (user.clone(), false)).collect());
        assert!(Said::Records(vec![None, None]).answers(&records));
        assert!(!Said::Records(vec![None]).answers(&records));
        assert!(!Said::Users(all.clone()).answers(&records));
        let next = Ask::Users(all.last().cloned());
        assert!(!Said::Users(all).answers(&next));
        assert!(Said::Users(Vec::new()).answers(&next));
    }
}
