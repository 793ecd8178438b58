//! What a peer says to `verify`.

use ::daemon::{Router, View};
use axum::extract::{Json, State};
use axum::response::Response;
use axum::routing::post;
use model::ServiceName;
use mover::audit::{Ask, Said};

use super::peer::{Peer, Wanted, passed_on};
use crate::exit::{Exit, Failure, Outcome};

/// `POST /verify`: see [`passed_on`].
pub(super) fn routes(view: View) -> Router {
    Router::new()
        .route("/verify", post(verify))
        .with_state(view)
}

async fn verify(State(view): State<View>, Json(wanted): Json<Wanted<Ask>>) -> Response {
    passed_on(&view, wanted, "what it knows", |asker, ask| async move {
        asker.audit(ask).await
    })
    .await
}

impl Peer {
    /// What it says of `service`.
    ///
    /// # Errors
    /// 3 where it or the daemon does not answer.
    pub async fn ask(&self, service: &ServiceName, ask: Ask) -> Outcome<Said> {
        let said: Said = self.question("/verify", service, &ask).await?;
        match said.answers(&ask) {
            true => Ok(said),
            false => Err(Failure::new(
                Exit::Unreached,
                anyhow::anyhow!("{} says what was not asked", self.site),
            )),
        }
    }
}
