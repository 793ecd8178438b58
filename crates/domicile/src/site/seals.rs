//! Seals the ledgers of this site: what happened is taken into the log and signed, and every peer is shown the head.

use std::sync::Arc;
use std::time::Duration;

use ::daemon::{Leading, Soon, Work, WorkError};
use futures_util::future::try_join_all;
use ledger::key::{Pin, SiteKey};
use model::{ServiceName, SiteName, causes};
use mover::Error;
use mover::seal::{HeadRow, Log, seal_own, show};
use postgres::connect::{Session, connect};
use remote::Asker;
use residency::{log, office, witness};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::vouched::Vouched;
use crate::commands::ledger::{key_of, pins_of};
use crate::config::Config;
use crate::exit::{Failure, OrFail, Outcome};

/// How often it is looked whether something happened. Together with a head's row at each peer, the price of a short time in
/// which what happened is not witnessed yet.
const LOOK: Duration = Duration::from_secs(1);

/// All is sealed and shown at least so often: what became visible out of order, a peer whose memory is of an older backup.
const EVERY: Duration = Duration::from_secs(60);

/// The wait before a peer that is there and did not countersign is asked again.
const AGAIN: Duration = Duration::from_secs(5);

/// The ledgers of all services at this site.
pub(super) struct Seals {
    config: Arc<Config>,
    site: SiteName,
    vouched: Arc<Vouched>,
}

/// One service's, for a term.
struct Term<'a> {
    service: &'a ServiceName,
    site: &'a SiteName,
    key: SiteKey,
    pins: Vec<Pin>,
    leading: &'a Leading,
    vouched: &'a Vouched,
}

// === impl Seals ===

impl Seals {
    pub(super) fn new(config: Arc<Config>, site: SiteName, vouched: Arc<Vouched>) -> Self {
        Self {
            config,
            site,
            vouched,
        }
    }

    async fn session(&self, name: &ServiceName) -> Outcome<Session> {
        let service = self.config.service(name)?;
        let database = service.databases.get(&self.site);
        let database = database.ok_or_else(|| {
            Failure::usage(format_args!("{name} has no database at {}", self.site))
        })?;
        let failed = || format!("{name}: sealing the ledger");
        let unreached = crate::exit::Exit::Unreached;
        let session = connect(database.url()?.expose(), "ledger")
            .await
            .or_fail(unreached, failed)?;
        office::keep_alive(&session)
            .await
            .or_fail(unreached, failed)?;
        Ok(session)
    }

    /// Everybody else, with the pins by which he is known.
    fn peers(&self) -> Outcome<Vec<(SiteName, Vec<Pin>)>> {
        let others = self.config.sites.iter();
        let others = others.filter(|(name, site)| **name != self.site && site.link.is_some());
        others
            .map(|(name, site)| Ok((name.clone(), pins_of(name.as_str(), site)?)))
            .collect()
    }

    async fn seal(&self, leading: &Leading) -> Outcome<()> {
        let service = &leading.service;
        self.vouched.begin(service);
        let Some(own) = self.config.sites.get(&self.site) else {
            return Ok(());
        };
        let Some(key) = key_of(own)? else {
            tracing::warn!(%service, "the ledger is not signed: the site has no key");
            return Ok(());
        };
        let term = Term {
            service,
            site: &self.site,
            key,
            pins: pins_of(self.site.as_str(), own)?,
            leading,
            vouched: &self.vouched,
        };
        let mut taker = self.session(service).await?;
        let reader = self.session(service).await?;
        for refused in witness::refused(&*reader)
            .await
            .or_fail(crate::exit::Exit::Unreached, || {
                format!("{service}: reading what was refused")
            })?
        {
            let of = SiteName::from(refused.of);
            self.vouched
                .refuses(service, &of, refused.reason.to_string());
        }
        let (signed, heads) = watch::channel(None);
        let peers = self.peers()?;
        let shown = peers
            .iter()
            .map(|peer| term.shown_to(peer, &reader, heads.clone()));
        let sealing = async {
            let sealed = term.sealed(&mut taker, signed).await;
            if let Err(error @ Error::Ledger { .. }) = &sealed {
                self.vouched.fails(service, causes(error));
            }
            sealed
        };
        let failed = |error| {
            crate::commands::apply::failure(error, format!("{service}: sealing the ledger"))
        };
        tokio::try_join!(sealing, try_join_all(shown))
            .map(drop)
            .map_err(failed)
    }
}

impl Work for Seals {
    fn name(&self) -> &'static str {
        "ledger"
    }

    fn lead(&self, leading: Leading) -> Soon<'_, Result<(), WorkError>> {
        Box::pin(async move {
            // Cut off anywhere it leaves what the next run goes on from.
            tokio::select! {
                sealed = self.seal(&leading) => {
                    sealed.map_err(|failure| super::told(&failure).into())
                }
                () = leading.stop.cancelled() => {
                    self.vouched.begin(&leading.service);
                    Ok(())
                }
            }
        })
    }
}

// === impl Term ===

impl Term<'_> {
    fn log(&self) -> Log<'_> {
        Log {
            service: self.service,
            site: self.site,
            key: &self.key,
            pins: &self.pins,
        }
    }

    /// Seals whenever something happened, and tells of each new head. Ends with what is wrong.
    async fn sealed(
        &self,
        session: &mut Session,
        heads: watch::Sender<Option<HeadRow>>,
    ) -> Result<(), Error> {
        let (mut seen, mut more, mut last) = (None, true, Instant::now());
        loop {
            let newest = log::newest(&**session).await.map_err(|source| {
                let (site, doing) = (self.site.clone(), "looking for new entries");
                Error::Residency {
                    site,
                    doing,
                    source,
                }
            })?;
            // Numbers become visible out of order: after one that was taken, those before it may come.
            if seen != newest || more || last.elapsed() >= EVERY {
                let (head, taken) = seal_own(self.log(), session).await?;
                (seen, more, last) = (newest, taken > 0, Instant::now());
                self.vouched.signed(self.service, head.size);
                heads.send_if_modified(|known| {
                    let new = known.as_ref().is_none_or(|known| known.note != head.note);
                    *known = Some(head);
                    new
                });
            }
            sleep(LOOK).await;
        }
    }

    /// Shows each head to one peer, until it vouches for it. What is wrong with the peer, or between it and this site, is told
    /// and tried again; what is wrong with this site's database ends it.
    async fn shown_to(
        &self,
        (peer, pins): &(SiteName, Vec<Pin>),
        session: &Session,
        mut heads: watch::Receiver<Option<HeadRow>>,
    ) -> Result<(), Error> {
        self.vouched.knows(self.service, peer);
        let (mut held, mut complained) = (0, false);
        loop {
            let Ok(head) = heads
                .wait_for(Option::is_some)
                .await
                .map(|head| head.clone())
            else {
                return Ok(());
            };
            heads.mark_unchanged();
            let (Some(head), Some(link)) = (head, self.leading.view.peer(peer)) else {
                sleep(AGAIN).await;
                continue;
            };
            // Nobody waits for a peer that is away but this task.
            if timeout(EVERY, link.connected()).await.is_err() {
                continue;
            }
            let mut asker = Asker::new(link, self.service.clone());
            let shown = show(self.log(), &**session, &head, (&mut asker, pins), held).await;
            let rest = match shown {
                Ok(Ok(())) => {
                    (held, complained) = (head.size, false);
                    self.vouched.vouches(self.service, peer, head.size);
                    EVERY
                }
                Ok(Err(refusal)) => {
                    tracing::error!(service = %self.service, %peer, entries = head.size, %refusal,
                        "equivocation: the peer refused to countersign this site's ledger");
                    self.vouched
                        .is_refused(self.service, peer, refusal.to_string());
                    EVERY
                }
                // Its database, not the peer's.
                Err(error @ (Error::Residency { .. } | Error::Postgres { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        let error = causes(&error);
                        tracing::warn!(service = %self.service, %peer, error,
                            "the peer does not countersign the ledger; it is asked again");
                    }
                    sleep(AGAIN).await;
                    continue;
                }
            };
            let _ = timeout(rest, heads.changed()).await;
        }
    }
}
