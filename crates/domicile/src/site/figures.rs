//! What a peer says to `report` and `plan --suggest`; and what this site says to peers.

use ::daemon::{Router, View};
use axum::extract::{Json, State};
use axum::response::Response;
use axum::routing::post;
use model::ServiceName;
use postgres::connect::Session;
use remote::figures::{Ask, Said};
use residency::{left, traffic};

use super::peer::{Peer, Wanted, passed_on};
use crate::exit::Outcome;
use crate::traffic::course::Summed;

/// `POST /figures`: see [`passed_on`].
pub(super) fn routes(view: View) -> Router {
    Router::new()
        .route("/figures", post(figures))
        .with_state(view)
}

async fn figures(State(view): State<View>, Json(wanted): Json<Wanted<Ask>>) -> Response {
    passed_on(&view, wanted, "for its history", |asker, ask| async move {
        asker.figures(ask).await
    })
    .await
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
        self.question("/figures", service, ask).await
    }
}
