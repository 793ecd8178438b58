//! The public Chinook sample database, unchanged.

use anyhow::{Context as _, Result};
use tokio_postgres::Client;

/// The dump, from its first `CREATE TABLE` on; plain SQL without psql's own commands.
pub const SQL: &str = include_str!("../chinook/chinook.sql");

/// Loads Chinook into an empty database, in one transaction.
///
/// # Errors
///
/// Where the database is not empty or the role may not create tables.
pub async fn load(client: &Client) -> Result<()> {
    client
        .batch_execute(SQL)
        .await
        .context("cannot load Chinook")
}

/// Loads Chinook's schema and catalogue (artists to playlists, and the staff), without customers
/// and invoices.
///
/// # Errors
///
/// As [`load`].
pub async fn load_catalogue(client: &Client) -> Result<()> {
    load(client).await?;
    client
        .batch_execute("TRUNCATE customer, invoice, invoice_line")
        .await
        .context("cannot empty Chinook's user tables")
}
