//! What this site says to a peer that verifies: from its own database, one answer at a time, and no more than the peer may hear.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::{ServiceName, SiteName};
use mover::audit::{Ask, Here, Said, say};
use tokio::sync::Semaphore;

use super::answers::WITHIN;
use crate::commands::apply::failure;
use crate::commands::homes::Home;
use crate::commands::routes::peers;
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};

/// Questions of a peer about one service that are answered or wait: somebody who asks one after the other has one. Those beyond are refused, as
/// each takes a place among what is heard of the peer.
const ASKED_MAX: usize = 4;

/// How long a session and what it read of the catalog are kept for the next question: a run asks hundreds.
const KEPT: Duration = Duration::from_secs(20);

/// A service, as a peer asks about it.
type Asked = (SiteName, ServiceName);

/// The turns of one peer at one database.
struct Turns {
    places: Semaphore,
    /// The session of the last answer, and since when it is open. Whoever holds this answers.
    kept: tokio::sync::Mutex<Option<(Home, Instant)>>,
}

/// This site's own databases, for peers that verify.
pub(super) struct Saying {
    config: Arc<Config>,
    site: SiteName,
    turns: Mutex<HashMap<Asked, Arc<Turns>>>,
}

// === impl Saying ===

impl Saying {
    pub(super) fn new(config: Arc<Config>, site: SiteName) -> Self {
        Self {
            config,
            site,
            turns: Mutex::default(),
        }
    }

    /// Answers `peer`. Of a service that is led here there is a database here: so there are few turns.
    pub(super) async fn say(
        &self,
        name: &ServiceName,
        peer: &SiteName,
        ask: &Ask,
    ) -> Outcome<Said> {
        if !peers(&self.config, name, &self.site)?.contains(peer) {
            return Err(Failure::usage(format_args!(
                "{name}: no user of it goes to {peer} or comes from there"
            )));
        }
        let turns = self.turns(peer, name);
        let Ok(_place) = turns.places.try_acquire() else {
            return Err(Failure::new(
                Exit::Unreached,
                anyhow::anyhow!("{name}: {peer} asks too much at a time"),
            ));
        };
        let mut kept = turns.kept.lock().await;
        // Taken out while it is used: what was cut off half-way is not used again.
        let (mut home, since) = match kept.take() {
            Some((home, since)) if since.elapsed() < KEPT && !home.session.is_closed() => {
                (home, since)
            }
            _ => (self.open(name).await?, Instant::now()),
        };
        let schema = home.schema()?.clone();
        let mut here = Here {
            service: name,
            site: &self.site,
            schema: &schema,
            origin: self.config.service(name)?.origin == self.site,
            session: &mut home.session,
        };
        let said = say(&mut here, Some(peer), ask).await;
        let said =
            said.map_err(|error| failure(error, format!("{name}: looking back at users")))?;
        *kept = Some((home, since));
        Ok(said)
    }

    fn turns(&self, peer: &SiteName, name: &ServiceName) -> Arc<Turns> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let of = turns.entry((peer.clone(), name.clone()));
        Arc::clone(of.or_insert_with(|| {
            Arc::new(Turns {
                places: Semaphore::new(ASKED_MAX),
                kept: tokio::sync::Mutex::default(),
            })
        }))
    }

    async fn open(&self, name: &ServiceName) -> Outcome<Home> {
        let service = self.config.service(name)?;
        let home = Home::open_installed(name, service, &self.site, "answers").await?;
        // The server, too, gives up what nobody waits for any more.
        let bounded = postgres::audit::bound(&home.session, WITHIN).await;
        bounded.or_fail(Exit::Unreached, || format!("{name}: answering a peer"))?;
        Ok(home)
    }
}
