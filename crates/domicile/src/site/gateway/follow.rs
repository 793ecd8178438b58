//! Follows one service's home database for the gateway: keeps its lease, closes and opens doors, learns who lives where.
//!
//! What a gateway has to keep to stands in [`residency::gateways`]; the order here is its order.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::gateway::doors::Shut;
use ::gateway::homes::{SiteId, UserHash};
use ::gateway::site::{Gateway, Moment};
use model::{BatchId, Epoch, KeyKind, SiteName, UserKey};
use postgres::connect::{Session, connect};
use residency::closings::TO_GATEWAYS;
use residency::gateways::{self, Closing, Opened, Stand};
use residency::tidings::{self, Place};
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;

use super::facts::Facts;
use crate::config::Database;

/// How long a gateway that died holds up the fences of a site.
const LEASE: Duration = Duration::from_secs(3);

/// How often the lease is renewed: two renewals may be lost.
const RENEW: Duration = Duration::from_secs(1);

/// How often is looked without having been told: a notification can be missed.
const AGAIN: Duration = Duration::from_millis(100);

/// How often changes of home are read that came without a closing, and how far the programme has come.
const FEED: Duration = Duration::from_millis(500);

/// How long requests under way may take to end once their door is closed; what takes longer is left to the guard. A part of the pause that
/// a batch may have (1 s by default).
const DRAIN: Duration = Duration::from_millis(300);

/// How long opening a door that nobody opened may wait for a fence that is just being raised: the lease is renewed in the same session.
const LOCKED: &str = "SET lock_timeout = '200ms'";

/// The most users that are read at once.
const PAGE: i64 = 20_000;

/// How long to wait before a database that was lost is tried again.
const LOST: Duration = Duration::from_millis(300);

/// Any error of following: it is logged and begun anew.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What it takes to follow one service.
pub(super) struct Follower {
    pub gateway: Arc<Gateway>,
    pub service: u16,
    /// By which the database knows this process.
    pub name: String,
    pub database: Database,
    pub facts: Arc<Facts>,
}

/// What is known while one session lasts.
struct Following<'a> {
    of: &'a Follower,
    session: Session,
    kind: KeyKind,
    shut: HashMap<BatchId, Held>,
    /// Who was fenced when this gateway registered.
    fenced: Option<Held>,
    drained: (mpsc::Sender<Drained>, mpsc::Receiver<Drained>),
}

/// When the lease was asked for last.
#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    moment: Moment,
}

/// A closed door.
struct Held {
    users: Vec<UserKey>,
    shut: Arc<Shut>,
}

/// Nobody of a batch is under way any more, or the wait for them is over.
type Drained = (BatchId, u32);

// === impl Asked ===

impl Asked {
    fn now() -> Self {
        Self {
            at: Instant::now(),
            moment: Moment::now(),
        }
    }
}

// === impl Follower ===

impl Follower {
    /// Follows for ever.
    pub async fn follow(self) {
        let service = &self.gateway.services[usize::from(self.service)].name;
        let mut place = None;
        loop {
            let ended = self.session(&mut place).await;
            self.gateway.services[usize::from(self.service)].lease.end();
            if let Err(why) = ended {
                let why = crate::config::scrub(&model::causes(&*why).to_string());
                tracing::warn!(%service, why, "the home database is not followed; requests of users wait");
            }
            tokio::time::sleep(LOST).await;
        }
    }

    fn lease(&self) -> &::gateway::site::Lease {
        &self.gateway.services[usize::from(self.service)].lease
    }

    fn homes(&self) -> &::gateway::homes::Homes {
        &self.gateway.services[usize::from(self.service)].homes
    }

    /// Another site's database would name other users as those of here.
    fn is_ours(&self, facts: &gateways::Facts) -> Result<(), Failed> {
        let service = &self.gateway.services[usize::from(self.service)];
        let here = self.gateway.name(self.gateway.here);
        let ours = facts.site.as_str() == here
            && facts.service == service.name.as_str()
            && self.gateway.site(&facts.origin) == Some(service.origin);
        match ours {
            true => Ok(()),
            false => Err(format!(
                "the database is installed for {} at {}, with the origin {}: correct its URL, or the origin",
                facts.service, facts.site, facts.origin
            )
            .into()),
        }
    }

    /// Registers, learns everything, and follows until something fails.
    async fn session(&self, place: &mut Option<Place>) -> Result<(), Failed> {
        let url = self.database.url()?;
        let session = connect(url.expose(), "gateway").await?;
        let mut bell = session.listen(TO_GATEWAYS).await?;
        let facts = gateways::facts(&*session).await?;
        let kind = facts.kind;
        self.is_ours(&facts)?;
        self.facts.know(facts);
        let mut asked = Asked::now();
        if !gateways::register(&*session, &self.name, LEASE).await? {
            *place = None;
        }
        if place.is_none() {
            self.homes().forget();
        }
        let mut following = Following {
            of: self,
            session,
            kind,
            shut: HashMap::new(),
            fenced: None,
            drained: mpsc::channel(64),
        };
        following.session.batch_execute(LOCKED).await?;
        let all = gateways::all_closings(&*following.session).await?;
        following.closings(all).await?;
        following.hold_fenced().await?;
        following.feed(place, &mut asked).await?;
        self.facts.learn_phases(&following.session).await?;
        self.lease().renewed(asked.moment, LEASE);
        let service = &self.gateway.services[usize::from(self.service)].name;
        tracing::info!(%service, users = self.homes().len(), "following the home database");
        let (mut fed, mut looked) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                rung = bell.rung() => rung?,
                Some((batch, undrained)) = following.drained.1.recv() => {
                    gateways::acknowledge(&*following.session, &self.name, &batch, undrained).await?;
                }
                () = tokio::time::sleep(AGAIN) => {}
            }
            bell.hush();
            if asked.at.elapsed() >= RENEW {
                let now = Asked::now();
                if !gateways::renew(&*following.session, &self.name, LEASE).await? {
                    return Err("the lease was over".into());
                }
                asked = now;
                self.lease().renewed(asked.moment, LEASE);
            }
            let known: Vec<BatchId> = following.shut.keys().cloned().collect();
            let found = gateways::closings(&*following.session, &known).await?;
            let missing = |batch: &BatchId| !found.iter().any(|closing| closing.batch == *batch);
            // What is there no more was lost in a crash.
            let gone: Vec<BatchId> = known.into_iter().filter(missing).collect();
            following.closings(found).await?;
            for batch in gone {
                following.look_and_open(&batch).await?;
            }
            following.look_at_fenced().await?;
            if fed.elapsed() >= FEED {
                following.feed(place, &mut asked).await?;
                fed = Instant::now();
            }
            if looked.elapsed() >= 60 * RENEW {
                self.facts.learn_phases(&following.session).await?;
                looked = Instant::now();
            }
        }
    }
}

// === impl Following ===

impl Following<'_> {
    /// Closes the doors that are closed in the database, and opens those that are open again.
    async fn closings(&mut self, found: Vec<Closing>) -> Result<(), Failed> {
        for closing in found {
            self.closing(closing).await?;
        }
        Ok(())
    }

    /// Holds back whom a fence closes without a closing.
    async fn hold_fenced(&mut self) -> Result<(), Failed> {
        let users = gateways::fenced(&*self.session).await?;
        if !users.is_empty() {
            let hashes = users.iter().map(|user| self.hash(user)).collect();
            let shut = Arc::new(self.of.gateway.doors.close(hashes));
            self.fenced = Some(Held { users, shut });
        }
        Ok(())
    }

    /// Lets them go on when none of them is fenced any more.
    async fn look_at_fenced(&mut self) -> Result<(), Failed> {
        let Some(held) = self.fenced.take() else {
            return Ok(());
        };
        match self.look(&held.users).await? {
            true => self.fenced = Some(held),
            false => self.of.gateway.doors.open(&held.shut),
        }
        Ok(())
    }

    /// Learns where `users` live; whether somebody of them is fenced.
    async fn look(&self, users: &[UserKey]) -> Result<bool, Failed> {
        let stands = gateways::look(&*self.session, self.kind, users).await?;
        for (user, stand) in &stands {
            self.stand(user, stand);
        }
        let mut closed = stands.iter();
        Ok(closed.any(|(_, stand)| matches!(stand, Stand::Closed { .. })))
    }

    async fn closing(&mut self, closing: Closing) -> Result<(), Failed> {
        let Closing {
            batch,
            users,
            left,
            opened,
        } = closing;
        match opened {
            None if !self.shut.contains_key(&batch) => self.close(batch, users),
            None if left.is_zero() && self.reopen(&batch).await? => {
                self.look_and_open(&batch).await?;
            }
            None => {}
            Some(Opened::At { home, epochs }) => {
                for (user, epoch) in users.iter().zip(epochs) {
                    self.record(user, &home, epoch);
                }
                self.open(&batch);
            }
            Some(Opened::Look) if self.shut.contains_key(&batch) => {
                self.look_and_open(&batch).await?
            }
            Some(Opened::Look) => {
                self.look(&users).await?;
            }
        }
        Ok(())
    }

    /// Closes the doors of `users`, and has it said when nobody is under way any more.
    fn close(&mut self, batch: BatchId, users: Vec<UserKey>) {
        let hashes = users.iter().map(|user| self.hash(user)).collect();
        let shut = Arc::new(self.of.gateway.doors.close(hashes));
        let (gateway, drained) = (Arc::clone(&self.of.gateway), self.drained.0.clone());
        let held = Held {
            users,
            shut: Arc::clone(&shut),
        };
        self.shut.insert(batch.clone(), held);
        // Ends within its bound.
        tokio::spawn(async move {
            let left = gateway.doors.drain(&shut, DRAIN).await;
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            // Nobody hears it where the session was lost; then nobody waits for it.
            let _ = drained.send((batch, left)).await;
        });
    }

    /// Opens the door of `batch` when its users' records say where they are; until then it stays closed, and is looked at again.
    async fn look_and_open(&mut self, batch: &BatchId) -> Result<(), Failed> {
        let Some(held) = self.shut.get(batch) else {
            return Ok(());
        };
        if !self.look(&held.users).await? {
            self.open(batch);
        }
        Ok(())
    }

    /// Opens in the database what nobody opened in its time; false where it stays closed, or a fence is just being raised.
    async fn reopen(&self, batch: &BatchId) -> Result<bool, Failed> {
        match gateways::reopen(&*self.session, batch).await {
            Err(error) if error.sqlstate() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(false),
            reopened => Ok(reopened?),
        }
    }

    fn open(&mut self, batch: &BatchId) {
        if let Some(held) = self.shut.remove(batch) {
            self.of.gateway.doors.open(&held.shut);
        }
    }

    /// Reads the changes of home above `place`, renewing the lease meanwhile: at the start they may be many.
    /// Whom a restore lost is nobody's until an operator has looked.
    async fn feed(&mut self, place: &mut Option<Place>, asked: &mut Asked) -> Result<(), Failed> {
        loop {
            let page = tidings::tell_pages(&mut self.session, place.as_ref(), PAGE).await?;
            if place.is_some() && page.from.is_none() {
                // Whatever was known by it may never have been. The lease ends before it is forgotten.
                *place = None;
                return Err("the home database went back".into());
            }
            let bounds = (page.from.as_ref(), page.to.as_ref());
            let after = bounds.0.map_or(0, |place| place.position);
            let to = bounds.1.map_or(0, |place| place.position);
            let lost = gateways::lost(&*self.session, after, to).await?;
            for (user, epoch) in &lost {
                self.stand(user, &Stand::Lost { epoch: *epoch });
            }
            let lost: HashSet<&UserKey> = lost.iter().map(|(user, _)| user).collect();
            for (user, home, epoch) in &page.users {
                if !lost.contains(user) {
                    self.record(user, home, *epoch);
                }
            }
            *place = page.to;
            if !page.more {
                return Ok(());
            }
            if asked.at.elapsed() >= RENEW {
                let now = Asked::now();
                if !gateways::renew(&*self.session, &self.of.name, LEASE).await? {
                    return Err("the lease was over".into());
                }
                *asked = now;
            }
        }
    }

    fn stand(&self, user: &UserKey, stand: &Stand) {
        let here = &self.of.gateway.sites[usize::from(self.of.gateway.here.0)];
        match stand {
            Stand::Here { epoch } => self.record(user, here, *epoch),
            Stand::Elsewhere { home, epoch } => self.record(user, home, *epoch),
            Stand::Lost { epoch } => {
                let hash = self.hash(user);
                self.of.homes().record(hash, SiteId::NOWHERE, epoch.0);
            }
            Stand::Closed { .. } | Stand::Arriving { .. } | Stand::Unknown { .. } => {}
        }
    }

    fn record(&self, user: &UserKey, home: &SiteName, epoch: Epoch) {
        let gateway = &self.of.gateway;
        // A site that this configuration does not name: whoever asks for him is told by the database.
        let site = gateway.site(home).unwrap_or(SiteId::NOWHERE);
        self.of.homes().record(self.hash(user), site, epoch.0);
    }

    fn hash(&self, user: &UserKey) -> UserHash {
        self.of.homes().user(user.as_str())
    }
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        // What waits looks again, finds no lease, and is told to come again.
        self.of.lease().end();
        for held in self.shut.values().chain(&self.fenced) {
            self.of.gateway.doors.open(&held.shut);
        }
    }
}
