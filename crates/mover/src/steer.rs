//! Steers a running move: a task of its own looks, once a second, what is wished of the move and writes down what it
//! does; the two halves of the move ask before each step, in memory, whether they may go on.

mod follower;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use model::{KeyKind, MoveId, UserKey};
use postgres::connect::Session;
use postgres::lsn::Lsn;
use postgres::pace::{Limit, Pace};
use residency::fence;
use residency::office::Office;
use residency::steering::{Orders, Wish};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::activity::{Activity, Step, Wait};
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::route::Route;
use follower::Follower;

/// How often the task looks and writes.
const EVERY: Duration = Duration::from_secs(1);

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
    /// Waits for the word that the run is to end.
    ending: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    orders: Orders,
    /// Whether this run comes to its end, whatever is wished of the move.
    stopping: bool,
    /// Whether it is to, as whoever runs it ends.
    stopped: bool,
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
    /// What the halves are to do.
    fn wish(&self) -> Wish {
        if self.stopping || self.stopped {
            Wish::Abort
        } else {
            self.orders.wish
        }
    }

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
        let (follower, session) = Follower::open(route, id, office).await?;
        let (state, limit) = (Arc::clone(&follower.state), follower.limit.clone());
        let told = route.stop.clone();
        let ending = tokio::spawn(async move {
            told.told().await;
            state.send_modify(|state| state.stopped = true);
            limit.send_replace(Limit::Stop);
        });
        Ok(Self {
            ending: ending.abort_handle(),
            id: id.clone(),
            state: Arc::clone(&follower.state),
            limit: follower.limit.clone(),
            copied: Arc::clone(&follower.copied),
            task: tokio::spawn(follower.run(session)).abort_handle(),
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

    /// Bids both halves end at their next safe point, as an abort does: this run has failed, and the move goes on with the
    /// next.
    pub(crate) fn stop(&self) {
        self.state.send_modify(|state| state.stopping = true);
        self.limit.send_replace(Limit::Stop);
    }

    /// Asks for leave to take `step`. While the move is to pause it waits here. Says whether it waited.
    ///
    /// # Errors
    /// [`Error::Aborted`] where the move, or this run of it, is to end.
    pub(crate) async fn leave(
        &self,
        half: Half,
        step: Step,
        observer: &dyn Observer,
    ) -> Result<bool> {
        let mut changes = self.state.subscribe();
        let mut waited = false;
        loop {
            let (mut wish, mut tell) = (Wish::Go, None);
            // Asking and going is one step: whoever reads "paused" under the same lock knows that nobody goes.
            self.state.send_if_modified(|state| {
                wish = state.wish();
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
            let _ = changes.changed().await;
        }
    }

    /// Whether nothing but going on is wished. Whoever has leave, and has not ended, may go on without asking again.
    pub(crate) fn goes_on(&self) -> bool {
        self.state.borrow().wish() == Wish::Go
    }

    /// That `half` is at another part of what it has leave for, or has done it.
    pub(crate) fn at(&self, half: Half, step: Step) {
        self.note(|state| state.step(half, step));
    }

    /// Ends with [`Error::Aborted`] where the move is to end.
    pub(crate) fn unless_aborted(&self) -> Result<()> {
        let (wish, stopped) = {
            let state = self.state.borrow();
            (state.orders.wish, state.stopped)
        };
        match wish {
            Wish::Abort => Err(self.aborted()),
            Wish::Go | Wish::Pause if stopped => Err(self.aborted()),
            Wish::Go | Wish::Pause => Ok(()),
        }
    }

    /// Carries out `work`, or breaks it off as soon as the move is to end.
    pub(crate) async fn or_abort<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let mut state = self.state.subscribe();
        tokio::select! {
            biased;
            _ = state.wait_for(|state| state.wish() == Wish::Abort) => Err(self.aborted()),
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

    /// That no batch waits to be closed any more: it was, or its users were set aside.
    pub(crate) fn fence_over(&self) {
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
        let id = self.id.clone();
        let state = self.state.borrow();
        match state.stopped && state.orders.wish != Wish::Abort {
            true => Error::Stopped { id },
            false => Error::Aborted { id },
        }
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        self.task.abort();
        self.ending.abort();
    }
}

fn hold_up(wait: &mut Option<(Instant, Vec<String>)>, who: Option<Vec<String>>) {
    let since = wait.as_ref().map_or_else(Instant::now, |(since, _)| *since);
    *wait = who.map(|who| (since, who));
}
