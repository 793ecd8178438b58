//! Who has rows here, whatever the records say, and whose rows are where they should not be.
//!
//! For looking back at moves: nothing here is used while one runs.

use std::time::Duration;

use model::table::{HomeSchema, TableName, quote};
use model::way::Among;
use model::{SiteName, UserKey};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::catalog::ReadError;

/// Bounds the time that each statement of this session takes.
pub async fn bound(client: &Client, within: Duration) -> Result<(), ReadError> {
    let set = format!("SET statement_timeout = {}", within.as_millis());
    let bounded = client.batch_execute(&set).await;
    bounded.map_err(ReadError::of("the session's settings"))
}

/// The next keys of the user table, at most `limit`, in the order of the keys after `after`, wherever their users live. With `of` those
/// alone who changed home once, or are on their way between that site and here: Domicile must be installed then.
pub async fn keys_page(
    client: &Client,
    schema: &HomeSchema,
    of: Option<&SiteName>,
    after: Option<&UserKey>,
    limit: u32,
) -> Result<Vec<UserKey>, ReadError> {
    let users = &schema.users;
    let condition = match after {
        Some(_) => format!(
            "WHERE u.{} > $1::text::{}",
            quote(&users.key),
            users.kind.sql_type()
        ),
        None => "WHERE $1::text IS NULL".to_owned(),
    };
    // The parameter stands in both forms, so that both take the same three.
    let concerned = match of {
        Some(_) => format!(
            "EXISTS (SELECT FROM domicile.resident AS r WHERE r.user_key = u.{} AND (r.told <> 0 OR r.peer = $3::text))",
            quote(&users.key)
        ),
        None => "$3::text IS NULL".to_owned(),
    };
    let sql = format!(
        "SELECT u.{key}::text FROM {table} AS u {condition} AND {concerned} ORDER BY u.{key} LIMIT $2",
        key = quote(&users.key),
        table = users.name.sql(),
    );
    let rows = client
        .query(
            &sql,
            &[
                &after.map(UserKey::as_str),
                &i64::from(limit),
                &of.map(SiteName::as_str),
            ],
        )
        .await
        .map_err(ReadError::of(format!("table {}", users.name)))?;
    Ok(rows
        .iter()
        .map(|row| UserKey::new(row.get::<_, String>(0)))
        .collect())
}

/// What one table holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The table.
    pub table: TableName,
    /// Its rows that have an owner.
    pub rows: u64,
    /// Owners who neither live here, nor are on their way, nor left them here unerased; with their rows. The first ones.
    pub misplaced: Vec<(UserKey, u64)>,
    /// How many such owners there are besides.
    pub more: u64,
}

/// Looks at every owned table: how many rows it holds, and whose should not be here. Of `only`, where given. Names at
/// most `limit` owners a table.
///
/// Each table is read in one statement together with the records, so that a move that goes on meanwhile
/// misplaces nothing. Domicile must be installed.
pub async fn held(
    client: &Client,
    schema: &HomeSchema,
    only: Option<&[UserKey]>,
    limit: u32,
) -> Result<Vec<Held>, ReadError> {
    let kind = schema.users.kind.sql_type();
    let only: Option<Vec<&str>> = only.map(|users| users.iter().map(UserKey::as_str).collect());
    let mut found = Vec::with_capacity(schema.owned.len());
    for table in &schema.owned {
        let owner = |owner: &str| format!("{owner}::{kind} AS k");
        // The parameter stands in both forms, so that both take the same two.
        let rows = match only {
            Some(_) => table.select(Among::Array(&format!("$2::text[]::{kind}[]")), owner, None),
            None => table.select(Among::All, owner, Some("$2::text[] IS NULL")),
        };
        let sql = format!(
            "WITH counted AS MATERIALIZED \
               (SELECT k, count(*) AS n FROM ({rows}) AS r WHERE k IS NOT NULL GROUP BY 1), \
             stray AS \
               (SELECT k, n, count(*) OVER () AS owners FROM counted \
                LEFT JOIN domicile.resident AS r ON r.user_key = k \
                WHERE CASE WHEN r.user_key IS NULL THEN NOT domicile.known(k) \
                           ELSE r.state = 'departed' AND r.erased_at IS NOT NULL END \
                ORDER BY k LIMIT $1) \
             SELECT total.n, stray.k::text, stray.n, stray.owners \
             FROM (SELECT coalesce(sum(n), 0)::bigint AS n FROM counted) AS total LEFT JOIN stray ON true \
             ORDER BY stray.k",
        );
        let rows = client
            .query(&sql, &[&i64::from(limit), &only])
            .await
            .map_err(ReadError::of(format!("table {}", table.name)))?;
        let number = |row: &tokio_postgres::Row, at: usize| {
            row.get::<_, Option<i64>>(at)
                .unwrap_or_default()
                .unsigned_abs()
        };
        let misplaced: Vec<_> = rows
            .iter()
            .filter_map(|row| {
                Some((
                    UserKey::new(row.get::<_, Option<String>>(1)?),
                    number(row, 2),
                ))
            })
            .collect();
        let first = rows.first();
        found.push(Held {
            table: table.name.clone(),
            rows: first.map_or(0, |row| number(row, 0)),
            more: first.map_or(0, |row| number(row, 3)) - misplaced.len() as u64,
            misplaced,
        });
    }
    Ok(found)
}
