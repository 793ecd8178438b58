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

/// Where statements are asked, each in one round trip that begins when it is first polled: what is polled later is
/// answered later. A client or a transaction plans each anew; [`Keeping`] does not.
pub trait Asks: Sync {
    /// Asks for rows.
    fn ask(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> impl Future<Output = Result<Vec<Row>, Error>> + Send;

    /// Changes rows, and says how many.
    fn tell(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> impl Future<Output = Result<u64, Error>> + Send;
}

/// A client or a transaction of a session whose statements are kept.
pub struct Keeping<'a, C> {
    client: &'a C,
    kept: &'a Kept,
}

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
        if let Some(statement) = self.held(sql) {
            return Ok(statement);
        }
        let statement = client.prepare_typed(sql, types).await?;
        let mut statements = locked(&self.statements);
        if statements.len() >= KEPT_MAX {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Runs a statement that is to be had by [`statement`](Self::statement) under the text `sql`.
    pub async fn rows(
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
    pub async fn answer(&self, client: &impl GenericClient, sql: &str) -> Result<bool, Error> {
        if let Some(answer) = locked(&self.answers).get(sql) {
            return Ok(*answer);
        }
        let answer = client.query_typed_one(sql, &[]).await?.get(0);
        locked(&self.answers).insert(sql.to_owned(), answer);
        Ok(answer)
    }

    /// Whether this is the first time that the session is asked about `what`.
    pub fn first(&self, what: &str) -> bool {
        locked(&self.answers)
            .insert(what.to_owned(), true)
            .is_none()
    }

    fn held(&self, sql: &str) -> Option<Statement> {
        locked(&self.statements).get(sql).cloned()
    }

    /// Prepares one that has just been run for the first time. That it cannot be is told when it is run again.
    async fn keep(
        &self,
        client: &impl GenericClient,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) {
        let types: Vec<Type> = parameters.iter().map(|(_, of)| of.clone()).collect();
        let _ = self.statement(client, sql, &types).await;
    }

    /// One that failed is prepared again: the server refuses one whose result changed for as long as it stands.
    fn forget(&self, sql: &str) {
        locked(&self.statements).remove(sql);
    }
}

// === impl Asks ===

impl<C: GenericClient + Sync> Asks for C {
    async fn ask(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        self.query_typed(sql, parameters).await
    }

    async fn tell(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<u64, Error> {
        self.execute_typed(sql, parameters).await
    }
}

// === impl Keeping ===

impl<'a, C: GenericClient + Sync> Keeping<'a, C> {
    /// Asks of `client`, a session's or its transaction's, by the statements that the session has `kept`.
    pub fn new(client: &'a C, kept: &'a Kept) -> Self {
        Self { client, kept }
    }
}

impl<C: GenericClient + Sync> Asks for Keeping<'_, C> {
    async fn ask(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        let (client, kept) = (self.client, self.kept);
        let Some(statement) = kept.held(sql) else {
            // Run first and prepared afterwards: prepared first, it could be overtaken by what is polled later.
            let rows = client.query_typed(sql, parameters).await?;
            kept.keep(client, sql, parameters).await;
            return Ok(rows);
        };
        let rows = client.query(&statement, &values(parameters)).await;
        if rows.is_err() {
            kept.forget(sql);
        }
        rows
    }

    async fn tell(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<u64, Error> {
        let (client, kept) = (self.client, self.kept);
        let Some(statement) = kept.held(sql) else {
            let changed = client.execute_typed(sql, parameters).await?;
            kept.keep(client, sql, parameters).await;
            return Ok(changed);
        };
        let changed = client.execute(&statement, &values(parameters)).await;
        if changed.is_err() {
            kept.forget(sql);
        }
        changed
    }
}

fn values<'a>(parameters: &[(&'a (dyn ToSql + Sync), Type)]) -> Vec<&'a (dyn ToSql + Sync)> {
    parameters.iter().map(|(value, _)| *value).collect()
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
