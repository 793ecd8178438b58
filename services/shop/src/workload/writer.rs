//! One closed loop: make up an operation, carry it out wherever the user lives, begin again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::transaction::{Attempt, Session, meaning_of_failed_open};
use super::user::{Ingredients, User};
use super::{Isolation, Shared};
use crate::log::{Change, Entry, Outcome};

/// Waiting between tries that are refused: short, since a fence is short.
const AGAIN_MIN: Duration = Duration::from_millis(1);
const AGAIN_MAX: Duration = Duration::from_millis(10);
/// Waiting for a site that is down.
const DOWN_MAX: Duration = Duration::from_millis(200);
/// How often all sites may in turn say that a row is not there before it counts as nowhere.
const ROUNDS_MAX: usize = 100;

pub(super) struct Writer {
    shared: Arc<Shared>,
    rng: SmallRng,
    sessions: HashMap<usize, Session>,
    /// Where this writer believes that users live, where that is not their first home.
    beliefs: HashMap<i32, usize>,
}

/// One operation with everything that every try repeats.
struct Operation {
    number: u64,
    user: Arc<User>,
    change: Change,
    isolation: Isolation,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, rng: SmallRng) -> Writer {
        Writer {
            shared,
            rng,
            sessions: HashMap::new(),
            beliefs: HashMap::new(),
        }
    }

    /// Writes until the workload is stopped.
    pub(super) async fn run(mut self) -> Result<()> {
        while !self.stopping() {
            let operation = self.make_up();
            let outcome = self.carry_out(&operation).await?;
            operation.user.settle(&operation.change, outcome);
            if outcome == Some(Outcome::Acknowledged) {
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                if let Change::CreateUser { .. } = operation.change {
                    self.shared.add_user(Arc::clone(&operation.user));
                }
            }
            if !self.shared.options.think.is_zero() {
                tokio::time::sleep(self.shared.options.think).await;
            }
        }
        Ok(())
    }

    fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    fn make_up(&mut self) -> Operation {
        let shared = &self.shared;
        let options = &shared.options;
        let number = shared.next_operation.fetch_add(1, Ordering::Relaxed);
        let stamp = format!("{}-{number}", shared.run);
        let (user, change) = if !options.newcomers.is_empty()
            && self.rng.random_range(0..100) < options.newcomers_percent
        {
            let index = self.rng.random_range(0..options.newcomers.len());
            let (market, home) = shared.newcomers[index].clone();
            let user = Arc::new(User::new(shared.ids.customer(), home, Vec::new()));
            // Before the first try: should its outcome stay unknown, he is accounted for.
            shared.journal.add_user(user.key);
            let company = stamp;
            (user, Change::CreateUser { market, company })
        } else {
            let user = shared.any_user(&mut self.rng);
            let with = Ingredients {
                stamp,
                mix: &options.mix,
                ids: &shared.ids,
                tracks: &shared.tracks,
            };
            let change = user.plan(&mut self.rng, with);
            (user, change)
        };
        let isolations = &options.isolations;
        let turn = usize::try_from(number).unwrap_or_default() % isolations.len();
        Operation {
            number,
            user,
            change,
            isolation: isolations[turn],
        }
    }

    /// Tries until the operation is acknowledged, its outcome is unknown, or we are stopped
    /// (`None`: it did not happen).
    async fn carry_out(&mut self, operation: &Operation) -> Result<Option<Outcome>> {
        let user = operation.user.key;
        let site_count = self.shared.options.sites.len();
        let mut site = *self
            .beliefs
            .get(&user)
            .unwrap_or(&operation.user.first_home);
        let mut wait = AGAIN_MIN;
        let mut absences = 0;
        loop {
            if self.stopping() {
                return Ok(None);
            }
            let began = Instant::now();
            let attempt = self.attempt(site, operation).await;
            if !matches!(attempt, Attempt::Acknowledged | Attempt::Unknown) {
                self.shared.journal.refused(user, site, began);
            }
            match attempt {
                Attempt::Acknowledged => {
                    self.beliefs.insert(user, site);
                    self.record(operation, site, Outcome::Acknowledged)?;
                    self.shared.journal.acknowledged(user, site);
                    return Ok(Some(Outcome::Acknowledged));
                }
                Attempt::Unknown => {
                    self.sessions.remove(&site);
                    self.record(operation, site, Outcome::Unknown)?;
                    return Ok(Some(Outcome::Unknown));
                }
                Attempt::Unexpected(what) => {
                    self.shared.journal.anomaly(format!(
                        "operation {} at {}: {what}",
                        operation.number, self.shared.options.sites[site].name
                    ));
                    // A site that is set up wrongly says so to every operation.
                    tokio::time::sleep(DOWN_MAX).await;
                    return Ok(None);
                }
                Attempt::Again => self.pause(&mut wait, AGAIN_MAX).await,
                Attempt::Disconnected => {
                    self.sessions.remove(&site);
                    self.pause(&mut wait, DOWN_MAX).await;
                }
                Attempt::NotHere(home) => {
                    let named = home.and_then(|name| self.shared.site_named(&name));
                    let next = named.unwrap_or((site + 1) % site_count);
                    absences += 1;
                    // The first hop is free; sites that send us in circles are asked less often.
                    if absences > 1 {
                        self.pause(&mut wait, AGAIN_MAX).await;
                    }
                    site = next;
                }
                Attempt::NoRow => {
                    absences += 1;
                    if absences > ROUNDS_MAX * site_count {
                        self.shared.journal.anomaly(format!(
                            "operation {}: no site has the rows of its user",
                            operation.number
                        ));
                        return Ok(None);
                    }
                    self.pause(&mut wait, AGAIN_MAX).await;
                    site = (site + 1) % site_count;
                }
            }
        }
    }

    async fn attempt(&mut self, site: usize, operation: &Operation) -> Attempt {
        if self.sessions.get(&site).is_none_or(Session::is_closed) {
            match Session::open(&self.shared.options.sites[site]).await {
                Ok(session) => self.sessions.insert(site, session),
                Err(error) => return meaning_of_failed_open(&error),
            };
        }
        let Some(session) = self.sessions.get(&site) else {
            return Attempt::Disconnected;
        };
        session
            .attempt(
                operation.user.key,
                &operation.change,
                operation.isolation,
                self.shared.options.hold,
            )
            .await
    }

    fn record(&self, operation: &Operation, site: usize, outcome: Outcome) -> Result<()> {
        let journal = &self.shared.journal;
        journal
            .record(Entry {
                operation: operation.number,
                user: operation.user.key,
                change: operation.change.clone(),
                outcome,
                site: self.shared.options.sites[site].name.clone(),
                at: journal.now(),
            })
            .context("an operation was committed but not logged")
    }

    /// Waits, longer each time, with jitter so that refused writers do not come back together.
    async fn pause(&mut self, wait: &mut Duration, max: Duration) {
        tokio::time::sleep(wait.mul_f64(self.rng.random_range(0.5..1.0))).await;
        *wait = (*wait * 2).min(max);
    }
}
