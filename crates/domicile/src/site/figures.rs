//! What a peer says to `report` and `plan --suggest`: the command asks the daemon, the daemon the peer; and what this site says to peers.

use ::daemon::{Router, View};
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use model::{ServiceName, SiteName};
use postgres::connect::Session;
use remote::Asker;
use remote::figures::{Ask, Said};
use residency::{left, traffic};
use serde::{Deserialize, Serialize};

use super::departures::Failed;
use super::linked;
use super::verifying::Peer;
use crate::commands::apply::failure;
use crate::exit::Outcome;
use crate::traffic::course::Summed;

/// A question about one service, and the site that it is for.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    service: ServiceName,
    peer: SiteName,
    ask: Ask,
}

/// `POST /figures`, answered with what the peer says, or refused with a [`Failed`].
pub(super) fn routes(view: View) -> Router {
    Router::new()
        .route("/figures", post(figures))
        .with_state(view)
}

async fn figures(State(view): State<View>, Json(wanted): Json<Wanted>) -> Response {
    match asked(&view, wanted).await {
        Ok(said) => Json(said).into_response(),
        Err(failure) => (StatusCode::CONFLICT, Json(Failed::from(failure))).into_response(),
    }
}

async fn asked(view: &View, wanted: Wanted) -> Outcome<Said> {
    let Wanted { service, peer, ask } = wanted;
    let link = linked(view, &service, &peer)?;
    let said = Asker::new(link, service.clone()).figures(ask).await;
    said.map_err(|error| failure(error, format!("{service}: asking {peer} for its history")))
}

/// What this site says of its history.
pub(super) async fn say(session: &Session, ask: Ask) -> residency::Result<Said> {
    match ask {
        Ask::Left => left::left(&**session).await.map(Said::Left),
        Ask::Traffic { since, cuts } => {
            let mut summed = Summed::new(cuts);
            traffic::history(&**session, since, |one| summed.add(&one)).await?;
            Ok(Said::Traffic(summed.into_rows()))
        }
    }
}

impl Peer {
    /// What it says of the history of `service`.
    ///
    /// # Errors
    /// 3 where it or the daemon does not answer.
    pub async fn figures(&self, service: &ServiceName, ask: Ask) -> Outcome<Said> {
        let wanted = Wanted {
            service: service.clone(),
            peer: self.site.clone(),
            ask,
        };
        self.daemon.question("/figures", &wanted).await
    }
}
