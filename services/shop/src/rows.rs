//! The shop's rows as workload and checker see them: a key and the columns that are compared.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::site::{Connection, Site};

/// Which row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum RowKey {
    Customer(i32),
    Invoice(i32),
    Line(i32),
}

/// What a row holds, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum RowValue {
    Customer {
        company: Option<String>,
    },
    Invoice {
        customer: i32,
        address: Option<String>,
        total: String,
    },
    Line {
        invoice: i32,
        track: i32,
        price: String,
        quantity: i32,
    },
}

/// Rows of one or more users; more than one value for a key means that a key stands there twice.
pub(crate) type Rows = BTreeMap<RowKey, Vec<RowValue>>;

/// Reads, in one snapshot, all rows at `site` that belong to `users` or whose keys are in `known`.
/// The latter finds a row that fell to a wrong owner.
pub(crate) async fn read(site: &Site, users: &[i32], known: &[RowKey]) -> Result<Rows> {
    let mut connection = Connection::open(site).await?;
    read_in_snapshot(&mut connection, users, known)
        .await
        .with_context(|| format!("cannot read the rows at {}", site.name))
}

async fn read_in_snapshot(
    connection: &mut Connection,
    users: &[i32],
    known: &[RowKey],
) -> Result<Rows> {
    let mut known_customers: Vec<i32> = users.to_vec();
    let mut known_invoices: Vec<i32> = Vec::new();
    let mut known_lines: Vec<i32> = Vec::new();
    for key in known {
        match key {
            RowKey::Customer(id) => known_customers.push(*id),
            RowKey::Invoice(id) => known_invoices.push(*id),
            RowKey::Line(id) => known_lines.push(*id),
        }
    }
    let transaction = connection
        .client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let mut rows = Rows::new();

    let customers = "SELECT customer_id, company FROM customer WHERE customer_id = ANY($1)";
    for row in transaction.query(customers, &[&known_customers]).await? {
        let company = row.get(1);
        rows.entry(RowKey::Customer(row.get(0)))
            .or_default()
            .push(RowValue::Customer { company });
    }
    let invoices = "SELECT invoice_id, customer_id, billing_address, total::text FROM invoice
                    WHERE customer_id = ANY($1) OR invoice_id = ANY($2)";
    let mut invoice_ids = known_invoices.clone();
    for row in transaction
        .query(invoices, &[&users, &known_invoices])
        .await?
    {
        invoice_ids.push(row.get(0));
        rows.entry(RowKey::Invoice(row.get(0)))
            .or_default()
            .push(RowValue::Invoice {
                customer: row.get(1),
                address: row.get(2),
                total: row.get(3),
            });
    }
    let lines = "SELECT invoice_line_id, invoice_id, track_id, unit_price::text, quantity
                 FROM invoice_line WHERE invoice_id = ANY($1) OR invoice_line_id = ANY($2)";
    for row in transaction
        .query(lines, &[&invoice_ids, &known_lines])
        .await?
    {
        rows.entry(RowKey::Line(row.get(0)))
            .or_default()
            .push(RowValue::Line {
                invoice: row.get(1),
                track: row.get(2),
                price: row.get(3),
                quantity: row.get(4),
            });
    }
    transaction.commit().await?;
    Ok(rows)
}
