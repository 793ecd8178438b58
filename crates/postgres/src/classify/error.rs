//! What can be wrong with a classification, and what to do about it.

use model::table::TableName;

/// One thing that is wrong with a classification. `Display` says what, [`mend`](Self::mend) what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassifyError {
    /// A table in the database of which the configuration says nothing.
    #[error("nobody classified table {table}")]
    Unclassified {
        /// The table.
        table: TableName,
    },
    /// Classified `"?"`.
    #[error("nobody has decided yet whose rows table {table} holds (\"?\")")]
    Undecided {
        /// The table.
        table: TableName,
    },
    /// A declared table that the database does not have.
    #[error("there is no table {table}")]
    NoSuchTable {
        /// The table as declared.
        table: TableName,
    },
    /// A declared column that the table does not have.
    #[error("table {table} has no column {column}")]
    NoSuchColumn {
        /// The table.
        table: TableName,
        /// The column as declared.
        column: String,
    },
    /// One table under two spellings.
    #[error("table {table} is classified twice")]
    DeclaredTwice {
        /// The table.
        table: TableName,
    },
    /// The user table is classified as something else than owned by its key.
    #[error("the user table {table} is classified otherwise than by its key")]
    UserTableDeclared {
        /// The user table.
        table: TableName,
    },
    /// The market's column does not exist.
    #[error("the user table {table} has no column {column} to take the market from")]
    NoMarketColumn {
        /// The user table.
        table: TableName,
        /// The column as declared.
        column: String,
    },
    /// The user's key has a type that cannot be one.
    #[error("the key {column} of the user table {table} is of type {found}")]
    UnsupportedKey {
        /// The user table.
        table: TableName,
        /// Its key.
        column: String,
        /// The key's type.
        found: String,
    },
    /// The key's collation takes different texts for equal.
    #[error("the key {column} of the user table {table} has a nondeterministic collation")]
    LooseKey {
        /// The user table.
        table: TableName,
        /// Its key.
        column: String,
    },
    /// Nothing keeps the user's key unique.
    #[error(
        "the key {column} of the user table {table} may be null, or no unique index stands on it alone"
    )]
    KeyNotUnique {
        /// The user table.
        table: TableName,
        /// Its key.
        column: String,
    },
    /// An owner column that cannot hold a user's key.
    #[error("column {column} of table {table} is of type {found}, the user's key of type {wanted}")]
    KeyTypesDiffer {
        /// The table.
        table: TableName,
        /// Its owner column.
        column: String,
        /// That column's type.
        found: String,
        /// The type of the user's key.
        wanted: String,
    },
    /// A kind of table whose rows this version cannot move.
    #[error("{table} is {form}: such rows cannot be moved or compared in this version")]
    UnsupportedTable {
        /// The table.
        table: TableName,
        /// What it is, in words.
        form: &'static str,
    },
    /// Its updates and deletions cannot be read from the log, and a publication would make them fail.
    #[error("table {table} has REPLICA IDENTITY NOTHING")]
    IdentityNothing {
        /// The table.
        table: TableName,
    },
    /// Nothing names a row of the table in the stream.
    #[error(
        "table {table} has neither a primary key nor a unique index on columns that are NOT NULL: nothing names its rows"
    )]
    NoKey {
        /// The table.
        table: TableName,
    },
    /// A partition's rows are named otherwise than its root's.
    #[error("partition {leaf} of {table} has another replica identity than {table}")]
    PartitionKey {
        /// The partitioned table.
        table: TableName,
        /// The partition.
        leaf: TableName,
    },
    /// The path points at a table that no user owns.
    #[error("the path of table {table} leads to {parent}, which no user owns")]
    ParentNotOwned {
        /// The table.
        table: TableName,
        /// The table that it points at.
        parent: TableName,
    },
    /// The path points at columns that are no key of the parent.
    #[error(
        "({columns}) of table {table} names no row of {parent}: there is no such foreign key, and the columns do not fit its primary key"
    )]
    NoWay {
        /// The table.
        table: TableName,
        /// The columns that point, joined.
        columns: String,
        /// The table that they point at.
        parent: TableName,
    },
    /// The path comes back to where it was.
    #[error("the path of table {table} goes in a circle through {through}")]
    Cycle {
        /// The table whose path was followed.
        table: TableName,
        /// The table at which it closes.
        through: TableName,
    },
    /// A table that stays points at rows that leave.
    #[error(
        "table {table}, which stays, points at rows of users by {constraint}: users so tied to it cannot leave {parent}"
    )]
    Tied {
        /// The table that stays.
        table: TableName,
        /// The foreign key.
        constraint: String,
        /// The owned table that it points at.
        parent: TableName,
    },
}

impl ClassifyError {
    /// What to do about it, in one sentence.
    pub fn mend(&self) -> String {
        match self {
            Self::Unclassified { table } | Self::Undecided { table } => format!(
                "say under [service.….tables] what {table} is: {table:?} = a column that holds the user's \
                 key, \"column -> table\", \"reference\" or \"ignore\"",
                table = table.to_string()
            ),
            Self::NoSuchTable { table } => {
                format!("correct or remove {table} in the configuration, or create it at this site")
            }
            Self::NoSuchColumn { table, column } | Self::NoMarketColumn { table, column } => {
                format!("correct {column} in the configuration of {table}, or add the column at this site")
            }
            Self::DeclaredTwice { table } => format!("keep one of the two entries of {table}"),
            Self::UserTableDeclared { table } => {
                format!("remove {table} from the service's tables: the user table needs no entry")
            }
            Self::UnsupportedKey { .. } => {
                "name a column of type smallint, integer, bigint, uuid, text or varchar as the user's key"
                    .to_owned()
            }
            Self::LooseKey { .. } => {
                "give the column a deterministic collation, or name another key".to_owned()
            }
            Self::KeyNotUnique { table, column } => {
                format!("name a primary key, or ALTER TABLE {0} ALTER {1} SET NOT NULL, ADD UNIQUE ({1})",
                    table.sql(), model::table::quote(column))
            }
            Self::KeyTypesDiffer { table, .. } => {
                format!("name the column of {table} that holds the user's key, or a path to it")
            }
            Self::UnsupportedTable { table, .. } => {
                format!("classify {table} as \"ignore\" if it holds nothing of users; else wait for a later version")
            }
            Self::IdentityNothing { table } => {
                format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT", table.sql())
            }
            Self::NoKey { table } => format!(
                "give {0} a primary key, or a unique index on NOT NULL columns: its rows cannot be moved safely without",
                table.sql()
            ),
            Self::PartitionKey { leaf, .. } => {
                format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT", leaf.sql())
            }
            Self::ParentNotOwned { table, parent } => {
                format!("classify {parent} by its owner, or give {table} another path")
            }
            Self::NoWay { table, parent, .. } => {
                format!("name the columns of {table} that hold the primary key of {parent}")
            }
            Self::Cycle { table, .. } => {
                format!("break the circle: give {table}, or a table on its path, a column that holds the user's key")
            }
            Self::Tied { table, constraint, .. } => format!(
                "classify {table} as owned, or ALTER TABLE {} DROP CONSTRAINT {}",
                table.sql(),
                model::table::quote(constraint)
            ),
        }
    }
}
