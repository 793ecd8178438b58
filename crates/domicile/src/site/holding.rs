//! Whether a peer holds a batch that went there: a command asks the daemon, the daemon the peer.

use ::daemon::{Router, View};
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use model::{BatchId, ServiceName, SiteName};
use mover::Error;
use mover::erase::Holder;
use mover::ports::Soon;
use remote::Asker;
use serde::{Deserialize, Serialize};

use super::ask::Asked;
use super::departures::Failed;
use super::linked;
use super::told;
use crate::commands::apply::failure;
use crate::exit::Outcome;

/// A batch, and the site that it went to.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    service: ServiceName,
    batch: BatchId,
    target: SiteName,
}

/// What the target says.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    held: bool,
}

/// `POST /holds`, answered with [`Held`] by the target's own word, or refused with a [`Failed`].
pub(super) fn routes(view: View) -> Router {
    Router::new().route("/holds", post(holds)).with_state(view)
}

async fn holds(State(view): State<View>, Json(wanted): Json<Wanted>) -> Response {
    match held(&view, wanted).await {
        Ok(held) => Json(Held { held }).into_response(),
        Err(failure) => (StatusCode::CONFLICT, Json(Failed::from(failure))).into_response(),
    }
}

async fn held(view: &View, wanted: Wanted) -> Outcome<bool> {
    let Wanted {
        service,
        batch,
        target,
    } = wanted;
    let peer = linked(view, &service, &target)?;
    let asked = Asker::new(peer, service.clone()).holds(batch).await;
    asked.map_err(|error| failure(error, format!("{service}: asking {target} what it holds")))
}

/// A target whose database is not known here: it is asked by the daemon of this site.
pub struct ByDaemon {
    daemon: Asked,
    target: SiteName,
}

// === impl ByDaemon ===

impl ByDaemon {
    /// `target`, asked by `daemon`.
    pub fn new(daemon: Asked, target: SiteName) -> Self {
        Self { daemon, target }
    }
}

impl Holder for ByDaemon {
    fn site(&self) -> &SiteName {
        &self.target
    }

    fn holds<'a>(
        &'a self,
        service: &'a ServiceName,
        batch: &'a BatchId,
    ) -> Soon<'a, mover::Result<bool>> {
        Box::pin(async move {
            let wanted = Wanted {
                service: service.clone(),
                batch: batch.clone(),
                target: self.target.clone(),
            };
            let held: Outcome<Held> = self.daemon.question("/holds", &wanted).await;
            held.map(|held| held.held).map_err(|failure| Error::Peer {
                site: self.target.clone(),
                what: told(&failure),
                sqlstate: None,
                ends: false,
            })
        })
    }
}
