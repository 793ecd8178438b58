//! What a peer says to `verify`: the command asks the daemon, the daemon the peer.

use ::daemon::{Router, View};
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use model::{ServiceName, SiteName};
use mover::audit::{Ask, Said};
use remote::Asker;
use serde::{Deserialize, Serialize};

use super::ask::Asked;
use super::departures::Failed;
use super::linked;
use crate::commands::apply::failure;
use crate::exit::{Exit, Failure, Outcome};

/// A question about one service, and the site that it is for.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    service: ServiceName,
    peer: SiteName,
    ask: Ask,
}

/// `POST /verify`, answered with what the peer says, or refused with a [`Failed`].
pub(super) fn routes(view: View) -> Router {
    Router::new()
        .route("/verify", post(verify))
        .with_state(view)
}

async fn verify(State(view): State<View>, Json(wanted): Json<Wanted>) -> Response {
    match said(&view, wanted).await {
        Ok(said) => Json(said).into_response(),
        Err(failure) => (StatusCode::CONFLICT, Json(Failed::from(failure))).into_response(),
    }
}

async fn said(view: &View, wanted: Wanted) -> Outcome<Said> {
    let Wanted { service, peer, ask } = wanted;
    let link = linked(view, &service, &peer)?;
    let said = Asker::new(link, service.clone()).audit(ask).await;
    said.map_err(|error| failure(error, format!("{service}: asking {peer} what it knows")))
}

/// A site whose database is not known here: it is asked by the daemon of this site.
#[derive(Debug)]
pub struct Peer {
    /// The site.
    pub site: SiteName,
    pub(super) daemon: Asked,
}

// === impl Peer ===

impl Peer {
    /// `site`, asked by `daemon`.
    pub fn new(daemon: Asked, site: SiteName) -> Self {
        Self { site, daemon }
    }

    /// What it says of `service`.
    ///
    /// # Errors
    /// 3 where it or the daemon does not answer.
    pub async fn ask(&self, service: &ServiceName, ask: Ask) -> Outcome<Said> {
        let wanted = Wanted {
            service: service.clone(),
            peer: self.site.clone(),
            ask,
        };
        let said: Said = self.daemon.question("/verify", &wanted).await?;
        match said.answers(&wanted.ask) {
            true => Ok(said),
            false => Err(Failure::new(
                Exit::Unreached,
                anyhow::anyhow!("{} says what was not asked", self.site),
            )),
        }
    }
}
