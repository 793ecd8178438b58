//! The shop behind HTTP, as it runs at one site: what an application must do so that a gateway can send its users' requests where they
//! live, and no more.
//!
//! All of it is the error type `Refusal`: one place that turns the database's refusal of a write for a user who is not here into `421`, with the nonce
//! that the refusal carries. The gateway then knows that nothing was executed, and sends the request to where the user lives.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::site::{Connection, Site};

/// Connections to the database, each of which one request has at a time.
const CONNECTIONS: usize = 16;

/// The shop of one site, answering until it is dropped.
#[derive(Debug)]
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    done: Arc<Done>,
    task: JoinHandle<()>,
}

/// What it has done, for tests.
#[derive(Debug, Default)]
struct Done {
    invoices: Mutex<Vec<i32>>,
    /// Reads that were answered for somebody who does not live here.
    strangers: Mutex<Vec<String>>,
}

/// An invoice as a request brings it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Its key, unique everywhere.
    pub invoice: i32,
}

/// What a user sees of himself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Account {
    /// The site that answers.
    pub site: String,
    /// His last invoice.
    pub last: Option<i32>,
}

#[derive(Clone)]
struct Shop {
    site: String,
    sessions: Arc<Sessions>,
    done: Arc<Done>,
}

struct Sessions {
    open: Vec<tokio::sync::Mutex<Connection>>,
    next: std::sync::atomic::AtomicUsize,
}

// === impl Application ===

impl Application {
    /// Starts it at a free port of this machine, in front of the database of `site`.
    pub async fn start(site: &Site) -> Result<Self> {
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            open.push(tokio::sync::Mutex::new(Connection::open(site).await?));
        }
        let done = Arc::new(Done::default());
        let shop = Shop {
            site: site.name.clone(),
            sessions: Arc::new(Sessions {
                open,
                next: 0.into(),
            }),
            done: Arc::clone(&done),
        };
        let routes = Router::new()
            .route("/users/{user}", get(account))
            .route("/users/{user}/invoices", post(invoice))
            .with_state(shop);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                eprintln!("the shop has ended: {error}");
            }
        });
        Ok(Self {
            address,
            done,
            task,
        })
    }

    /// The invoices that it has written, in order.
    pub fn invoices(&self) -> Vec<i32> {
        locked(&self.done.invoices).clone()
    }

    /// Reads that it answered for users who do not live at its site.
    pub fn strangers(&self) -> Vec<String> {
        locked(&self.done.strangers).clone()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Sessions ===

impl Sessions {
    async fn one(&self) -> tokio::sync::MutexGuard<'_, Connection> {
        let next = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.open[next % self.open.len()].lock().await
    }
}

/// What a user sees of himself.
async fn account(
    State(shop): State<Shop>,
    Path(user): Path<i32>,
) -> Result<Json<Account>, Refusal> {
    let session = shop.sessions.one().await;
    let row = session
        .client
        .query_one(
            "SELECT (SELECT max(invoice_id) FROM invoice WHERE customer_id = $1), \
                    domicile.where_is($1) ->> 'home', domicile.where_is($1) ->> 'state'",
            &[&user],
        )
        .await?;
    let (home, state): (String, String) = (row.get(1), row.get(2));
    if home != shop.site || !matches!(state.as_str(), "settled" | "moving") {
        let stranger = format!("{user} at {}: {state}, at home in {home}", shop.site);
        locked(&shop.done.strangers).push(stranger);
    }
    Ok(Json(Account {
        site: shop.site.clone(),
        last: row.get(0),
    }))
}

/// Writes an invoice.
async fn invoice(
    State(shop): State<Shop>,
    Path(user): Path<i32>,
    Json(order): Json<Order>,
) -> Result<Json<Account>, Refusal> {
    let mut session = shop.sessions.one().await;
    if let Err(error) = write(&mut session.client, user, order).await {
        if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION)
            && let Some(nonce) = nonce_of_home(&session.client, user, &shop.site).await?
        {
            return Err(Refusal::Elsewhere(nonce));
        }
        return Err(error.into());
    }
    locked(&shop.done.invoices).push(order.invoice);
    Ok(Json(Account {
        site: shop.site.clone(),
        last: Some(order.invoice),
    }))
}

/// One transaction a request: whatever refuses it, nothing of the request is left when this returns.
async fn write(session: &mut Client, user: i32, order: Order) -> Result<(), tokio_postgres::Error> {
    let tx = session.transaction().await?;
    let insert = "INSERT INTO invoice (invoice_id, customer_id, invoice_date, total) VALUES ($1, $2, now(), 1)";
    match tx.execute(insert, &[&order.invoice, &user]).await {
        Ok(_) => tx.commit().await,
        Err(error) => {
            tx.rollback().await?;
            Err(error)
        }
    }
}

/// A request that the database refused. The one handler that the gateway's contract asks for.
#[derive(Debug)]
enum Refusal {
    /// With this error.
    Database(tokio_postgres::Error),
    /// By a foreign key, as the user lives elsewhere: with the site's nonce.
    Elsewhere(String),
}

impl From<tokio_postgres::Error> for Refusal {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (nonce, error) = match self {
            Self::Elsewhere(nonce) => (Some(nonce), None),
            Self::Database(error) => (nonce(&error), Some(error)),
        };
        if let Some(nonce) = nonce {
            let refused = [("domicile-refused", nonce)];
            return (StatusCode::MISDIRECTED_REQUEST, refused).into_response();
        }
        if let Some(error) = error {
            if error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
                return StatusCode::CONFLICT.into_response();
            }
            eprintln!("a request failed: {error}");
        }
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

/// After a foreign key refused a row, where the guard rests: the nonce, if the user does not live at this `site`.
async fn nonce_of_home(
    session: &Client,
    user: i32,
    site: &str,
) -> Result<Option<String>, tokio_postgres::Error> {
    let row = session
        .query_one(
            "SELECT w ->> 'home', w ->> 'state', w ->> 'nonce' FROM domicile.where_is($1::integer) AS w",
            &[&user],
        )
        .await?;
    let (home, state): (String, String) = (row.get(0), row.get(1));
    let here = home == site && matches!(state.as_str(), "settled" | "moving");
    Ok((!here).then(|| row.get(2)))
}

/// The nonce of the guard's refusal, if the database's `error` is one.
fn nonce(error: &tokio_postgres::Error) -> Option<String> {
    let refused = error.as_db_error()?;
    let code = refused.code();
    if code.code() != "DM421" && *code != SqlState::T_R_SERIALIZATION_FAILURE {
        return None;
    }
    let detail: serde_json::Value = serde_json::from_str(refused.detail()?).ok()?;
    detail.get("nonce")?.as_str().map(str::to_owned)
}

fn locked<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
