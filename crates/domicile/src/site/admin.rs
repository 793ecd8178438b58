//! What commands of the same machine say to the daemon, over its admin socket.

use std::sync::Arc;

use ::daemon::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Json, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::stream;
use model::{MoveId, UserKey};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::departures::{Departures, Ended, Failed, Told};
use crate::commands::plan::Measure;
use crate::exit::{Exit, Failure, Outcome};

/// What is to be planned, or done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// The phase; without it the first that is not complete.
    pub phase: Option<String>,
    /// These users alone.
    pub users: Option<Vec<UserKey>>,
    /// Whether every row is counted.
    #[serde(default)]
    pub rows: bool,
}

/// Moves whose users are to be taken home.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Back {
    /// The moves.
    pub moves: Vec<MoveId>,
}

/// `POST /plan`, answered with the plan, and `POST /apply` and `/rollback`, answered with one event a line and at last how it ended. A refusal
/// is a [`Failed`], with a code that is not 200.
pub(super) fn routes(departures: Arc<Departures>) -> Router {
    Router::new()
        .route("/plan", post(plan))
        .route("/apply", post(apply))
        .route("/rollback", post(rollback))
        .with_state(departures)
}

async fn plan(State(departures): State<Arc<Departures>>, Json(wanted): Json<Wanted>) -> Response {
    let measure = match wanted.rows {
        true => Measure::Rows,
        false => Measure::Users,
    };
    match departures.plan(wanted.phase.as_deref(), measure).await {
        Ok(plan) => Json(plan).into_response(),
        Err(failure) => refused(failure),
    }
}

async fn apply(State(departures): State<Arc<Departures>>, Json(wanted): Json<Wanted>) -> Response {
    let phase = wanted.phase.as_deref();
    let ordered = match departures.plan(phase, Measure::Users).await {
        Ok(plan) => departures.order(Departures::leaving(&plan, &wanted.users)),
        Err(failure) => Err(failure),
    };
    answered(ordered)
}

async fn rollback(State(departures): State<Arc<Departures>>, Json(back): Json<Back>) -> Response {
    answered(match departures.going_back(back.moves).await {
        Ok(errands) => departures.order(errands),
        Err(failure) => Err(failure),
    })
}

fn answered(ordered: Outcome<Vec<mpsc::UnboundedReceiver<Told>>>) -> Response {
    match ordered {
        Ok(told) => {
            let lines = stream::unfold(Lines::of(told), Lines::next);
            let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
            (kind, Body::from_stream(lines)).into_response()
        }
        Err(failure) => refused(failure),
    }
}

fn refused(failure: Failure) -> Response {
    (StatusCode::CONFLICT, Json(Failed::from(failure))).into_response()
}

/// What is told of several services, one after the other, and how all of it ended.
struct Lines {
    told: Vec<mpsc::UnboundedReceiver<Told>>,
    ended: Option<Ended>,
}

// === impl Lines ===

impl Lines {
    fn of(mut told: Vec<mpsc::UnboundedReceiver<Told>>) -> Self {
        told.reverse();
        let ended = Some(Ended::default());
        Self { told, ended }
    }

    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Self)> {
        while let Some(told) = self.told.last_mut() {
            let ended = match told.recv().await {
                Some(event @ Told::Event(_)) => return Some((Ok(line(&event)), self)),
                Some(Told::Ended(ended)) => ended,
                None => Ended {
                    failed: Some(Failed::from(cut_off())),
                    ..Ended::default()
                },
            };
            self.told.pop();
            if let Some(all) = &mut self.ended {
                all.mismatches += ended.mismatches;
                all.failed = all.failed.take().or(ended.failed);
            }
        }
        let all = self.ended.take()?;
        Some((Ok(line(&Told::Ended(all))), self))
    }
}

/// Nobody tells any more: the daemon has ended, or leads no more.
fn cut_off() -> Failure {
    Failure::new(
        Exit::Unreached,
        anyhow::anyhow!(
            "the daemon ends, or leads no more; whoever leads next goes on with the move"
        ),
    )
}

fn line(told: &Told) -> Bytes {
    let mut line = serde_json::to_vec(told).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
