//! The application's clients: they write for settled users, in one of four shapes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use rand::RngExt as _;
use tokio_postgres::{Client, Statement};

use super::data::{self, COUNTRIES, SETTLED_FROM};
use super::stage::{SHOP, Server};
use crate::cost;

/// What one transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Updates a row whose column names its owner.
    Row,
    /// Updates the customer, inserts an invoice and three lines.
    Order,
    /// Updates a row whose owner is two foreign keys away.
    Path,
    /// Updates many rows of many users in one statement.
    Bulk,
}

/// A settled user, one of his invoices and one of its lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    customer: i32,
    invoice: i32,
    line: i32,
}

/// A connection with its statements prepared.
#[derive(Debug)]
pub(crate) struct Writer {
    client: Client,
    backend: u32,
    update_customer: Statement,
    insert_invoice: Statement,
    insert_line: Statement,
    update_invoice: Statement,
    update_line: Statement,
}

/// What some writers did in a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Transactions a second.
    pub(crate) rate: f64,
    /// CPU of the writers' own backends, in microseconds a transaction.
    pub(crate) cpu_us: f64,
}

/// How many users the writers write for: few enough to be cached, many enough not to meet.
const USERS: u32 = 2_000;

// === impl Shape ===

impl Shape {
    pub(crate) const ALL: [Shape; 4] = [Shape::Row, Shape::Order, Shape::Path, Shape::Bulk];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Shape::Row => "row",
            Shape::Order => "order",
            Shape::Path => "path",
            Shape::Bulk => "bulk",
        }
    }
}

/// Settled users, in no order.
pub(crate) async fn settled_users(source: &Server) -> Result<Vec<Known>> {
    let client = source.connect("postgres", SHOP).await?;
    let sql = format!(
        "SELECT DISTINCT ON (c.customer_id) c.customer_id, i.invoice_id, l.invoice_line_id
         FROM (SELECT customer_id FROM customer WHERE country IN ({})
               ORDER BY hashint4(customer_id) LIMIT {USERS}) AS c
         JOIN invoice AS i USING (customer_id) JOIN invoice_line AS l USING (invoice_id)",
        data::list(&COUNTRIES[SETTLED_FROM..])
    );
    let rows = client.query(&sql, &[]).await?;
    let known = |row: &tokio_postgres::Row| Known {
        customer: row.get(0),
        invoice: row.get(1),
        line: row.get(2),
    };
    Ok(rows.iter().map(known).collect())
}

// === impl Writer ===

impl Writer {
    pub(crate) async fn connect(server: &Server, database: &str) -> Result<Self> {
        let client = server.connect(data::ROLE, database).await?;
        let backend: i32 = client
            .query_one("SELECT pg_backend_pid()", &[])
            .await?
            .get(0);
        Ok(Self {
            backend: u32::try_from(backend)?,
            update_customer: client
                .prepare("UPDATE customer SET phone = phone WHERE customer_id = $1")
                .await?,
            insert_invoice: client
                .prepare(
                    "INSERT INTO invoice (customer_id, invoice_date, billing_city, total)
                     VALUES ($1, now(), 'Springfield', 2.97) RETURNING invoice_id",
                )
                .await?,
            insert_line: client
                .prepare(
                    "INSERT INTO invoice_line (invoice_id, track_id, unit_price, quantity) VALUES ($1, 17, 0.99, 1)",
                )
                .await?,
            update_invoice: client
                .prepare("UPDATE invoice SET total = total + 0.01 WHERE invoice_id = $1")
                .await?,
            update_line: client
                .prepare("UPDATE invoice_line SET quantity = quantity + 1 WHERE invoice_line_id = $1")
                .await?,
            client,
        })
    }

    /// Says which rows [`Shape::Bulk`] updates: `rows` invoices of settled users.
    pub(crate) async fn prepare_bulk(&self, rows: u64) -> Result<()> {
        let sql = format!(
            "CREATE TEMPORARY TABLE bulk AS SELECT invoice_id FROM invoice JOIN customer USING (customer_id)
             WHERE country IN ({}) ORDER BY invoice_id LIMIT {rows}; ANALYZE bulk",
            data::list(&COUNTRIES[SETTLED_FROM..])
        );
        self.client
            .batch_execute(&sql)
            .await
            .context("cannot choose rows to update")
    }

    /// One transaction.
    pub(crate) async fn write(
        &self,
        shape: Shape,
        who: &Known,
    ) -> Result<(), tokio_postgres::Error> {
        let client = &self.client;
        match shape {
            Shape::Row => {
                client
                    .execute(&self.update_invoice, &[&who.invoice])
                    .await?;
            }
            Shape::Path => {
                client.execute(&self.update_line, &[&who.line]).await?;
            }
            Shape::Bulk => {
                let bulk = "UPDATE invoice SET total = total + 0.01 WHERE invoice_id IN (SELECT invoice_id FROM bulk)";
                client.batch_execute(bulk).await?;
            }
            Shape::Order => {
                client.batch_execute("BEGIN").await?;
                client
                    .execute(&self.update_customer, &[&who.customer])
                    .await?;
                let invoice: i32 = client
                    .query_one(&self.insert_invoice, &[&who.customer])
                    .await?
                    .get(0);
                for _ in 0..3 {
                    client.execute(&self.insert_line, &[&invoice]).await?;
                }
                client.batch_execute("COMMIT").await?;
            }
        }
        Ok(())
    }
}

/// Lets `writers` write as fast as they can for `length`, bulk updates once.
pub(crate) async fn slice(
    writers: &[Writer],
    shape: Shape,
    known: &[Known],
    length: Duration,
) -> Result<Slice> {
    // A bulk update is one client's.
    let writers = match shape {
        Shape::Bulk => &writers[..1],
        Shape::Row | Shape::Order | Shape::Path => writers,
    };
    let cpu = || -> f64 {
        let each = writers.iter().map(|w| cost::of_process(w.backend));
        each.sum::<Duration>().as_secs_f64()
    };
    let before = cpu();
    let began = Instant::now();
    let each = writers.iter().map(async |writer| {
        let mut done = 0_u64;
        loop {
            let who = known[rand::rng().random_range(0..known.len())];
            writer.write(shape, &who).await?;
            done += 1;
            if shape == Shape::Bulk || began.elapsed() >= length {
                return anyhow::Ok(done);
            }
        }
    });
    let done: u64 = try_join_all(each).await?.into_iter().sum();
    let wall = began.elapsed();
    Ok(Slice {
        rate: done as f64 / wall.as_secs_f64(),
        cpu_us: (cpu() - before) * 1e6 / done as f64,
    })
}
