//! One attempt to commit one operation at one site, and what the site's answer means.

use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::Isolation;
use crate::log::{Change, Line, money};
use crate::site::{Connection, Site};

/// After this long a statement or COMMIT counts as a lost connection: longer than any fence or
/// crash recovery that a client would sit through.
const PATIENCE: Duration = Duration::from_secs(30);

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Attempt {
    /// COMMIT returned.
    Acknowledged,
    /// Refused for now (`40001`, `40P01`, a time-out); nothing happened.
    Again,
    /// The user does not live at this site (`DM421`); his home, where the answer named it.
    NotHere(Option<String>),
    /// A row of the user is not at this site: its old copy was erased, or it never was here.
    NoRow,
    /// The connection failed before COMMIT was sent; nothing happened.
    Disconnected,
    /// The connection failed in COMMIT.
    Unknown,
    /// Refused with a code that a correct site does not answer.
    Unexpected(String),
}

/// A writer's connection to one site, with its statements prepared.
pub(super) struct Session {
    connection: Connection,
    statements: Statements,
}

struct Statements {
    insert_customer: Statement,
    update_customer: Statement,
    insert_invoice: Statement,
    update_invoice: Statement,
    delete_invoice: Statement,
    insert_lines: Statement,
    delete_line: Statement,
    delete_lines: Statement,
}

/// What goes wrong inside a transaction.
enum Trouble {
    /// A statement changed no row although the application knows of one.
    NoRow,
    Refused(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Trouble {
        Trouble::Refused(error)
    }
}

/// DETAIL of `DM421`.
#[derive(Deserialize)]
struct NotHereDetail {
    home: Option<String>,
}

// === impl Session ===

impl Session {
    pub(super) async fn open(site: &Site) -> Result<Session> {
        let opened = timeout(PATIENCE, async {
            let connection = Connection::open(site).await?;
            let statements = Statements::prepare(&connection.client).await?;
            Ok(Session {
                connection,
                statements,
            })
        });
        opened.await?
    }

    /// Whether the connection is of no more use.
    pub(super) fn is_closed(&self) -> bool {
        self.connection.client.is_closed()
    }

    /// Carries `change` out for `user` in one transaction, pausing for `hold` before COMMIT.
    pub(super) async fn attempt(
        &self,
        user: i32,
        change: &Change,
        isolation: Isolation,
        hold: Duration,
    ) -> Attempt {
        let client = &self.connection.client;
        let body = async {
            client.batch_execute(isolation.begin()).await?;
            self.statements.run(client, user, change).await
        };
        match timeout(PATIENCE, body).await {
            Ok(Ok(())) => {}
            Ok(Err(trouble)) => {
                let meaning = match trouble {
                    Trouble::NoRow => Attempt::NoRow,
                    Trouble::Refused(error) => meaning_of(&error),
                };
                return match timeout(PATIENCE, client.batch_execute("ROLLBACK")).await {
                    Ok(Ok(())) => meaning,
                    // The refusal stands: without COMMIT nothing happened.
                    _ if client.is_closed() => meaning,
                    _ => Attempt::Disconnected,
                };
            }
            Err(_elapsed) => return Attempt::Disconnected,
        }
        if !hold.is_zero() {
            tokio::time::sleep(hold).await;
        }
        match timeout(PATIENCE, client.batch_execute("COMMIT")).await {
            Ok(Ok(())) => Attempt::Acknowledged,
            Ok(Err(error)) => match error.as_db_error() {
                // An ERROR answers COMMIT with a rollback. A FATAL one ends the connection, perhaps
                // while the commit, already written, waited for a standby.
                Some(refusal) if refusal.parsed_severity() == Some(Severity::Error) => {
                    meaning_of_refusal(refusal)
                }
                _ => Attempt::Unknown,
            },
            Err(_elapsed) => Attempt::Unknown,
        }
    }
}

// === impl Statements ===

impl Statements {
    async fn prepare(client: &Client) -> Result<Statements> {
        Ok(Statements {
            insert_customer: client
                .prepare(
                    "INSERT INTO customer (customer_id, first_name, last_name, email, country, company)
                     VALUES ($1, 'New', 'User', 'new' || $1::int || '@example.com', $2, $3)",
                )
                .await?,
            update_customer: client
                .prepare("UPDATE customer SET company = $2 WHERE customer_id = $1")
                .await?,
            insert_invoice: client
                .prepare(
                    "INSERT INTO invoice (invoice_id, customer_id, invoice_date, billing_address, total)
                     VALUES ($1, $2, localtimestamp, $3, $4::text::numeric)",
                )
                .await?,
            update_invoice: client
                .prepare(
                    "UPDATE invoice SET billing_address = $2, total = $3::text::numeric
                     WHERE invoice_id = $1",
                )
                .await?,
            delete_invoice: client
                .prepare("DELETE FROM invoice WHERE invoice_id = $1")
                .await?,
            insert_lines: client
                .prepare(
                    "INSERT INTO invoice_line (invoice_line_id, invoice_id, track_id, unit_price, quantity)
                     SELECT l, $1, t, p::numeric, q
                     FROM unnest($2::int[], $3::int[], $4::text[], $5::int[]) AS line(l, t, p, q)",
                )
                .await?,
            delete_line: client
                .prepare("DELETE FROM invoice_line WHERE invoice_line_id = $1")
                .await?,
            delete_lines: client
                .prepare("DELETE FROM invoice_line WHERE invoice_id = $1")
                .await?,
        })
    }

    async fn run(&self, client: &Client, user: i32, change: &Change) -> Result<(), Trouble> {
        match change {
            Change::CreateUser { market, company } => {
                one(client, &self.insert_customer, &[&user, market, company]).await
            }
            Change::EditUser { company } => {
                one(client, &self.update_customer, &[&user, company]).await
            }
            Change::CreateInvoice {
                invoice,
                stamp,
                lines,
            } => {
                let total = money(stamp.cents);
                let values: [&(dyn ToSql + Sync); 4] = [invoice, &user, &stamp.address, &total];
                one(client, &self.insert_invoice, &values).await?;
                self.insert_lines(client, *invoice, lines).await
            }
            Change::EditInvoice { invoice, stamp } => {
                let total = money(stamp.cents);
                one(
                    client,
                    &self.update_invoice,
                    &[invoice, &stamp.address, &total],
                )
                .await
            }
            Change::AddLine {
                invoice,
                stamp,
                line,
            } => {
                let total = money(stamp.cents);
                one(
                    client,
                    &self.update_invoice,
                    &[invoice, &stamp.address, &total],
                )
                .await?;
                self.insert_lines(client, *invoice, std::slice::from_ref(line))
                    .await
            }
            Change::DeleteLine {
                invoice,
                stamp,
                line,
            } => {
                let total = money(stamp.cents);
                one(client, &self.delete_line, &[line]).await?;
                one(
                    client,
                    &self.update_invoice,
                    &[invoice, &stamp.address, &total],
                )
                .await
            }
            Change::DeleteInvoice { invoice } => {
                client.execute(&self.delete_lines, &[invoice]).await?;
                one(client, &self.delete_invoice, &[invoice]).await
            }
        }
    }

    async fn insert_lines(
        &self,
        client: &Client,
        invoice: i32,
        lines: &[Line],
    ) -> Result<(), Trouble> {
        let ids: Vec<i32> = lines.iter().map(|line| line.id).collect();
        let tracks: Vec<i32> = lines.iter().map(|line| line.track).collect();
        let prices: Vec<String> = lines.iter().map(|line| money(line.cents)).collect();
        let quantities: Vec<i32> = lines.iter().map(|line| line.quantity).collect();
        client
            .execute(
                &self.insert_lines,
                &[&invoice, &ids, &tracks, &prices, &quantities],
            )
            .await?;
        Ok(())
    }
}

/// Runs a statement that must change exactly one row.
async fn one(
    client: &Client,
    statement: &Statement,
    values: &[&(dyn ToSql + Sync)],
) -> Result<(), Trouble> {
    match client.execute(statement, values).await? {
        1 => Ok(()),
        _ => Err(Trouble::NoRow),
    }
}

/// What it means that no session could be opened.
pub(super) fn meaning_of_failed_open(error: &anyhow::Error) -> Attempt {
    match error.downcast_ref::<tokio_postgres::Error>() {
        Some(error) => meaning_of(error),
        // A time-out.
        None => Attempt::Disconnected,
    }
}

fn meaning_of(error: &tokio_postgres::Error) -> Attempt {
    match error.as_db_error() {
        Some(refusal) => meaning_of_refusal(refusal),
        None => Attempt::Disconnected,
    }
}

/// What a refusal before COMMIT, or instead of it, means.
fn meaning_of_refusal(refusal: &DbError) -> Attempt {
    let code = refusal.code();
    let again = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        // A time-out of the role's own.
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::QUERY_CANCELED,
    ];
    if again.contains(code) {
        Attempt::Again
    } else if code.code() == "DM421" {
        let detail = refusal
            .detail()
            .and_then(|text| serde_json::from_str::<NotHereDetail>(text).ok());
        Attempt::NotHere(detail.and_then(|detail| detail.home))
    } else if *code == SqlState::FOREIGN_KEY_VIOLATION {
        // The user's row, or the invoice, was erased here.
        Attempt::NoRow
    } else if code.code().starts_with("57P") || code.code().starts_with("53") {
        // Shutdown, crash, start-up; or out of connections or memory: later, on a new connection.
        Attempt::Disconnected
    } else {
        Attempt::Unexpected(format!(
            "{} on {}",
            code.code(),
            refusal
                .constraint()
                .or(refusal.table())
                .unwrap_or("a statement")
        ))
    }
}
