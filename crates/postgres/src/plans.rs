//! Makes the planner find some users' rows among everybody's by index.
//!
//! A chunk or a batch is few users among any number, but the planner does not know it: a target has no statistics while
//! rows pour in, and a merge with a whole index looks cheaper than it is where a user's rows are scattered. Measured with
//! 5,000 of 1,000,000 users: 4.0 s by the planner's own choice, 0.13 s by index.

use model::table::{HomeSchema, OwnedTable, literal};
use tokio_postgres::GenericClient;

use crate::error::{Doing, Result};
use crate::kept::Kept;

/// Until the transaction ends, rows are found by index alone, if every owned table has one on the columns that lead to
/// its owner; else whole tables may be read, once each. JIT is off because the penalty on the rest would trigger it.
pub async fn by_index(tx: &impl GenericClient, home: &HomeSchema) -> Result<()> {
    tx.batch_execute(&statement(home))
        .await
        .doing("preparing to find users' rows by index")
}

/// What does the same for a session that does so again and again: it looks but once for the indexes. One that is dropped
/// meanwhile makes the rest slow, not wrong. A plan that is kept is made for any users; where no index finds them, it is
/// made for those who are asked for, so that whole tables are compared with a hash of them.
pub(crate) async fn settings(
    session: &impl GenericClient,
    kept: &Kept,
    home: &HomeSchema,
) -> Result<&'static str> {
    let doing = "preparing to find users' rows by index";
    let sql = format!("SELECT NOT {}", missing(home));
    let all = kept.answer(session, &sql).await.doing(doing)?;
    Ok(if all {
        "SET LOCAL jit = off; SET LOCAL enable_seqscan = off; \
         SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
    } else {
        "SET LOCAL jit = off; SET LOCAL enable_seqscan = off; SET LOCAL plan_cache_mode = force_custom_plan"
    })
}

/// Users are few if they are fewer than one of so many: then their rows are found faster by index than by reading whole
/// tables. Measured with 1,000,000 users, see CONTRIBUTING, "Speed".
const FEW: f64 = 50.0;

/// Whether `users` are few among all who have a row here.
pub async fn are_few(tx: &impl GenericClient, home: &HomeSchema, users: usize) -> Result<bool> {
    let row = tx
        .query_one(
            "SELECT reltuples::float8 FROM pg_catalog.pg_class WHERE oid = $1::text::regclass",
            &[&home.users.name.sql()],
        )
        .await
        .doing("looking how many users there are")?;
    Ok(users as f64 * FEW < row.get::<_, f64>(0))
}

/// What [`by_index`] runs.
pub(crate) fn statement(home: &HomeSchema) -> String {
    format!(
        "SET LOCAL jit = off; SET LOCAL enable_seqscan = off;
         SELECT set_config(method, 'off', true) FROM unnest(ARRAY['enable_hashjoin', 'enable_mergejoin']) AS method
         WHERE NOT {}",
        missing(home)
    )
}

/// Whether an owned table has no index on the columns that lead to its owner.
fn missing(home: &HomeSchema) -> String {
    let ways = home.owned.iter().flat_map(found_by);
    let ways = ways.map(|(oid, column)| format!("({oid}::oid, {}::name)", literal(column)));
    format!(
        "EXISTS (SELECT FROM (VALUES {}) AS way(relation, name) WHERE NOT EXISTS (
             SELECT FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_attribute AS a
                 ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
             WHERE i.indrelid = way.relation AND a.attname = way.name AND i.indisvalid AND i.indpred IS NULL))",
        ways.collect::<Vec<_>>().join(", ")
    )
}

/// The columns by which the rows of `table` are found, each the first of its step: its own, or, against the arrow, those of
/// the table that points here.
fn found_by(table: &OwnedTable) -> impl Iterator<Item = (u32, &str)> {
    table.ways.iter().map(|way| match way.hops.first() {
        Some(hop) if hop.against => (hop.parent_oid, hop.parent_columns[0].as_str()),
        Some(hop) => (table.oid, hop.columns[0].as_str()),
        None => (table.oid, way.column.as_str()),
    })
}
