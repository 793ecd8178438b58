//! What a gateway must know of a service's home database to decide from memory, and whom it asks where memory is not enough.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ::gateway::homes::SiteId;
use ::gateway::site::{NotAsked, Residents, Soon, Stand};
use model::policy::Policy;
use model::{Epoch, KeyKind, Market, ServiceName, SiteName, UserKey};
use postgres::connect::{Session, connect};
use residency::{Result, gateways};
use tokio::sync::{mpsc, oneshot};

use crate::config::Database;

/// The most users that are asked for at once.
const TOGETHER: usize = 256;

/// Questions that wait; further ones are refused, and their requests told to come again.
const WAITING: usize = 4096;

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What one service's home database says of itself.
pub(super) struct Facts {
    name: ServiceName,
    policy: Policy,
    sites: Vec<SiteName>,
    known: RwLock<Option<Known>>,
}

struct Known {
    home: gateways::Facts,
    nonce: Arc<str>,
    phase: Option<usize>,
}

/// A question, and where its answer goes.
type Question = (UserKey, oneshot::Sender<Stand>);

/// All services of a gateway.
pub(super) struct Homes {
    pub services: Vec<(Arc<Facts>, mpsc::Sender<Question>)>,
}

// === impl Facts ===

impl Facts {
    pub fn new(name: ServiceName, policy: Policy, sites: Vec<SiteName>) -> Self {
        Self {
            name,
            policy,
            sites,
            known: RwLock::default(),
        }
    }

    /// What was read of the home.
    pub fn know(&self, home: gateways::Facts) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let phase = known.as_ref().and_then(|known| known.phase);
        let nonce = Arc::from(home.nonce.as_str());
        *known = Some(Known { home, nonce, phase });
    }

    /// Reads how far the programme has come: newcomers go where the last phase that has begun sends them.
    pub async fn learn_phases(&self, session: &Session) -> Result<()> {
        let begun = residency::journal::phases(&**session).await?;
        let numbers = begun.iter().filter_map(|phase| self.policy.phase(phase));
        let last = numbers.max();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_mut() {
            known.phase = last;
        }
        Ok(())
    }

    fn with<T>(&self, read: impl FnOnce(&Known) -> Option<T>) -> Option<T> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().and_then(read)
    }
}

// === impl Homes ===

impl Homes {
    fn facts(&self, service: u16) -> Option<&Facts> {
        let service = self.services.get(usize::from(service));
        service.map(|(facts, _)| &**facts)
    }
}

impl Residents for Homes {
    fn look(&self, service: u16, user: UserKey) -> Soon<'static, Result<Stand, NotAsked>> {
        let ask = self
            .services
            .get(usize::from(service))
            .map(|(_, ask)| ask.clone());
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let ask = ask.ok_or(NotAsked)?;
            ask.try_send((user, answer)).map_err(|_| NotAsked)?;
            match tokio::time::timeout(PATIENCE, answered).await {
                Ok(Ok(stand)) => Ok(stand),
                _ => Err(NotAsked),
            }
        })
    }

    fn kind(&self, service: u16) -> Option<KeyKind> {
        self.facts(service)?.with(|known| Some(known.home.kind))
    }

    fn is_native(&self, service: u16, user: &UserKey) -> bool {
        let native = |known: &Known| {
            let mark = known
                .home
                .mark
                .filter(|_| known.home.site == known.home.origin)?;
            let key: i64 = user.as_str().parse().ok()?;
            (key <= mark).then_some(())
        };
        self.facts(service)
            .and_then(|facts| facts.with(native))
            .is_some()
    }

    fn nonce(&self, service: u16) -> Option<Arc<str>> {
        self.facts(service)?
            .with(|known| Some(Arc::clone(&known.nonce)))
    }

    fn policy(&self, service: u16, market: &Market) -> Option<SiteId> {
        let facts = self.facts(service)?;
        let site = facts.with(|known| {
            let origin = &known.home.origin;
            Some(
                facts
                    .policy
                    .home(&facts.name, market, known.phase, origin)
                    .0,
            )
        })?;
        let at = facts.sites.iter().position(|known| *known == site)?;
        u8::try_from(at).ok().map(SiteId)
    }
}

/// Answers questions, many at once, for ever.
pub(super) async fn answer(
    database: Database,
    facts: Arc<Facts>,
    mut questions: mpsc::Receiver<Question>,
) {
    let mut session: Option<Session> = None;
    let mut waiting = Vec::new();
    while questions.recv_many(&mut waiting, TOGETHER).await > 0 {
        // Who waits no longer asks for nothing.
        waiting.retain(|(_, answer)| !answer.is_closed());
        let open = match session.take().filter(|session| !session.is_closed()) {
            Some(open) => Some(open),
            None => reach(&database).await,
        };
        let kind = facts.with(|known| Some(known.home.kind));
        // Dropped without an answer, a question is known not to have been asked.
        let asked = std::mem::take(&mut waiting);
        let (Some(open), Some(kind)) = (open, kind) else {
            continue;
        };
        let users: Vec<UserKey> = asked.iter().map(|(user, _)| user.clone()).collect();
        match gateways::look(&*open, kind, &users).await {
            Ok(stands) => {
                for ((_, answer), (_, stand)) in asked.into_iter().zip(stands) {
                    let _ = answer.send(of(stand));
                }
                session = Some(open);
            }
            Err(error) => {
                let why = model::causes(&error);
                tracing::warn!(%why, "cannot ask the home database where users live");
            }
        }
    }
}

/// The channel to [`answer`].
pub(super) fn questions() -> (mpsc::Sender<Question>, mpsc::Receiver<Question>) {
    mpsc::channel(WAITING)
}

async fn reach(database: &Database) -> Option<Session> {
    let url = database.url().ok()?;
    connect(url.expose(), "gateway look").await.ok()
}

fn of(stand: gateways::Stand) -> Stand {
    match stand {
        gateways::Stand::Here {
            epoch: Epoch(epoch),
        } => Stand::Here { epoch },
        gateways::Stand::Closed { .. } => Stand::Closed,
        gateways::Stand::Elsewhere { home: site, epoch } => Stand::Elsewhere {
            site,
            epoch: epoch.0,
        },
        gateways::Stand::Arriving { from: site, epoch } => Stand::Arriving {
            site,
            epoch: epoch.0,
        },
        gateways::Stand::Lost { .. } => Stand::Lost,
        gateways::Stand::Unknown { .. } => Stand::Unknown,
    }
}
