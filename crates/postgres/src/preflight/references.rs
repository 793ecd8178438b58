//! Catalogue data must be the same at all sites, or users would arrive who point at nothing.

use std::collections::BTreeMap;

use model::SiteName;
use model::table::{HomeSchema, TableName, quote};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::{Finding, Findings};
use crate::catalog::ReadError;

/// What a reference table contains, whatever the order of its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceDigest {
    /// How many rows.
    pub rows: u64,
    /// The sum of the rows' hashes.
    pub digest: String,
}

/// Digests every reference table on the server; only the digests travel.
///
/// A row is its columns' text form under the session's pinned settings, columns in the order of
/// their names; its SHA-256 is added to the table's as two numbers of 64 bits. A sum, unlike an exclusive or,
/// sees a row that stands twice.
///
/// `client` must be a session of [`connect`](crate::connect::connect). Each table is read under a snapshot of its own.
pub async fn reference_digest(
    client: &Client,
    schema: &HomeSchema,
) -> Result<BTreeMap<TableName, ReferenceDigest>, ReadError> {
    let mut digests = BTreeMap::new();
    for name in schema.references.keys() {
        if let Some(digest) = reference_digest_of(client, schema, name, &[]).await? {
            digests.insert(name.clone(), digest);
        }
    }
    Ok(digests)
}

/// As [`reference_digest`], of the table `name`, each row hashed behind `key`: digests under another key do not compare. `None` where that is
/// no reference table here.
pub async fn reference_digest_of(
    client: &Client,
    schema: &HomeSchema,
    name: &TableName,
    key: &[u8],
) -> Result<Option<ReferenceDigest>, ReadError> {
    let Some(columns) = schema.references.get(name) else {
        return Ok(None);
    };
    let mut columns: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    columns.sort_unstable();
    let columns: Vec<String> = columns
        .iter()
        .map(|column| format!("t.{}", quote(column)))
        .collect();
    let half = |from: u8| {
        format!("sum(('x' || encode(substr(h, {from}, 8), 'hex'))::bit(64)::bigint::numeric)")
    };
    let sql = format!(
        "SELECT count(*), concat_ws(':', {}, {}) FROM \
         (SELECT sha256($1::bytea || convert_to(ROW({})::text, 'UTF8')) AS h FROM {} AS t) AS hashed",
        half(1),
        half(9),
        columns.join(", "),
        name.sql(),
    );
    let row = client
        .query_one(&sql, &[&key])
        .await
        .map_err(ReadError::of(format!("reference table {name}")))?;
    Ok(Some(ReferenceDigest {
        rows: row.get::<_, i64>(0).unsigned_abs(),
        digest: row.get(1),
    }))
}

/// Names the reference tables whose contents differ at `b` from `a`.
pub fn compare_references(
    a: (&SiteName, &BTreeMap<TableName, ReferenceDigest>),
    b: (&SiteName, &BTreeMap<TableName, ReferenceDigest>),
) -> Vec<Finding> {
    let mut findings = Findings {
        site: b.0,
        list: Vec::new(),
    };
    for (name, digest) in a.1 {
        // A table that stands on one side alone is a difference of the schemas.
        let Some(other) = b.1.get(name).filter(|other| *other != digest) else {
            continue;
        };
        findings.blocker(
            format!(
                "reference table {name} holds other rows at {} ({}) than at {} ({})",
                b.0, other.rows, a.0, digest.rows
            ),
            format!(
                "make {name} equal at {} and {}, or classify it otherwise",
                a.0, b.0
            ),
        );
    }
    findings.list
}
