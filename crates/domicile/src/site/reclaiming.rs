//! Takes a batch back from a destroyed site, for a command of the same machine that has the word of two operators.

use std::sync::Arc;

use ::daemon::{Router, View};
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use ledger::destroyed::Signed;
use model::SiteName;
use mover::compare::Teller;
use mover::reclaim::Reclaimed;
use remote::Distant;
use serde::{Deserialize, Serialize};

use super::departures::Failed;
use super::linked;
use crate::commands::destroyed::Claimed;
use crate::commands::homes::Home;
use crate::commands::routes::end;
use crate::config::Config;
use crate::exit::{Exit, Failure, Outcome};

/// A statement, as it stands in its file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) statement: String,
}

/// This site, and its links.
struct Here {
    config: Arc<Config>,
    site: SiteName,
    view: View,
}

/// `POST /reclaim`, answered with [`Reclaimed`], or refused with a [`Failed`]. The statement is judged by the configuration of the daemon, not of whoever asks.
pub(super) fn routes(config: Arc<Config>, site: SiteName, view: View) -> Router {
    let here = Arc::new(Here { config, site, view });
    Router::new()
        .route("/reclaim", post(reclaim))
        .with_state(here)
}

async fn reclaim(State(here): State<Arc<Here>>, Json(wanted): Json<Wanted>) -> Response {
    // Carried to its end, whether or not somebody still listens.
    let done = tokio::spawn(async move { here.reclaim(&wanted.statement).await }).await;
    match done {
        Ok(Ok(reclaimed)) => Json(reclaimed).into_response(),
        Ok(Err(failure)) => (StatusCode::CONFLICT, Json(Failed::from(failure))).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

// === impl Here ===

impl Here {
    async fn reclaim(&self, statement: &str) -> Outcome<Reclaimed> {
        let signed = Signed::parse(statement).map_err(|_| {
            Failure::usage("the daemon of the site reads no statement in that")
                .mend("its program must be of the version of this one")
        })?;
        let claimed = Claimed::verify(&self.config, &signed)?;
        let (name, gone) = (&claimed.service, &claimed.claim.destroyed);
        if claimed.source != self.site {
            return Err(Failure::usage(format_args!(
                "{name}: the batch is {}'s to take back",
                claimed.source
            ))
            .mend(format!(
                "run it where the daemon of {} runs",
                claimed.source
            )));
        }
        if self.view.office(name).is_none() {
            return Err(
                Failure::usage(format_args!("{name}: this daemon does not lead"))
                    .mend("ask the one that does: `GET /status` of each says which"),
            );
        }
        let Some(link) = self.view.peer(gone) else {
            return Err(Failure::new(
                Exit::Unreached,
                anyhow::anyhow!("{name}: this daemon does not hold the link, and cannot tell whether {gone} lives"),
            )
            .mend("`GET /status` of the daemons says which one does, and why none"));
        };
        if link.session().is_some() {
            return Err(Failure::usage(format_args!(
                "{name}: {} is linked with {gone}, so it is not destroyed",
                self.site
            ))
            .mend("it is asked about the batch by itself"));
        }
        let mut tellers: Vec<Arc<dyn Teller>> = Vec::new();
        for peer in claimed.others(&self.config)? {
            let link = linked(&self.view, name, &peer).map_err(|failure| {
                failure.mend(format!(
                    "every other site has to be heard, as the destroyed one may have handed users on: bring {peer} back"
                ))
            })?;
            tellers.push(Arc::new(Distant::new(link, name.clone())));
        }
        let service = self.config.service(name)?;
        let home = Home::open_installed(name, service, &self.site, "reclaim").await?;
        tracing::warn!(service = %name, %gone, batch = %claimed.claim.batch, "two operators state that a site is destroyed: taking a batch back");
        claimed.carry_out(&end(service, &home)?, &tellers).await
    }
}
