//! What this site answers to its peers beside moves: whether it countersigns their ledgers, holds what they gave it, and knows whom they know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::daemon::{Soon, View};
use model::{ServiceName, SiteName};
use mover::Error;
use mover::erase::{Reached, holds};
use mover::failure::Failure as Told;
use mover::seal::{Own, Said, Shown, countersign};
use postgres::connect::{Session, connect};
use remote::{Answers, Asked, Question};
use tokio::time::timeout;

use super::outlook;
use super::passengers;
use super::saying::Saying;
use super::vouched::Vouched;
use crate::commands::homes::Home;
use crate::commands::ledger::{key_of, now, pins_of};
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};

/// How long an answer may take: less than the asker waits.
pub(super) const WITHIN: Duration = Duration::from_secs(15);

/// A turn at one database.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// This site's databases, as peers may ask them.
pub(super) struct SiteAnswers {
    config: Arc<Config>,
    site: SiteName,
    view: View,
    vouched: Arc<Vouched>,
    /// A peer is answered one question of a service at a time, with one session: no peer takes more of a database.
    turns: Mutex<HashMap<(SiteName, ServiceName), Turn>>,
    saying: Saying,
}

// === impl SiteAnswers ===

impl SiteAnswers {
    pub(super) fn new(
        config: Arc<Config>,
        site: SiteName,
        view: View,
        vouched: Arc<Vouched>,
    ) -> Self {
        Self {
            saying: Saying::new(Arc::clone(&config), site.clone()),
            config,
            site,
            view,
            vouched,
            turns: Mutex::default(),
        }
    }

    fn turn(&self, of: &SiteName, service: &ServiceName) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.entry((of.clone(), service.clone()));
        Arc::clone(turn.or_default())
    }

    async fn session(&self, name: &ServiceName) -> Outcome<Session> {
        let service = self.config.service(name)?;
        let database = service.databases.get(&self.site).ok_or_else(|| {
            Failure::usage(format_args!("{name} has no database at {}", self.site))
        })?;
        connect(database.url()?.expose(), "answers")
            .await
            .or_fail(Exit::Unreached, || format!("{name}: answering a peer"))
    }

    async fn home(&self, name: &ServiceName) -> Outcome<Home> {
        let service = self.config.service(name)?;
        Home::open_installed(name, service, &self.site, "answers").await
    }

    async fn given(&self, from: &SiteName, asked: Asked) -> Outcome<remote::Told> {
        let Asked { service, question } = asked;
        match question {
            Question::Audit(ask) => {
                let said = self.saying.say(&service, from, &ask).await?;
                Ok(remote::Told::Audit(Box::new(said)))
            }
            Question::Permits { phase, version } => {
                let home = self.home(&service).await?;
                let copies = (phase.as_str(), version.as_str());
                let refusal = outlook::permits(&service, &home, from, copies).await?;
                Ok(remote::Told::Permits(refusal))
            }
            Question::Coming(phase) => {
                let home = self.home(&service).await?;
                let phase = phase.as_deref();
                let coming = outlook::coming(&self.config, &service, home, from, phase).await?;
                Ok(remote::Told::Coming(coming))
            }
            Question::Figures(ask) => {
                let session = self.session(&service).await?;
                let said = super::figures::say(&session, *ask).await;
                let doing = || format!("{service}: reading the history of requests");
                Ok(remote::Told::Figures(said.or_fail(Exit::Unreached, doing)?))
            }
            Question::Show(shown) => {
                let said = self.countersigned(from, &service, &shown).await?;
                Ok(remote::Told::Said(said))
            }
            Question::Passengers { of, from: first } => {
                let home = self.home(&service).await?;
                let told = passengers::told(&service, &home, from, &of, first).await?;
                Ok(remote::Told::Passengers(told))
            }
            Question::Holds(batch) => {
                let session = self.session(&service).await?;
                let own = Reached {
                    site: &self.site,
                    session: &session,
                };
                let held = holds(&service, own, (&batch, from)).await;
                let held = held.map_err(|error| {
                    let doing =
                        format!("{service}: looking whether batch {batch} of {from} is held");
                    crate::commands::apply::failure(error, doing)
                })?;
                Ok(remote::Told::Holds(held))
            }
        }
    }

    async fn countersigned(
        &self,
        of: &SiteName,
        service: &ServiceName,
        shown: &Shown,
    ) -> Outcome<Said> {
        let site = |name: &SiteName| {
            let known = self.config.sites.get(name);
            known.ok_or_else(|| Failure::usage(format_args!("there is no site {name}")))
        };
        let own = site(&self.site)?;
        let key =
            key_of(own)?.ok_or_else(|| Failure::usage(format_args!("{} has no key", self.site)))?;
        let pins = pins_of(of.as_str(), site(of)?)?;
        let mut session = self.session(service).await?;
        let own = Own {
            site: &self.site,
            key: &key,
        };
        let said = countersign(service, &mut session, own, (of, &pins), shown, now()).await;
        let said = said.map_err(|error: Error| {
            let doing = format!("{service}: countersigning the ledger of {of}");
            crate::commands::apply::failure(error, doing)
        })?;
        match &said {
            Said::Refused(refusal) => {
                tracing::error!(%service, peer = %of, %refusal,
                    "equivocation: the peer's ledger contradicts what was countersigned; both heads are kept");
                self.vouched.refuses(service, of, refusal.to_string());
            }
            Said::Unsigned => {
                tracing::warn!(%service, peer = %of, "a head that the peer shows is not signed by a key of its pins");
            }
            Said::Countersigned { .. } | Said::Late | Said::Holds(_) => {}
        }
        Ok(said)
    }

    fn failed(&self, failure: &Failure) -> remote::Told {
        remote::Told::Failed(super::failure_of(&self.config, &self.site, failure))
    }
}

impl Answers for SiteAnswers {
    fn answer<'a>(&'a self, from: &'a SiteName, asked: Asked) -> Soon<'a, remote::Told> {
        Box::pin(async move {
            let service = asked.service.clone();
            // Of a service that is led here there is a database here: so there are few turns.
            if self.view.office(&service).is_none() {
                return remote::Told::NotLed;
            }
            let turn = self.turn(from, &service);
            let answering = async {
                // Reads whole batches: what is asked of the ledger does not wait for it. It has turns of its own.
                let _mine = match asked.question {
                    Question::Audit(_) => None,
                    _ => Some(turn.lock().await),
                };
                self.given(from, asked).await
            };
            match timeout(WITHIN, answering).await {
                Ok(Ok(told)) => told,
                Ok(Err(failure)) => self.failed(&failure),
                Err(_) => remote::Told::Failed(Told::Other {
                    site: self.site.clone(),
                    what: "the answer took too long".to_owned(),
                    sqlstate: None,
                    ends: false,
                }),
            }
        })
    }
}
