//! What can stop a move.

use model::{BatchId, MoveId, SiteName, UserKey};
use thiserror::Error;
use tokio_postgres::error::SqlState;

/// An error that stops the run. Everything durable stays as it is; the next run goes on from there.
#[derive(Debug, Error)]
pub enum Error {
    /// The residency record, or the database under it.
    #[error("{doing} at {site}")]
    Residency {
        /// Where.
        site: SiteName,
        /// What we were doing.
        doing: &'static str,
        /// Why not.
        #[source]
        source: residency::Error,
    },
    /// Rows, the stream, or the database under them.
    #[error("{doing} at {site}")]
    Postgres {
        /// Where.
        site: SiteName,
        /// What we were doing.
        doing: &'static str,
        /// Why not.
        #[source]
        source: postgres::Error,
    },
    /// A database cannot be reached.
    #[error("connecting to {site}")]
    Connect {
        /// Where.
        site: SiteName,
        /// Why not.
        #[source]
        source: postgres::connect::ConnectError,
    },
    /// A port refused.
    #[error("asking a store or gateway")]
    Port(#[from] crate::ports::PortError),
    /// The move keeps back more WAL at the source than it may.
    #[error(
        "the move keeps back {bytes} bytes of WAL at {site}, more than limits.wal = {cap} allows"
    )]
    WalCap {
        /// The source.
        site: SiteName,
        /// Bytes kept back.
        bytes: u64,
        /// The bound.
        cap: u64,
    },
    /// A reference table that was to be copied holds a row at the target that differs from the source's.
    #[error(
        "reference table {table} holds other rows at {site} than at the source, also once missing ones were copied"
    )]
    ReferenceDiffers {
        /// The target.
        site: SiteName,
        /// The table.
        table: model::table::TableName,
    },
    /// The target does not keep up with the source's writes.
    #[error(
        "the target has been behind the change stream of {site} for {seconds} s without a break"
    )]
    Behind {
        /// The source.
        site: SiteName,
        /// For how long.
        seconds: u64,
    },
    /// The stream shows something that no move survives.
    #[error("the change stream of {site} shows {what}; the move's chunks are given up")]
    Unfollowable {
        /// The source.
        site: SiteName,
        /// What it shows.
        what: String,
    },
    /// Somebody changed a table while users moved.
    #[error("{table} changed at {site} while users moved: {what}")]
    SchemaChanged {
        /// Where.
        site: SiteName,
        /// The table, under the name that it had.
        table: String,
        /// What happened to it.
        what: String,
    },
    /// The guard does not stand on every table: no user is safe to move.
    #[error("the guard does not stand at {site} on: {}", .tables.join(", "))]
    Unguarded {
        /// Where.
        site: SiteName,
        /// The tables.
        tables: Vec<String>,
    },
    /// A site's own copy of the policy does not let the move go on.
    #[error("the policy at {site} refuses the move")]
    Forbidden {
        /// The site.
        site: SiteName,
        /// Why.
        #[source]
        source: residency::policy::Refusal,
    },
    /// The move was told to end.
    #[error("move {id} was aborted")]
    Aborted {
        /// The move.
        id: MoveId,
    },
    /// The target's half failed, at its own site.
    #[error("{what}")]
    Peer {
        /// Where.
        site: SiteName,
        /// What happened, in words.
        what: String,
        /// PostgreSQL's code, where there is one.
        sqlstate: Option<SqlState>,
        /// Whether nothing unfinished may be kept after it.
        ends: bool,
    },
    /// Whoever runs the move ends, and the move goes on with the next run.
    #[error("the run was told to end; move {id} goes on with the next")]
    Stopped {
        /// The move.
        id: MoveId,
    },
    /// Nobody serves the move at the target any more.
    #[error("nobody at {site} serves the move any more")]
    Left {
        /// The target.
        site: SiteName,
    },
    /// A site was closed by hand, or has not compared its records with its peers' since its server started.
    #[error(
        "{site} is not open: it was closed by hand, or has not compared its records with its peers' since its server started"
    )]
    NotOpen {
        /// The site.
        site: SiteName,
    },
    /// The other half said what does not belong here.
    #[error("{site} said what does not follow from what was said before")]
    Disorder {
        /// The other half's site.
        site: SiteName,
    },
    /// The task that follows the stream has ended.
    #[error("the change stream is no longer followed")]
    StreamGone,
    /// A batch was offered and the target's answer is not known.
    #[error(
        "batch {batch} is in doubt: offered to {site}, whose answer could not be had; run apply again"
    )]
    InDoubt {
        /// The batch.
        batch: BatchId,
        /// The target.
        site: SiteName,
        /// Why not.
        #[source]
        source: Box<Error>,
    },
    /// A site's ledger contradicts itself, or its key: nothing is signed.
    #[error("the ledger at {site}: {what}")]
    Ledger {
        /// Where.
        site: SiteName,
        /// What is wrong.
        what: String,
    },
    /// Two sites' records do not fit together: nothing is touched.
    #[error(
        "the records of user {user} at {source_site} and {target_site} contradict each other: {what}"
    )]
    Contradiction {
        /// The user.
        user: UserKey,
        /// The source.
        source_site: SiteName,
        /// The target.
        target_site: SiteName,
        /// What is contradictory.
        what: String,
    },
}

impl Error {
    /// The SQLSTATE of the innermost error that has one, whichever room it comes from.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        if let Self::Peer { sqlstate, .. } = self {
            return sqlstate.as_ref();
        }
        let mut found = None;
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = next {
            let server = error.downcast_ref::<tokio_postgres::Error>();
            let said = error.downcast_ref::<postgres::Said>();
            found = server
                .and_then(|error| error.code())
                .or(said.and_then(|said| said.sqlstate()))
                .or(found);
            next = error.source();
        }
        found
    }
}

/// A result of the mover's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says where an error came up, and during what.
pub(crate) trait At<T> {
    fn at(self, site: &SiteName, doing: &'static str) -> Result<T>;
}

impl<T> At<T> for std::result::Result<T, residency::Error> {
    fn at(self, site: &SiteName, doing: &'static str) -> Result<T> {
        self.map_err(|source| Error::Residency {
            site: site.clone(),
            doing,
            source,
        })
    }
}

impl<T> At<T> for std::result::Result<T, postgres::Error> {
    fn at(self, site: &SiteName, doing: &'static str) -> Result<T> {
        self.map_err(|source| Error::Postgres {
            site: site.clone(),
            doing,
            source,
        })
    }
}

impl<T> At<T> for std::result::Result<T, postgres::catalog::ReadError> {
    fn at(self, site: &SiteName, doing: &'static str) -> Result<T> {
        self.map_err(postgres::Error::from).at(site, doing)
    }
}

impl<T> At<T> for std::result::Result<T, postgres::connect::ConnectError> {
    fn at(self, site: &SiteName, _: &'static str) -> Result<T> {
        self.map_err(|source| Error::Connect {
            site: site.clone(),
            source,
        })
    }
}
