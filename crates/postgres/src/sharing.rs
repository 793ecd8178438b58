//! Rows that several users own: reached against the arrow, by a row of each.

use model::UserKey;
use model::table::{HomeSchema, OwnedTable, TableName, quote};
use model::way::Among;
use tokio_postgres::GenericClient;

use crate::error::{Doing, Result};
use crate::users;

/// How many users are named for one table at most: the rest show up when these are gone.
const NAMED_MAX: i64 = 1_000;

/// Whether the schema lets several users own a row at all.
pub fn possible(home: &HomeSchema) -> bool {
    home.owned.iter().any(is_pointed_at)
}

/// The users of `who` with a row that another user, of `who` or not, owns too, each with its table. Such a row can be at
/// one site alone.
pub async fn shared(
    tx: &impl GenericClient,
    home: &HomeSchema,
    who: &[UserKey],
) -> Result<Vec<(UserKey, TableName)>> {
    let array = users::array(home.users.kind, who);
    let mut found = Vec::new();
    for table in home.owned.iter().filter(|table| is_pointed_at(table)) {
        let mut columns: Vec<&String> = table.ways.iter().flat_map(|way| way.deciding()).collect();
        columns.sort();
        columns.dedup();
        let columns: Vec<String> = columns.iter().map(|c| format!("t.{}", quote(c))).collect();
        let rows = table.select(
            Among::Array(&array),
            |owner| format!("{owner} AS domicile_owner, {}", columns.join(", ")),
            None,
        );
        let sql = format!(
            "SELECT DISTINCT t.domicile_owner::text FROM ({rows}) AS t \
             WHERE EXISTS (SELECT FROM ({}) AS w(k) WHERE w.k <> t.domicile_owner) LIMIT {NAMED_MAX}",
            table.owners_of("t")
        );
        let rows = tx.query(&sql, &[]).await.doing(format!(
            "looking for rows of {} that several users own",
            table.name
        ))?;
        found.extend(
            rows.iter()
                .map(|row| (UserKey::new(row.get::<_, String>(0)), table.name.clone())),
        );
    }
    Ok(found)
}

/// Whether its own rows are pointed at by those that tell the owner; what is below them goes with them.
fn is_pointed_at(table: &OwnedTable) -> bool {
    table.parents().any(|hop| hop.against)
}
