//! The task that looks what is wished of a move, and writes down what the move does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::MoveId;
use postgres::connect::Session;
use postgres::pace::Limit;
use residency::barrier;
use residency::office::Office;
use residency::steering::{self, Orders, Wish};
use tokio::sync::watch;

use super::{EVERY, State, hold_up};
use crate::activity::{Activity, Step, Trend};
use crate::error::{At, Result};
use crate::route::{End, Route};

/// Over how many looks the rate and the trend are taken.
const SAMPLES: usize = 10;
/// A change of the lag below this is noise: the server tells its position only now and then.
const LAG_NOISE: u64 = 4 << 20;
/// From when on a slot that is not made is worth a look at who is in the way.
const SLOT_SLOW: Duration = Duration::from_secs(2);

fn limit(orders: Orders, configured: Option<u64>) -> Limit {
    match orders.wish {
        Wish::Go => Limit::Rate(orders.throttle.over(configured)),
        Wish::Pause | Wish::Abort => Limit::Stop,
    }
}

async fn session(source: &End) -> Result<Session> {
    let session = source.session("steering").await?;
    steering::unhurried(&session)
        .await
        .at(&source.site, "looking what is wished of the move")?;
    Ok(session)
}

/// The task's side.
pub(super) struct Follower {
    source: End,
    id: MoveId,
    office: Office,
    configured: Option<u64>,
    pub(super) state: Arc<watch::Sender<State>>,
    pub(super) limit: watch::Sender<Limit>,
    pub(super) copied: Arc<AtomicU64>,
    /// When, bytes copied, lag.
    samples: VecDeque<(Instant, u64, Option<u64>)>,
}

// === impl Follower ===

impl Follower {
    /// Reads what is wished of the move `id`. The session is for [`run`](Self::run).
    pub(super) async fn open(
        route: &Route,
        id: &MoveId,
        office: &Office,
    ) -> Result<(Self, Session)> {
        let (source, configured) = (&route.source, route.bounds.rate);
        let session = session(source).await?;
        let orders = steering::orders(&*session, id)
            .await
            .at(&source.site, "reading what is wished of the move")?;
        let state = State {
            orders,
            ..State::default()
        };
        let follower = Self {
            source: source.clone(),
            id: id.clone(),
            office: office.clone(),
            configured,
            state: Arc::new(watch::Sender::new(state)),
            limit: watch::Sender::new(limit(orders, configured)),
            copied: Arc::new(AtomicU64::new(0)),
            samples: VecDeque::new(),
        };
        Ok((follower, session))
    }

    /// Best effort: a move does not fail because nobody can look how it does. Orders that stand are kept.
    pub(super) async fn run(mut self, first: Session) {
        let mut session = Some(first);
        loop {
            if session.is_none() {
                session = self::session(&self.source).await.ok();
            }
            if let Some(open) = &session
                && let Err(error) = self.look(open).await
            {
                tracing::debug!(%error, "cannot look what is wished of the move");
                session = None;
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn look(&mut self, session: &Session) -> Result<(), residency::Error> {
        let orders = steering::orders(&**session, &self.id).await?;
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.orders, orders) != orders);
        let ends = {
            let state = self.state.borrow();
            state.stopping || state.stopped
        };
        let limit = match ends {
            true => Limit::Stop,
            false => limit(orders, self.configured),
        };
        self.limit
            .send_if_modified(|now| std::mem::replace(now, limit) != limit);
        self.who_holds_up_the_slot(session).await?;
        let activity = self.activity(orders);
        let stored = serde_json::to_value(&activity).unwrap_or_default();
        let end = steering::tell(&**session, &self.id, &self.office, &stored).await?;
        self.sample(end);
        Ok(())
    }

    async fn who_holds_up_the_slot(&self, session: &Session) -> Result<(), residency::Error> {
        let slow = {
            let state = self.state.borrow();
            let since = state.since.filter(|_| state.handing == Step::MakingSlot);
            since.is_some_and(|since| since.elapsed() >= SLOT_SLOW)
        };
        if slow {
            let who = barrier::in_the_way(session).await?;
            self.state.send_if_modified(|state| {
                hold_up(&mut state.barrier, Some(who));
                false
            });
        }
        Ok(())
    }

    fn activity(&self, orders: Orders) -> Activity {
        let mut activity = self.state.borrow().activity();
        activity.rate = orders.throttle.over(self.configured);
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return activity;
        };
        let seconds = (last.0 - first.0).as_secs_f64();
        if seconds > 0.0 {
            activity.bytes_per_second = ((last.1 - first.1) as f64 / seconds) as u64;
        }
        activity.lag_bytes = last.2;
        activity.lag_trend = match (first.2, last.2) {
            (Some(before), Some(now)) => trend(before, now),
            _ => Trend::Steady,
        };
        activity
    }

    fn sample(&mut self, end: u64) {
        let lag = {
            let state = self.state.borrow();
            let applied = state.applied.as_ref().map(|applied| applied.borrow().0);
            applied
                .filter(|applied| *applied > 0)
                .map(|applied| end.saturating_sub(applied))
        };
        let copied = self.copied.load(Ordering::Relaxed);
        self.samples.push_back((Instant::now(), copied, lag));
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }
}

fn trend(before: u64, now: u64) -> Trend {
    let noise = LAG_NOISE.max(before / 10);
    if now > before.saturating_add(noise) {
        Trend::Grows
    } else if before > now.saturating_add(noise) {
        Trend::Falls
    } else {
        Trend::Steady
    }
}

#[cfg(test)]
mod tests {
    use residency::steering::Throttle;

    use super::*;

    #[test]
    fn a_move_that_is_not_to_go_on_copies_nothing_and_a_throttle_outdoes_the_configuration() {
        let orders = |wish, throttle| Orders { wish, throttle };
        let go = |throttle| limit(orders(Wish::Go, throttle), Some(5));
        assert_eq!(go(Throttle::Configured), Limit::Rate(Some(5)));
        assert_eq!(go(Throttle::Unlimited), Limit::Rate(None));
        assert_eq!(go(Throttle::Rate(9)), Limit::Rate(Some(9)));
        for wish in [Wish::Pause, Wish::Abort] {
            assert_eq!(limit(orders(wish, Throttle::Rate(9)), None), Limit::Stop);
        }
    }

    #[test]
    fn small_changes_of_the_lag_are_no_trend() {
        assert_eq!(trend(0, LAG_NOISE), Trend::Steady);
        assert_eq!(trend(0, LAG_NOISE + 1), Trend::Grows);
        assert_eq!(trend(100 << 20, 105 << 20), Trend::Steady);
        assert_eq!(trend(100 << 20, 80 << 20), Trend::Falls);
    }
}
