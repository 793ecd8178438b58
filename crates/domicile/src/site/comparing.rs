//! Compares this site's records with its peers', opens it once that is done, and goes on hearing them; and tells them in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ::daemon::{Leading, Soon, Work, WorkError};
use futures_util::future::try_join_all;
use model::{ServiceName, SiteName};
use mover::Error;
use mover::compare::{self, Page, Place, Teller as _};
use mover::failure::Failure as Told;
use mover::route::End;
use postgres::connect::Session;
use remote::{Distant, Reception, Tells};
use residency::door;
use tokio::sync::{Mutex, watch};

use super::homes::told;
use crate::commands::homes::Home;
use crate::commands::routes::{end, peers};
use crate::config::{Config, Service};
use crate::exit::Outcome;

/// How often a peer is asked whether there is something new.
const EVERY: Duration = Duration::from_secs(1);

/// How often it is said that a peer is waited for.
const SAID_EVERY: u32 = 60;
const SAID_FIRST: u32 = 3;

/// The work of whoever leads a service.
pub(super) struct Comparing {
    config: Arc<Config>,
    site: SiteName,
}

// === impl Comparing ===

impl Comparing {
    pub(super) fn new(config: Arc<Config>, site: SiteName) -> Self {
        Self { config, site }
    }

    async fn home(&self, name: &ServiceName) -> Outcome<(End, Session)> {
        let service = self.config.service(name)?;
        let home = Home::open_installed(name, service, &self.site, "compare").await?;
        let end = end(service, &home)?;
        Ok((end, home.session))
    }

    async fn work(&self, leading: &Leading) -> Result<(), WorkError> {
        let name = &leading.service;
        let peers = peers(&self.config, name, &self.site).map_err(|failure| failure.to_string())?;
        // Those who were not heard to the end yet in this term.
        let waited_for = watch::Sender::new(peers.clone());
        let hearing = peers
            .iter()
            .map(|peer| self.follow(leading, peer, &waited_for));
        let hearing = try_join_all(hearing);
        let opening = async {
            let mut left = waited_for.subscribe();
            // The sender lives as long as this does.
            let _ = left.wait_for(BTreeSet::is_empty).await;
            let (here, mut session) = self.home(name).await.map_err(|f| f.to_string())?;
            if compare::open(&here, &mut session, "compared with its peers").await? {
                tracing::info!(service = %name, "compared with all peers since the server started: open");
            }
            Ok::<_, WorkError>(())
        };
        futures_util::try_join!(hearing, opening)?;
        Ok(())
    }

    /// Hears `peer` for as long as the term lasts.
    async fn follow(
        &self,
        leading: &Leading,
        peer: &SiteName,
        waited_for: &watch::Sender<BTreeSet<SiteName>>,
    ) -> Result<(), WorkError> {
        let name = &leading.service;
        let (here, mut session) = self.home(name).await.map_err(|f| f.to_string())?;
        // Before a restarted site is opened, nothing that it sent before may be accepted any more.
        let mut settled = door::is_open(&*session).await?;
        let mut silent = 0;
        loop {
            let heard = match leading.view.peer(peer) {
                Some(link) => {
                    let distant = Distant::new(link, name.clone());
                    async {
                        if !settled {
                            distant.settle(&self.site).await?;
                        }
                        compare::hear_out(&here, &mut session, &distant).await
                    }
                    .await
                }
                None => Err(Error::Left { site: peer.clone() }),
            };
            match heard {
                Ok(heard) => {
                    (silent, settled) = (0, true);
                    let (lost, overtaken) = (heard.lost, heard.overtaken);
                    if lost + overtaken > 0 {
                        tracing::error!(
                            service = %name, %peer, lost, overtaken,
                            "this database went back in time: users were closed (domicile resolve)"
                        );
                    }
                    waited_for.send_if_modified(|left| left.remove(peer));
                }
                Err(error) if is_the_peers(&error, &self.site) => {
                    if silent % SAID_EVERY == SAID_FIRST && waited_for.borrow().contains(peer) {
                        let error = model::causes(&error);
                        tracing::warn!(service = %name, %peer, error, "not compared with this peer yet");
                    }
                    silent = silent.saturating_add(1);
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// Whether it is worth asking the peer again, with the session that there is.
fn is_the_peers(error: &Error, here: &SiteName) -> bool {
    match error {
        Error::Left { .. } | Error::Disorder { .. } | Error::Peer { .. } => true,
        Error::Residency { site, .. }
        | Error::Postgres { site, .. }
        | Error::Connect { site, .. } => site != here,
        _ => false,
    }
}

impl Work for Comparing {
    fn name(&self) -> &'static str {
        "comparing"
    }

    fn lead(&self, leading: Leading) -> Soon<'_, Result<(), WorkError>> {
        Box::pin(async move {
            // A page is taken whole or not at all.
            tokio::select! {
                done = self.work(&leading) => done,
                () = leading.stop.cancelled() => Ok(()),
            }
        })
    }
}

/// This site's own records, for peers who ask.
pub(super) struct OwnRecords {
    config: Arc<Config>,
    site: SiteName,
    reception: Arc<Reception>,
    sessions: Mutex<BTreeMap<ServiceName, Session>>,
}

// === impl OwnRecords ===

impl OwnRecords {
    pub(super) fn new(config: Arc<Config>, site: SiteName, reception: Arc<Reception>) -> Self {
        Self {
            config,
            site,
            reception,
            sessions: Mutex::default(),
        }
    }

    /// Whether the service has a home here.
    fn has(&self, service: &ServiceName) -> bool {
        let at_home = |service: &Service| service.databases.contains_key(&self.site);
        self.config.services.get(service).is_some_and(at_home)
    }

    async fn open(&self, service: &ServiceName, purpose: &str) -> Result<Session, Told> {
        let opened = async {
            let configured = self.config.service(service)?;
            Home::open_installed(service, configured, &self.site, purpose).await
        };
        let home = opened.await.map_err(|failure| told(&self.site, failure))?;
        Ok(home.session)
    }
}

impl Tells for OwnRecords {
    fn settle<'a>(
        &'a self,
        service: &'a ServiceName,
        from: &'a SiteName,
    ) -> Soon<'a, Result<(), Told>> {
        Box::pin(async move {
            if !self.has(service) {
                return Ok(());
            }
            self.reception.end(from, service);
            let session = self.open(service, "settle").await?;
            let settled = compare::settle(&session, &self.site, from).await;
            settled.map_err(|error| Told::of(&error, &self.site))
        })
    }

    fn tell<'a>(
        &'a self,
        service: &'a ServiceName,
        after: Option<Place>,
    ) -> Soon<'a, Result<Page, Told>> {
        Box::pin(async move {
            if !self.has(service) {
                // Nobody of it lives here, or did.
                return Ok(Page {
                    from: None,
                    to: None,
                    users: Vec::new(),
                    more: false,
                });
            }
            let mut sessions = self.sessions.lock().await;
            if sessions
                .get(service)
                .is_none_or(|session| session.is_closed())
            {
                let session = self.open(service, "tell").await?;
                sessions.insert(service.clone(), session);
            }
            let Some(session) = sessions.get_mut(service) else {
                return Err(Told::Left {
                    site: self.site.clone(),
                });
            };
            let page = residency::tidings::tell(session, after.as_ref()).await;
            page.map_err(|source| {
                let error = Error::Residency {
                    site: self.site.clone(),
                    doing: "telling of changes of home",
                    source,
                };
                sessions.remove(service);
                Told::of(&error, &self.site)
            })
        })
    }
}
