//! Carries the users who leave this site: what an earlier term left unfinished by itself, everything else when it is told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::daemon::{Leading, Soon, View, Work, WorkError};
use model::plan::{Plan, PlannedMove};
use model::{Market, MoveId, ServiceName, SiteName, UserKey};
use mover::Error;
use mover::drive::{self, Expected, Wanted};
use mover::event::{Event, Observer};
use mover::route::Stop;
use residency::journal::{self, Purpose};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, watch};

use super::route::route;
use crate::commands::apply::{among, failure, no_file};
use crate::commands::homes::Home;
use crate::commands::plan::{self, Measure};
use crate::config::{Config, scrub};
use crate::exit::{Exit, Failure, OrFail, Outcome};

/// What is told of an order that is carried out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Told {
    /// Something happened.
    Event(Event),
    /// It is over.
    Ended(Ended),
}

/// How an order ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ended {
    /// Users whom verification kept from moving.
    pub mismatches: u64,
    /// What stopped it.
    pub failed: Option<Failed>,
}

/// A [`Failure`] as one process tells it to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// The exit code.
    pub exit: u8,
    /// What happened.
    pub error: String,
    /// What to do.
    pub mend: Option<String>,
}

/// What is to be done, and whom it is told to.
pub(super) struct Order {
    errand: Errand,
    pub(super) told: mpsc::UnboundedSender<Told>,
}

/// Users of one service who are to leave.
pub(super) enum Errand {
    /// Those of a plan; of them these alone, if any are named.
    Plan(Plan, Option<Vec<UserKey>>),
    /// Those who came with these moves go home again, each to the site that its move left from.
    Back(Vec<(MoveId, SiteName)>),
}

/// The orders of one service: one at a time.
pub(super) struct Desk {
    busy: AtomicBool,
    send: mpsc::Sender<Order>,
    orders: Mutex<mpsc::Receiver<Order>>,
}

/// All services' departures from this site.
pub(super) struct Departures {
    pub(super) config: Arc<Config>,
    pub(super) site: SiteName,
    pub(super) view: View,
    pub(super) desks: BTreeMap<ServiceName, Desk>,
}

// === impl Failed ===

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            exit: failure.exit.code(),
            error: scrub(&format!("{:#}", failure.error)),
            mend: failure.mend,
        }
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        let mut all = Exit::ALL.into_iter();
        let exit = all.find(|exit| exit.code() == failed.exit);
        Self {
            exit: exit.unwrap_or(Exit::Unreached),
            error: anyhow::Error::msg(failed.error),
            mend: failed.mend,
        }
    }
}

// === impl Departures ===

impl Departures {
    pub(super) fn new(config: Arc<Config>, site: SiteName, view: View) -> Self {
        let desk = |_: &ServiceName| {
            let (send, orders) = mpsc::channel(1);
            Desk {
                busy: AtomicBool::new(false),
                send,
                orders: Mutex::new(orders),
            }
        };
        let here = config.services.iter();
        let here = here.filter(|(_, service)| service.databases.contains_key(&site));
        let desks = here.map(|(name, _)| (name.clone(), desk(name))).collect();
        Self {
            config,
            site,
            view,
            desks,
        }
    }

    /// Who of this site would move, by its own count.
    pub(super) async fn plan(&self, phase: Option<&str>, measure: Measure) -> Outcome<Plan> {
        let survey = plan::survey_at(&self.config, &self.site, measure).await?;
        plan::of(&self.config, &survey, phase)
    }

    /// What a plan comes to, service by service.
    pub(super) fn leaving(
        plan: &Plan,
        users: &Option<Vec<UserKey>>,
    ) -> BTreeMap<ServiceName, Errand> {
        let mut services: BTreeMap<ServiceName, Vec<PlannedMove>> = BTreeMap::new();
        for planned in &plan.moves {
            let of_service = services.entry(planned.service.clone()).or_default();
            of_service.push(planned.clone());
        }
        let errand = |moves| {
            let plan = Plan {
                moves,
                ..plan.clone()
            };
            Errand::Plan(plan, users.clone())
        };
        let services = services.into_iter();
        services
            .map(|(name, moves)| (name, errand(moves)))
            .collect()
    }

    /// Takes an order for every service. Each is told of by itself; whoever listens may go, and it is carried
    /// out all the same.
    ///
    /// # Errors
    /// 2 where this daemon does not lead, or a move is running; nothing is begun then.
    pub(super) fn order(
        &self,
        services: BTreeMap<ServiceName, Errand>,
    ) -> Outcome<Vec<mpsc::UnboundedReceiver<Told>>> {
        let mut taken = Vec::new();
        for name in services.keys() {
            let desk = self
                .desks
                .get(name)
                .filter(|_| self.view.office(name).is_some());
            let free = match desk {
                None => Err(
                    Failure::usage(format_args!("{name}: this daemon does not lead"))
                        .mend("ask the one that does: `GET /status` of each says which"),
                ),
                Some(desk) if desk.busy.swap(true, Ordering::SeqCst) => Err(Failure::usage(
                    format_args!("{name}: a move is already running here"),
                )
                .mend("`domicile status` shows it; wait for it, or `domicile abort` it")),
                Some(desk) => Ok(desk),
            };
            match free {
                Ok(desk) => taken.push(desk),
                Err(refused) => {
                    taken
                        .iter()
                        .for_each(|desk: &&Desk| desk.busy.store(false, Ordering::SeqCst));
                    return Err(refused);
                }
            }
        }
        let mut all = Vec::new();
        for (errand, desk) in services.into_values().zip(taken) {
            let (told, listening) = mpsc::unbounded_channel();
            let order = Order { errand, told };
            // There is room: it was not busy.
            if desk.send.try_send(order).is_ok() {
                all.push(listening);
            }
        }
        Ok(all)
    }

    /// Brings to an end what an earlier term or order left unfinished.
    async fn resume(&self, leading: &Leading, stop: &Stop) -> Result<(), Interrupted> {
        let name = &leading.service;
        for purpose in self.unfinished(name).await? {
            let phase = purpose.phase.clone();
            let markets = match (&phase, &purpose.of) {
                (Some(phase), None) => self.markets(name, phase, &purpose.target).await?,
                _ => Vec::new(),
            };
            let wanted = match (markets.is_empty(), &purpose.of) {
                (false, _) => Wanted::Markets(markets),
                // Those too whom the way back had not begun with.
                (true, Some(of)) => {
                    Wanted::Users(self.passengers(name, &purpose.target, of).await?)
                }
                (true, None) => Wanted::Users(Vec::new()),
            };
            tracing::info!(service = %name, to = %purpose.target, "going on with an unfinished move");
            let to = purpose.target.clone();
            let watch = Watch(None);
            self.carry(
                (name, &to, stop),
                purpose,
                wanted,
                Expected::default(),
                &watch,
            )
            .await?;
        }
        Ok(())
    }

    async fn unfinished(&self, name: &ServiceName) -> Outcome<Vec<Purpose>> {
        let service = self.config.service(name)?;
        let home = Home::open_installed(name, service, &self.site, "move").await?;
        let moves = journal::moves(&*home.session)
            .await
            .or_fail(Exit::Unreached, || {
                format!("{name}: cannot read the moves from {}", self.site)
            })?;
        let running = moves.into_iter().filter(|row| row.state == "running");
        let purposes = running.map(|row| Purpose {
            service: row.service,
            source: row.source,
            target: row.target,
            phase: row.phase,
            of: row.of,
        });
        Ok(purposes.collect())
    }

    /// The markets that `phase` still takes from here to `to`.
    async fn markets(
        &self,
        name: &ServiceName,
        phase: &str,
        to: &SiteName,
    ) -> Outcome<Vec<Market>> {
        let plan = self.plan(Some(phase), Measure::Users).await?;
        let of = plan.moves.into_iter();
        let of = of.filter(|planned| planned.service == *name && planned.to == *to);
        Ok(of.map(|planned| planned.market).collect())
    }

    async fn carry_out(
        &self,
        leading: &Leading,
        stop: &Stop,
        order: &Order,
    ) -> Result<u64, Interrupted> {
        self.resume(leading, stop).await?;
        let name = &leading.service;
        let (plan, only) = match &order.errand {
            Errand::Plan(plan, only) => (plan, only),
            Errand::Back(moves) => return self.take_back(name, stop, moves, order).await,
        };
        let mut ways: BTreeMap<SiteName, (Vec<Market>, Expected)> = BTreeMap::new();
        for planned in &plan.moves {
            let (markets, expected) = ways.entry(planned.to.clone()).or_default();
            markets.push(planned.market.clone());
            expected.users += planned.users;
            expected.rows += planned.rows;
            expected.bytes += planned.bytes;
        }
        let watch = Watch(Some(order.told.clone()));
        let mut mismatches = 0;
        for (to, (markets, expected)) in ways {
            let purpose = Purpose {
                service: name.clone(),
                source: self.site.clone(),
                target: to.clone(),
                phase: plan.phase.clone(),
                of: None,
            };
            let (wanted, expected) = match only {
                None => (Wanted::Markets(markets), expected),
                Some(users) => {
                    let users = self.wanted(name, users, &markets).await?;
                    if users.is_empty() {
                        continue;
                    }
                    let expected = Expected {
                        users: users.len() as u64,
                        ..Expected::default()
                    };
                    (Wanted::Users(users), expected)
                }
            };
            let way = (name, &to, stop);
            mismatches += self.carry(way, purpose, wanted, expected, &watch).await?;
        }
        Ok(mismatches)
    }

    /// Those of `users` who live here and are of `markets`.
    async fn wanted(
        &self,
        name: &ServiceName,
        users: &[UserKey],
        markets: &[Market],
    ) -> Outcome<Vec<UserKey>> {
        let service = self.config.service(name)?;
        let home = Home::open_installed(name, service, &self.site, "move").await?;
        let end = crate::commands::routes::end(service, &home)?;
        no_file(name, end.kind(), users)?;
        among(&end, users, markets).await
    }

    pub(super) async fn carry(
        &self,
        (name, to, stop): (&ServiceName, &SiteName, &Stop),
        purpose: Purpose,
        wanted: Wanted,
        expected: Expected,
        observer: &dyn Observer,
    ) -> Result<u64, Interrupted> {
        let phase = purpose.phase.as_deref();
        let way = (&self.site, to);
        let route = route(&self.config, &self.view, name, way, phase, stop.clone()).await?;
        match drive::run(route, purpose, wanted, expected, observer).await {
            Ok(report) => Ok(report.mismatches),
            Err(error) => {
                let again = matches!(
                    error,
                    Error::InDoubt { .. }
                        | Error::Left { .. }
                        | Error::NotOpen { .. }
                        | Error::StreamGone
                );
                let doing = format!("{name}: moving users from {} to {to}", self.site);
                let mut failure = failure(error, doing);
                let again = again || failure.exit == Exit::Unreached;
                if again {
                    let goes_on = "the daemon goes on by itself as soon as it can";
                    failure.mend = Some(goes_on.to_owned());
                }
                Err(Interrupted { failure, again })
            }
        }
    }
}

/// What stopped a move here.
pub(super) struct Interrupted {
    failure: Failure,
    /// Whether it is worth trying again without anybody's doing.
    again: bool,
}

impl From<Failure> for Interrupted {
    fn from(failure: Failure) -> Self {
        let again = failure.exit == Exit::Unreached;
        Self { failure, again }
    }
}

impl Work for Departures {
    fn name(&self) -> &'static str {
        "departures"
    }

    fn lead(&self, leading: Leading) -> Soon<'_, Result<(), WorkError>> {
        Box::pin(async move {
            let Some(desk) = self.desks.get(&leading.service) else {
                return Ok(());
            };
            let (told, stop) = watch::channel(false);
            let stop = Stop::when(stop);
            let work = async {
                let mut orders = desk.orders.lock().await;
                desk.busy.store(true, Ordering::SeqCst);
                let resumed = self.resume(&leading, &stop).await;
                desk.busy.store(false, Ordering::SeqCst);
                resumed.or_else(Interrupted::unless_again)?;
                loop {
                    let order = tokio::select! {
                        order = orders.recv() => order,
                        () = leading.stop.cancelled() => return Ok(()),
                    };
                    let Some(order) = order else {
                        return Ok(());
                    };
                    let carried = self.carry_out(&leading, &stop, &order).await;
                    desk.busy.store(false, Ordering::SeqCst);
                    let (ended, again) = match carried {
                        Ok(mismatches) => (
                            Ended {
                                mismatches,
                                failed: None,
                            },
                            None,
                        ),
                        Err(Interrupted { failure, again }) => {
                            let failed = Failed::from(failure);
                            let why = again.then(|| failed.error.clone());
                            let ended = Ended {
                                failed: Some(failed),
                                ..Ended::default()
                            };
                            (ended, why)
                        }
                    };
                    // Whoever listened may have gone.
                    let _ = order.told.send(Told::Ended(ended));
                    if let Some(why) = again {
                        return Err(WorkError::from(why));
                    }
                }
            };
            // What moves comes to its next safe point.
            let ending = async {
                leading.stop.cancelled().await;
                told.send_replace(true);
                std::future::pending().await
            };
            tokio::select! {
                done = work => done,
                never = ending => never,
            }
        })
    }
}

// === impl Interrupted ===

impl Interrupted {
    /// Ends the work, to be begun again after a wait; or leaves the move to whoever is told of it.
    fn unless_again(self) -> Result<(), WorkError> {
        let what = Failed::from(self.failure);
        match self.again {
            true => Err(what.error.into()),
            false => {
                let (error, mend) = (what.error, what.mend.unwrap_or_default());
                tracing::error!(error, mend, "an unfinished move waits for somebody");
                Ok(())
            }
        }
    }
}

/// Tells the log, and whoever gave the order.
pub(super) struct Watch(pub(super) Option<mpsc::UnboundedSender<Told>>);

impl Observer for Watch {
    fn note(&self, event: &Event) {
        match event {
            // A log names nobody.
            Event::SetAside { reason, .. } => tracing::info!(reason, "a user is set aside"),
            event => {
                let said = serde_json::to_string(event).unwrap_or_default();
                tracing::info!(event = said, "move");
            }
        }
        if let Some(told) = &self.0 {
            let _ = told.send(Told::Event(event.clone()));
        }
    }
}
