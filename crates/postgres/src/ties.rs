//! Users who cannot part: a foreign key leads from a row of one to a row of another.
//!
//! A foreign key cannot hold between two databases. So users tied by one go in one batch, or not at all.

use model::UserKey;
use model::table::{ForeignKey, HomeSchema, OwnedTable, equal, quote};
use model::way::Among;
use tokio_postgres::GenericClient;

use crate::error::{Doing, Result};
use crate::foreign_keys::is_ownership;
use crate::users;

/// Two users who cannot part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tie {
    /// One who was asked for.
    pub user: UserKey,
    /// The other.
    pub other: UserKey,
    /// What ties them, in words without values.
    pub by: String,
}

/// Whether the schema can tie users at all.
pub fn possible(home: &HomeSchema) -> bool {
    tying(home).next().is_some()
}

/// The foreign keys between rows that may be of two users.
fn tying(home: &HomeSchema) -> impl Iterator<Item = (&OwnedTable, &OwnedTable, &ForeignKey)> {
    home.foreign_keys.iter().filter_map(|key| {
        let (child, parent) = (home.owned(&key.child)?, home.owned(&key.parent)?);
        (!is_ownership(child, key)).then_some((child, parent, key))
    })
}

/// The ties between `who` and anybody, themselves included. Costs what their rows cost where the columns of the foreign
/// keys have indexes.
pub async fn of(
    client: &impl GenericClient,
    home: &HomeSchema,
    who: &[UserKey],
) -> Result<Vec<Tie>> {
    let array = users::array(home.users.kind, who);
    let mut ties = Vec::new();
    for (child, parent, key) in tying(home) {
        let by = format!("foreign key {} of {}", key.name, key.child);
        let to = across(
            (child, &key.child_columns),
            (parent, &key.parent_columns),
            &array,
        );
        let from = across(
            (parent, &key.parent_columns),
            (child, &key.child_columns),
            &array,
        );
        for sql in [to, from] {
            ties.extend(ask(client, &sql, &by).await?);
        }
    }
    ties.sort();
    ties.dedup();
    Ok(ties)
}

/// The pairs of users, the first in `array`, one with a row of `a` and the other with a row of `b` whose columns equal it.
fn across(a: (&OwnedTable, &[String]), b: (&OwnedTable, &[String]), array: &str) -> String {
    let keys: Vec<String> = (0..a.1.len()).map(|n| format!("k{n}")).collect();
    let mine = a.0.select(
        Among::Array(array),
        |owner| {
            let columns = a.1.iter().zip(&keys);
            let columns = columns.map(|(column, k)| format!(", t.{} AS {k}", quote(column)));
            format!("{owner} AS owner{}", columns.collect::<String>())
        },
        None,
    );
    format!(
        "SELECT DISTINCT s.owner::text, w.k::text FROM ({mine}) AS s JOIN {} AS r ON {} \
         CROSS JOIN LATERAL ({}) AS w(k) WHERE w.k <> s.owner",
        b.0.name.sql(),
        equal("r", b.1, "s", &keys),
        b.0.owners_of("r"),
    )
}

async fn ask(client: &impl GenericClient, sql: &str, by: &str) -> Result<Vec<Tie>> {
    let rows = client
        .query(sql, &[])
        .await
        .doing(format!("looking who is tied by {by}"))?;
    let tie = |row: &tokio_postgres::Row| Tie {
        user: UserKey::new(row.get::<_, String>(0)),
        other: UserKey::new(row.get::<_, String>(1)),
        by: by.to_owned(),
    };
    Ok(rows.iter().map(tie).collect())
}
