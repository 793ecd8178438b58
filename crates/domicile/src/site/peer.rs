//! A site whose database is not known where a command runs: the command asks the daemon of this site, the daemon the peer.

use ::daemon::View;
use axum::extract::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use model::{ServiceName, SiteName};
use remote::Asker;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ask::Asked;
use super::departures::Failed;
use super::linked;
use crate::commands::apply::failure;
use crate::exit::Outcome;

/// A question about one service, and the site that it is for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wanted<A> {
    service: ServiceName,
    peer: SiteName,
    ask: A,
}

/// A site whose database is not known here: it is asked by the daemon of this site.
#[derive(Debug)]
pub struct Peer {
    /// The site.
    pub site: SiteName,
    daemon: Asked,
}

// === impl Peer ===

impl Peer {
    /// `site`, asked by `daemon`.
    pub fn new(daemon: Asked, site: SiteName) -> Self {
        Self { site, daemon }
    }

    /// What it says to `ask` about `service`, by the daemon's `path`.
    pub(super) async fn question<A: Serialize, S: DeserializeOwned>(
        &self,
        path: &str,
        service: &ServiceName,
        ask: A,
    ) -> Outcome<S> {
        let wanted = Wanted {
            service: service.clone(),
            peer: self.site.clone(),
            ask,
        };
        self.daemon.question(path, &wanted).await
    }
}

/// The daemon's side: what the peer said, or a [`Failed`]. `about` ends the sentence that begins with asking the peer.
pub(super) async fn passed_on<A, S: Serialize, F>(
    view: &View,
    wanted: Wanted<A>,
    about: &str,
    ask: impl FnOnce(Asker, A) -> F,
) -> Response
where
    F: Future<Output = mover::Result<S>>,
{
    let Wanted {
        service,
        peer,
        ask: what,
    } = wanted;
    let asked = async {
        let link = linked(view, &service, &peer)?;
        let said = ask(Asker::new(link, service.clone()), what).await;
        said.map_err(|error| failure(error, format!("{service}: asking {peer} {about}")))
    };
    let asked: Outcome<S> = asked.await;
    match asked {
        Ok(said) => Json(said).into_response(),
        Err(failure) => (StatusCode::CONFLICT, Json(Failed::from(failure))).into_response(),
    }
}
