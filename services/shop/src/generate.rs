//! The shop grown to any size: Chinook's schema and catalogue, with generated customers and
//! invoices.
//!
//! Deterministic: the same options give the same rows. Invoices are written in time order, so one
//! user's rows lie scattered over the table, as they do in a shop that grew.

use anyhow::{Context as _, Result, ensure};
use tokio_postgres::Client;

use crate::chinook;

/// How many invoices are inserted by one statement; bounds one transaction's size.
const INVOICES_PER_STATEMENT: i64 = 500_000;

/// How large the shop is to be.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Users, with the keys 1 to `customers`.
    pub customers: u32,
    /// Invoices of each user.
    pub invoices_per_customer: u32,
    /// Lines of each invoice.
    pub lines_per_invoice: u32,
}

/// What is generated.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much.
    pub size: Size,
    /// The markets and their weights; `country` holds these very values.
    pub markets: Vec<(String, u32)>,
    /// Whether `customer.email` gets a unique index.
    pub unique_email: bool,
}

/// Constraints and indexes that are taken away before the load and built afterwards: twenty times
/// faster than keeping them up row by row. Names as in Chinook.
const DROP: &str = "
ALTER TABLE invoice_line DROP CONSTRAINT invoice_line_invoice_id_fkey,
                         DROP CONSTRAINT invoice_line_track_id_fkey,
                         DROP CONSTRAINT invoice_line_pkey;
DROP INDEX invoice_line_invoice_id_idx, invoice_line_track_id_idx, invoice_customer_id_idx;
ALTER TABLE invoice DROP CONSTRAINT invoice_customer_id_fkey, DROP CONSTRAINT invoice_pkey;";

const CREATE: [&str; 8] = [
    "ALTER TABLE invoice ADD CONSTRAINT invoice_pkey PRIMARY KEY (invoice_id)",
    "ALTER TABLE invoice_line ADD CONSTRAINT invoice_line_pkey PRIMARY KEY (invoice_line_id)",
    "CREATE INDEX invoice_customer_id_idx ON invoice (customer_id)",
    "CREATE INDEX invoice_line_invoice_id_idx ON invoice_line (invoice_id)",
    "CREATE INDEX invoice_line_track_id_idx ON invoice_line (track_id)",
    "ALTER TABLE invoice ADD CONSTRAINT invoice_customer_id_fkey
         FOREIGN KEY (customer_id) REFERENCES customer (customer_id)",
    "ALTER TABLE invoice_line ADD CONSTRAINT invoice_line_invoice_id_fkey
         FOREIGN KEY (invoice_id) REFERENCES invoice (invoice_id)",
    "ALTER TABLE invoice_line ADD CONSTRAINT invoice_line_track_id_fkey
         FOREIGN KEY (track_id) REFERENCES track (track_id)",
];

/// Fills an empty database with schema, catalogue, customers, invoices and lines, and analyses it.
///
/// # Errors
///
/// Where the database is not empty, no market has a weight, or the ids would not fit in 31 bits.
pub async fn generate(client: &Client, options: &Options) -> Result<()> {
    chinook::load_catalogue(client).await?;
    let codes = spread(&options.markets)?;
    let size = options.size;
    let customers = i64::from(size.customers);
    let invoices = customers * i64::from(size.invoices_per_customer);
    let lines = i64::from(size.lines_per_invoice);
    ensure!(
        invoices * lines.max(1) <= i64::from(i32::MAX),
        "Chinook's ids have 31 bits: {invoices} invoices of {lines} lines are too many"
    );

    client
        .batch_execute(DROP)
        .await
        .context("cannot prepare the tables")?;
    client
        .execute(INSERT_CUSTOMERS, &[&codes, &customers])
        .await
        .context("cannot generate customers")?;
    if options.unique_email {
        client
            .batch_execute("CREATE UNIQUE INDEX customer_email_key ON customer (email)")
            .await
            .context("cannot index e-mail addresses")?;
    }
    let step = coprime_near_golden(customers);
    let mut first = 1;
    while first <= invoices {
        let last = invoices.min(first + INVOICES_PER_STATEMENT - 1);
        client
            .execute(
                INSERT_INVOICES,
                &[&codes, &customers, &step, &first, &last, &lines],
            )
            .await
            .context("cannot generate invoices")?;
        client
            .execute(INSERT_LINES, &[&first, &last, &lines])
            .await
            .context("cannot generate invoice lines")?;
        first = last + 1;
    }
    for statement in CREATE {
        client
            .batch_execute(statement)
            .await
            .context("cannot build the indexes")?;
    }
    client
        .batch_execute("ANALYZE customer, invoice, invoice_line")
        .await
        .context("cannot analyse")
}

/// A user's market is the entry at a scrambled position, so that markets are spread evenly over
/// the keys.
const INSERT_CUSTOMERS: &str = "
INSERT INTO customer (customer_id, first_name, last_name, address, city, country, postal_code,
                      phone, email, support_rep_id)
SELECT i, 'First' || i, 'Last' || i, i || ' Market Street', 'City ' || i % 500, m.code,
       lpad((i % 100000)::text, 5, '0'), '+' || (10000000000 + i), 'user' || i || '@example.com',
       3 + i % 3
FROM (SELECT i, $1::text[] AS codes FROM generate_series(1, $2::bigint) AS i) AS u,
     LATERAL (SELECT codes[1 + ((i * 2654435761) % 4294967296 / 65536) % cardinality(codes)]) AS m(code)";

const INSERT_INVOICES: &str = "
INSERT INTO invoice (invoice_id, customer_id, invoice_date, billing_address, billing_city,
                     billing_country, billing_postal_code, total)
SELECT n, c, timestamp '2013-01-01' + n * interval '7 seconds', c || ' Market Street',
       'City ' || c % 500,
       codes[1 + ((c * 2654435761) % 4294967296 / 65536) % cardinality(codes)],
       lpad((c % 100000)::text, 5, '0'), 0.99 * $6::bigint * (1 + n % 3)
FROM (SELECT n, 1 + n * $3::bigint % $2::bigint AS c, $1::text[] AS codes
      FROM generate_series($4::bigint, $5::bigint) AS n) AS i";

const INSERT_LINES: &str = "
INSERT INTO invoice_line (invoice_line_id, invoice_id, track_id, unit_price, quantity)
SELECT id, n, 1 + id * 7919 % 3503, 0.99, 1 + n % 3
FROM (SELECT n, (n - 1) * $3::bigint + l AS id
      FROM generate_series($1::bigint, $2::bigint) AS n, generate_series(1, $3::bigint) AS l) AS x";

/// The markets' codes, each as often as its weight says.
fn spread(markets: &[(String, u32)]) -> Result<Vec<String>> {
    let total: u64 = markets.iter().map(|(_, weight)| u64::from(*weight)).sum();
    ensure!(total > 0, "no market has a weight");
    ensure!(
        total <= 10_000,
        "the weights of all markets sum up to {total}; 10000 is the most"
    );
    Ok(markets
        .iter()
        .flat_map(|(code, weight)| std::iter::repeat_n(code.clone(), *weight as usize))
        .collect())
}

/// A step that visits all customers before any again, far from the one before: coprime to their
/// number, and near its golden section.
fn coprime_near_golden(customers: i64) -> i64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below i32::MAX, and only a start"
    )]
    #[expect(
        clippy::cast_precision_loss,
        reason = "below i32::MAX, and only a start"
    )]
    let start = (customers as f64 * 0.618) as i64;
    (start.max(1)..)
        .find(|step| greatest_common_divisor(*step, customers) == 1)
        .unwrap_or(1)
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_step_visits_every_customer() {
        for customers in [1, 2, 7, 59, 1000, 4096] {
            let step = coprime_near_golden(customers);
            let visited: HashSet<i64> = (0..customers).map(|n| n * step % customers).collect();
            assert_eq!(visited.len() as i64, customers);
        }
    }

    #[test]
    fn weights_of_nothing_are_refused() {
        assert!(spread(&[]).is_err());
        assert!(spread(&[("CN".to_owned(), 0)]).is_err());
    }
}
