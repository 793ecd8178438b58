//! One service's office, and the session at its home database that holds it.

use std::time::Duration;

use postgres::connect::{ConnectError, Session, connect};
use residency::office::Office;
use residency::{audit, office, policy};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::election::Standing;
use crate::settings::Service;
use model::{SiteName, causes};

/// The name of the leader's office in each service's home database.
pub const OFFICE: &str = "daemon";

/// A database that does not answer a small question in this time is out of reach: whoever leads steps down.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// How often the policy's version is read: for people to see, nothing is decided by it.
const POLICY_EVERY: Duration = Duration::from_secs(5);

/// A wait before a session is tried again that could not be had, or whose database is not ours.
const AGAIN: Duration = Duration::from_secs(1);

/// The office of one service at this site.
pub(crate) struct Post {
    pub service: Service,
    site: SiteName,
    session: Option<Session>,
    opening: Option<AbortOnDropHandle<Result<Session, ConnectError>>>,
    office: Option<Office>,
    not_before: Option<Instant>,
    policy_read: Option<Instant>,
    /// Why there is no session, as far as is known.
    why: String,
}

/// What a look at the post found.
pub(crate) struct Found {
    /// Why the database is out of reach; `None` where it is there.
    pub unreached: Option<String>,
    /// This daemon led until this look, and does not any more.
    pub lost: bool,
    /// The policy's version, where it was read in this look.
    pub policy: Option<Option<String>>,
}

/// How an attempt to take the office ended.
pub(crate) enum Attempt {
    /// This daemon leads.
    Won(Office),
    /// Another one does, as the database describes it.
    Others(Option<String>),
    /// The database did not let us say.
    Unreached(String),
}

// === impl Post ===

impl Post {
    pub fn new(service: Service, site: SiteName) -> Self {
        Self {
            service,
            site,
            session: None,
            opening: None,
            office: None,
            not_before: None,
            policy_read: None,
            why: "no answer yet".to_owned(),
        }
    }

    /// How the office stands before it is asked for.
    pub fn standing(&self) -> Standing {
        match (&self.office, &self.session) {
            (Some(_), _) => Standing::Ours,
            (None, Some(_)) => Standing::Unasked,
            (None, None) => Standing::Shut,
        }
    }

    /// Gives the office up, with its session.
    pub fn leave(&mut self) {
        (self.session, self.office) = (None, None);
    }

    /// Looks whether the session stands and the office is still ours; opens a session where there is none. Takes
    /// a few seconds at most.
    pub async fn look(&mut self) -> Found {
        let led = self.office.is_some();
        let looked = match self.session.is_some() {
            true => self.ask_again().await,
            false => self.open().await,
        };
        match looked {
            Ok(policy) => Found {
                unreached: None,
                lost: false,
                policy,
            },
            Err(why) => {
                self.leave();
                self.why.clone_from(&why);
                Found {
                    unreached: Some(why),
                    lost: led,
                    policy: None,
                }
            }
        }
    }

    /// Tries to take the office.
    pub async fn take(&mut self) -> Attempt {
        let Some(session) = &self.session else {
            return Attempt::Unreached("there is no session".to_owned());
        };
        let taken = timeout(ANSWER_MAX, Office::take(session, OFFICE)).await;
        match taken {
            Ok(Ok(office)) => {
                self.office = Some(office.clone());
                Attempt::Won(office)
            }
            Ok(Err(residency::Error::Office { holder, .. })) => Attempt::Others(holder),
            // The lock may have been had and the term not: the session goes, and the lock with it.
            Ok(Err(error)) => self.give_up(causes(&error)),
            Err(_) => self.give_up(no_answer()),
        }
    }

    fn give_up(&mut self, why: String) -> Attempt {
        self.leave();
        self.not_before = Some(Instant::now() + AGAIN);
        Attempt::Unreached(why)
    }

    /// Whether a session that was opened before still serves.
    async fn ask_again(&mut self) -> Result<Option<Option<String>>, String> {
        let Some(session) = &self.session else {
            return Err("there is no session".to_owned());
        };
        if session.is_closed() {
            return Err("the session was lost".to_owned());
        }
        let read_policy = self
            .policy_read
            .is_none_or(|at| at.elapsed() > POLICY_EVERY);
        let questions = async {
            let ours = match &self.office {
                Some(office) => office.is_ours(&**session).await,
                None => audit::installed(&**session).await,
            };
            let policy = match read_policy {
                // Any phase will do: the version is that of the whole.
                true => Some(policy::standing(&**session, "").await?),
                false => None,
            };
            Ok::<_, residency::Error>((ours?, policy))
        };
        let answered = timeout(ANSWER_MAX, questions).await;
        let answered = answered.map_err(|_| no_answer())?;
        let (ours, policy) = answered.map_err(|error| causes(&error))?;
        if !ours {
            return Err(match self.office {
                Some(_) => "the office has passed to another process".to_owned(),
                None => not_installed(),
            });
        }
        if policy.is_some() {
            self.policy_read = Some(Instant::now());
        }
        Ok(policy.map(|standing| standing.map(|standing| standing.version)))
    }

    /// Opens a session, beside the rounds: a database that is far gone takes its time to be so.
    async fn open(&mut self) -> Result<Option<Option<String>>, String> {
        if self.opening.is_none() {
            if self.not_before.is_some_and(|at| at > Instant::now()) {
                return Err(self.why.clone());
            }
            self.not_before = Some(Instant::now() + AGAIN);
            let database = self.service.database.clone();
            let open = async move { connect(database.expose(), "daemon").await };
            self.opening = Some(AbortOnDropHandle::new(tokio::spawn(open)));
        }
        let opened = match &mut self.opening {
            Some(opening) => timeout(NEAR, opening).await,
            None => return Err(self.why.clone()),
        };
        let opened = opened.map_err(|_| self.why.clone())?;
        self.opening = None;
        let session = match opened {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Err(causes(&error)),
            Err(_) => return Err("connecting was broken off".to_owned()),
        };
        let asked = timeout(ANSWER_MAX, self.recognise(&session)).await;
        asked.map_err(|_| no_answer())??;
        self.session = Some(session);
        self.policy_read = None;
        self.ask_again().await
    }

    /// Refuses a database that is not this service's home at this site.
    async fn recognise(&self, session: &Session) -> Result<(), String> {
        let wrong = |error: residency::Error| causes(&error);
        let installed = audit::installed(&**session).await.map_err(wrong)?;
        let found = audit::installed_as(&**session).await.map_err(wrong)?;
        let (true, Some(found)) = (installed, found) else {
            return Err(not_installed());
        };
        let Service { name, origin, .. } = &self.service;
        if found != [name.as_str(), self.site.as_str(), origin.as_str()] {
            let [service, site, origin] = found;
            return Err(format!(
                "it is installed as the home of {service} at {site}, origin {origin}: correct the configuration"
            ));
        }
        office::keep_alive(session).await.map_err(wrong)
    }
}

/// A database of the same site answers in this time; another round looks again.
const NEAR: Duration = Duration::from_millis(400);

fn no_answer() -> String {
    format!("no answer within {} s", ANSWER_MAX.as_secs())
}

fn not_installed() -> String {
    "Domicile is not installed there, or this role may not look: run `domicile install`".to_owned()
}
