//! Steers a running move: a task of its own looks, once a second, what is wished of the move and writes down what it
//! does; the two halves of the move ask before each step, in memory, whether they may go on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::{KeyKind, MoveId, UserKey};
use postgres::connect::Session;
use postgres::lsn::Lsn;
use postgres::pace::{Limit, Pace};
use residency::office::Office;
use residency::steering::{self, Orders, Wish};
use residency::{barrier, fence};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::activity::{Activity, Step, Trend, Wait};
use crate::error::{At, Error, Result};
use crate::event::{Event, Observer};
use crate::route::{End, Route};

/// How often the task looks and writes.
const EVERY: Duration = Duration::from_secs(1);
/// Over how many looks the rate and the trend are taken.
const SAMPLES: usize = 10;
/// A change of the lag below this is noise: the server tells its position only now and then.
const LAG_NOISE: u64 = 4 << 20;
/// From when on a slot that is not made is worth a look at who is in the way.
const SLOT_SLOW: Duration = Duration::from_secs(2);

/// The two halves of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Copying,
    Handing,
}

/// A handle for the two halves. The task ends with it.
pub(crate) struct Steering {
    id: MoveId,
    state: Arc<watch::Sender<State>>,
    limit: watch::Sender<Limit>,
    copied: Arc<AtomicU64>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    orders: Orders,
    /// Whether whoever watches was told that the move holds still.
    pause_told: bool,
    copying: Step,
    handing: Step,
    /// Since when the halves are at these steps.
    since: Option<Instant>,
    applied: Option<watch::Receiver<Lsn>>,
    barrier: Option<(Instant, Vec<String>)>,
    fence: Option<(Instant, Vec<String>)>,
    fence_tries: u32,
    behind: Option<Instant>,
}

// === impl State ===

impl State {
    fn step(&mut self, half: Half, step: Step) {
        let at = match half {
            Half::Copying => &mut self.copying,
            Half::Handing => &mut self.handing,
        };
        if std::mem::replace(at, step) != step {
            self.since = Some(Instant::now());
        }
    }

    fn activity(&self) -> Activity {
        let wait = |wait: &Option<(Instant, Vec<String>)>| {
            wait.as_ref().map(|(since, who)| Wait {
                seconds: since.elapsed().as_secs(),
                who: who.clone(),
            })
        };
        Activity {
            held: self.orders.wish != Wish::Go,
            copying: self.copying,
            handing: self.handing,
            barrier: wait(&self.barrier),
            fence: wait(&self.fence),
            fence_tries: self.fence_tries,
            behind: self.behind.map(|since| since.elapsed().as_secs()),
            ..Activity::default()
        }
    }
}

// === impl Steering ===

impl Steering {
    /// Reads what is wished of the move `id`, and goes on looking until this is dropped.
    pub(crate) async fn start(route: &Route, id: &MoveId, office: &Office) -> Result<Self> {
        let source = &route.source;
        let session = session(source).await?;
        let orders = steering::orders(&*session, id)
            .await
            .at(&source.site, "reading what is wished of the move")?;
        let state = Arc::new(watch::Sender::new(State {
            orders,
            ..State::default()
        }));
        let configured = route.bounds.rate;
        let limit = watch::Sender::new(limit(orders, configured));
        let copied = Arc::new(AtomicU64::new(0));
        let follower = Follower {
            source: source.clone(),
            id: id.clone(),
            office: office.clone(),
            configured,
            state: Arc::clone(&state),
            limit: limit.clone(),
            copied: Arc::clone(&copied),
            samples: VecDeque::new(),
        };
        let task = tokio::spawn(follower.run(session)).abort_handle();
        Ok(Self {
            id: id.clone(),
            state,
            limit,
            copied,
            task,
        })
    }

    /// A pace for copies, which follows the throttle.
    pub(crate) fn pace(&self) -> Pace {
        Pace::new(self.limit.subscribe(), Arc::clone(&self.copied))
    }

    /// Where the stream's position can be read from now on.
    pub(crate) fn follow(&self, applied: watch::Receiver<Lsn>) {
        self.note(|state| state.applied = Some(applied));
    }

    /// Asks for leave to take `step`. While the move is to pause it waits here, calling `waiting` about once a second.
    /// Says whether it waited.
    ///
    /// # Errors
    /// [`Error::Aborted`] where the move is to end; whatever `waiting` gives.
    pub(crate) async fn leave(
        &self,
        half: Half,
        step: Step,
        observer: &dyn Observer,
        waiting: impl AsyncFn() -> Result<()>,
    ) -> Result<bool> {
        let mut changes = self.state.subscribe();
        let mut waited = false;
        loop {
            let (mut wish, mut tell) = (Wish::Go, None);
            // Asking and going is one step: whoever reads "paused" under the same lock knows that nobody goes.
            self.state.send_if_modified(|state| {
                wish = state.orders.wish;
                let pause = wish == Wish::Pause;
                state.step(half, if pause { Step::Paused } else { step });
                if std::mem::replace(&mut state.pause_told, pause) != pause {
                    tell = Some(pause);
                }
                false
            });
            match tell {
                Some(true) => observer.note(&Event::Paused {
                    r#move: self.id.clone(),
                }),
                Some(false) if wish == Wish::Go => observer.note(&Event::Resumed {
                    r#move: self.id.clone(),
                }),
                Some(false) | None => {}
            }
            match wish {
                Wish::Go => return Ok(waited),
                Wish::Abort => return Err(self.aborted()),
                Wish::Pause => waited = true,
            }
            if tokio::time::timeout(EVERY, changes.changed())
                .await
                .is_err()
            {
                waiting().await?;
            }
        }
    }

    /// That `half` is at another part of what it has leave for, or has done it.
    pub(crate) fn at(&self, half: Half, step: Step) {
        self.note(|state| state.step(half, step));
    }

    /// Ends with [`Error::Aborted`] where the move is to end.
    pub(crate) fn unless_aborted(&self) -> Result<()> {
        match self.state.borrow().orders.wish {
            Wish::Abort => Err(self.aborted()),
            Wish::Go | Wish::Pause => Ok(()),
        }
    }

    /// Carries out `work`, or breaks it off as soon as the move is to end.
    pub(crate) async fn or_abort<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let mut state = self.state.subscribe();
        tokio::select! {
            biased;
            _ = state.wait_for(|state| state.orders.wish == Wish::Abort) => Err(self.aborted()),
            done = work => Ok(done),
        }
    }

    /// Who holds up the barrier.
    pub(crate) fn barrier(&self, who: Option<&[String]>) {
        self.note(|state| hold_up(&mut state.barrier, who.map(<[_]>::to_vec)));
    }

    /// That a fence of `users` did not get in: finds out who holds it up, as well as it can.
    pub(crate) async fn fence_missed(&self, session: &Session, kind: KeyKind, users: &[UserKey]) {
        let who = fence::holders(session, kind, users).await;
        let who = who.unwrap_or_default();
        self.note(|state| {
            state.fence_tries += 1;
            // Whoever held it may have ended when we looked: the last known are kept.
            let known = state.fence.take();
            let since = known
                .as_ref()
                .map_or_else(Instant::now, |(since, _)| *since);
            let who = match (who.is_empty(), known) {
                (true, Some((_, known))) => known,
                _ => who,
            };
            state.fence = Some((since, who));
        });
    }

    /// That a batch was closed.
    pub(crate) fn fence_stood(&self) {
        self.note(|state| {
            state.fence = None;
            state.fence_tries = 0;
        });
    }

    /// Since when the target is too far behind.
    pub(crate) fn behind(&self, since: Option<Instant>) {
        self.note(|state| state.behind = since);
    }

    fn note(&self, change: impl FnOnce(&mut State)) {
        self.state.send_if_modified(|state| {
            change(state);
            false
        });
    }

    fn aborted(&self) -> Error {
        Error::Aborted {
            id: self.id.clone(),
        }
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn hold_up(wait: &mut Option<(Instant, Vec<String>)>, who: Option<Vec<String>>) {
    let since = wait.as_ref().map_or_else(Instant::now, |(since, _)| *since);
    *wait = who.map(|who| (since, who));
}

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
struct Follower {
    source: End,
    id: MoveId,
    office: Office,
    configured: Option<u64>,
    state: Arc<watch::Sender<State>>,
    limit: watch::Sender<Limit>,
    copied: Arc<AtomicU64>,
    /// When, bytes copied, lag.
    samples: VecDeque<(Instant, u64, Option<u64>)>,
}

// === impl Follower ===

impl Follower {
    /// Best effort: a move does not fail because nobody can look how it does. Orders that stand are kept.
    async fn run(mut self, first: Session) {
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
        let limit = limit(orders, self.configured);
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
