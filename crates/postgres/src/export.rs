//! One user's rows in an open format: a JSON object for each, as PostgreSQL's `row_to_json` writes it.

use futures_util::TryStreamExt;
use model::UserKey;
use model::table::{HomeSchema, OwnedTable, equal, quote};
use model::way::Among;
use tokio_postgres::GenericClient;

use crate::error::{Doing, Result};
use crate::users;

/// Reads all rows of `user` in one table, in the order of their keys, and gives each to `line` as one line of JSON without
/// its end; returns how many. Holds one row at a time. Bytes are in hexadecimal, times as ISO 8601 says, numbers with all
/// their digits.
///
/// # Errors
/// Whatever the database says, or `line`: its error ends the reading.
pub async fn rows<E>(
    tx: &impl GenericClient,
    home: &HomeSchema,
    table: &OwnedTable,
    user: &UserKey,
    mut line: impl FnMut(&str) -> Result<(), E>,
) -> Result<Result<u64, E>> {
    let doing = || format!("reading a user's rows of {}", table.name);
    let array = users::array(home.users.kind, std::slice::from_ref(user));
    let key: Vec<String> = table
        .key
        .iter()
        .map(|c| format!("t.{}", quote(c)))
        .collect();
    let key = key.join(", ");
    // A row that he owns in two ways is his once.
    let sql = format!(
        "SELECT row_to_json(t)::text FROM (SELECT DISTINCT * FROM ({}) AS k) AS k JOIN {} AS t ON {} ORDER BY {key}",
        table.select(Among::Array(&array), |_| key.clone(), None),
        table.name.sql(),
        equal("t", &table.key, "k", &table.key),
    );
    let none: [&str; 0] = [];
    let rows = tx.query_raw(&sql, none).await.doing(doing())?;
    let mut rows = std::pin::pin!(rows);
    let mut count = 0;
    while let Some(row) = rows.try_next().await.doing(doing())? {
        if let Err(error) = line(row.get(0)) {
            return Ok(Err(error));
        }
        count += 1;
    }
    Ok(Ok(count))
}
