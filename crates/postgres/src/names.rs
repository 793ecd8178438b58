//! Names that users have, for those that must be unique at all sites: read from the column that holds them, and handed to whoever hashes them.

use model::table::{TableName, quote};
use model::{KeyKind, UserKey};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::error::{Doing, Result};

/// Where names of one kind stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The user table.
    pub table: TableName,
    /// Its column that holds the user's key.
    pub key: String,
    /// Its column that holds the name.
    pub column: String,
    /// The type family of user keys.
    pub kind: KeyKind,
}

/// A user's name. Never shown: it is what claims keep at home.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(String);

// === impl Name ===

impl Name {
    /// The name itself, for hashing alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

// === impl Names ===

impl Names {
    /// The names that `users` have, as the transaction `tx` sees them; of those who have none nothing.
    pub async fn of(
        &self,
        tx: &impl GenericClient,
        users: &[UserKey],
    ) -> Result<Vec<(UserKey, Name)>> {
        let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
        let sql = format!(
            "SELECT {key}::text, {column}::text FROM {table} \
              WHERE {key} = ANY ($1::text[]::{kind}[]) AND {column} IS NOT NULL",
            key = quote(&self.key),
            column = quote(&self.column),
            table = self.table.sql(),
            kind = self.kind.sql_type(),
        );
        let rows = tx
            .query_typed(&sql, &[(&keys, Type::TEXT_ARRAY)])
            .await
            .doing("reading the names that users have")?;
        Ok(rows.iter().map(named).collect())
    }

    /// The next `most` names after those of the user `after`, in the order of keys.
    pub async fn page(
        &self,
        tx: &impl GenericClient,
        after: Option<&UserKey>,
        most: i64,
    ) -> Result<Vec<(UserKey, Name)>> {
        let after = after.map(UserKey::as_str);
        let further = match after {
            Some(_) => format!(
                "{} > $1::text::{} AND",
                quote(&self.key),
                self.kind.sql_type()
            ),
            None => "$1::text IS NULL AND".to_owned(),
        };
        let sql = format!(
            "SELECT {key}::text, {column}::text FROM {table} \
              WHERE {further} {column} IS NOT NULL ORDER BY {key} LIMIT $2",
            key = quote(&self.key),
            column = quote(&self.column),
            table = self.table.sql(),
        );
        let rows = tx
            .query_typed(&sql, &[(&after, Type::TEXT), (&most, Type::INT8)])
            .await
            .doing("reading a page of names")?;
        Ok(rows.iter().map(named).collect())
    }
}

fn named(row: &tokio_postgres::Row) -> (UserKey, Name) {
    (
        UserKey::new(row.get::<_, String>(0)),
        Name(row.get::<_, String>(1)),
    )
}
