//! The driver: rounds of looking, electing and leading, until the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::future::join_all;
use model::ServiceName;
use prometheus_client::registry::Registry;
use residency::office::Office;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::acquaintance::Acquaintance;
use crate::admin_socket::SocketFile;
use crate::dispatch::{Hearers, Hears};
use crate::election::{Standing, Step, next};
use crate::leading::Term;
use crate::linked::Linked;
use crate::post::{Attempt, Found, Post};
use crate::settings::Settings;
use crate::view::{View, now};
use crate::work::{Leading, Work};
use crate::{DaemonError, Ending, admin, admin_socket, metrics};

/// Between two rounds. A leader's death is noticed within one, as the server frees its lock at once.
const ROUND: Duration = Duration::from_millis(500);

/// How long the admin API may take to end what it is answering.
const ANSWERING: Duration = Duration::from_millis(500);

/// A daemon that has not begun: parts are plugged in here.
pub struct Daemon {
    settings: Settings,
    view: View,
    works: Vec<Arc<dyn Work>>,
    hearers: Vec<Arc<dyn Hears>>,
    routes: Router,
    registry: Registry,
    tell: Box<dyn Fn(Moment<'_>) + Send + Sync>,
}

/// What a service manager wants to hear. Texts name services, nothing personal or secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment<'a> {
    /// The admin API answers, and the first round is over.
    Up(&'a str),
    /// A round is over: the daemon is alive, and is this.
    Round(&'a str),
    /// The end has begun.
    Ending,
}

/// What runs.
struct Running {
    posts: Vec<Post>,
    works: Vec<Arc<dyn Work>>,
    terms: BTreeMap<ServiceName, Term>,
    /// Terms that are over, whose works are still ending.
    ending: BTreeMap<ServiceName, JoinHandle<bool>>,
    linked: Linked,
    view: View,
    patience: Duration,
}

// === impl Daemon ===

impl Daemon {
    /// A daemon that leads and does nothing with it.
    pub fn new(mut settings: Settings) -> Self {
        settings.services.sort_by(|a, b| a.name.cmp(&b.name));
        let view = View::new(&settings);
        Self {
            registry: metrics::registry(&view),
            works: Vec::new(),
            hearers: vec![Arc::new(Acquaintance(view.clone()))],
            routes: Router::new(),
            tell: Box::new(|_| {}),
            settings,
            view,
        }
    }

    /// What is known, for the parts.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Adds something that the leader of each service does.
    #[must_use]
    pub fn work(mut self, work: Arc<dyn Work>) -> Self {
        self.works.push(work);
        self
    }

    /// Adds something that peers may ask. Topic 0 is taken.
    #[must_use]
    pub fn hears(mut self, hearer: Arc<dyn Hears>) -> Self {
        self.hearers.push(hearer);
        self
    }

    /// Adds routes to the admin socket, which this account alone can reach.
    #[must_use]
    pub fn routes(mut self, routes: Router) -> Self {
        self.routes = self.routes.merge(routes);
        self
    }

    /// Whoever hears of the daemon's moments.
    #[must_use]
    pub fn tells(mut self, tell: impl Fn(Moment<'_>) + Send + Sync + 'static) -> Self {
        self.tell = Box::new(tell);
        self
    }

    /// Where further metrics are registered. No label may hold anything of a user's.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Runs until `ending`, and then leaves its offices and removes its socket.
    ///
    /// # Errors
    /// Where it cannot begin; where its link cannot be had for longer than a change of leaders takes.
    pub async fn run(self, ending: Ending) -> Result<(), DaemonError> {
        let hearers = Hearers::new(self.hearers)?;
        let linked = Linked::new(self.settings.link, self.view.clone(), hearers).await?;
        if self.works.is_empty() && !self.settings.services.is_empty() {
            tracing::warn!(
                "no work is plugged in: this daemon leads, and speaks with its peers, and moves nobody"
            );
        }
        let over = CancellationToken::new();
        let registry = Arc::new(self.registry);
        let health = admin::health(&self.view, &registry);
        let all = health
            .clone()
            .merge(admin::status(&self.view))
            .merge(self.routes);
        let mut serving = JoinSet::new();
        if let Some(address) = &self.settings.admin.listen {
            let listener = bind(address).await?;
            serving.spawn(admin::serve(listener, health, over.clone()));
        }
        let (listener, socket) = admin_socket::listen(&self.settings.admin.socket).await?;
        serving.spawn(admin::serve(listener, all, over.clone()));
        let site = self.settings.site.clone();
        let services = self.settings.services.into_iter();
        let mut running = Running {
            posts: services.map(|one| Post::new(one, site.clone())).collect(),
            works: self.works,
            terms: BTreeMap::new(),
            ending: BTreeMap::new(),
            linked,
            view: self.view,
            patience: self.settings.patience,
        };
        tracing::info!(%site, socket = %self.settings.admin.socket.display(), "the daemon is up");
        let ended = running.rounds(&ending, &*self.tell).await;
        (self.tell)(Moment::Ending);
        running.end(&ending).await;
        over.cancel();
        close(serving, socket).await;
        tracing::info!(%site, "the daemon has ended");
        ended
    }
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

async fn bind(address: &str) -> Result<TcpListener, DaemonError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| DaemonError::Listen {
        address: address.to_owned(),
        source,
    })
}

/// The socket's file goes first: whoever finds it finds somebody who answers.
async fn close(mut serving: JoinSet<()>, socket: SocketFile) {
    drop(socket);
    let all = async { while serving.join_next().await.is_some() {} };
    if tokio::time::timeout(ANSWERING, all).await.is_err() {
        tracing::debug!("somebody kept the admin API's connection open");
    }
}

// === impl Running ===

impl Running {
    /// Round after round, until the end is asked for.
    async fn rounds(
        &mut self,
        ending: &Ending,
        tell: &(dyn Fn(Moment<'_>) + Send + Sync),
    ) -> Result<(), DaemonError> {
        let mut ticks = interval(ROUND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = false;
        loop {
            let round = async {
                ticks.tick().await;
                self.round().await
            };
            tokio::select! {
                // A round that is dropped half-way leaves at most a session that nobody counts on.
                () = ending.gently.cancelled() => return Ok(()),
                round = round => round?,
            }
            let says = self.view.readiness().says;
            tell(match std::mem::replace(&mut told, true) {
                false => Moment::Up(&says),
                true => Moment::Round(&says),
            });
        }
    }

    async fn round(&mut self) -> Result<(), DaemonError> {
        let found = join_all(self.posts.iter_mut().map(Post::look)).await;
        for (n, found) in found.into_iter().enumerate() {
            self.note(n, found);
        }
        self.ending.retain(|_, works| !works.is_finished());
        self.elect().await;
        match self
            .posts
            .iter()
            .any(|post| post.standing() == Standing::Ours)
        {
            // Before the works begin: they will want their peers.
            true => self.linked.up().await?,
            false => self.linked.down(),
        }
        self.begin();
        Ok(())
    }

    /// Keeps what a look found, and steps down where the office was lost.
    fn note(&mut self, n: usize, found: Found) {
        let name = self.posts[n].service.name.clone();
        let mut state = self.view.lock();
        let known = state.services.entry(name.clone()).or_default();
        if known.unreached != found.unreached {
            match &found.unreached {
                Some(why) => tracing::warn!(service = %name, why, "the database is out of reach"),
                None => tracing::info!(service = %name, "the database is reached"),
            }
            known.unreached.clone_from(&found.unreached);
            // Whoever led may have changed meanwhile.
            known.other = None;
        }
        if let Some(policy) = found.policy {
            known.policy = policy;
        }
        drop(state);
        if found.lost {
            self.step_down(&name, "the session that holds the office was lost");
        }
    }

    async fn elect(&mut self) {
        let mut standings: Vec<_> = self.posts.iter().map(|post| self.standing(post)).collect();
        loop {
            match next(&standings) {
                Step::Rest => return,
                Step::Try(n) => standings[n] = self.try_to_take(n).await,
                Step::Yield => return self.give_way(),
            }
        }
    }

    /// Works of an earlier term must have ended before the office is asked for again.
    fn standing(&self, post: &Post) -> Standing {
        match self.ending.contains_key(&post.service.name) {
            true => Standing::Shut,
            false => post.standing(),
        }
    }

    async fn try_to_take(&mut self, n: usize) -> Standing {
        let attempt = self.posts[n].take().await;
        let name = &self.posts[n].service.name;
        let mut state = self.view.lock();
        let known = state.services.entry(name.clone()).or_default();
        match attempt {
            Attempt::Won(office) => {
                tracing::info!(service = %name, term = office.term(), "leads");
                known.leads = Some((office, now()));
                known.taken += 1;
                known.other = None;
                Standing::Ours
            }
            Attempt::Others(holder) => {
                let holder = holder.unwrap_or_else(|| "another process".to_owned());
                if known.other.as_ref() != Some(&holder) {
                    tracing::info!(service = %name, leader = holder, "stands by");
                    known.other = Some(holder);
                }
                Standing::Others
            }
            Attempt::Unreached(why) => {
                tracing::warn!(service = %name, why, "the office cannot be asked for");
                known.unreached = Some(why);
                Standing::Shut
            }
        }
    }

    /// Leaves all offices to the daemon that has an earlier one.
    fn give_way(&mut self) {
        for n in 0..self.posts.len() {
            if self.posts[n].standing() == Standing::Ours {
                self.posts[n].leave();
                let name = self.posts[n].service.name.clone();
                self.step_down(&name, "another daemon is in charge of the site");
            }
        }
    }

    /// This daemon does not lead `service` any more: its works are told at once, and end beside the rounds.
    fn step_down(&mut self, service: &ServiceName, why: &str) {
        tracing::warn!(%service, why, "steps down");
        if let Some(known) = self.view.lock().services.get_mut(service) {
            known.leads = None;
        }
        if let Some(term) = self.terms.remove(service) {
            term.stop();
            let ended = tokio::spawn(term.end(self.patience));
            self.ending.insert(service.clone(), ended);
        }
    }

    /// Begins the works of terms that have none yet.
    fn begin(&mut self) {
        let state = self.view.lock();
        let led = state.services.iter();
        let led = led.filter_map(|(name, one)| Some((name.clone(), one.leads.as_ref()?.0.clone())));
        let new: Vec<(ServiceName, Office)> = led
            .filter(|(name, _)| !self.terms.contains_key(name))
            .collect();
        drop(state);
        for (service, office) in new {
            let leading = Leading {
                service: service.clone(),
                office,
                stop: CancellationToken::new(),
                view: self.view.clone(),
            };
            self.terms
                .insert(service, Term::begin(leading, &self.works));
        }
    }

    /// Works come to their safe points, with the link and the offices still there; then these go.
    async fn end(mut self, ending: &Ending) {
        self.view.stopping().cancel();
        tracing::info!(patience_s = self.patience.as_secs(), "ending");
        let terms = std::mem::take(&mut self.terms).into_values();
        let works = join_all(terms.map(|term| term.end(self.patience)));
        let earlier = join_all(std::mem::take(&mut self.ending).into_values());
        tokio::select! {
            () = ending.at_once.cancelled() => tracing::warn!("ending at once"),
            _ = async { tokio::join!(works, earlier) } => {}
        }
        self.linked.down();
        for post in &mut self.posts {
            post.leave();
        }
    }
}
