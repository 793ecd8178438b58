//! Whether a user's rows are found by an index: every batch looks for them several times.

use std::collections::BTreeSet;

use model::table::{HomeSchema, TableName, quote};
use tokio_postgres::Client;

use super::{Expectation, Findings};
use crate::catalog::ReadError;

/// From which size on, in bytes, reading a whole table for every batch of 64 users takes longer than all else.
const LARGE: i64 = 16 << 20;

/// Names the large tables whose rows a batch would look for without an index.
pub(super) async fn look(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    for (table, columns) in searched(expect.schema) {
        // An index serves if it begins with these columns, in whatever order. One with a condition is trusted: the ways
        // to an owner have conditions, too.
        let sql = "SELECT coalesce((SELECT sum(pg_relation_size(p.relid)) FROM pg_partition_tree(t.oid) AS p), \
                                   pg_relation_size(t.oid))::bigint >= $3 \
                      AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = t.oid AND i.indisvalid AND \
                          ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, n) \
                                  JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = k.attnum \
                                 WHERE k.n <= cardinality($2::text[])) @> $2::text[]) \
                     FROM (SELECT to_regclass($1)::oid AS oid) AS t";
        let row = client
            .query_one(sql, &[&table.sql(), &columns, &LARGE])
            .await
            .map_err(ReadError::of(format!("the indexes of {table}")))?;
        // NULL: the table is not there, which is said elsewhere.
        if row.get::<_, Option<bool>>(0) == Some(true) {
            let columns: Vec<String> = columns.iter().map(|column| quote(column)).collect();
            let columns = columns.join(", ");
            findings.warning(
                format!("no index on {table} begins with ({columns}): every batch of users reads the whole table"),
                format!("CREATE INDEX CONCURRENTLY ON {} ({columns})", table.sql()),
            );
        }
    }
    Ok(())
}

/// The columns by which rows are looked for, from the users on. The user table has its key.
fn searched(schema: &HomeSchema) -> BTreeSet<(TableName, Vec<String>)> {
    let mut found = BTreeSet::new();
    for table in schema.owned.iter().filter(|t| t.name != schema.users.name) {
        for way in &table.ways {
            found.insert(match way.hops.first() {
                None => (table.name.clone(), vec![way.column.clone()]),
                Some(hop) => (table.name.clone(), hop.columns.clone()),
            });
            let parents = way.hops.iter().filter(|hop| hop.against);
            found.extend(parents.map(|hop| (hop.parent.clone(), hop.parent_columns.clone())));
        }
    }
    found
}
