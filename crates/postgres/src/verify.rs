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
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{GenericClient, Statement, Transaction};

use crate::copy_rows::CopyRows;
use crate::digest::{BatchDigest, DigestKey, RowHasher, TableDigest};
use crate::error::{Doing, Error, Result};
use crate::kept::Kept;
use crate::{plans, users};

/// What reads the digests of a home's users, prepared in one session.
#[derive(Debug)]
pub struct Reader<'a> {
    kept: &'a Kept,
    settings: &'static str,
    tables: Vec<Prepared>,
}

#[derive(Debug)]
struct Prepared {
    name: String,
    sql: String,
    columns: usize,
    statement: Statement,
}

/// A value as the server sends it.
struct Sent<'a>(&'a [u8]);

/// The digest of all rows of `who`, table by table, by a session that will hardly ask again.
pub async fn digest(
    tx: &Transaction<'_>,
    home: &HomeSchema,
    who: &[UserKey],
    key: &DigestKey,
) -> Result<BatchDigest> {
    let kept = Kept::default();
    let reader = Reader::prepare(tx, &kept, home).await?;
    reader.digest(tx, who, key).await
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// Prepares what is not kept in this session already.
    pub async fn prepare(
        client: &impl GenericClient,
        kept: &'a Kept,
        home: &HomeSchema,
    ) -> Result<Self> {
        let among = format!("= ANY {}", users::parameter(home.users.kind));
        let tables = home.owned.iter().map(async |table| {
            let sql = rows(table, &among);
            let name = table.name.to_string();
            let statement = kept.statement(client, &sql, &[Type::TEXT_ARRAY]).await;
            let statement = statement.doing(reading(&name))?;
            Ok::<_, Error>(Prepared {
                name,
                sql,
                columns: table.columns.len(),
                statement,
            })
        });
        let (tables, settings) =
            tokio::try_join!(try_join_all(tables), plans::settings(client, kept, home))?;
        Ok(Self {
            kept,
            settings,
            tables,
        })
    }

    /// Until the transaction ends, finds rows as [`plans::by_index`] does.
    pub async fn by_index(&self, tx: &Transaction<'_>) -> Result<()> {
        tx.batch_execute(self.settings)
            .await
            .doing("preparing to find users' rows by index")
    }

    /// The digest of all rows of `who`, table by table. Everything that it asks is sent when it is first polled: what is
    /// sent later is answered later.
    pub async fn digest(
        &self,
        tx: &Transaction<'_>,
        who: &[UserKey],
        key: &DigestKey,
    ) -> Result<BatchDigest> {
        let who: Vec<&str> = who.iter().map(UserKey::as_str).collect();
        let tables = self.tables.iter();
        let tables = try_join_all(tables.map(|table| self.table(tx, table, &who, key))).await?;
        Ok(BatchDigest {
            tables: tables.into_iter().collect(),
        })
    }

    async fn table(
        &self,
        tx: &Transaction<'_>,
        table: &Prepared,
        who: &[&str],
        key: &DigestKey,
    ) -> Result<(String, TableDigest)> {
        let doing = || reading(&table.name);
        let rows = self
            .kept
            .rows(tx, &table.sql, &table.statement, &[&who])
            .await
            .doing(doing())?;
        pin_mut!(rows);
        let mut hasher = RowHasher::new(key, &table.name);
        let mut digest = TableDigest::default();
        while let Some(row) = rows.next().await {
            let row = row.doing(doing())?;
            let field = |n| row.get::<_, Option<Sent<'_>>>(n).map(|Sent(bytes)| bytes);
            digest.add(&hasher.hash((0..table.columns).map(field)));
        }
        Ok((table.name.clone(), digest))
    }
}

// === impl Sent ===

impl<'a> FromSql<'a> for Sent<'a> {
    fn from_sql(
        _: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The statement that reads the rows of `table` whose owners are `among`.
fn rows(table: &OwnedTable, among: &str) -> String {
    let arms = table.ways.iter().map(|way| {
        format!(
            "SELECT {} FROM {} AS v WHERE {}",
            select(&table.columns, "v"),
            table.name.sql(),
            leads(way, among)
        )
    });
    arms.collect::<Vec<_>>().join(" UNION ALL ")
}

fn reading(table: &str) -> String {
    format!("reading {table} to verify it")
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
    let doing = || reading(table);
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
