//! The admin API: how the daemon is, and, on the socket alone, what it is told to do.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::serve::Listener;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::view::View;

/// The media type of what is served as metrics.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Known {
    view: View,
    metrics: Arc<Registry>,
}

/// What anybody who reaches the address may see: nothing in it is personal or secret, and nothing can be told.
pub(crate) fn health(view: &View, metrics: &Arc<Registry>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Known {
            view: view.clone(),
            metrics: Arc::clone(metrics),
        })
}

/// What stands on the socket beside it; further routes are merged.
pub(crate) fn status(view: &View) -> Router {
    Router::new()
        .route("/status", get(show_status))
        .with_state(view.clone())
}

/// Serves `router` until `over`, and lets what is being answered end.
pub(crate) async fn serve<L>(listener: L, router: Router, over: CancellationToken)
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(over.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the admin API has ended");
    }
}

async fn healthz() -> &'static str {
    "alive\n"
}

async fn readyz(State(known): State<Known>) -> Response {
    let found = known.view.readiness();
    let (code, word) = match found.ready {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    (code, format!("{word}: {}\n", found.says)).into_response()
}

async fn metrics_text(State(known): State<Known>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &known.metrics) {
        Ok(()) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn show_status(State(view): State<View>) -> Response {
    Json(view.status()).into_response()
}
