//! An error as one site tells it to another: what the other half draws conclusions from, and the words for a person. It holds no
//! row values, no address and no secret, as none of the errors does.

use model::{SiteName, causes};
use residency::policy::Refusal;
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;

use crate::drive::ends_the_attempts;
use crate::error::Error;

/// What went wrong at the site that tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// [`Error::SchemaChanged`].
    SchemaChanged {
        /// Where.
        site: SiteName,
        /// The table.
        table: String,
        /// What happened to it.
        what: String,
    },
    /// [`Error::Unguarded`].
    Unguarded {
        /// Where.
        site: SiteName,
        /// The tables.
        tables: Vec<String>,
    },
    /// [`Error::Forbidden`].
    Forbidden {
        /// Where.
        site: SiteName,
        /// Why.
        refusal: Refusal,
    },
    /// [`Error::StreamGone`].
    StreamGone,
    /// [`Error::Left`].
    Left {
        /// Where.
        site: SiteName,
    },
    /// [`Error::NotOpen`].
    NotOpen {
        /// Where.
        site: SiteName,
    },
    /// [`Error::Disorder`].
    Disorder {
        /// Where.
        site: SiteName,
    },
    /// Anything else.
    Other {
        /// Where it came up.
        site: SiteName,
        /// What happened, in words.
        what: String,
        /// PostgreSQL's code, where there is one.
        sqlstate: Option<String>,
        /// Whether nothing unfinished may be kept after it.
        ends: bool,
    },
}

// === impl Failure ===

impl Failure {
    /// `error` as it came up at `site`.
    pub fn of(error: &Error, site: &SiteName) -> Self {
        match error {
            Error::SchemaChanged { site, table, what } => Self::SchemaChanged {
                site: site.clone(),
                table: table.clone(),
                what: what.clone(),
            },
            Error::Unguarded { site, tables } => Self::Unguarded {
                site: site.clone(),
                tables: tables.clone(),
            },
            Error::Forbidden { site, source } => Self::Forbidden {
                site: site.clone(),
                refusal: source.clone(),
            },
            Error::StreamGone => Self::StreamGone,
            Error::Left { site } => Self::Left { site: site.clone() },
            Error::NotOpen { site } => Self::NotOpen { site: site.clone() },
            Error::Disorder { site } => Self::Disorder { site: site.clone() },
            error => Self::Other {
                site: site.clone(),
                what: causes(error),
                sqlstate: error.sqlstate().map(|state| state.code().to_owned()),
                ends: ends_the_attempts(error),
            },
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::SchemaChanged { site, table, what } => {
                Self::SchemaChanged { site, table, what }
            }
            Failure::Unguarded { site, tables } => Self::Unguarded { site, tables },
            Failure::Forbidden { site, refusal } => Self::Forbidden {
                site,
                source: refusal,
            },
            Failure::StreamGone => Self::StreamGone,
            Failure::Left { site } => Self::Left { site },
            Failure::NotOpen { site } => Self::NotOpen { site },
            Failure::Disorder { site } => Self::Disorder { site },
            Failure::Other {
                site,
                what,
                sqlstate,
                ends,
            } => Self::Peer {
                site,
                what,
                sqlstate: sqlstate.as_deref().map(SqlState::from_code),
                ends,
            },
        }
    }
}
