//! What can go wrong with the residency record.

use handoff::record::Illegal;
use model::UserKey;
use thiserror::Error;
use tokio_postgres::error::SqlState;

/// An error of this room.
#[derive(Debug, Error)]
pub enum Error {
    /// PostgreSQL refused or was lost while we were doing `doing`.
    #[error("{doing}")]
    Postgres {
        /// What we were doing.
        doing: &'static str,
        /// What PostgreSQL said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The record does not allow the step.
    #[error("user {user}")]
    Illegal {
        /// The user.
        user: UserKey,
        /// The step.
        #[source]
        source: Illegal,
    },
    /// The record in the database reads like none that we write.
    #[error("the residency record of user {user} is damaged: {what}")]
    Damaged {
        /// The user.
        user: UserKey,
        /// What is wrong with it.
        what: String,
    },
    /// Another process has taken over, or runs already.
    #[error("another mover holds the office {name:?} here{}", .holder.as_ref().map_or(String::new(), |who| format!(": {who}")))]
    Office {
        /// The office.
        name: String,
        /// Who holds it: process id, address, since when. `None` where nobody can tell.
        holder: Option<String>,
    },
    /// The fence did not get in before its time was over.
    #[error("the fence waited longer than {milliseconds} ms for open transactions of these users")]
    FenceTimeout {
        /// The bound.
        milliseconds: u64,
    },
    /// The gateways' door does not stand as the fence was told: a gateway has registered meanwhile, or the door was opened.
    #[error("the gateways' door did not stay closed until the fence")]
    DoorOpen,
    /// Transactions that began before the enrolment did not end in time.
    #[error("the enrolment barrier timed out: {}", .blockers.join("; "))]
    BarrierTimeout {
        /// Who is in the way: process id, age, role.
        blockers: Vec<String>,
    },
    /// The guard rested on a table, and could not be put on in time.
    #[error("the guard could not be put on {table} in time: {}", if .holders.is_empty() { "it is locked".to_owned() } else { .holders.join("; ") })]
    Held {
        /// The table.
        table: String,
        /// Who has it: process id, age, role.
        holders: Vec<String>,
    },
    /// Something that must hold does not; named with the mend.
    #[error("{0}")]
    Refused(String),
}

/// A result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds what we were doing to an error of PostgreSQL's.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, tokio_postgres::Error> {
    fn doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|source| Error::Postgres { doing, source })
    }
}

impl Error {
    /// The SQLSTATE, where PostgreSQL gave one.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Postgres { source, .. } => source.code(),
            _ => None,
        }
    }
}
