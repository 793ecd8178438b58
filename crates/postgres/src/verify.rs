//! An independent second read: digests of users' rows, by queries of its own.
//!
//! Shares no code with copy and apply: it selects by nested IN over the ownership path where they join, reads all
//! columns (generated ones too) by name, and hashes in this process. What it reads is the type's binary form; where
//! that names object ids of one database, the text form under pinned settings.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use futures_util::{StreamExt, pin_mut};
use model::UserKey;
use model::table::{Column, HomeSchema, OwnedTable, Way, quote};
use model::way::Among;
use tokio_postgres::Transaction;

use crate::copy_rows::CopyRows;
use crate::digest::{BatchDigest, DigestKey, RowHasher, TableDigest};
use crate::error::{Doing, Result};
use crate::users;

/// The digest of all rows of `who`, table by table.
pub async fn digest(
    tx: &Transaction<'_>,
    home: &HomeSchema,
    who: &[UserKey],
    key: &DigestKey,
) -> Result<BatchDigest> {
    // Sent together: the server reads one table after the other, without waiting for us between.
    let tables = try_join_all(
        home.owned
            .iter()
            .map(|table| digest_table(tx, home, table, who, key)),
    )
    .await?;
    Ok(BatchDigest {
        tables: tables.into_iter().collect(),
    })
}

async fn digest_table(
    tx: &Transaction<'_>,
    home: &HomeSchema,
    table: &OwnedTable,
    who: &[UserKey],
    key: &DigestKey,
) -> Result<(String, TableDigest)> {
    let among = format!("= ANY ({})", users::array(home.users.kind, who));
    let arms = table.ways.iter().map(|way| {
        format!(
            "SELECT {} FROM {} AS v WHERE {}",
            select(&table.columns, "v"),
            table.name.sql(),
            leads(way, &among)
        )
    });
    let rows = arms.collect::<Vec<_>>().join(" UNION ALL ");
    let sql = format!("COPY ({rows}) TO STDOUT (FORMAT binary)");
    let name = table.name.to_string();
    let mut hasher = RowHasher::new(key, &name);
    let mut digest = TableDigest::default();
    read(tx, &sql, table.columns.len(), &name, |fields| {
        digest.add(&hasher.hash(fields.iter().copied()));
    })
    .await?;
    Ok((name, digest))
}

/// The digests of `who`, one for each user: to name those whose rows differ. Slower than [`digest`].
pub async fn digest_each(
    tx: &Transaction<'_>,
    home: &HomeSchema,
    who: &[UserKey],
    key: &DigestKey,
) -> Result<BTreeMap<UserKey, BatchDigest>> {
    let mut each: BTreeMap<UserKey, BatchDigest> = who
        .iter()
        .map(|user| (user.clone(), BatchDigest::default()))
        .collect();
    let array = users::array(home.users.kind, who);
    for table in &home.owned {
        let rows = table.select(
            Among::Array(&array),
            |owner| format!("{owner}::text, {}", select(&table.columns, "t")),
            None,
        );
        let sql = format!("COPY ({rows}) TO STDOUT (FORMAT binary)");
        let name = table.name.to_string();
        let mut hasher = RowHasher::new(key, &name);
        read(tx, &sql, table.columns.len() + 1, &name, |fields| {
            let owner = fields[0]
                .and_then(|bytes| std::str::from_utf8(bytes).ok())
                .map(UserKey::from);
            if let Some(batch) = owner.and_then(|owner| each.get_mut(&owner)) {
                let hash = hasher.hash(fields[1..].iter().copied());
                batch.tables.entry(name.clone()).or_default().add(&hash);
            }
        })
        .await?;
    }
    Ok(each)
}

/// The columns by name, so that two sites whose columns stand in another order agree.
fn select(columns: &[Column], alias: &str) -> String {
    let mut sorted: Vec<&Column> = columns.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let forms = sorted.into_iter().map(|column| {
        let value = format!("{alias}.{}", quote(&column.name));
        if column.portable_binary {
            value
        } else {
            format!("{value}::text")
        }
    });
    forms.collect::<Vec<_>>().join(", ")
}

/// The condition that a row aliased `v` leads by `way` to a key that is `among`.
fn leads(way: &Way, among: &str) -> String {
    let mut condition = String::new();
    let mut ends = String::new();
    let mut alias = String::from("v");
    for (n, hop) in way.hops.iter().enumerate() {
        let row = |alias: &str, columns: &[String]| {
            let all: Vec<String> = columns
                .iter()
                .map(|c| format!("{alias}.{}", quote(c)))
                .collect();
            all.join(", ")
        };
        let parent = format!("v{n}");
        // As an array where that can be: the parents' keys come first, and then the rows by index, whatever the planner
        // thinks of tables without statistics (a semi-join that it turned round took 9 s, this takes 0.13).
        let own = row(&alias, &hop.columns);
        let (own, among, end) = match hop.columns.len() {
            1 => (own, "= ANY (ARRAY", "))"),
            _ => (format!("({own})"), "IN ", ")"),
        };
        condition.push_str(&format!(
            "{} AND {own} {among}(SELECT {} FROM {} AS {parent} WHERE ",
            way.when[n].sql(&alias),
            row(&parent, &hop.parent_columns),
            hop.parent.sql(),
        ));
        ends.push_str(end);
        alias = parent;
    }
    let last = way.when[way.hops.len()].sql(&alias);
    condition.push_str(&format!(
        "{last} AND {alias}.{} {among}",
        quote(&way.column)
    ));
    condition.push_str(&ends);
    condition
}

async fn read(
    tx: &Transaction<'_>,
    sql: &str,
    columns: usize,
    table: &str,
    mut each: impl FnMut(&[Option<&[u8]>]),
) -> Result<()> {
    let doing = || format!("reading {table} to verify it");
    let stream = tx.copy_out(sql).await.doing(doing())?;
    pin_mut!(stream);
    let mut rows = CopyRows::new(columns);
    while let Some(piece) = stream.next().await {
        rows.feed(&piece.doing(doing())?);
        while let Some(row) = rows.next_row()? {
            let fields: Vec<Option<&[u8]>> = row.fields().collect();
            each(&fields);
        }
    }
    rows.finish()?;
    Ok(())
}
