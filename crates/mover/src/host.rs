//! The target's half of a move: what is done at the home database that users go to.
//!
//! A source makes a [`Visit`], which holds the office of arrivals from there, and opens sessions in it. Each has a task of its own, the
//! clerk, which does what is asked, one after the other. The same code serves a source in this process and one at another site.

mod accept;
mod arrive;
mod changes;
mod clear;
mod copying;
mod reference;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{BatchId, KeyKind, ServiceName, SiteName};
use postgres::connect::Session;
use postgres::preflight::reference_digest;
use residency::office::Office;
use residency::{inbound, records};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::ask::{Answer, Ask, Call};
use crate::compare::wants_open;
use crate::error::{At, Error, Result};
use crate::far::{Asked, Far, Line, Visited};
use crate::policy;
use crate::ports::{Manifests, Soon};
use crate::rest;
use crate::route::{End, OFFICE_PATIENCE};
use crate::shapes::Tables;

/// How much may wait for one clerk; whoever sends more waits.
const WAITING: usize = 32;

/// Marks of the stream that nobody has asked for are kept up to so many: of batches that were given up at their fence.
const MARKS: usize = 1_024;

/// A home database that users may come to.
#[derive(Clone)]
pub struct Host {
    /// The service.
    pub service: ServiceName,
    /// The database.
    pub end: End,
    /// What users have besides rows.
    pub manifests: Arc<dyn Manifests>,
}

/// A source's stay: the office of arrivals from there is held while this lives.
pub struct Visit {
    host: Host,
    call: Call,
    office: Office,
    /// The session that holds the office's lock.
    _held: Session,
    /// The tables as they were when the source began to watch them.
    watched: Mutex<Option<Arc<Tables>>>,
    /// The batches whose fence the stream has passed.
    passed: watch::Sender<VecDeque<BatchId>>,
}

/// The asks that come to a clerk.
type Asks = mpsc::Receiver<Asked>;

// === impl Host ===

impl Host {
    /// Takes the office of arrivals from the caller's site. A visit of his that has just ended may hold it a moment longer.
    ///
    /// # Errors
    /// [`residency::Error::Office`], under [`Error::Residency`], where another process serves him here.
    pub async fn visit(&self, call: Call) -> Result<Arc<Visit>> {
        let held = self
            .end
            .session(&format!("office {}", std::process::id()))
            .await?;
        let office = Office::take_within(&held, &Office::arrivals(&call.from), OFFICE_PATIENCE)
            .await
            .at(&self.end.site, "taking office")?;
        // What was sent before the database went back is of sessions that are gone.
        wants_open(&self.end, &held).await?;
        Ok(Arc::new(Visit {
            host: self.clone(),
            call,
            office,
            _held: held,
            watched: Mutex::new(None),
            passed: watch::Sender::new(VecDeque::new()),
        }))
    }
}

impl Far for Host {
    fn visit(&self, call: Call) -> Soon<'_, Result<Arc<dyn Visited>>> {
        Box::pin(async move {
            let visit = Host::visit(self, call).await?;
            Ok(Arc::new(Here(visit)) as Arc<dyn Visited>)
        })
    }

    fn rest(&self) -> Soon<'_, ()> {
        Box::pin(rest::at(&self.end))
    }
}

// === impl Visit ===

impl Visit {
    /// Opens a session for `purpose`, and gives it to a clerk. Ends, with the session, when the sender or the handle is dropped.
    pub async fn clerk(self: &Arc<Self>, purpose: &str) -> Result<(mpsc::Sender<Asked>, Clerk)> {
        let session = self.host.end.session(purpose).await?;
        let (send, asks) = mpsc::channel(WAITING);
        let task = tokio::spawn(serve(Arc::clone(self), session, asks));
        Ok((send, Clerk(task.abort_handle())))
    }

    /// The site that is visited.
    pub fn site(&self) -> &SiteName {
        &self.host.end.site
    }

    fn target(&self) -> &End {
        &self.host.end
    }

    fn from(&self) -> &SiteName {
        &self.call.from
    }

    fn kind(&self) -> KeyKind {
        self.host.end.kind()
    }

    /// The watched tables.
    fn watched(&self) -> Result<Arc<Tables>> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.clone().ok_or_else(|| self.disorder())
    }

    async fn watch(&self, session: &Session) -> Result<()> {
        let tables = Tables::read(self.target(), session).await?;
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        *watched = Some(Arc::new(tables));
        Ok(())
    }

    async fn look_again(&self, session: &Session) -> Result<()> {
        let tables = self.watched()?;
        tables.look_again(self.target(), session).await
    }

    /// Takes note that the stream has passed the fence of `batch`, and that all before it is applied.
    fn pass(&self, batch: BatchId) {
        self.passed.send_modify(|passed| {
            passed.push_back(batch);
            if passed.len() > MARKS {
                passed.pop_front();
            }
        });
    }

    /// Waits until the stream has passed the fence of `batch`; says whether that was in time.
    async fn has_passed(&self, batch: &BatchId, within: Duration) -> bool {
        let mut passed = self.passed.subscribe();
        let seen = passed.wait_for(|passed| passed.contains(batch));
        let seen = matches!(tokio::time::timeout(within, seen).await, Ok(Ok(_)));
        self.passed.send_if_modified(|passed| {
            passed.retain(|other| other != batch);
            false
        });
        seen
    }

    fn disorder(&self) -> Error {
        Error::Disorder {
            site: self.call.from.clone(),
        }
    }
}

/// The clerk: does what is asked, in order. Once a write has failed nothing more of the stream is taken: what came after
/// must not look as if all before it had been applied.
async fn serve(visit: Arc<Visit>, mut session: Session, mut asks: Asks) {
    let mut stream_broken = false;
    while let Some(Asked { ask, answer }) = asks.recv().await {
        let of_the_stream = matches!(ask, Ask::Write(_) | Ask::Drain { .. } | Ask::Passed(_));
        let answered = match ask {
            _ if of_the_stream && stream_broken => Err(Error::StreamGone),
            Ask::Copy {
                attempt,
                users,
                returning,
            } => {
                let coming = copying::Coming {
                    attempt,
                    users,
                    returning,
                };
                copying::take(&visit, &mut session, coming, &mut asks).await
            }
            Ask::References(first) => {
                reference::bring(&visit, &mut session, first, &mut asks).await;
                continue;
            }
            Ask::Look { handoff, key } => {
                accept::attend(&visit, &mut session, &handoff, key, &mut asks).await;
                continue;
            }
            ask => one(&visit, &mut session, ask).await,
        };
        stream_broken |= of_the_stream && answered.is_err();
        // Nobody waits any more: whoever asked has gone, or goes on otherwise.
        if let Some(answer) = answer {
            let _ = answer.send(answered);
        }
    }
}

/// Does what is asked and needs nothing that comes after it.
async fn one(visit: &Visit, session: &mut Session, ask: Ask) -> Result<Answer> {
    let (from, target) = (visit.from(), visit.target());
    match ask {
        Ask::Permit { version } => {
            policy::permit_arrivals(&visit.call, target, session, &version).await?;
        }
        Ask::Raise => rest::raise_at(target, session, visit.call.patience).await?,
        Ask::Watch => visit.watch(session).await?,
        Ask::LookAgain => visit.look_again(session).await?,
        Ask::ReferenceDigests => {
            let digests = reference_digest(session, &target.schema).await;
            return Ok(Answer::Digests(
                digests.at(&target.site, "comparing reference tables")?,
            ));
        }
        Ask::HighestAttempt => {
            let highest = inbound::highest_attempt(&**session).await;
            return Ok(Answer::Attempt(
                highest.at(&target.site, "numbering an attempt")?,
            ));
        }
        Ask::Begin {
            attempt,
            slot,
            users,
        } => return arrive::begin(visit, session, attempt, &slot, users).await,
        Ask::Write(work) => changes::write(visit, session, work).await?,
        Ask::Drain { attempt, snapshot } => {
            changes::drain(visit, session, attempt, &snapshot).await?;
        }
        Ask::Passed(batch) => visit.pass(batch),
        Ask::Ready { attempt } => {
            return accept::ready(visit, session, attempt)
                .await
                .map(Answer::Spoilt);
        }
        Ask::Became { batch, users } => {
            let decision = accept::became(visit, session, &batch, &users).await?;
            return Ok(Answer::Decided(decision));
        }
        Ask::Clear { attempt, users } => clear::users(visit, session, &users, attempt).await?,
        Ask::ClearAttempt { attempt } => clear::attempt(visit, session, attempt).await?,
        Ask::Finish { attempt } => {
            inbound::set_state(&**session, from, attempt, "finished")
                .await
                .at(&target.site, "ending a chunk")?;
        }
        Ask::Inbound => {
            let open = inbound::open(&**session, from).await;
            return Ok(Answer::Inbound(
                open.at(&target.site, "reading arriving chunks")?,
            ));
        }
        Ask::Arriving => {
            let users = inbound::users(&**session, from, &["arriving", "clearing"]).await;
            return Ok(Answer::Arriving(
                users.at(&target.site, "looking for orphans")?,
            ));
        }
        Ask::Living { mut users } => {
            let records = records::look(&**session, visit.kind(), &users)
                .await
                .at(&target.site, "looking who lives at the target")?;
            let mut records = records.into_iter();
            users.retain(|_| {
                let record = records.next().flatten();
                record.is_some_and(|record| record.state.is_home())
            });
            return Ok(Answer::Users(users));
        }
        // They are told inside of what they belong to.
        Ask::Copy { .. }
        | Ask::Copying(_)
        | Ask::Copied { .. }
        | Ask::References(_)
        | Ask::Referred
        | Ask::Look { .. }
        | Ask::Judge(_)
        | Ask::Each(_) => return Err(visit.disorder()),
    }
    Ok(Answer::Done)
}

/// A clerk's task, which ends with this.
pub struct Clerk(AbortHandle);

impl Drop for Clerk {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A visit in this process.
struct Here(Arc<Visit>);

// === impl Here ===

impl Visited for Here {
    fn line(&self, purpose: &'static str) -> Soon<'_, Result<Line>> {
        Box::pin(async move {
            let (asks, clerk) = self.0.clerk(purpose).await?;
            Ok(Line::new(self.0.site().clone(), asks, clerk))
        })
    }
}
