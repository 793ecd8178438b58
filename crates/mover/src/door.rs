//! The gateways' door in the source's home database: see [`residency::closings`].
//!
//! A closing costs a commit that waits for no disk, a look, and, as a rule, the word of the last gateway and another look.

use std::sync::Mutex;
use std::time::Duration;

use model::{BatchId, KeyKind, UserKey};
use postgres::connect::{Bell, Session};
use postgres::kept::Keeping;
use residency::closings::{self, Awaited, Opening, TO_MOVERS};
use residency::gateways::LEASE_MAX;
use residency::kept::Asks;
use tokio::time::{Instant, timeout_at};

use crate::ports::{Door, PortError, Soon};
use crate::route::End;

/// How often one looks who has closed its door, whether or not there was word: a notification can be missed.
const AGAIN: Duration = Duration::from_millis(100);

/// How long gateways keep a door closed of which they hear nothing, beyond the time that closing it may take: the mover may have died.
const UNTIL: Duration = Duration::from_secs(10);

/// How often closings that are over are deleted.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// The door before one home database.
pub struct GatewaysDoor {
    source: End,
    /// Sessions that nobody uses at the moment: as many as batches went side by side.
    idle: Mutex<Vec<Listening>>,
    tidied: Mutex<Option<Instant>>,
}

/// A session that hears gateways.
struct Listening {
    session: Session,
    bell: Bell,
}

// === impl GatewaysDoor ===

impl GatewaysDoor {
    /// The door before the database of `source`.
    pub fn of(source: End) -> Self {
        Self {
            source,
            idle: Mutex::default(),
            tidied: Mutex::default(),
        }
    }

    /// A session that nobody uses, or a new one.
    async fn take(&self) -> Result<Listening, PortError> {
        let idle = {
            let mut idle = locked(&self.idle);
            idle.retain(|listening| !listening.session.is_closed());
            idle.pop()
        };
        if let Some(idle) = idle {
            return Ok(idle);
        }
        let session = self.source.session("door").await;
        let session = session.map_err(|error| refused(&error))?;
        let bell = session.listen(TO_MOVERS).await;
        let bell = bell.map_err(|error| refused(&error))?;
        Ok(Listening { session, bell })
    }

    /// Keeps the session for the next, where what was done in it went well: one that failed may be of no use, though it does not know yet.
    fn put_back<T>(
        &self,
        listening: Listening,
        done: residency::Result<T>,
    ) -> Result<T, PortError> {
        if done.is_ok() {
            locked(&self.idle).push(listening);
        }
        done.map_err(|error| refused(&error))
    }

    /// Once: opens, and deletes what is over once in a while.
    async fn try_open(&self, batch: &BatchId, opening: &Opening) -> Result<(), PortError> {
        let listening = self.take().await?;
        let kept = listening.session.kept();
        let asked = Keeping::new(&*listening.session, &kept);
        let mut done = closings::open(&asked, self.source.kind(), batch, opening).await;
        if done.is_ok() && self.is_tidying() {
            done = closings::tidy(&asked).await;
        }
        self.put_back(listening, done)
    }

    fn is_tidying(&self) -> bool {
        let (mut tidied, now) = (locked(&self.tidied), Instant::now());
        let due = tidied.is_none_or(|at| now.duration_since(at) >= TIDY_EVERY);
        if due {
            *tidied = Some(now);
        }
        due
    }
}

// === impl Listening ===

impl Listening {
    /// Waits, while nobody is closed yet, for gateways that have fallen silent: until they are heard again, or their lease is over.
    async fn quiet(&mut self, deadline: Instant) -> residency::Result<()> {
        loop {
            let kept = self.session.kept();
            let asked = Keeping::new(&*self.session, &kept);
            let silent = closings::silent(&asked).await?;
            if silent.is_empty() || Instant::now() >= deadline {
                return Ok(());
            }
            if !pass(&asked, &silent).await? {
                tracing::debug!(gateways = silent.len(), "waiting for silent gateways");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Closes, and waits until everybody has said so; false where that is not so at the `deadline`.
    async fn shut(
        &mut self,
        kind: KeyKind,
        batch: &BatchId,
        users: &[UserKey],
        deadline: Instant,
    ) -> residency::Result<bool> {
        let Self { session, bell } = self;
        let kept = session.kept();
        let asked = Keeping::new(&**session, &kept);
        let patience = deadline.saturating_duration_since(Instant::now());
        // Committed before the first look: see `residency::closings` why in this order.
        closings::close(&asked, kind, batch, users, patience + UNTIL).await?;
        loop {
            bell.hush();
            let awaited = closings::not_yet(&asked, batch).await?;
            if awaited.is_empty() {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            if pass(&asked, &awaited).await? {
                continue;
            }
            // A session that is lost says so at the next look.
            let until = deadline.min(Instant::now() + AGAIN);
            let _ = timeout_at(until, bell.rung()).await;
        }
    }
}

impl Door for GatewaysDoor {
    fn attended(&self) -> Soon<'_, Result<bool, PortError>> {
        Box::pin(async move {
            let mut listening = self.take().await?;
            let kept = listening.session.kept();
            let asked = Keeping::new(&*listening.session, &kept);
            let mut attended = closings::attended(&asked).await;
            if let Ok(true) = attended {
                // A lease is not longer; one that is silent beyond it is a clock's fault, and `close` has its own bound.
                let deadline = Instant::now() + LEASE_MAX;
                attended = listening.quiet(deadline).await.map(|()| true);
            }
            self.put_back(listening, attended)
        })
    }

    fn close<'a>(
        &'a self,
        batch: &'a BatchId,
        users: &'a [UserKey],
        patience: Duration,
    ) -> Soon<'a, Result<bool, PortError>> {
        Box::pin(async move {
            let deadline = Instant::now() + patience;
            let mut listening = self.take().await?;
            let shut = listening.shut(self.source.kind(), batch, users, deadline);
            let shut = shut.await;
            self.put_back(listening, shut)
        })
    }

    fn open<'a>(&'a self, batch: &'a BatchId, opening: Opening) -> Soon<'a, ()> {
        Box::pin(async move {
            let mut opened = self.try_open(batch, &opening).await;
            if opened.is_err() {
                // In a new session.
                opened = self.try_open(batch, &opening).await;
            }
            if let Err(error) = opened {
                tracing::warn!(%batch, %error, "gateways are not told that a door opens; they look for themselves");
            }
        })
    }
}

/// Goes past those whose lease is over; false where that is nobody's.
async fn pass(asked: &impl Asks, awaited: &[Awaited]) -> residency::Result<bool> {
    let ended = awaited.iter().filter(|gateway| gateway.ended);
    let ended: Vec<&str> = ended.map(|gateway| gateway.name.as_str()).collect();
    if ended.is_empty() {
        return Ok(false);
    }
    tracing::info!(gateways = ?ended, "the leases of these gateways are over");
    closings::pass(asked, &ended).await?;
    Ok(true)
}

/// An error with its causes.
fn refused(error: &dyn std::error::Error) -> PortError {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        said.push_str(": ");
        said.push_str(&cause.to_string());
        next = cause.source();
    }
    PortError(said)
}

/// What no panic leaves half done.
fn locked<T>(held: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    held.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
