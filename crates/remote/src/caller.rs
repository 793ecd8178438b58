//! The source's side: a target that is reached over the link.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use daemon::AskError;
use link::{Peer, RequestError};
use model::{ServiceName, SiteName};
use mover::ask::Call;
use mover::far::{Far, Line, Visited};
use mover::ports::Soon;
use mover::{Error, Result};
use tokio::task::AbortHandle;

use crate::PATIENCE;
use crate::carrier;
use crate::word::{DESCRIPTION_MAX, Said, TOPIC, Whole, Word};

/// How long one request may take: longer than the target makes it wait.
const WITHIN: Duration = Duration::from_secs(30);

/// The wait before a request is sent again that a live peer did not take.
const AGAIN: Duration = Duration::from_millis(50);

/// How often a visit says that its source lives.
const HERE_EVERY: Duration = Duration::from_secs(30);

/// How long something may take that nobody depends on.
const BRIEFLY: Duration = Duration::from_secs(10);

/// A service of another site, as a target.
pub struct Caller {
    post: Post,
    service: ServiceName,
}

/// Where words go.
#[derive(Clone)]
pub(crate) struct Post {
    pub(crate) peer: Peer,
}

// === impl Post ===

impl Post {
    /// Says `word` until it is heard, or the peer has been silent for [`PATIENCE`].
    pub(crate) async fn converse(&self, word: &Word) -> Result<Said> {
        let body = postcard::to_stdvec(word).map_err(|_| self.disorder())?;
        let since = Instant::now();
        loop {
            match daemon::ask(&self.peer, TOPIC, &body, WITHIN).await {
                Ok(said) => return postcard::from_bytes(&said).map_err(|_| self.disorder()),
                Err(AskError::Link(
                    RequestError::NotConnected | RequestError::OutcomeUnknown | RequestError::Busy,
                )) if since.elapsed() < PATIENCE => {
                    let _ = tokio::time::timeout(PATIENCE, self.peer.connected()).await;
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => {
                    tracing::warn!(site = %self.site(), %error, "the peer does not answer");
                    return Err(self.left());
                }
            }
        }
    }

    /// Says `word` once.
    pub(crate) async fn once(&self, word: &Word) -> Result<(), AskError> {
        let body = postcard::to_stdvec(word).map_err(|_| AskError::Malformed)?;
        daemon::ask(&self.peer, TOPIC, &body, BRIEFLY)
            .await
            .map(drop)
    }

    pub(crate) fn site(&self) -> &SiteName {
        self.peer.site()
    }

    fn left(&self) -> Error {
        let site = self.site().clone();
        Error::Left { site }
    }

    pub(crate) fn disorder(&self) -> Error {
        let site = self.site().clone();
        Error::Disorder { site }
    }

    async fn done(&self, word: &Word) -> Result<()> {
        match self.converse(word).await? {
            Said::Taken => Ok(()),
            Said::Failed(failure) => Err(failure.into()),
            Said::Working | Said::Part { .. } => Err(self.disorder()),
        }
    }
}

// === impl Caller ===

impl Caller {
    /// `service` at the site of `peer`.
    pub fn new(peer: Peer, service: ServiceName) -> Self {
        let post = Post { peer };
        Self { post, service }
    }

    /// What the target says of its home database: [`Homes::describe`](crate::Homes::describe) there.
    ///
    /// # Errors
    /// What its site says, or that it is not reached.
    pub async fn describe(&self) -> Result<Vec<u8>> {
        let mut come = Whole::default();
        loop {
            let from = come.come().ok_or_else(|| self.post.disorder())?;
            let service = self.service.clone();
            let said = self
                .post
                .converse(&Word::Describe { service, from })
                .await?;
            match said {
                Said::Part { bytes, whole } if whole <= DESCRIPTION_MAX => {
                    let all = come.add(&bytes, whole);
                    if all.ok_or_else(|| self.post.disorder())? {
                        return Ok(come.into_bytes());
                    }
                }
                Said::Failed(failure) => return Err(failure.into()),
                _ => return Err(self.post.disorder()),
            }
        }
    }
}

impl Far for Caller {
    fn visit(&self, call: Call) -> Soon<'_, Result<Arc<dyn Visited>>> {
        Box::pin(async move {
            let visit = rand::random();
            self.post.done(&Word::Visit { visit, call }).await?;
            let post = self.post.clone();
            let keeper = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(HERE_EVERY).await;
                    let _ = post.once(&Word::Here { visit }).await;
                }
            });
            Ok(Arc::new(Visiting {
                post: self.post.clone(),
                visit,
                lines: AtomicU32::new(0),
                keeper: keeper.abort_handle(),
            }) as Arc<dyn Visited>)
        })
    }

    fn rest(&self) -> Soon<'_, ()> {
        Box::pin(async move {
            let _ = self.post.once(&Word::Rest(self.service.clone())).await;
        })
    }
}

/// A visit at another site; it is left when this is dropped.
struct Visiting {
    post: Post,
    visit: u64,
    lines: AtomicU32,
    keeper: AbortHandle,
}

// === impl Visiting ===

impl Visited for Visiting {
    fn line(&self, purpose: &'static str) -> Soon<'_, Result<Line>> {
        Box::pin(async move {
            let line = self.lines.fetch_add(1, Ordering::Relaxed);
            let begin = Word::Line {
                visit: self.visit,
                line,
                purpose: purpose.to_owned(),
            };
            self.post.done(&begin).await?;
            Ok(carrier::line(self.post.clone(), self.visit, line))
        })
    }
}

impl Drop for Visiting {
    fn drop(&mut self) {
        self.keeper.abort();
        let (post, visit) = (self.post.clone(), self.visit);
        // Where it is not heard, the next visit ends this one, or its silence does.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { post.once(&Word::Leave { visit }).await });
        }
    }
}
