//! Transfers, as the handles of the application and the connections see them.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Shared, State, TRANSFERS_MAX};
use crate::block::{HEADER, Packed};
use crate::message::Message;
use crate::transfer::{Incoming, Outgoing, RESERVED, TransferError, TransferId, Violation};

impl Shared {
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
                let after = state.outgoing.keys().filter(|id| Some(**id) > state.turn);
                let before = state.outgoing.keys().filter(|id| Some(**id) <= state.turn);
                let order: Vec<TransferId> = after.chain(before).copied().collect();
                order.into_iter().find_map(|id| {
                    let block = state.outgoing.get_mut(&id)?.take(connection)?;
                    state.turn = Some(id);
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
}

impl State {
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
