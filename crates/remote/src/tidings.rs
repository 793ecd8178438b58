//! What sites tell each other of changes of home, over the link: a page at a time, to whoever asks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::{Hears, Soon, Topic, Unheard};
use link::Peer;
use model::{ServiceName, SiteName};
use mover::compare::{Page, Place, Teller};
use mover::failure::Failure;
use mover::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The topic of changes of home on the link.
pub const TIDINGS: Topic = Topic(18);

/// How long one page may take.
const WITHIN: Duration = Duration::from_secs(30);

/// A question about `service`.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    service: ServiceName,
    ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// [`Teller::settle`], of the asker's site.
    Settle,
    /// [`Teller::tell`].
    Tell(Option<Place>),
    /// [`Teller::bar`].
    Bar { gone: SiteName, round: i64 },
}

/// The page that was asked for; none where nothing is told.
type Said = std::result::Result<Option<Page>, Failure>;

/// The round that [`Ask::Bar`] is answered with.
type Barred = std::result::Result<i64, Failure>;

/// A service at the site of a peer, which tells of changes of home.
pub struct Distant {
    peer: Peer,
    service: ServiceName,
}

// === impl Distant ===

impl Distant {
    /// `service` at the site of `peer`.
    pub fn new(peer: Peer, service: ServiceName) -> Self {
        Self { peer, service }
    }

    async fn ask(&self, ask: Ask) -> Result<Option<Page>> {
        let said: Said = self.question(ask).await?;
        Ok(said?)
    }

    async fn question<T: DeserializeOwned>(&self, ask: Ask) -> Result<T> {
        let site = || self.peer.site().clone();
        let question = Question {
            service: self.service.clone(),
            ask,
        };
        let body = postcard::to_stdvec(&question).map_err(|_| Error::Disorder { site: site() })?;
        let said = daemon::ask(&self.peer, TIDINGS, &body, WITHIN).await;
        let said = said.map_err(|error| {
            tracing::debug!(site = %self.peer.site(), %error, "the peer tells nothing");
            Error::Left { site: site() }
        })?;
        postcard::from_bytes(&said).map_err(|_| Error::Disorder { site: site() })
    }
}

impl Teller for Distant {
    fn site(&self) -> &SiteName {
        self.peer.site()
    }

    fn settle<'a>(&'a self, _: &'a SiteName) -> Soon<'a, Result<()>> {
        Box::pin(async move { self.ask(Ask::Settle).await.map(drop) })
    }

    fn tell(&self, after: Option<Place>) -> Soon<'_, Result<Page>> {
        Box::pin(async move {
            let page = self.ask(Ask::Tell(after)).await?;
            page.ok_or_else(|| Error::Disorder {
                site: self.peer.site().clone(),
            })
        })
    }

    fn bar<'a>(&'a self, gone: &'a SiteName, round: i64) -> Soon<'a, Result<i64>> {
        Box::pin(async move {
            let gone = gone.clone();
            let barred: Barred = self.question(Ask::Bar { gone, round }).await?;
            Ok(barred?)
        })
    }
}

/// This site's records, read when somebody asks.
pub trait Tells: Send + Sync {
    /// Ends what an earlier process of the site `from` has on its way to `service`.
    fn settle<'a>(
        &'a self,
        service: &'a ServiceName,
        from: &'a SiteName,
    ) -> Soon<'a, std::result::Result<(), Failure>>;

    /// What `service` tells above `after`; the [`Failure`] is told to whoever asked.
    fn tell<'a>(
        &'a self,
        service: &'a ServiceName,
        after: Option<Place>,
    ) -> Soon<'a, std::result::Result<Page, Failure>>;

    /// Ends what comes to `service` from the site `gone`, of which the site `from` says that it is destroyed, and writes the
    /// round down in which `from` takes users back. Returns the latest that is known here.
    fn bar<'a>(
        &'a self,
        service: &'a ServiceName,
        from: &'a SiteName,
        gone: &'a SiteName,
        round: i64,
    ) -> Soon<'a, std::result::Result<i64, Failure>>;
}

/// Hears what peers ask about changes of home.
pub struct Telling {
    site: SiteName,
    tells: Arc<dyn Tells>,
}

// === impl Telling ===

impl Telling {
    /// At `site`.
    pub fn new(site: SiteName, tells: Arc<dyn Tells>) -> Self {
        Self { site, tells }
    }
}

impl Hears for Telling {
    fn topic(&self) -> Topic {
        TIDINGS
    }

    fn hear(&self, from: Peer, body: Bytes) -> Soon<'_, std::result::Result<Bytes, Unheard>> {
        Box::pin(async move {
            let said: Said = match postcard::from_bytes::<Question>(&body) {
                Ok(Question { service, ask }) => match ask {
                    Ask::Bar { gone, round } => {
                        let barred: Barred =
                            self.tells.bar(&service, from.site(), &gone, round).await;
                        return Ok(postcard::to_stdvec(&barred).map_err(|_| Unheard)?.into());
                    }
                    Ask::Settle => {
                        let settled = self.tells.settle(&service, from.site()).await;
                        settled.map(|()| None)
                    }
                    Ask::Tell(after) => self.tells.tell(&service, after).await.map(Some),
                },
                Err(_) => Err(Failure::Disorder {
                    site: self.site.clone(),
                }),
            };
            let said = postcard::to_stdvec(&said).map_err(|_| Unheard)?;
            Ok(said.into())
        })
    }
}
