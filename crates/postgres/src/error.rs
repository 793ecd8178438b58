//! What can go wrong while rows move.

use model::table::TableName;
use thiserror::Error;
use tokio_postgres::error::SqlState;

use crate::copy_rows::CopyRowsError;
use crate::pgoutput::DecodeError;
use crate::transaction::{AssembleError, SpoolFormatError};

/// An error of this room. Carries names of tables and constraints, never values of rows.
#[derive(Debug, Error)]
pub enum Error {
    /// PostgreSQL refused or was lost while we were doing `doing`.
    #[error("{doing}")]
    Postgres {
        /// What we were doing.
        doing: String,
        /// What PostgreSQL said, without row values.
        #[source]
        source: Said,
    },
    /// The replication stream ended.
    #[error("the change stream ended")]
    Stream(#[source] Box<pgwire_replication::PgWireError>),
    /// The stream closed without an error.
    #[error("the server closed the change stream")]
    StreamClosed,
    /// The stream's bytes are not what the protocol says.
    #[error("the change stream cannot be read")]
    Decode(#[from] DecodeError),
    /// The stream's transactions do not fit together.
    #[error("the change stream cannot be followed")]
    Assemble(#[from] AssembleError),
    /// A COPY stream is damaged.
    #[error("a copy stream cannot be read")]
    Copy(#[from] CopyRowsError),
    /// A spooled change cannot be read back.
    #[error("the spool cannot be read")]
    Spool(#[from] SpoolFormatError),
    /// A change concerns a table that the target does not have.
    #[error("the stream has a change of table {0}, which is not classified here")]
    UnknownTable(TableName),
    /// A strict change did not find its row, or found too many.
    #[error("{operation} in {table} concerned {expected} rows and found {found}")]
    Strict {
        /// `UPDATE` or `DELETE`, or `INSERT`.
        operation: &'static str,
        /// The table.
        table: TableName,
        /// Rows that had to be there.
        expected: u64,
        /// Rows that were.
        found: u64,
    },
    /// A row is larger than the move may carry.
    #[error("a row of {table} has {bytes} bytes, more than limits.row = {limit} allows")]
    RowTooLarge {
        /// The table.
        table: TableName,
        /// How large it is, as COPY writes it.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// Somebody else's row refers to rows that were to be deleted.
    #[error("rows of {table} that belong to others refer to them by {constraint}")]
    Tied {
        /// The referring table.
        table: TableName,
        /// The foreign key.
        constraint: String,
    },
    /// The catalog, or who lives here, could not be read.
    #[error("reading who lives here")]
    Read(#[from] crate::catalog::ReadError),
    /// The pieces of a copy do not follow from each other.
    #[error("the pieces of a copy do not follow from each other")]
    Disorder,
    /// Whoever steers the copy wants it to end here.
    #[error("the copy was stopped")]
    Stopped,
    /// A replication slot is not usable.
    #[error("{0}")]
    Slot(String),
}

/// A PostgreSQL error without its DETAIL: that names row values.
#[derive(Debug)]
pub struct Said(tokio_postgres::Error);

/// A result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Said {
    /// The SQLSTATE, where there is one.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.0.code()
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(db) = self.0.as_db_error() else {
            // Not the server's word: the connection's. Its own text holds no rows.
            let mut error: &dyn std::error::Error = &self.0;
            write!(f, "{error}")?;
            while let Some(source) = error.source() {
                write!(f, ": {source}")?;
                error = source;
            }
            return Ok(());
        };
        write!(f, "SQLSTATE {}", db.code().code())?;
        if let Some(constraint) = db.constraint() {
            return write!(f, ", constraint {constraint}");
        }
        // Class 22 (data exception) and 23 (integrity) quote values in their messages.
        match &db.code().code()[..2] {
            "22" | "23" => Ok(()),
            _ => write!(f, ": {}", db.message()),
        }
    }
}

impl std::error::Error for Said {}

impl Error {
    /// An error of the server's, or of the connection to it, that came up while we were `doing` something.
    pub fn from_server(doing: impl Into<String>, source: tokio_postgres::Error) -> Self {
        Self::Postgres {
            doing: doing.into(),
            source: Said(source),
        }
    }

    /// The SQLSTATE, where PostgreSQL gave one.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Postgres { source, .. } => source.sqlstate(),
            _ => None,
        }
    }

    /// The violated constraint, where PostgreSQL named one.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Postgres { source, .. } => source.0.as_db_error()?.constraint(),
            _ => None,
        }
    }

    /// Whether an earlier statement of the transaction failed: that one tells why.
    pub fn is_aborted(&self) -> bool {
        self.sqlstate() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION)
    }

    /// Whether the rows themselves are at fault, not the connection or the server: a unique value taken, a
    /// value that the target's type refuses, a row that is not there. Then another try does not help, and the
    /// users concerned are set aside.
    pub fn is_about_rows(&self) -> bool {
        match self {
            Self::Strict { .. } | Self::Tied { .. } | Self::RowTooLarge { .. } => true,
            Self::Postgres { source, .. } => source
                .sqlstate()
                .is_some_and(|state| matches!(&state.code()[..2], "22" | "23")),
            _ => false,
        }
    }
}

/// Adds what we were doing to an error of PostgreSQL's.
pub(crate) trait Doing<T> {
    fn doing(self, doing: impl Into<String>) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, tokio_postgres::Error> {
    fn doing(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Postgres {
            doing: doing.into(),
            source: Said(source),
        })
    }
}
