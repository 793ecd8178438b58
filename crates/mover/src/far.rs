//! The target, as the source's half of a move reaches it: in the same process, or by its site's daemon over the link.
//!
//! A [`Seat`] is a session there with somebody who answers, in order. Dropping it breaks off what it is at.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use handoff::decision::Decision;
use handoff::judge::Handoff;
use model::table::TableName;
use model::{Attempt, BatchId, Epoch, SiteName, UserKey};
use postgres::digest::{BatchDigest, DigestKey};
use postgres::preflight::ReferenceDigest;
use postgres::snapshot::Snapshot;
use residency::inbound::Inbound;
use tokio::sync::{mpsc, oneshot};

use crate::ask::{Answer, Ask, Call, Read};
use crate::error::{Error, Result};
use crate::portion::Work;
use crate::ports::Soon;

/// A site that users may go to.
pub trait Far: Send + Sync {
    /// Takes the office of arrivals there, for as long as what this returns lives.
    fn visit(&self, call: Call) -> Soon<'_, Result<Arc<dyn Visited>>>;

    /// Lets the guard rest there where it may. Best effort: what it costs to leave it is time.
    fn rest(&self) -> Soon<'_, ()>;
}

/// The office of arrivals at a target, held for us.
pub trait Visited: Send + Sync {
    /// Opens a session there, for `purpose`.
    fn line(&self, purpose: &'static str) -> Soon<'_, Result<Line>>;
}

/// Something asked, and where the answer goes; nowhere, where it was told.
pub struct Asked {
    /// What.
    pub ask: Ask,
    /// Where to.
    pub answer: Option<oneshot::Sender<Result<Answer>>>,
}

/// The way to one session at a target. What is sent arrives in that order, or not at all.
pub struct Line {
    site: SiteName,
    asks: mpsc::Sender<Asked>,
    /// Dropped with this: whoever takes what is sent breaks off what he is at.
    _taken: Box<dyn Any + Send + Sync>,
}

// === impl Line ===

impl Line {
    /// To `site`, to whoever takes `asks`, for as long as `taken` lives.
    pub fn new(site: SiteName, asks: mpsc::Sender<Asked>, taken: impl Any + Send + Sync) -> Self {
        Self {
            site,
            asks,
            _taken: Box::new(taken),
        }
    }

    /// Sends; waits while as much is under way as may be. What this returns waits for the answer.
    async fn send(&self, ask: Ask) -> Result<Pending> {
        let (answer, answered) = oneshot::channel();
        self.pass(ask, Some(answer)).await?;
        let left = self.left();
        Ok(Box::pin(async move { answered.await.unwrap_or(Err(left)) }))
    }

    /// Sends what is not answered. That it could not be done is said by what is asked next.
    async fn tell(&self, ask: Ask) -> Result<()> {
        self.pass(ask, None).await
    }

    async fn pass(&self, ask: Ask, answer: Option<oneshot::Sender<Result<Answer>>>) -> Result<()> {
        let sent = self.asks.send(Asked { ask, answer }).await;
        sent.map_err(|_| self.left())
    }

    fn left(&self) -> Error {
        let site = self.site.clone();
        Error::Left { site }
    }
}

/// An answer to come.
pub type Pending = Soon<'static, Result<Answer>>;

/// A session at a target.
pub struct Seat(Line);

/// What the target says of an offer.
pub(crate) enum Verdict {
    /// This stands, durably.
    Decided(Decision),
    /// Nothing is decided: the stream did not pass the fence in time.
    Undrained,
    /// The digests differ: it wants to know whose.
    Differs,
}

// === impl Seat ===

impl Seat {
    /// Opens one.
    pub async fn open(visited: &dyn Visited, purpose: &'static str) -> Result<Self> {
        visited.line(purpose).await.map(Self)
    }

    pub(crate) async fn send(&self, ask: Ask) -> Result<Pending> {
        self.0.send(ask).await
    }

    pub(crate) async fn tell(&self, ask: Ask) -> Result<()> {
        self.0.tell(ask).await
    }

    async fn ask(&self, ask: Ask) -> Result<Answer> {
        self.send(ask).await?.await
    }

    async fn done(&self, ask: Ask) -> Result<()> {
        match self.ask(ask).await? {
            Answer::Done => Ok(()),
            other => Err(self.beside_the_point(&other)),
        }
    }

    /// The error of an answer to another question.
    pub(crate) fn beside_the_point(&self, _: &Answer) -> Error {
        Error::Disorder {
            site: self.0.site.clone(),
        }
    }

    pub(crate) async fn permit(&self, version: String) -> Result<()> {
        self.done(Ask::Permit { version }).await
    }

    pub(crate) async fn raise(&self) -> Result<()> {
        self.done(Ask::Raise).await
    }

    pub(crate) async fn watch(&self) -> Result<()> {
        self.done(Ask::Watch).await
    }

    pub(crate) async fn look_again(&self) -> Result<()> {
        self.done(Ask::LookAgain).await
    }

    pub(crate) async fn reference_digests(&self) -> Result<BTreeMap<TableName, ReferenceDigest>> {
        match self.ask(Ask::ReferenceDigests).await? {
            Answer::Digests(digests) => Ok(digests),
            other => Err(self.beside_the_point(&other)),
        }
    }

    /// Says that all catalogue tables were told, and waits until their rows stand there.
    pub(crate) async fn referred(&self) -> Result<()> {
        self.done(Ask::Referred).await
    }

    pub(crate) async fn highest_attempt(&self) -> Result<Attempt> {
        match self.ask(Ask::HighestAttempt).await? {
            Answer::Attempt(attempt) => Ok(attempt),
            other => Err(self.beside_the_point(&other)),
        }
    }

    /// Whose records there do not allow it, and whether rows of the others may stand there.
    pub(crate) async fn begin(
        &self,
        attempt: Attempt,
        slot: &str,
        users: Vec<UserKey>,
    ) -> Result<(Vec<(UserKey, String)>, bool)> {
        let slot = slot.to_owned();
        let ask = Ask::Begin {
            attempt,
            slot,
            users,
        };
        match self.ask(ask).await? {
            Answer::Begun { aside, returning } => Ok((aside, returning)),
            other => Err(self.beside_the_point(&other)),
        }
    }

    pub(crate) async fn write(&self, work: Vec<Work>) -> Result<Pending> {
        self.send(Ask::Write(work)).await
    }

    pub(crate) async fn drain(&self, attempt: Attempt, snapshot: Snapshot) -> Result<Pending> {
        self.send(Ask::Drain { attempt, snapshot }).await
    }

    /// Makes sure that nothing is in the way of a fence there. Users to whom a change could not be applied, with the
    /// reasons.
    pub(crate) async fn ready(&self, attempt: Attempt) -> Result<Vec<(UserKey, String)>> {
        match self.ask(Ask::Ready { attempt }).await? {
            Answer::Spoilt(spoilt) => Ok(spoilt),
            other => Err(self.beside_the_point(&other)),
        }
    }

    pub(crate) async fn look(&self, handoff: Handoff, key: &DigestKey) -> Result<()> {
        let key = *key.bytes();
        self.tell(Ask::Look { handoff, key }).await
    }

    pub(crate) async fn judge(&self, read: Read) -> Result<Verdict> {
        let answer = self.ask(Ask::Judge(read)).await?;
        self.verdict(answer)
    }

    pub(crate) async fn each(&self, each: BTreeMap<UserKey, BatchDigest>) -> Result<Verdict> {
        let answer = self.ask(Ask::Each(each)).await?;
        self.verdict(answer)
    }

    fn verdict(&self, answer: Answer) -> Result<Verdict> {
        match answer {
            Answer::Decided(decision) => Ok(Verdict::Decided(decision)),
            Answer::Undrained => Ok(Verdict::Undrained),
            Answer::Differs => Ok(Verdict::Differs),
            other => Err(self.beside_the_point(&other)),
        }
    }

    /// What became of a batch: the standing decision, or a refusal that is inserted as the answer.
    pub(crate) async fn became(
        &self,
        batch: &BatchId,
        users: &[(UserKey, Epoch)],
    ) -> Result<Decision> {
        let ask = Ask::Became {
            batch: batch.clone(),
            users: users.to_vec(),
        };
        match self.ask(ask).await? {
            Answer::Decided(decision) => Ok(decision),
            other => Err(self.beside_the_point(&other)),
        }
    }

    pub(crate) async fn clear(&self, attempt: Attempt, users: Vec<UserKey>) -> Result<()> {
        self.done(Ask::Clear { attempt, users }).await
    }

    pub(crate) async fn clear_attempt(&self, attempt: Attempt) -> Result<()> {
        self.done(Ask::ClearAttempt { attempt }).await
    }

    pub(crate) async fn finish(&self, attempt: Attempt) -> Result<()> {
        self.done(Ask::Finish { attempt }).await
    }

    pub(crate) async fn inbound(&self) -> Result<Vec<Inbound>> {
        match self.ask(Ask::Inbound).await? {
            Answer::Inbound(inbound) => Ok(inbound),
            other => Err(self.beside_the_point(&other)),
        }
    }

    pub(crate) async fn arriving(&self) -> Result<Vec<(Attempt, Vec<UserKey>)>> {
        match self.ask(Ask::Arriving).await? {
            Answer::Arriving(arriving) => Ok(arriving),
            other => Err(self.beside_the_point(&other)),
        }
    }

    pub(crate) async fn living(&self, users: Vec<UserKey>) -> Result<Vec<UserKey>> {
        match self.ask(Ask::Living { users }).await? {
            Answer::Users(users) => Ok(users),
            other => Err(self.beside_the_point(&other)),
        }
    }
}
