//! What the connections with one peer and the handles of the application have in common.

mod transfers;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use model::SiteName;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::hello::Why;
use crate::inbox::Incoming as Delivered;
use crate::message::Message;
use crate::peer::RequestError;
use crate::transfer::{Incoming, Outgoing, TransferError, TransferId};

/// The most transfers in one direction with one peer.
pub const TRANSFERS_MAX: usize = 32;

/// How many transfers that ended are remembered, for telling the peer again after a reconnection.
const ENDED_MAX: usize = 1_024;

/// One peer.
pub(crate) struct Shared {
    pub site: SiteName,
    /// Blocks that all transfers of one direction share, beyond those that each has for itself.
    pool: u64,
    /// Whoever says nothing on the control connection for this long is gone.
    pub silence: Duration,
    state: Mutex<State>,
    /// Rings when there may be a block to send.
    pub work: Notify,
    /// Rings when there is something to say on the control connection.
    pub news: Notify,
    /// Rings when a transfer may have got further, or has failed.
    pub progress: Notify,
    /// The number of the session that stands, counted from 1; none: not connected.
    pub sessions: watch::Sender<Option<u64>>,
    pub inbox: mpsc::Sender<Delivered>,
    pub counted: Counted,
    connections: AtomicU64,
}

/// Bytes since the start. Frames with their headers, without what TLS and TCP add (under 1 %).
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub raw_sent: AtomicU64,
    pub wire_sent: AtomicU64,
    pub raw_received: AtomicU64,
    pub wire_received: AtomicU64,
    pub blocks_again: AtomicU64,
}

#[derive(Default)]
pub(crate) struct State {
    session: Option<Session>,
    begun: u64,
    life: Option<u64>,
    closed: bool,
    pub outgoing: BTreeMap<TransferId, Outgoing>,
    pub incoming: BTreeMap<TransferId, Incoming>,
    /// Whose turn it was last.
    turn: Option<TransferId>,
    /// Transfers of which the peer should hear.
    telling: BTreeSet<TransferId>,
    /// Transfers that ended here, with the last word on each.
    ended: VecDeque<(TransferId, Message)>,
    saying: VecDeque<Message>,
    pub pending: HashMap<u64, oneshot::Sender<Result<Bytes, RequestError>>>,
    requests: u64,
}

/// A control connection and what hangs on it.
struct Session {
    id: u64,
    out: mpsc::Sender<Message>,
    over: CancellationToken,
    flows: HashMap<u16, CancellationToken>,
}

/// A control connection's hold on the session that it began.
pub(crate) struct Begun {
    pub out: mpsc::Receiver<Message>,
    /// Where answers to its requests go.
    pub reply: mpsc::Sender<Message>,
    pub over: CancellationToken,
    pub standing: Standing,
}

/// The session stands as long as this does, also where a task is aborted or a welcome does not get through.
pub(crate) struct Standing(Arc<Shared>, u64);

/// A request that is about to be sent.
pub(crate) struct Pended {
    pub number: u64,
    pub out: mpsc::Sender<Message>,
    pub answer: oneshot::Receiver<Result<Bytes, RequestError>>,
}

/// Messages that wait to be written.
const OUT_MAX: usize = 64;

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(
        site: SiteName,
        pool: u64,
        silence: Duration,
        inbox: mpsc::Sender<Delivered>,
    ) -> Arc<Self> {
        Arc::new(Self {
            site,
            pool,
            silence,
            state: Mutex::default(),
            work: Notify::new(),
            news: Notify::new(),
            progress: Notify::new(),
            sessions: watch::Sender::new(None),
            inbox,
            counted: Counted::default(),
            connections: AtomicU64::new(0),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way; if it did, going on is no worse than stopping.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `bell` until `ready` gives something.
    pub async fn until<T>(
        &self,
        bell: &Notify,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> T {
        loop {
            // Asked for before looking: a bell that rings in between is heard.
            let rung = bell.notified();
            if let Some(found) = ready(&mut self.lock()) {
                return found;
            }
            rung.await;
        }
    }

    // --- sessions ---

    /// A control connection stands. What stood before is over.
    pub fn begin(self: &Arc<Self>, id: u64, life: u64) -> Begun {
        let (sender, out) = mpsc::channel(OUT_MAX);
        let over = CancellationToken::new();
        let mut state = self.lock();
        state.end_session();
        if state
            .life
            .replace(life)
            .is_some_and(|before| before != life)
        {
            state.fail_all(TransferError::PeerRestarted);
        }
        state.outgoing.values_mut().for_each(Outgoing::resume);
        state.begun += 1;
        state.session = Some(Session {
            id,
            out: sender.clone(),
            over: over.clone(),
            flows: HashMap::new(),
        });
        // Whatever was said last may have been lost with the connection before.
        state.saying = state.ended.iter().map(|(_, last)| last.clone()).collect();
        state.telling = state.incoming.keys().copied().collect();
        let number = state.begun;
        drop(state);
        self.sessions.send_replace(Some(number));
        self.progress.notify_waiters();
        self.news.notify_waiters();
        Begun {
            out,
            reply: sender,
            over,
            standing: Standing(Arc::clone(self), id),
        }
    }

    /// The session is over, if it still stood. Requests under way fail.
    fn end(&self, id: u64) {
        let mut state = self.lock();
        if state
            .session
            .as_ref()
            .is_some_and(|session| session.id == id)
        {
            state.end_session();
            drop(state);
            self.sessions.send_replace(None);
        }
    }

    /// A bulk connection joins its session, in the place of an older one with its number.
    pub fn join(&self, id: u64, flow: u16) -> Result<CancellationToken, Why> {
        let mut state = self.lock();
        let session = state.session.as_mut().filter(|session| session.id == id);
        let session = session.ok_or(Why::Session)?;
        let over = session.over.child_token();
        if let Some(before) = session.flows.insert(flow, over.clone()) {
            before.cancel();
        }
        Ok(over)
    }

    /// Ends everything, for good.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.end_session();
        state.fail_all(TransferError::Closed);
        drop(state);
        self.sessions.send_replace(None);
        self.progress.notify_waiters();
    }

    /// A number for a connection, never given twice.
    pub fn connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    // --- requests ---

    /// Where messages go, if there is a session.
    pub fn out(&self) -> Option<mpsc::Sender<Message>> {
        self.lock()
            .session
            .as_ref()
            .map(|session| session.out.clone())
    }

    /// Awaits the answer to a request that is about to be sent.
    pub fn pend(&self) -> Option<Pended> {
        let mut state = self.lock();
        let out = state.session.as_ref()?.out.clone();
        state.requests += 1;
        let number = state.requests;
        let (sender, receiver) = oneshot::channel();
        state.pending.insert(number, sender);
        Some(Pended {
            number,
            out,
            answer: receiver,
        })
    }

    /// An answer came. One that nobody waits for any more is dropped.
    pub fn answer(&self, number: u64, answer: Result<Bytes, RequestError>) {
        if let Some(waiting) = self.lock().pending.remove(&number) {
            // Whoever asked may have stopped waiting in this instant.
            let _ = waiting.send(answer);
        }
    }

    /// Says something on the control connection, without waiting.
    pub fn say(&self, message: Message) {
        self.lock().say(message);
        self.news.notify_waiters();
    }

    /// What there is to say on the control connection.
    ///
    /// For the control connection of the session that stands alone: one that has been replaced and has not noticed yet
    /// would take the news to its grave, and the peer would wait for a window for ever.
    pub fn take_news(&self, standing: &Standing) -> Vec<Message> {
        let mut state = self.lock();
        if state.session.as_ref().map(|session| session.id) != Some(standing.1) {
            return Vec::new();
        }
        let mut news: Vec<Message> = state.saying.drain(..).collect();
        for id in std::mem::take(&mut state.telling) {
            if let Some(incoming) = state.incoming.get_mut(&id)
                && let Some((next, limit)) = incoming.tidings(true)
            {
                news.push(Message::Window {
                    transfer: id,
                    next,
                    limit,
                });
            }
        }
        news
    }
}

// === impl Standing ===

impl Drop for Standing {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

// === impl State ===

impl State {
    fn end_session(&mut self) {
        if let Some(session) = self.session.take() {
            session.over.cancel();
        }
        // Dropping their other ends tells those who wait that the outcome is unknown.
        self.pending.clear();
    }

    fn fail_all(&mut self, why: TransferError) {
        for outgoing in self.outgoing.values_mut() {
            outgoing.failed.get_or_insert(why);
        }
        for incoming in self.incoming.values_mut() {
            if !incoming.complete() {
                incoming.failed.get_or_insert(why);
            }
        }
        self.ended.clear();
    }

    /// Says something in this session; one that begins later knows nothing of it.
    fn say(&mut self, message: Message) {
        if self.session.is_some() && self.saying.len() < ENDED_MAX {
            self.saying.push_back(message);
        }
    }

    fn remember(&mut self, id: TransferId, last: Message) {
        self.say(last.clone());
        self.ended.push_back((id, last));
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_was_replaced_takes_no_news() {
        let (inbox, _taken) = mpsc::channel(1);
        let shared = Shared::new("beijing".into(), 8, Duration::from_secs(1), inbox);
        let first = shared.begin(1, 7);
        shared.receive(TransferId(5)).unwrap();
        let second = shared.begin(2, 7);
        assert!(first.over.is_cancelled());
        assert_eq!(shared.take_news(&first.standing), []);
        let news = shared.take_news(&second.standing);
        assert!(
            matches!(news[..], [Message::Window { next: 0, .. }]),
            "{news:?}"
        );
        // Its end, when it comes, is not that of the session that stands.
        drop(first);
        assert_eq!(*shared.sessions.borrow(), Some(2));
        drop(second);
        assert_eq!(*shared.sessions.borrow(), None);
    }
}
