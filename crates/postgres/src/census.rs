//! Who lives here: users by market, users one by one, and rows that belong to nobody.
//!
//! A user lives here if his record says so (`settled`, `moving`, `fenced` or `offered`), or, at the
//! origin, if he has none and was here at adoption. Users are those who have a row in the user table.

use std::collections::BTreeMap;

use model::table::{HomeSchema, OwnedTable, TableName, quote};
use model::way::Among;
use model::{KeyKind, Market, UserKey};
use tokio_postgres::{Client, IsolationLevel, Transaction};

use crate::catalog::ReadError;

/// What a heap row costs beyond its columns, in bytes, without alignment and line pointer.
const ROW_HEADER: u32 = 24;

/// The users of one market who live here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// Their market; empty for users whose market is NULL.
    pub market: Market,
    /// How many they are.
    pub users: u64,
    /// Their rows in all owned tables, counted.
    pub rows: u64,
    /// The size of those rows as stored, compressed where they are, in bytes.
    pub bytes: u64,
}

/// What is known here of one user who was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// His market; empty if NULL.
    pub market: Market,
    /// Whether he lives here.
    pub here: bool,
}

/// Counts the users who live here, by market, under one snapshot.
///
/// `origin` is believed only where Domicile is not installed yet: at the origin everybody lives
/// here then, elsewhere nobody.
pub async fn census(
    client: &mut Client,
    schema: &HomeSchema,
    origin: bool,
) -> Result<Vec<Census>, ReadError> {
    let question = Question::begin(client, schema, origin).await?;
    let mut found: BTreeMap<Market, Census> = BTreeMap::new();
    for table in &schema.owned {
        for row in question
            .ask(&question.by_market(table), &[], &table.name)
            .await?
        {
            let market = Market::new(row.get::<_, String>(0));
            let entry = found.entry(market.clone()).or_insert(Census {
                market,
                users: 0,
                rows: 0,
                bytes: 0,
            });
            let rows = count(row.get(1));
            if table.name == schema.users.name {
                entry.users += rows;
            }
            entry.rows += rows;
            entry.bytes += count(row.get(2));
        }
    }
    Ok(found.into_values().collect())
}

/// As [`census`], but users alone are counted: their rows and bytes are estimated from the tables' statistics, as if every
/// user had equally many. Reads the user table, and not the others.
pub async fn census_of_users(
    client: &mut Client,
    schema: &HomeSchema,
    origin: bool,
) -> Result<Vec<Census>, ReadError> {
    let question = Question::begin(client, schema, origin).await?;
    let oids: Vec<u32> = schema.owned.iter().map(|table| table.oid).collect();
    let sql = "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::float8, coalesce(sum(c.relpages), 0)::float8 \
                    * current_setting('block_size')::float8, \
                      coalesce(sum(greatest(c.reltuples, 0)) FILTER (WHERE c.oid = $2), 0)::float8 \
               FROM pg_class AS c WHERE c.oid = ANY ($1)";
    let users = schema.owned.first().map_or(0, |table| table.oid);
    let row = question
        .ask(sql, &[&oids, &users], &schema.users.name)
        .await?;
    let number = |n: usize| row.first().map_or(0.0, |row| row.get::<_, f64>(n));
    let each = |total: f64| {
        if number(2) > 0.0 {
            total / number(2)
        } else {
            1.0
        }
    };
    let (rows_each, bytes_each) = (each(number(0)).max(1.0), each(number(1)));
    let counted = question
        .ask(&question.users_by_market(), &[], &schema.users.name)
        .await?;
    let census = |row: &tokio_postgres::Row| {
        let users = count(row.get(1));
        Census {
            market: Market::new(row.get::<_, String>(0)),
            users,
            rows: (users as f64 * rows_each) as u64,
            bytes: (users as f64 * bytes_each) as u64,
        }
    };
    Ok(counted.iter().map(census).collect())
}

/// The next users of `markets` (NULL written as empty) who live here, at most `limit`, in the order
/// of their keys after `after`, each with his rows in all owned tables.
///
/// Costs what the page's users have, as long as the owned tables have indexes on their owner columns.
pub async fn users_page(
    client: &mut Client,
    schema: &HomeSchema,
    origin: bool,
    markets: &[Market],
    after: Option<&UserKey>,
    limit: u32,
) -> Result<Vec<(UserKey, u64)>, ReadError> {
    let question = Question::begin(client, schema, origin).await?;
    question.by_index().await?;
    let markets: Vec<&str> = markets.iter().map(Market::as_str).collect();
    let after = after.map(UserKey::as_str);
    let sql = question.page(after.is_some());
    let rows = question
        .ask(
            &sql,
            &[&markets, &after, &i64::from(limit)],
            &schema.users.name,
        )
        .await?;
    Ok(rows.iter().map(counted_user).collect())
}

/// Those of `keys` that stand in the user table and live here, in the order of their keys, each with
/// his rows in all owned tables. Keys of another form than the service's are not found.
pub async fn users_listed(
    client: &mut Client,
    schema: &HomeSchema,
    keys: &[UserKey],
) -> Result<Vec<(UserKey, u64)>, ReadError> {
    let kind = schema.users.kind;
    let keys = acceptable(kind, keys);
    let question = Question::begin(client, schema, false).await?;
    question.by_index().await?;
    let page = format!(
        "SELECT u.key FROM {users} AS u{record} WHERE u.key = ANY($1::text[]::{key}[]) AND {lives}",
        users = question.users(),
        record = question.record("u"),
        lives = question.lives("u"),
        key = kind.sql_type(),
    );
    let rows = question
        .ask(&question.counted(&page), &[&keys], &schema.users.name)
        .await?;
    Ok(rows.iter().map(counted_user).collect())
}

/// Those of `keys` that stand in the user table. Keys of another form than the service's are not found.
pub async fn users_exist(
    client: &mut Client,
    schema: &HomeSchema,
    origin: bool,
    keys: &[UserKey],
) -> Result<BTreeMap<UserKey, Presence>, ReadError> {
    let kind = schema.users.kind;
    let keys = acceptable(kind, keys);
    let question = Question::begin(client, schema, origin).await?;
    // The key as it was asked for: a uuid has several spellings.
    let sql = format!(
        "SELECT a.asked, u.market, {lives} FROM unnest($1::text[]) AS a(asked) \
         JOIN {users} AS u ON u.key = a.asked::{key}{record}",
        lives = question.lives("u"),
        users = question.users(),
        key = kind.sql_type(),
        record = question.record("u"),
    );
    let rows = question.ask(&sql, &[&keys], &schema.users.name).await?;
    let presence = |row: &tokio_postgres::Row| Presence {
        market: Market::new(row.get::<_, String>(1)),
        here: row.get(2),
    };
    Ok(rows
        .iter()
        .map(|row| (UserKey::new(row.get::<_, String>(0)), presence(row)))
        .collect())
}

/// Rows that belong to nobody: their way to the owner breaks, is null, or ends at a key that has no
/// user row. By table; tables without any are left out.
pub async fn orphan_rows(
    client: &mut Client,
    schema: &HomeSchema,
) -> Result<BTreeMap<TableName, u64>, ReadError> {
    let question = Question::begin(client, schema, true).await?;
    let mut found = BTreeMap::new();
    for table in schema
        .owned
        .iter()
        .filter(|table| table.name != schema.users.name)
    {
        let sql = orphans(schema, table);
        for row in question.ask(&sql, &[], &table.name).await? {
            found.insert(table.name.clone(), count(row.get(0)));
        }
    }
    found.retain(|_, rows| *rows > 0);
    Ok(found)
}

/// Those keys that can be keys of users at all.
pub(crate) fn acceptable(kind: KeyKind, keys: &[UserKey]) -> Vec<&str> {
    let keys = keys.iter().map(UserKey::as_str);
    keys.filter(|key| kind.accepts(key)).collect()
}

/// A row of [`Question::counted`].
fn counted_user(row: &tokio_postgres::Row) -> (UserKey, u64) {
    (UserKey::new(row.get::<_, String>(0)), count(row.get(1)))
}

/// One look at a database: a snapshot, and whether there are records in it.
struct Question<'a> {
    snapshot: Transaction<'a>,
    schema: &'a HomeSchema,
    installed: bool,
    origin: bool,
}

// === impl Question ===

impl<'a> Question<'a> {
    async fn begin(
        client: &'a mut Client,
        schema: &'a HomeSchema,
        origin: bool,
    ) -> Result<Self, ReadError> {
        let snapshot = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .map_err(ReadError::of("a snapshot"))?;
        let installed = "SELECT to_regclass('domicile.resident') IS NOT NULL \
                                AND to_regclass('domicile.home') IS NOT NULL";
        let installed = snapshot
            .query_one(installed, &[])
            .await
            .map_err(ReadError::of("whether Domicile is installed"))?
            .get(0);
        Ok(Self {
            snapshot,
            schema,
            installed,
            origin,
        })
    }

    /// From now on finds the rows of some users among everybody's by index.
    async fn by_index(&self) -> Result<(), ReadError> {
        self.snapshot
            .batch_execute(&crate::plans::statement(self.schema))
            .await
            .map_err(ReadError::of("how users' rows are found"))
    }

    async fn ask(
        &self,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
        about: &TableName,
    ) -> Result<Vec<tokio_postgres::Row>, ReadError> {
        self.snapshot
            .query(sql, parameters)
            .await
            .map_err(ReadError::of(format!("table {about}")))
    }

    /// The users as (key, market). A subquery of its own, because a market's expression names the user
    /// table's columns without qualification.
    fn users(&self) -> String {
        let users = &self.schema.users;
        let market = users.market.as_deref().unwrap_or("NULL");
        format!(
            "(SELECT {key} AS key, coalesce(({market})::text, '') AS market FROM {table})",
            key = quote(&users.key),
            table = users.name.sql(),
        )
    }

    /// The join that finds the record of `user`.
    fn record(&self, user: &str) -> String {
        if !self.installed {
            return String::new();
        }
        let key = self.schema.users.kind.sql_type();
        format!(
            " CROSS JOIN domicile.home AS h \
             LEFT JOIN domicile.resident AS r ON r.user_key = {user}.key::{key}"
        )
    }

    /// Whether `user` lives here, in a query with [`record`](Self::record).
    fn lives(&self, user: &str) -> String {
        if !self.installed {
            return self.origin.to_string();
        }
        let marked = match self.schema.users.kind {
            KeyKind::Integer => format!(" OR h.known_by = 'mark' AND {user}.key::bigint <= h.mark"),
            KeyKind::Uuid | KeyKind::Text => String::new(),
        };
        format!(
            "CASE WHEN r.user_key IS NULL THEN h.is_origin AND (h.known_by = 'row'{marked}) \
             ELSE r.state IN ('settled', 'moving', 'fenced', 'offered') END"
        )
    }

    fn users_by_market(&self) -> String {
        format!(
            "SELECT u.market, count(*) FROM {users} AS u{record} WHERE {lives} GROUP BY u.market ORDER BY u.market",
            users = self.users(),
            record = self.record("u"),
            lives = self.lives("u"),
        )
    }

    fn by_market(&self, table: &OwnedTable) -> String {
        // Column by column: pg_column_size of a whole row would fetch and unpack every large value.
        let sizes = table
            .columns
            .iter()
            .map(|column| format!(" + coalesce(pg_column_size(t.{}), 0)", quote(&column.name)));
        let sizes = sizes.collect::<String>();
        let rows = table.select(
            Among::All,
            |owner| format!("{owner} AS owner, {ROW_HEADER}{sizes} AS size"),
            None,
        );
        format!(
            "SELECT u.market, count(*), coalesce(sum(o.size), 0)::bigint FROM ({rows}) AS o \
             JOIN {users} AS u ON u.key = o.owner{record} WHERE {lives} GROUP BY u.market",
            users = self.users(),
            record = self.record("u"),
            lives = self.lives("u"),
        )
    }

    fn page(&self, continued: bool) -> String {
        let key = self.schema.users.kind.sql_type();
        // The parameter stands in both forms, so that both take the same three.
        let after = if continued {
            format!("u.key > $2::text::{key}")
        } else {
            "$2::text IS NULL".to_owned()
        };
        self.counted(&format!(
            "SELECT u.key FROM {users} AS u{record} \
             WHERE u.market = ANY($1::text[]) AND {after} AND {lives} ORDER BY u.key LIMIT $3",
            users = self.users(),
            record = self.record("u"),
            lives = self.lives("u"),
        ))
    }

    /// The users that `page` selects, with the number of their rows in all owned tables.
    fn counted(&self, page: &str) -> String {
        let key = self.schema.users.kind.sql_type();
        let mut sql = format!(
            "WITH wanted(user_key) AS MATERIALIZED ({page}) \
             SELECT key::text, sum(n)::bigint FROM (SELECT user_key AS key, 0::bigint AS n FROM wanted"
        );
        for table in &self.schema.owned {
            let rows = table.select(
                Among::Relation("wanted"),
                |owner| format!("({owner})::{key} AS user_key"),
                None,
            );
            sql.push_str(&format!(
                " UNION ALL SELECT user_key, count(*) FROM ({rows}) AS o GROUP BY user_key"
            ));
        }
        sql.push_str(") AS counted GROUP BY counted.key ORDER BY counted.key");
        sql
    }
}

fn orphans(schema: &HomeSchema, table: &OwnedTable) -> String {
    let (users, key) = (schema.users.name.sql(), quote(&schema.users.key));
    format!(
        "SELECT count(*) FROM {} AS t WHERE NOT EXISTS \
         (SELECT FROM ({}) AS w(owner) JOIN {users} AS u ON u.{key} = w.owner)",
        table.name.sql(),
        table.owners_of("t"),
    )
}

/// Counts and sums of sizes are never negative.
fn count(number: i64) -> u64 {
    number.unsigned_abs()
}
