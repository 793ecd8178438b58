//! What the connections with one peer and the handles of the application have in common.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use model::SiteName;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::block::{HEADER, Packed};
use crate::hello::Why;
use crate::inbox::Incoming as Delivered;
use crate::message::Message;
use crate::peer::RequestError;
use crate::transfer::{Incoming, Outgoing, RESERVED, TransferError, TransferId, Violation};

/// The most transfers in one direction with one peer.
pub const TRANSFERS_MAX: usize = 32;

/// How many transfers that ended are remembered, for telling the peer again after a reconnection.
const ENDED_MAX: usize = 1_024;

/// One peer.
pub(crate) struct Shared {
    pub site: SiteName,
    /// Blocks that all transfers of one direction share, beyond those that each has for itself.
    pool: u64,
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
    turn: TransferId,
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
    pub id: u64,
    pub out: mpsc::Receiver<Message>,
    /// Where answers to its requests go.
    pub reply: mpsc::Sender<Message>,
    pub over: CancellationToken,
}

/// Messages that wait to be written.
const OUT_MAX: usize = 64;

impl Default for TransferId {
    fn default() -> Self {
        Self(0)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(site: SiteName, pool: u64, inbox: mpsc::Sender<Delivered>) -> Arc<Self> {
        Arc::new(Self {
            site,
            pool,
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
    pub fn begin(&self, id: u64, life: u64) -> Begun {
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
            id,
            out,
            reply: sender,
            over,
        }
    }

    /// The session is over, if it still stood. Requests under way fail.
    pub fn end(&self, id: u64) {
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
    pub fn pend(
        &self,
    ) -> Option<(
        u64,
        mpsc::Sender<Message>,
        oneshot::Receiver<Result<Bytes, RequestError>>,
    )> {
        let mut state = self.lock();
        let out = state.session.as_ref()?.out.clone();
        state.requests += 1;
        let number = state.requests;
        let (sender, receiver) = oneshot::channel();
        state.pending.insert(number, sender);
        Some((number, out, receiver))
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

    // --- the sender's side of transfers ---

    pub fn open(&self, id: TransferId) -> Result<(), TransferError> {
        let mut state = self.lock();
        if state.closed {
            return Err(TransferError::Closed);
        }
        if state.outgoing.len() >= TRANSFERS_MAX {
            return Err(TransferError::TooMany);
        }
        state.outgoing.insert(id, Outgoing::default());
        Ok(())
    }

    /// Waits until one more block may be kept, and gives its number.
    pub async fn room(&self, id: TransferId) -> Result<u64, TransferError> {
        let pool = self.pool;
        self.until(&self.progress, |state| {
            let beyond = |outgoing: &Outgoing| outgoing.held().saturating_sub(RESERVED);
            let used: u64 = state.outgoing.values().map(beyond).sum();
            let outgoing = state.outgoing.get(&id)?;
            match outgoing.failed {
                Some(failed) => Some(Err(failed)),
                None => outgoing
                    .has_room(pool.saturating_sub(used))
                    .then(|| Ok(outgoing.number())),
            }
        })
        .await
    }

    pub fn push(&self, block: Packed) {
        let mut state = self.lock();
        if let Some(outgoing) = state.outgoing.get_mut(&block.header.transfer) {
            outgoing.push(block);
        }
        drop(state);
        self.work.notify_waiters();
    }

    /// The next block to send over `connection`: each transfer in turn.
    pub async fn take(&self, connection: u64) -> Packed {
        let block = self
            .until(&self.work, |state| {
                let after = state.outgoing.keys().filter(|id| **id > state.turn);
                let before = state.outgoing.keys().filter(|id| **id <= state.turn);
                let order: Vec<TransferId> = after.chain(before).copied().collect();
                order.into_iter().find_map(|id| {
                    let block = state.outgoing.get_mut(&id)?.take(connection)?;
                    state.turn = id;
                    Some(block)
                })
            })
            .await;
        let (wire, raw) = (&self.counted.wire_sent, &self.counted.raw_sent);
        wire.fetch_add((4 + HEADER + block.payload.len()) as u64, Ordering::Relaxed);
        raw.fetch_add(u64::from(block.header.length), Ordering::Relaxed);
        block
    }

    /// A bulk connection is gone.
    pub fn lost(&self, connection: u64) {
        let mut state = self.lock();
        let lost: u64 = state
            .outgoing
            .values_mut()
            .map(|outgoing| outgoing.lost(connection))
            .sum();
        drop(state);
        self.counted.blocks_again.fetch_add(lost, Ordering::Relaxed);
        self.work.notify_waiters();
    }

    /// The sender's handle is gone.
    pub fn shut(&self, id: TransferId) {
        let mut state = self.lock();
        let gone = state.outgoing.remove(&id);
        if gone.is_some_and(|gone| gone.failed.is_none()) {
            state.remember(id, Message::Abandon(id));
        }
        drop(state);
        self.news.notify_waiters();
        // Others may have room now.
        self.progress.notify_waiters();
    }

    // --- the receiver's side of transfers ---

    pub fn receive(&self, id: TransferId) -> Result<(), TransferError> {
        let mut state = self.lock();
        if state.closed {
            return Err(TransferError::Closed);
        }
        if state.incoming.len() >= TRANSFERS_MAX {
            return Err(TransferError::TooMany);
        }
        state.incoming.entry(id).or_default();
        state.grant(id, self.pool);
        drop(state);
        self.news.notify_waiters();
        Ok(())
    }

    /// Whether a block is worth unpacking.
    pub fn wants(&self, id: TransferId, number: u64) -> Result<bool, Violation> {
        let state = self.lock();
        match state.incoming.get(&id) {
            Some(incoming) => incoming.wants(number),
            None if state.ended.iter().any(|(ended, _)| *ended == id) => Ok(false),
            None => Err(Violation::Unknown),
        }
    }

    /// Takes a block in. False: nobody needs it (any more).
    pub fn accept(
        &self,
        id: TransferId,
        number: u64,
        content: Bytes,
        last: bool,
    ) -> Result<bool, Violation> {
        let raw = content.len() as u64;
        let mut state = self.lock();
        let Some(incoming) = state.incoming.get_mut(&id) else {
            return Ok(false);
        };
        let fresh = incoming.accept(number, content, last)?;
        state.tell(id);
        drop(state);
        if fresh {
            self.counted.raw_received.fetch_add(raw, Ordering::Relaxed);
            self.progress.notify_waiters();
            self.news.notify_waiters();
        }
        Ok(fresh)
    }

    /// The next content of a transfer; `None` at its end.
    pub async fn next(&self, id: TransferId) -> Result<Option<Bytes>, TransferError> {
        let pool = self.pool;
        let taken = self
            .until(&self.progress, |state| {
                let incoming = state.incoming.get_mut(&id)?;
                if let Some(content) = incoming.take() {
                    state.grant(id, pool);
                    return Some(Ok(Some(content)));
                }
                match (incoming.finished(), incoming.failed) {
                    (true, _) => Some(Ok(None)),
                    (false, Some(failed)) => Some(Err(failed)),
                    (false, None) => None,
                }
            })
            .await;
        self.news.notify_waiters();
        taken
    }

    /// The receiver's handle is gone.
    pub fn leave(&self, id: TransferId) {
        let mut state = self.lock();
        if let Some(incoming) = state.incoming.remove(&id)
            && incoming.failed.is_none()
        {
            let last = match incoming.complete() {
                true => Message::Window {
                    transfer: id,
                    next: incoming.next(),
                    limit: incoming.next(),
                },
                false => Message::Cancel(id),
            };
            state.remember(id, last);
        }
        drop(state);
        self.news.notify_waiters();
    }

    // --- what the peer says of transfers ---

    pub fn window(&self, id: TransferId, next: u64, limit: u64) -> Result<(), Violation> {
        let mut state = self.lock();
        match state.outgoing.get_mut(&id) {
            Some(outgoing) => outgoing.window(next, limit)?,
            // The receiver learned the name from us, so we had it once.
            None => state.say(Message::Abandon(id)),
        }
        drop(state);
        self.news.notify_waiters();
        self.work.notify_waiters();
        self.progress.notify_waiters();
        Ok(())
    }

    pub fn cancelled(&self, id: TransferId) {
        if let Some(outgoing) = self.lock().outgoing.get_mut(&id) {
            outgoing.failed.get_or_insert(TransferError::Cancelled);
        }
        self.progress.notify_waiters();
    }

    pub fn abandoned(&self, id: TransferId) {
        if let Some(incoming) = self.lock().incoming.get_mut(&id) {
            incoming.failed.get_or_insert(TransferError::Abandoned);
        }
        self.progress.notify_waiters();
    }

    /// What there is to say on the control connection.
    pub fn take_news(&self) -> Vec<Message> {
        let mut state = self.lock();
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

    /// Lets the peer hear of a transfer, if that is worth a message.
    fn tell(&mut self, id: TransferId) {
        if let Some(incoming) = self.incoming.get_mut(&id)
            && incoming.tidings(false).is_some()
        {
            self.telling.insert(id);
        }
    }

    /// Grants a transfer what memory it may have now.
    fn grant(&mut self, id: TransferId, pool: u64) {
        let beyond = |incoming: &Incoming| incoming.granted().saturating_sub(RESERVED);
        let used: u64 = self.incoming.values().map(beyond).sum();
        let share = RESERVED + pool / self.incoming.len().max(1) as u64;
        if let Some(incoming) = self.incoming.get_mut(&id)
            && !incoming.complete()
        {
            incoming.grant(share, pool.saturating_sub(used));
        }
        self.tell(id);
    }
}
