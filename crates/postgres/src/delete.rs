//! Deletes users' rows by manifest: what a cancelled attempt copied, what a return journey replaces, what is erased.
//!
//! The manifest is collected first; then rows go with foreign-key actions off, referenced rows first; and in a
//! later statement every foreign key that points at what went is looked at: a row of anybody else there means
//! that a CASCADE would have deleted, or a SET NULL changed, another user's row, and the whole is rolled back.

use model::UserKey;
use model::table::{HomeSchema, OwnedTable, equal, quote};
use model::way::Among;
use tokio_postgres::GenericClient;

use crate::error::{Doing, Error, Result};
use crate::users;

/// Deletes all rows of `who` in `tx`, which writes as a replica. Returns how many.
///
/// # Errors
/// [`Error::Tied`] where rows of others refer to what would go; roll back.
pub async fn rows(tx: &impl GenericClient, home: &HomeSchema, who: &[UserKey]) -> Result<u64> {
    let mut deleted = 0;
    let array = users::array(home.users.kind, who);
    for (n, table) in home.owned.iter().enumerate() {
        let columns = manifest_columns(home, table);
        let listed: Vec<String> = columns.iter().map(|c| format!("t.{}", quote(c))).collect();
        tx.batch_execute(&format!(
            "CREATE TEMPORARY TABLE domicile_gone_{n} ON COMMIT DROP AS {}",
            table.select(Among::Array(&array), |_| listed.join(", "), None),
        ))
        .await
        .doing(format!("listing the rows of {} that are to go", table.name))?;
    }
    for (n, table) in home.owned.iter().enumerate() {
        deleted += tx
            .execute(
                &format!(
                    "DELETE FROM {} AS t USING pg_temp.domicile_gone_{n} AS g WHERE {}",
                    table.name.sql(),
                    equal("t", &table.key, "g", &table.key)
                ),
                &[],
            )
            .await
            .doing(format!("deleting rows of {}", table.name))?;
    }
    for key in &home.foreign_keys {
        let Some(n) = home.owned.iter().position(|table| table.name == key.parent) else {
            continue;
        };
        let tied = tx
            .query_opt(
                &format!(
                    "SELECT FROM {} AS t JOIN pg_temp.domicile_gone_{n} AS g ON {} LIMIT 1",
                    key.child.sql(),
                    equal("t", &key.child_columns, "g", &key.parent_columns)
                ),
                &[],
            )
            .await
            .doing(format!(
                "looking for rows of {} that refer to what went",
                key.child
            ))?;
        if tied.is_some() {
            return Err(Error::Tied {
                table: key.child.clone(),
                constraint: key.name.clone(),
            });
        }
    }
    for n in 0..home.owned.len() {
        tx.batch_execute(&format!("DROP TABLE pg_temp.domicile_gone_{n}"))
            .await
            .doing("dropping the list of deleted rows")?;
    }
    Ok(deleted)
}

/// The key of `table`, and whatever foreign keys refer to it by.
fn manifest_columns(home: &HomeSchema, table: &OwnedTable) -> Vec<String> {
    let mut columns = table.key.clone();
    for key in home
        .foreign_keys
        .iter()
        .filter(|key| key.parent == table.name)
    {
        for column in &key.parent_columns {
            if !columns.contains(column) {
                columns.push(column.clone());
            }
        }
    }
    columns
}
