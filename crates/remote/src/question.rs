//! What daemons ask each other beside moves, each a question by itself: about their ledgers, what was accepted, and whom both know.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::{AskError, Hears, Soon, Topic, Unheard};
use link::{Peer, RequestError};
use model::{BatchId, Market, MoveId, ServiceName, SiteName, UserKey};
use mover::audit::{self, Ask};
use mover::failure::{Failure, Refusal};
use mover::ports;
use mover::seal::{Said, Shown, Witness};
use mover::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::figures;

/// The topic on the link: a postcard [`Asked`] for a postcard [`Told`]. Every question may be asked again.
pub const TOPIC: Topic = Topic(17);

/// How long an answer may take: longer than the database behind it takes to be found out of reach.
const WITHIN: Duration = Duration::from_secs(20);

/// A question about one service.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// The service.
    pub service: ServiceName,
    /// What is asked.
    pub question: Question,
}

/// What can be asked. New ones are put at the end.
#[derive(Debug, Serialize, Deserialize)]
pub enum Question {
    /// To countersign a head of the asker's log. -> [`Told::Said`]
    Show(Box<Shown>),
    /// Whether this batch of the asker's was accepted, and is held durably. -> [`Told::Holds`]
    Holds(BatchId),
    /// Who went to the asker with this move of the peer's and has not come back since, from this passenger on.
    /// -> [`Told::Passengers`]
    Passengers {
        /// The move.
        of: MoveId,
        /// Batches and users of the next one that are known.
        from: (u32, u32),
    },
    /// What the peer says of users who concern the asker. -> [`Told::Audit`]
    Audit(Box<Ask>),
    /// Whether the peer's copy of the policy lets in a move of the asker's. Nothing is begun, or written down. -> [`Told::Permits`]
    Permits {
        /// The phase.
        phase: String,
        /// The version of the asker's copy.
        version: String,
    },
    /// Who comes to the asker, by the peer's own count, in this phase, or in the first that the peer has not completed. -> [`Told::Coming`]
    Coming(Option<String>),
    /// About the history of requests. -> [`Told::Figures`]
    Figures(Box<figures::Ask>),
}

/// An answer. New ones are put at the end.
#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    /// It cannot be done.
    Failed(Failure),
    /// This daemon does not lead the service: its site has none of this name, or another daemon does, or nobody yet.
    NotLed,
    /// Of a head.
    Said(Said),
    /// Of a batch.
    Holds(bool),
    /// Of a move; `None` where the peer knows no such move to the asker.
    Passengers(Option<Passengers>),
    /// Of users and their rows.
    Audit(Box<audit::Said>),
    /// Of a move; `None` where it is let in.
    Permits(Option<Refusal>),
    /// Of users, market by market.
    Coming(Vec<Coming>),
    /// Of the history of requests.
    Figures(figures::Said),
}

/// Users of one market who are to come.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// The market.
    pub market: Market,
    /// The phase in which they do.
    pub phase: Option<String>,
    /// How many.
    pub users: u64,
}

/// Who went with a move, or a part of them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Passengers {
    /// Whether the move is at its end.
    pub ended: bool,
    /// These users.
    pub users: Vec<UserKey>,
    /// From where on there are more.
    pub next: Option<(u32, u32)>,
}

/// Whoever answers for this site.
pub trait Answers: Send + Sync {
    /// Answers what the site `from` asks, which is known by its key. Bounds the time that it takes.
    fn answer<'a>(&'a self, from: &'a SiteName, asked: Asked) -> Soon<'a, Told>;
}

/// Hears questions, and gives them to whoever answers.
pub struct Questions(Arc<dyn Answers>);

/// A peer that is asked about one service.
pub struct Asker {
    peer: Peer,
    service: ServiceName,
}

// === impl Questions ===

impl Questions {
    /// Answered by `answers`.
    pub fn new(answers: Arc<dyn Answers>) -> Self {
        Self(answers)
    }
}

impl Hears for Questions {
    fn topic(&self) -> Topic {
        TOPIC
    }

    fn hear(&self, from: Peer, body: Bytes) -> Soon<'_, std::result::Result<Bytes, Unheard>> {
        Box::pin(async move {
            let asked: Asked = postcard::from_bytes(&body).map_err(|_| {
                tracing::debug!(peer = %from.site(), "a question cannot be read");
                Unheard
            })?;
            let told = self.0.answer(from.site(), asked).await;
            let told = postcard::to_stdvec(&told).map_err(|_| Unheard)?;
            Ok(told.into())
        })
    }
}

// === impl Asker ===

impl Asker {
    /// `service` at the site of `peer`.
    pub fn new(peer: Peer, service: ServiceName) -> Self {
        Self { peer, service }
    }

    /// Asks once.
    ///
    /// # Errors
    /// What the peer says; [`Error::Left`] where it does not answer, or does not lead the service.
    pub async fn ask(&self, question: Question) -> Result<Told> {
        let asked = Asked {
            service: self.service.clone(),
            question,
        };
        let body = postcard::to_stdvec(&asked).map_err(|_| self.disorder())?;
        let told = match daemon::ask(&self.peer, TOPIC, &body, WITHIN).await {
            Ok(told) => told,
            Err(AskError::Link(RequestError::TooLong(_)) | AskError::Malformed) => {
                return Err(self.disorder());
            }
            Err(error) => {
                tracing::debug!(site = %self.peer.site(), %error, "the peer does not answer");
                return Err(self.left());
            }
        };
        match postcard::from_bytes(&told).map_err(|_| self.disorder())? {
            Told::Failed(failure) => Err(failure.into()),
            Told::NotLed => Err(self.left()),
            told => Ok(told),
        }
    }

    /// Whether the peer accepted `batch` and holds it durably.
    ///
    /// # Errors
    /// As [`ask`](Self::ask): nobody knows then.
    pub async fn holds(&self, batch: BatchId) -> Result<bool> {
        match self.ask(Question::Holds(batch)).await? {
            Told::Holds(holds) => Ok(holds),
            _ => Err(self.disorder()),
        }
    }

    /// Who went from the peer to this site with the move `of`, and has not come back there since; `None` where it knows no
    /// such move. Says as well whether that is at its end.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn passengers(&self, of: &MoveId) -> Result<Option<(bool, Vec<UserKey>)>> {
        let (mut all, mut from) = (Vec::new(), (0, 0));
        loop {
            let of = of.clone();
            let part = match self.ask(Question::Passengers { of, from }).await? {
                Told::Passengers(Some(part)) => part,
                Told::Passengers(None) => return Ok(None),
                _ => return Err(self.disorder()),
            };
            all.extend(part.users);
            match part.next {
                Some(next) if next > from => from = next,
                Some(_) => return Err(self.disorder()),
                None => return Ok(Some((part.ended, all))),
            }
        }
    }

    /// What the peer says when users are looked back at.
    ///
    /// # Errors
    /// As [`ask`](Self::ask), and where what it says is no answer.
    pub async fn audit(&self, ask: Ask) -> Result<audit::Said> {
        match self.ask(Question::Audit(Box::new(ask.clone()))).await? {
            Told::Audit(said) if said.answers(&ask) => Ok(*said),
            _ => Err(self.disorder()),
        }
    }

    /// Why the peer would not let in a move of `phase`, this site's copy of the policy being of `version`.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn permits(&self, phase: &str, version: &str) -> Result<Option<Refusal>> {
        let (phase, version) = (phase.to_owned(), version.to_owned());
        match self.ask(Question::Permits { phase, version }).await? {
            Told::Permits(refusal) => Ok(refusal),
            _ => Err(self.disorder()),
        }
    }

    /// Who comes here from the peer.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn coming(&self, phase: Option<String>) -> Result<Vec<Coming>> {
        match self.ask(Question::Coming(phase)).await? {
            Told::Coming(coming) => Ok(coming),
            _ => Err(self.disorder()),
        }
    }

    /// What the peer says of its history of requests.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn figures(&self, ask: figures::Ask) -> Result<figures::Said> {
        match self.ask(Question::Figures(Box::new(ask))).await? {
            Told::Figures(said) => Ok(said),
            _ => Err(self.disorder()),
        }
    }

    fn left(&self) -> Error {
        let site = self.peer.site().clone();
        Error::Left { site }
    }

    fn disorder(&self) -> Error {
        let site = self.peer.site().clone();
        Error::Disorder { site }
    }
}

impl Witness for Asker {
    fn site(&self) -> &SiteName {
        self.peer.site()
    }

    fn show(&mut self, shown: Shown) -> ports::Soon<'_, Result<Said>> {
        Box::pin(async move {
            match self.ask(Question::Show(Box::new(shown))).await? {
                Told::Said(said) => Ok(said),
                _ => Err(self.disorder()),
            }
        })
    }
}
