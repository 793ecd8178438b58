//! Tells the home database of this site what the gateway was asked: the differences, once a minute and at its end.
//!
//! What was told and not answered is told again under its number, which the database counts once ([`residency::traffic::add`]). Whatever a database
//! does not take waits, and then goes on waiting in the gateway's own counts, which only grow: nothing is lost while the process lives.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::gateway::site::Gateway;
use ::gateway::tally::{BOUNDS_MS, Counts, Kind};
use model::{Market, SiteName};
use postgres::connect::{Session, connect};
use residency::traffic::{self, Counted, Told};
use tokio_util::sync::CancellationToken;

use crate::config::Database;

/// The time that counts are told apart by.
const MINUTE: Duration = Duration::from_secs(60);

/// How long telling may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take at the gateway's end, for which a service manager gives ten seconds in all.
const AT_END: Duration = Duration::from_secs(2);

/// So many minutes wait for a database that does not take them; further ones are told as one, later.
const WAITING_MAX: usize = 60;

/// How often old minutes are made hours.
const TEND: Duration = Duration::from_secs(3600);

/// Any error of telling: it is logged, and told again.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What is told of one service.
pub(super) struct History {
    gateway: Arc<Gateway>,
    service: u16,
    /// By which the database knows this process.
    name: String,
    database: Database,
    pending: Pending,
    tended: Option<Instant>,
}

/// Counts that are to be told.
struct Pending {
    /// Up to where they were taken.
    taken: HashMap<Kind, Counted>,
    since: Instant,
    n: i64,
    /// Each with the middle of its time.
    waiting: VecDeque<(i64, Instant, Vec<Counted>)>,
}

// === impl History ===

impl History {
    pub fn new(gateway: Arc<Gateway>, service: u16, name: String, database: Database) -> Self {
        Self {
            gateway,
            service,
            name,
            database,
            pending: Pending::new(Instant::now()),
            tended: None,
        }
    }

    /// Tells until `ended`, when no request is under way any more, and then once more.
    pub async fn keep(mut self, ended: CancellationToken) {
        loop {
            let last = tokio::select! {
                () = tokio::time::sleep(to_next_minute()) => false,
                () = ended.cancelled() => true,
            };
            let counts = self.counts();
            self.pending.take(counts, Instant::now());
            let patience = if last { AT_END } else { PATIENCE };
            let told = tokio::select! {
                told = tokio::time::timeout(patience, self.tell()) => match told {
                    Ok(told) => told,
                    Err(_) => Err("the home database does not answer".into()),
                },
                // What is broken off here is told again at once.
                () = ended.cancelled(), if !last => continue,
            };
            if let Err(why) = told {
                let why = crate::config::scrub(&model::causes(&*why).to_string());
                let service = &self.gateway.services[usize::from(self.service)].name;
                let untold = self.pending.untold();
                match last {
                    false => {
                        tracing::warn!(%service, why, untold, "the history of requests is not written; it is told again")
                    }
                    true => {
                        tracing::warn!(%service, why, untold, "the history of requests lacks the gateway's last")
                    }
                }
            }
            if last {
                return;
            }
        }
    }

    /// What was counted of the service since the process began.
    fn counts(&self) -> Vec<(Kind, Counted)> {
        let all = self.gateway.tally.all().into_iter();
        let own = all.filter(|(kind, _)| kind.service == self.service);
        own.map(|(kind, counts)| {
            let home = kind.home.map(|home| self.gateway.name(home));
            let counted = read(&counts, home, &kind.market);
            (kind, counted)
        })
        .collect()
    }

    /// Another site's history would be of requests that never came there.
    async fn refuse_another(&self, session: &Session) -> Result<(), Failed> {
        let service = &self.gateway.services[usize::from(self.service)].name;
        let here = self.gateway.name(self.gateway.here);
        match residency::audit::installed_as(&**session).await? {
            Some([of, at, _]) if of == service.as_str() && at == here => Ok(()),
            _ => Err(format!("the database is not installed for {service} at {here}").into()),
        }
    }

    async fn tell(&mut self) -> Result<(), Failed> {
        let tend = self.tended.is_none_or(|tended| tended.elapsed() >= TEND);
        if self.pending.waiting.is_empty() && !tend {
            return Ok(());
        }
        let url = self.database.url()?;
        let session = connect(url.expose(), "gateway history").await?;
        self.refuse_another(&session).await?;
        while let Some((n, middle, counted)) = self.pending.waiting.front() {
            let told = Told {
                n: *n,
                age: middle.elapsed(),
                counted: counted.clone(),
            };
            traffic::add(&*session, &self.name, &BOUNDS_MS, &told).await?;
            self.pending.waiting.pop_front();
        }
        if tend {
            traffic::tend(&*session).await?;
            self.tended = Some(Instant::now());
        }
        Ok(())
    }
}

/// A request that is being counted has some of its counts, and the rest in the next minute.
fn read(counts: &Counts, home: Option<&str>, market: &str) -> Counted {
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    Counted {
        home: home.map(SiteName::from),
        market: Market::from(market),
        requests: read(&counts.requests),
        failures: read(&counts.failures),
        parked: read(&counts.parked),
        redirected: read(&counts.redirected),
        total_us: read(&counts.total_us),
        within: counts.within.iter().map(read).collect(),
    }
}

/// By the wall clock, so that a minute's counts are those of one minute.
fn to_next_minute() -> Duration {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    MINUTE - Duration::from_millis((now.as_millis() % MINUTE.as_millis()) as u64)
}

// === impl Pending ===

impl Pending {
    fn new(since: Instant) -> Self {
        Self {
            taken: HashMap::new(),
            since,
            n: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Takes what was counted since the last time, unless too much waits already: then it is taken later.
    fn take(&mut self, counts: Vec<(Kind, Counted)>, now: Instant) {
        if self.waiting.len() >= WAITING_MAX {
            return;
        }
        let mut more = Vec::new();
        for (kind, counted) in counts {
            let grown = match self.taken.get(&kind) {
                Some(before) => since(before, &counted),
                None => counted.clone(),
            };
            if grown.requests > 0 || grown.within.iter().any(|n| *n > 0) {
                more.push(grown);
                self.taken.insert(kind, counted);
            }
        }
        let middle = self.since + now.saturating_duration_since(self.since) / 2;
        self.since = now;
        if !more.is_empty() {
            self.n += 1;
            self.waiting.push_back((self.n, middle, more));
        }
    }

    fn untold(&self) -> u64 {
        let waiting = self.waiting.iter().flat_map(|(_, _, counted)| counted);
        waiting.map(|counted| counted.requests).sum()
    }
}

/// What was counted after `before`.
fn since(before: &Counted, now: &Counted) -> Counted {
    let within = now.within.iter().zip(&before.within);
    Counted {
        home: now.home.clone(),
        market: now.market.clone(),
        requests: now.requests.saturating_sub(before.requests),
        failures: now.failures.saturating_sub(before.failures),
        parked: now.parked.saturating_sub(before.parked),
        redirected: now.redirected.saturating_sub(before.redirected),
        total_us: now.total_us.saturating_sub(before.total_us),
        within: within
            .map(|(now, before)| now.saturating_sub(*before))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(market: &str, requests: u64) -> (Kind, Counted) {
        let kind = Kind {
            service: 0,
            home: None,
            market: market.into(),
        };
        let counted = Counted {
            home: None,
            market: market.into(),
            requests,
            failures: 0,
            parked: 0,
            redirected: 0,
            total_us: requests,
            within: vec![requests, 0],
        };
        (kind, counted)
    }

    fn told(pending: &Pending) -> Vec<(i64, u64)> {
        let requests = |all: &[Counted]| all.iter().map(|one| one.requests).sum();
        let waiting = pending.waiting.iter();
        waiting.map(|(n, _, all)| (*n, requests(all))).collect()
    }

    #[test]
    fn what_grew_is_told_under_growing_numbers_and_nothing_where_nothing_did() {
        let began = Instant::now();
        let mut pending = Pending::new(began);
        pending.take(vec![counts("IN", 5)], began + MINUTE);
        pending.take(vec![counts("IN", 5)], began + MINUTE * 2);
        pending.take(vec![counts("IN", 7), counts("CN", 1)], began + MINUTE * 3);
        assert_eq!(told(&pending), [(1, 5), (2, 3)]);
        assert_eq!(pending.waiting[0].1, began + MINUTE / 2);
        assert_eq!(pending.waiting[1].1, began + MINUTE * 5 / 2);
    }

    #[test]
    fn a_database_that_takes_nothing_costs_no_memory_and_no_count() {
        let began = Instant::now();
        let mut pending = Pending::new(began);
        let minutes = WAITING_MAX as u64 + 40;
        for minute in 1..=minutes {
            pending.take(vec![counts("IN", minute)], began + MINUTE);
        }
        assert_eq!(pending.waiting.len(), WAITING_MAX);
        pending.waiting.clear();
        pending.take(vec![counts("IN", minutes)], began + MINUTE);
        assert_eq!(told(&pending), [(WAITING_MAX as i64 + 1, 40)]);
    }
}
