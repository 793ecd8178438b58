//! An error as one site tells it to another: what the other half draws conclusions from, and the words for a person. It holds no
//! row values and no secret, as none of the errors does, and neither host, port nor role of a database, as errors do: these stand in
//! the log of the site itself.

use std::error::Error as StdError;

use model::{SiteName, causes};
use postgres::connect::ConnectError;
pub use residency::policy::Refusal;
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
    /// `error` as it came up at `site`, whose log keeps the whole of it.
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
            error => {
                tracing::warn!(%site, error = causes(error), "what was asked for cannot be done");
                Self::other(error, site)
            }
        }
    }

    fn other(error: &Error, site: &SiteName) -> Self {
        Self::Other {
            site: site.clone(),
            what: for_others(error),
            sqlstate: error.sqlstate().map(|state| state.code().to_owned()),
            ends: ends_the_attempts(error),
        }
    }
}

/// `error` with its causes, on one line, for somebody at another site: without host, port and role, and without whoever else
/// works at the database.
pub fn for_others(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        if let Some(instead) = instead(error) {
            text.push_str(&instead);
            break;
        }
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// What is said in place of an error, and of its causes, whose own words are this site's alone. Of the server's a role or an
/// address can be a part.
fn instead(error: &(dyn StdError + 'static)) -> Option<String> {
    let state = |state: Option<&SqlState>| match state {
        Some(state) => format!("SQLSTATE {}", state.code()),
        None => "the connection to the database there failed".to_owned(),
    };
    if let Some(error) = error.downcast_ref::<ConnectError>() {
        return Some(match (error, error.sqlstate()) {
            (_, Some(code)) => format!("the database there refuses us: {}", state(Some(code))),
            (ConnectError::Malformed, _) => error.to_string(),
            (ConnectError::TooOld { version, .. }, _) => {
                format!("PostgreSQL {version}, of the database there, is too old")
            }
            _ => "the database there cannot be reached".to_owned(),
        });
    }
    if let Some(error) = error.downcast_ref::<residency::Error>() {
        return match error {
            residency::Error::Office { .. } => {
                Some("another mover holds the office there".to_owned())
            }
            residency::Error::BarrierTimeout { .. } => {
                Some("the enrolment barrier timed out".to_owned())
            }
            residency::Error::Held { table, .. } => Some(format!(
                "the guard could not be put on {table} in time: it is locked"
            )),
            _ => None,
        };
    }
    if let Some(said) = error.downcast_ref::<postgres::Said>() {
        return Some(state(said.sqlstate()));
    }
    let server = error.downcast_ref::<tokio_postgres::Error>()?;
    Some(state(server.code()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: &Error) -> String {
        match Failure::of(error, &"singapore".into()) {
            Failure::Other { what, .. } => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_peer_hears_what_failed_and_neither_where_nor_as_whom() {
        let place = "db.internal:5432/shop as mover".to_owned();
        let connect = Error::Connect {
            site: "singapore".into(),
            source: ConnectError::TimedOut { place },
        };
        assert_eq!(
            told(&connect),
            "connecting to singapore: the database there cannot be reached"
        );
        let residency = |source| Error::Residency {
            site: "singapore".into(),
            doing: "taking office",
            source,
        };
        let who = "process 7 at 10.0.0.7".to_owned();
        let office = residency::Error::Office {
            name: "arrivals from beijing".into(),
            holder: Some(who.clone()),
        };
        let held = residency::Error::Held {
            table: "customer".into(),
            holders: vec![who.clone()],
        };
        let barrier = residency::Error::BarrierTimeout {
            blockers: vec![who],
        };
        for (source, says) in [
            (office, "another mover holds the office there"),
            (held, "on customer in time"),
            (barrier, "timed out"),
        ] {
            let told = told(&residency(source));
            assert!(told.starts_with("taking office at singapore: "), "{told}");
            assert!(told.contains(says) && !told.contains("10.0"), "{told}");
        }
    }

    #[test]
    fn causes_below_a_context_are_looked_at_one_by_one() {
        let refused = residency::Error::Refused("the tables are of version 4".into());
        let error = Error::Residency {
            site: "singapore".into(),
            doing: "looking",
            source: refused,
        };
        assert_eq!(
            told(&error),
            "looking at singapore: the tables are of version 4"
        );
    }
}
