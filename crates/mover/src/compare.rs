//! A site compares its records with its peers': before anything moves that its server has been restarted for, and ever after.
//!
//! What a peer tells of changes of home (see [`residency::tidings`]) is taken from where this site's own database
//! says that it came to: if that went back in time, the peer tells again what the database has forgotten. Once every peer was heard to the
//! end the site is open (see [`residency::door`]).

use std::sync::Arc;
use std::time::Duration;

use model::SiteName;
use model::fault::{Bug, planted};
use postgres::connect::Session;
use residency::door;
use residency::office::Office;
use residency::tidings;
pub use residency::tidings::{Heard, Page, Place};
use tokio::sync::Mutex;

use crate::desk::{commit, transaction};
use crate::error::{At, Error, Result};
use crate::ports::Soon;
use crate::route::{End, OFFICE_PATIENCE};

/// How long an acceptance that is on its way may take to end.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// A peer, which tells of changes of home.
pub trait Teller: Send + Sync {
    /// Its site.
    fn site(&self) -> &SiteName;

    /// Ends what an earlier process of `from` has on its way there: once this returns, nothing of that is accepted any more, and
    /// what was accepted is told.
    fn settle<'a>(&'a self, from: &'a SiteName) -> Soon<'a, Result<()>>;

    /// What it tells above `after`.
    fn tell(&self, after: Option<Place>) -> Soon<'_, Result<Page>>;
}

/// A peer whose database this process reaches by itself.
pub struct Near {
    site: SiteName,
    session: Mutex<Session>,
}

// === impl Near ===

impl Near {
    /// The site at the other end of `session`.
    pub fn new(site: SiteName, session: Session) -> Self {
        Self {
            site,
            session: Mutex::new(session),
        }
    }
}

impl Teller for Near {
    fn site(&self) -> &SiteName {
        &self.site
    }

    fn settle<'a>(&'a self, from: &'a SiteName) -> Soon<'a, Result<()>> {
        Box::pin(async move {
            let session = self.session.lock().await;
            settle(&session, &self.site, from).await
        })
    }

    fn tell(&self, after: Option<Place>) -> Soon<'_, Result<Page>> {
        Box::pin(async move {
            let mut session = self.session.lock().await;
            tidings::tell(&mut session, after.as_ref())
                .await
                .at(&self.site, "reading changes of home")
        })
    }
}

/// [`Teller::settle`] at `site`, which `session` leads to. The office of arrivals changes hands, and it does so only between the transactions that
/// were begun under it: an acceptance whose commit waits for a standby is waited for, too.
///
/// # Errors
/// Where a process of that site lives on, or a transaction of it does not end.
pub async fn settle(session: &Session, site: &SiteName, from: &SiteName) -> Result<()> {
    let doing = "waiting for what is on its way";
    let office = Office::arrivals(from);
    let taken = Office::take_within(session, &office, OFFICE_PATIENCE);
    match tokio::time::timeout(SETTLE_MAX, taken).await {
        Ok(taken) => taken.map(drop).at(site, doing),
        Err(_) => Err(residency::Error::Refused(
            "an acceptance there does not end: as a rule it waits for a standby".to_owned(),
        ))
        .at(site, doing),
    }
}

/// Hears `peer` to the end of what it has to tell at `here`.
///
/// # Errors
/// Where either does not answer; what was heard until then stays heard.
pub async fn hear_out(here: &End, session: &mut Session, peer: &dyn Teller) -> Result<Heard> {
    let doing = "comparing with a peer's records";
    let mut all = Heard::default();
    if planted(Bug::OpenUncompared) {
        return Ok(all);
    }
    loop {
        let after = tidings::place(&**session, peer.site())
            .await
            .at(&here.site, doing)?;
        let page = peer.tell(after.clone()).await?;
        let nothing = page.users.is_empty() && page.from == after && page.to == after;
        if !nothing {
            let heard = tidings::hear(session, here.kind(), &here.site, peer.site(), &page)
                .await
                .at(&here.site, doing)?;
            all.users += heard.users;
            all.overtaken += heard.overtaken;
            all.lost += heard.lost;
        }
        if !page.more {
            return Ok(all);
        }
    }
}

/// Opens `here`, whose peers were all heard to the end since its server started; says whether it was not open before.
pub async fn open(here: &End, session: &mut Session, why: &str) -> Result<bool> {
    let doing = "opening the site";
    let tx = transaction(session, here, doing).await?;
    let opened = door::open(&tx, why).await.at(&here.site, doing)?;
    commit(tx, here, doing).await?;
    Ok(opened)
}

/// Compares `here` with `peers`, unless that was done since its server started, and opens it. Says what was heard; `None` where it was open.
///
/// # Errors
/// Where a peer does not answer: then it stays as it is.
pub async fn compare(here: &End, peers: &[Arc<dyn Teller>]) -> Result<Option<Heard>> {
    let mut session = here.session("compare").await?;
    if is_open(here, &session).await? {
        return Ok(None);
    }
    let mut all = Heard::default();
    for peer in peers {
        peer.settle(&here.site).await?;
        let heard = hear_out(here, &mut session, &**peer).await?;
        all.users += heard.users;
        all.overtaken += heard.overtaken;
        all.lost += heard.lost;
    }
    open(here, &mut session, "compared with its peers").await?;
    Ok(Some(all))
}

/// Refuses a move at an end that has not been opened since its server started.
pub(crate) async fn wants_open(end: &End, session: &Session) -> Result<()> {
    match is_open(end, session).await? {
        true => Ok(()),
        false => Err(Error::NotOpen {
            site: end.site.clone(),
        }),
    }
}

async fn is_open(end: &End, session: &Session) -> Result<bool> {
    door::is_open(&**session)
        .await
        .at(&end.site, "looking whether the site is open")
}
