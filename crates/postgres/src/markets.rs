//! Of which markets users are.

use std::collections::BTreeMap;

use model::table::{HomeSchema, quote};
use model::{Market, UserKey};
use residency::kept::Asks;
use tokio_postgres::types::Type;

use crate::catalog::ReadError;
use crate::census::acceptable;

/// How many of `keys` are of which market (NULL written as empty), wherever they live. Those without a user row are of none.
pub async fn of(
    session: &impl Asks,
    schema: &HomeSchema,
    keys: &[UserKey],
) -> Result<BTreeMap<Market, u64>, ReadError> {
    let users = &schema.users;
    let keys = acceptable(users.kind, keys);
    // One column of one row a user, found by the key.
    let sql = format!(
        "SELECT coalesce(({market})::text, ''), count(*) FROM {table} WHERE {key} = ANY($1::text[]::{kind}[]) GROUP BY 1",
        market = users.market.as_deref().unwrap_or("NULL"),
        table = users.name.sql(),
        key = quote(&users.key),
        kind = users.kind.sql_type(),
    );
    let rows = session
        .ask(&sql, &[(&keys, Type::TEXT_ARRAY)])
        .await
        .map_err(ReadError::of(format!("table {}", users.name)))?;
    let read = |row: &tokio_postgres::Row| {
        (
            Market::new(row.get::<_, String>(0)),
            row.get::<_, i64>(1).unsigned_abs(),
        )
    };
    Ok(rows.iter().map(read).collect())
}
