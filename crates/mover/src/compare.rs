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
use crate::durable::make_durable;
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

    /// As [`settle`](Self::settle), of a third site that is `gone` for good; and writes down there that users are taken back from it in `round`. Returns the
    /// latest round that is known there.
    ///
    /// # Errors
    /// Also where the site is not gone, as it can be told there.
    fn bar<'a>(&'a self, gone: &'a SiteName, round: i64) -> Soon<'a, Result<i64>>;
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

    fn bar<'a>(&'a self, gone: &'a SiteName, round: i64) -> Soon<'a, Result<i64>> {
        Box::pin(async move {
            let session = self.session.lock().await;
            bar(&session, &self.site, gone, round).await
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

/// [`Teller::bar`] at `site`, which `session` leads to.
///
/// # Errors
/// As [`settle`].
pub async fn bar(session: &Session, site: &SiteName, gone: &SiteName, round: i64) -> Result<i64> {
    settle(session, site, gone).await?;
    let round = residency::reclaim::raise(&**session, round)
        .await
        .at(site, "writing down a round of reclaiming")?;
    make_durable(session, site).await?;
    Ok(round)
}

/// What one round of hearing a peer, or all of them, came to.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// What was heard.
    pub heard: Heard,
    /// Whether whoever was heard has heard his own peers since his server started.
    pub ready: bool,
}

/// Hears `peer` to the end of what it has to tell at `here`.
///
/// # Errors
/// Where either does not answer; what was heard until then stays heard.
pub async fn hear_out(here: &End, session: &mut Session, peer: &dyn Teller) -> Result<Round> {
    let doing = "comparing with a peer's records";
    let mut round = Round {
        heard: Heard::default(),
        ready: true,
    };
    if planted(Bug::OpenUncompared) {
        return Ok(round);
    }
    loop {
        let after = tidings::place(&**session, peer.site())
            .await
            .at(&here.site, doing)?;
        let page = peer.tell(after.clone()).await?;
        round.ready = page.heard;
        let nothing = page.users.is_empty() && page.from == after && page.to == after;
        // Where nothing was ever told there is still to be written down that it was heard again.
        if !nothing || after.is_none() && again(here, session).await? {
            let heard = tidings::hear(session, here.kind(), &here.site, peer.site(), &page)
                .await
                .at(&here.site, doing)?;
            // Somebody else hears the same peer here: from where he came to.
            let Some(heard) = heard else { continue };
            round.heard.add(heard);
        }
        if !page.more {
            return Ok(round);
        }
    }
}

/// Hears `peers` one after the other; again where one of them made somebody lost, as what the others had said of him was let pass.
async fn hear_all(
    here: &End,
    session: &mut Session,
    peers: &[Arc<dyn Teller>],
    settle: bool,
) -> Result<Round> {
    let mut all = Round {
        heard: Heard::default(),
        ready: true,
    };
    loop {
        all.ready = true;
        for peer in peers {
            if settle {
                peer.settle(&here.site).await?;
            }
            let round = hear_out(here, session, &**peer).await?;
            all.heard.add(round.heard);
            all.ready &= round.ready;
        }
        if !again(here, session).await? {
            return Ok(all);
        }
    }
}

/// Whether some peer is to be heard from the beginning.
pub async fn again(here: &End, session: &Session) -> Result<bool> {
    tidings::again(&**session)
        .await
        .at(&here.site, "looking who is to be heard again")
}

/// The first half of comparing `here`: hears all its peers, which end what it has on its way there, unless that was done since its server
/// started; then it hears them all the same.
///
/// # Errors
/// Where a peer does not answer.
pub async fn hear_peers(here: &End, peers: &[Arc<dyn Teller>]) -> Result<Heard> {
    let mut session = here.session("compare").await?;
    let doing = "comparing with its peers";
    let before = door::has_heard(&*session).await.at(&here.site, doing)?;
    let round = hear_all(here, &mut session, peers, !before).await?;
    door::hear(&*session).await.at(&here.site, doing)?;
    Ok(round.heard)
}

/// The second half: hears them all once more after each of them has heard its own, and opens `here`. A peer that went back too may have had somebody on
/// his way to a third site, which nobody knows before it has settled that.
///
/// # Errors
/// Where a peer does not answer; [`Error::NotOpen`] names one that has not heard its own.
pub async fn open_heard(here: &End, peers: &[Arc<dyn Teller>]) -> Result<Heard> {
    let mut session = here.session("compare").await?;
    if is_open(here, &session).await? {
        return Ok(Heard::default());
    }
    let first = hear_all(here, &mut session, peers, false).await?;
    if !first.ready {
        return Err(Error::NotOpen {
            site: here.site.clone(),
        });
    }
    let mut heard = first.heard;
    heard.add(hear_all(here, &mut session, peers, false).await?.heard);
    match open(here, &mut session, "compared with its peers").await? {
        true => Ok(heard),
        false => Err(Error::NotOpen {
            site: here.site.clone(),
        }),
    }
}

/// Opens `here`, unless it was closed by hand; says whether it was not open before.
pub async fn open(here: &End, session: &mut Session, why: &str) -> Result<bool> {
    let doing = "opening the site";
    let tx = transaction(session, here, doing).await?;
    let opened = door::open(&tx, why).await.at(&here.site, doing)?;
    commit(tx, here, doing).await?;
    Ok(opened)
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
