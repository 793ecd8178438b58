//! Foreign keys of arrived rows, checked set-wise at accept: copy and apply wrote them as a replica.

use futures_util::future::try_join_all;
use model::UserKey;
use model::table::{ForeignKey, HomeSchema, OwnedTable, equal, quote};
use model::way::{Among, filled};
use tokio_postgres::GenericClient;
use tokio_postgres::types::{ToSql, Type};

use crate::error::{Doing, Result};
use crate::kept::Kept;
use crate::users;

/// A user with a row whose foreign key does not hold here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dangling {
    /// The user.
    pub user: UserKey,
    /// The constraint, with its table.
    pub constraint: String,
}

/// How many users are named for one constraint at most: the rest show up when these are gone.
const NAMED_MAX: i64 = 1_000;

/// Locks what rows of `who` refer to outside their own ownership path `FOR KEY SHARE`, so that it stays until the
/// transaction ends, and then finds the users of `who` with a reference to nothing.
pub async fn check(
    tx: &impl GenericClient,
    kept: &Kept,
    home: &HomeSchema,
    who: &[UserKey],
) -> Result<Vec<Dangling>> {
    // The foreign keys by which rows lead to their owners hold where the digests agree: a row is only found through the row
    // that it points at. To check them again cost half of the target's time.
    let keys = home.foreign_keys.iter();
    let checks = keys.filter_map(|key| Some((home.owned(&key.child)?, key)));
    let checks = checks.filter(|(child, key)| !is_ownership(child, key));
    // Sent together: the server takes them one after the other, without waiting for us between.
    let found =
        try_join_all(checks.map(|(child, key)| check_one(tx, kept, home, who, child, key))).await?;
    Ok(found.into_iter().flatten().collect())
}

async fn check_one(
    tx: &impl GenericClient,
    kept: &Kept,
    home: &HomeSchema,
    who: &[UserKey],
    child: &OwnedTable,
    key: &ForeignKey,
) -> Result<Vec<Dangling>> {
    let doing = || format!("checking foreign key {} of {}", key.name, key.child);
    let array = users::parameter(home.users.kind);
    let rows = Among::Array(&array);
    let lock = format!(
        "SELECT FROM {parent} AS r WHERE ({parents}) IN ({children}) FOR KEY SHARE OF r",
        parent = key.parent.sql(),
        parents = list("r", &key.parent_columns),
        children = child.select(rows, |_| list("t", &key.child_columns), None),
    );
    let dangles = format!(
        "{} AND NOT EXISTS (SELECT FROM {} AS r WHERE {}{})",
        filled("t", &key.child_columns),
        key.parent.sql(),
        equal("r", &key.parent_columns, "t", &key.child_columns),
        stays(home, key, &array),
    );
    let owners = child.select(
        rows,
        |owner| format!("({owner})::text AS owner"),
        Some(&dangles),
    );
    let missing = format!("SELECT DISTINCT owner FROM ({owners}) AS d LIMIT {NAMED_MAX}");
    let types = [Type::TEXT_ARRAY];
    let lock = kept.statement(tx, &lock, &types).await.doing(doing())?;
    let missing = kept.statement(tx, &missing, &types).await.doing(doing())?;
    let keys: Vec<&str> = who.iter().map(UserKey::as_str).collect();
    let keys: [&(dyn ToSql + Sync); 1] = [&keys];
    // Sent together, and run one after the other: what the second sees is what the first has locked.
    let (locked, rows) = tokio::join!(
        biased;
        tx.execute(&lock, &keys),
        tx.query(&missing, &keys),
    );
    locked.doing(doing())?;
    let rows = rows.doing(doing())?;
    let dangling = |row: &tokio_postgres::Row| Dangling {
        user: UserKey::new(row.get::<_, String>(0)),
        constraint: format!("foreign key {} of {}", key.name, key.child),
    };
    Ok(rows.iter().map(dangling).collect())
}

/// That the row called `r` is not just a copy of somebody who is on his way here, and may never come: nobody's, of the
/// users in `array`, or of one who lives here.
fn stays(home: &HomeSchema, key: &ForeignKey, array: &str) -> String {
    match home.owned(&key.parent) {
        Some(parent) => format!(
            " AND NOT EXISTS (SELECT FROM ({}) AS w(k) WHERE w.k <> ALL ({array}) AND NOT coalesce( \
             (SELECT d.state IN ('settled', 'moving', 'fenced', 'offered') FROM domicile.resident AS d \
              WHERE d.user_key = w.k), domicile.known(w.k)))",
            parent.owners_of("r")
        ),
        None => String::new(),
    }
}

/// Whether `key` is the first step of every way from the child: then the parent belongs to the same user.
pub(crate) fn is_ownership(child: &OwnedTable, key: &ForeignKey) -> bool {
    child.ways.iter().all(|way| match way.hops.first() {
        Some(hop) => !hop.against && hop.parent == key.parent && hop.columns == key.child_columns,
        None => key.child_columns == [way.column.clone()],
    })
}

fn list(alias: &str, columns: &[String]) -> String {
    columns
        .iter()
        .map(|column| format!("{alias}.{}", quote(column)))
        .collect::<Vec<_>>()
        .join(", ")
}
