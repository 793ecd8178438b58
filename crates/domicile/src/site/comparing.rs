//! Compares this site's records with its peers', opens it once that is done, and goes on hearing them; and tells them in turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::daemon::{Leading, Soon, View, Work, WorkError};
use futures_util::future::try_join_all;
use model::{ServiceName, SiteName};
use mover::Error;
use mover::compare::{self, Page, Place, Round, Teller as _};
use mover::failure::Failure as Told;
use mover::route::End;
use postgres::connect::Session;
use remote::{Distant, Reception, Tells};
use residency::door;
use tokio::sync::Mutex;

use super::failure_of;
use crate::commands::homes::Home;
use crate::commands::routes::{end, peers};
use crate::config::{Config, Service};
use crate::exit::Outcome;

/// How often a peer is asked whether there is something new.
const EVERY: Duration = Duration::from_secs(1);

/// The same until the site is open.
const SOON: Duration = Duration::from_millis(200);

/// It is said that a peer is waited for at the third time that it does not answer, and after so many more.
const SAID_FIRST: u32 = 3;
const SAID_EVERY: u32 = 60;

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
        let (here, mut own) = self.home(name).await.map_err(|f| f.to_string())?;
        let mut hearings = Vec::new();
        for peer in peers {
            let session = here.session("compare").await?;
            hearings.push(Hearing {
                here: here.clone(),
                peer,
                session,
                settled: false,
                silent: 0,
            });
        }
        // Whether in the round before every peer said that it has heard its own.
        let mut all_ready = false;
        loop {
            let heard = door::has_heard(&*own).await?;
            let door = door::look(&*own).await?;
            // Who has closed it by hand opens it by hand.
            let wants_opening = !door.open && door.shut.is_none();
            let round = hearings.iter_mut();
            let round = round.map(|hearing| hearing.round(leading, !heard, wants_opening));
            let round = try_join_all(round).await?;
            let whole = round.iter().all(Option::is_some) && !compare::again(&here, &own).await?;
            let ready = whole && round.iter().flatten().all(|round| round.ready);
            if whole && !heard {
                door::hear(&*own).await?;
            }
            if heard
                && wants_opening
                && ready
                && all_ready
                && compare::open(&here, &mut own, "compared with its peers").await?
            {
                tracing::info!(service = %name, "compared with all peers since the server started: open");
            }
            all_ready = heard && ready;
            tokio::time::sleep(if whole && wants_opening { SOON } else { EVERY }).await;
        }
    }
}

/// A peer, and the session in which what it tells is taken.
struct Hearing {
    here: End,
    peer: SiteName,
    session: Session,
    /// Whether it has ended, in this term, what an earlier process had on its way there.
    settled: bool,
    silent: u32,
}

// === impl Hearing ===

impl Hearing {
    /// Hears the peer to the end; `None` where it does not answer. Before a restarted site has heard it, the peer ends what that has on
    /// its way there.
    async fn round(
        &mut self,
        leading: &Leading,
        settle: bool,
        wants_opening: bool,
    ) -> Result<Option<Round>, WorkError> {
        let (name, peer) = (&leading.service, &self.peer);
        let heard = match leading.view.peer(peer) {
            Some(link) => {
                let distant = Distant::new(link, name.clone());
                let (session, settled) = (&mut self.session, &mut self.settled);
                async {
                    if settle && !*settled {
                        distant.settle(&self.here.site).await?;
                        *settled = true;
                    }
                    compare::hear_out(&self.here, session, &distant).await
                }
                .await
            }
            None => Err(Error::Left { site: peer.clone() }),
        };
        match heard {
            Ok(round) => {
                self.silent = 0;
                let (lost, overtaken) = (round.heard.lost, round.heard.overtaken);
                if lost + overtaken > 0 {
                    tracing::error!(
                        service = %name, %peer, lost, overtaken,
                        "this database went back in time: users were closed (domicile resolve)"
                    );
                }
                Ok(Some(round))
            }
            Err(error) if is_the_peers(&error, &self.here.site) => {
                if self.silent % SAID_EVERY == SAID_FIRST && wants_opening {
                    let error = model::causes(&error);
                    tracing::warn!(service = %name, %peer, error, "not compared with this peer yet");
                }
                self.silent = self.silent.saturating_add(1);
                Ok(None)
            }
            Err(error) => Err(error.into()),
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
    view: View,
    sessions: Mutex<BTreeMap<ServiceName, Session>>,
}

// === impl OwnRecords ===

impl OwnRecords {
    pub(super) fn new(
        config: Arc<Config>,
        site: SiteName,
        reception: Arc<Reception>,
        view: View,
    ) -> Self {
        Self {
            config,
            site,
            reception,
            view,
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
        let home = opened
            .await
            .map_err(|failure| failure_of(&self.config, &self.site, &failure))?;
        Ok(home.session)
    }
}

impl Tells for OwnRecords {
    fn bar<'a>(
        &'a self,
        service: &'a ServiceName,
        from: &'a SiteName,
        gone: &'a SiteName,
        round: i64,
    ) -> Soon<'a, Result<i64, Told>> {
        Box::pin(async move {
            if !self.has(service) {
                return Ok(round);
            }
            let link = self.view.peer(gone);
            if *gone == self.site || link.is_some_and(|link| link.session().is_some()) {
                tracing::error!(%service, %from, %gone, "a peer says that a site is destroyed, and it is not");
                return Err(Told::Other {
                    site: self.site.clone(),
                    what: format!(
                        "{} is linked with {gone}, which is not destroyed",
                        self.site
                    ),
                    sqlstate: None,
                    ends: false,
                });
            }
            tracing::warn!(%service, %from, %gone, round, "a peer takes users back from a site that is destroyed");
            self.reception.end(gone, service);
            let session = self.open(service, "settle").await?;
            let barred = compare::bar(&session, &self.site, gone, round).await;
            barred.map_err(|error| Told::of(&error, &self.site))
        })
    }

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
                    heard: true,
                });
            }
            // Taken out while it is used: a database that hangs holds up nobody else's service.
            let kept = self.sessions.lock().await.remove(service);
            let mut session = match kept.filter(|session| !session.is_closed()) {
                Some(session) => session,
                None => self.open(service, "tell").await?,
            };
            let page = residency::tidings::tell(&mut session, after.as_ref()).await;
            let page = page.map_err(|source| {
                let error = Error::Residency {
                    site: self.site.clone(),
                    doing: "telling of changes of home",
                    source,
                };
                Told::of(&error, &self.site)
            })?;
            self.sessions.lock().await.insert(service.clone(), session);
            Ok(page)
        })
    }
}
