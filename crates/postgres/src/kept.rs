//! Statements that a session keeps prepared: those that run for every batch are parsed and planned once, not each time.
//!
//! The server watches over what is kept. Whatever changes under a plan (an index, a column, the table of that name) makes
//! it read the statement's text anew before it runs, under the locks that a fresh statement takes; so a kept statement
//! reads what a fresh one would. One thing it refuses: that a result has other types than before ("cached plan must not
//! change result type"). That is an error like any other of a changed table, and whoever gets it looks at the tables.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, GenericClient, Row, RowStream, Statement};

/// A move keeps a few per owned table and foreign key; beyond this all are prepared again, so that no text that varies
/// fills the server's memory.
const KEPT_MAX: usize = 512;

/// The statements that one session keeps, by their texts. A text must always come with the same types.
#[derive(Default)]
pub struct Kept {
    statements: Mutex<HashMap<String, Statement>>,
    answers: Mutex<HashMap<String, bool>>,
}

// === impl Kept ===

impl Kept {
    /// The statement, prepared in this session now or earlier. It sends nothing where it is kept, so that statements that
    /// were all had before go out together, in the order in which they are first polled.
    pub async fn statement(
        &self,
        client: &impl GenericClient,
        sql: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        if let Some(statement) = locked(&self.statements).get(sql) {
            return Ok(statement.clone());
        }
        let statement = client.prepare_typed(sql, types).await?;
        let mut statements = locked(&self.statements);
        if statements.len() >= KEPT_MAX {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Runs a statement, like `query_typed`, and keeps it.
    pub async fn query(
        &self,
        client: &impl GenericClient,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        let types: Vec<Type> = parameters.iter().map(|(_, of)| of.clone()).collect();
        let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
        let statement = self.statement(client, sql, &types).await?;
        let rows = client.query(&statement, &values).await;
        if rows.is_err() {
            self.forget(sql);
        }
        rows
    }

    /// Runs a statement that is to be had by [`statement`](Self::statement) under the text `sql`.
    pub(crate) async fn rows(
        &self,
        client: &impl GenericClient,
        sql: &str,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<RowStream, Error> {
        let rows = client.query_raw(statement, values.iter().copied()).await;
        if rows.is_err() {
            self.forget(sql);
        }
        rows
    }

    /// What the statement `sql` said of the tables when it was asked for the first time. Only for what may turn out to be
    /// outdated without harm.
    pub(crate) async fn answer(
        &self,
        client: &impl GenericClient,
        sql: &str,
    ) -> Result<bool, Error> {
        if let Some(answer) = locked(&self.answers).get(sql) {
            return Ok(*answer);
        }
        let answer = client.query_typed_one(sql, &[]).await?.get(0);
        locked(&self.answers).insert(sql.to_owned(), answer);
        Ok(answer)
    }

    /// One that failed is prepared again: the server refuses one whose result changed for as long as it stands.
    fn forget(&self, sql: &str) {
        locked(&self.statements).remove(sql);
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({})", locked(&self.statements).len())
    }
}

/// A map that is whole whoever panicked beside it.
fn locked<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}
