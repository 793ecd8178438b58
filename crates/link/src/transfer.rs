//! What both ends of a transfer know, without a socket or a clock.
//!
//! A transfer is a stream of bytes, cut into numbered blocks. The receiver says up to which number he has memory
//! (`limit`) and below which number all has come (`next`); both only grow, and stand for themselves, so that a window told
//! twice or once more after a reconnection does no harm. The sender keeps every block until it lies below `next`, and
//! sends again what was on a connection that broke; the receiver drops what has come before. So each block is sent at
//! least once and handed on exactly once, in order.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use thiserror::Error;

use crate::block::Packed;

/// The blocks that a transfer may always have under way, however many others there are. So no transfer can take all
/// memory and keep another from ending.
pub(crate) const RESERVED: u64 = 4;

/// Names a transfer between two running sites. Given out by the sender, never twice in his life, and with overwhelming
/// probability never again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub u64);

/// Why a transfer ended before its end. What had been handed on by then stays valid; the rest never comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// The receiver dropped his end.
    #[error("the receiver wants no more of it")]
    Cancelled,
    /// The sender dropped its end without finishing, or does not know the transfer.
    #[error("the sender gave it up")]
    Abandoned,
    /// The peer's process is another one than when the transfer began.
    #[error("the peer was started anew")]
    PeerRestarted,
    /// This end is shutting down.
    #[error("the link was shut down")]
    Closed,
    /// This end has too many transfers with the peer under way.
    #[error("too many transfers are under way with this peer")]
    TooMany,
    /// A call on this end was dropped half-way, or failed before.
    #[error("an earlier call on it did not end well")]
    Interrupted,
    /// The transfer's content cannot be compressed: a fault of this machine.
    #[error("a block cannot be compressed")]
    Pack,
}

/// What a peer may not do; it ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Violation {
    #[error("a block beyond the window that was granted")]
    BeyondWindow,
    #[error("a block beyond the transfer's last one")]
    BeyondLast,
    #[error("blocks are acknowledged that were never sent")]
    NeverSent,
    #[error("a block of a transfer that nobody awaits")]
    Unknown,
    #[error("too many blocks that had come before")]
    Strays,
    #[error("more notices than are taken")]
    Notices,
    #[error("heartbeats without end")]
    Heartbeats,
}

/// The sender's end.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Blocks below have come to the receiver.
    acked: u64,
    /// Blocks below may be sent.
    limit: u64,
    /// From `acked` on, without a gap.
    unacked: VecDeque<Entry>,
    /// A session has begun in which the receiver has not said yet what he has.
    unheard: bool,
    pub failed: Option<TransferError>,
}

#[derive(Debug)]
struct Entry {
    block: Packed,
    /// The connection that it was last sent on; none: it is to be sent.
    on: Option<u64>,
}

/// The receiver's end.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// Blocks below have been handed on.
    taken: u64,
    /// From `taken` on, without a gap.
    ready: VecDeque<Bytes>,
    /// Blocks that came before one with a lower number.
    early: BTreeMap<u64, Bytes>,
    /// For blocks below there is memory.
    limit: u64,
    /// The number of the last block, once it has come.
    last: Option<u64>,
    /// What the sender was told.
    told: (u64, u64),
    pub failed: Option<TransferError>,
}

// === impl TransferId ===

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// Blocks that are kept.
    pub fn held(&self) -> u64 {
        self.unacked.len() as u64
    }

    /// Whether one more block may be kept, where `free` more fit into this peer's memory. Little is packed beyond what
    /// the receiver has room for: a slow receiver's transfer must not fill the memory that others share.
    pub fn has_room(&self, free: u64) -> bool {
        let credit = self.limit.saturating_sub(self.acked);
        self.held() < RESERVED || (self.held() < credit + RESERVED && free > 0)
    }

    /// The number of the next block.
    pub fn number(&self) -> u64 {
        self.acked + self.held()
    }

    /// Keeps a block, to be sent.
    pub fn push(&mut self, block: Packed) {
        debug_assert_eq!(block.header.number, self.number());
        self.unacked.push_back(Entry { block, on: None });
    }

    /// Hears how far the receiver is.
    pub fn window(&mut self, next: u64, limit: u64) -> Result<(), Violation> {
        if next > self.number() {
            return Err(Violation::NeverSent);
        }
        while self.acked < next {
            self.unacked.pop_front();
            self.acked += 1;
        }
        self.limit = self.limit.max(limit);
        self.unheard = false;
        Ok(())
    }

    /// A new session: the receiver's first word in it says what came before the path broke, and need not be sent again.
    pub fn resume(&mut self) {
        self.unheard = true;
    }

    /// The next block to send, over `connection`.
    pub fn take(&mut self, connection: u64) -> Option<Packed> {
        if self.failed.is_some() || self.unheard {
            return None;
        }
        let limit = self.limit;
        let entry = self.unacked.iter_mut().find(|entry| entry.on.is_none())?;
        if entry.block.header.number >= limit {
            return None;
        }
        entry.on = Some(connection);
        Some(entry.block.clone())
    }

    /// `connection` broke: what was sent on it and is not known to have come is to be sent again. Gives their number.
    pub fn lost(&mut self, connection: u64) -> u64 {
        let mut lost = 0;
        for entry in &mut self.unacked {
            if entry.on == Some(connection) {
                entry.on = None;
                lost += 1;
            }
        }
        lost
    }

    /// Whether everything that was pushed has come.
    pub fn settled(&self) -> bool {
        self.unacked.is_empty()
    }
}

// === impl Incoming ===

impl Incoming {
    /// Blocks below have come.
    pub fn next(&self) -> u64 {
        self.taken + self.ready.len() as u64
    }

    /// Blocks for which memory is set aside.
    pub fn granted(&self) -> u64 {
        self.limit - self.taken
    }

    /// Whether all blocks have come.
    pub fn complete(&self) -> bool {
        self.last.is_some_and(|last| self.next() > last)
    }

    /// Whether a block is of use, and may come at all.
    pub fn wants(&self, number: u64) -> Result<bool, Violation> {
        if number >= self.limit {
            return Err(Violation::BeyondWindow);
        }
        if self.last.is_some_and(|last| number > last) {
            return Err(Violation::BeyondLast);
        }
        Ok(number >= self.next() && !self.early.contains_key(&number))
    }

    /// Takes a block in. False: it had come before.
    pub fn accept(&mut self, number: u64, content: Bytes, last: bool) -> Result<bool, Violation> {
        if !self.wants(number)? {
            return Ok(false);
        }
        if last {
            let beyond = self.early.keys().next_back();
            if beyond.is_some_and(|beyond| *beyond > number) {
                return Err(Violation::BeyondLast);
            }
            self.last = Some(number);
        }
        self.early.insert(number, content);
        while let Some(content) = self.early.remove(&self.next()) {
            self.ready.push_back(content);
        }
        Ok(true)
    }

    /// Hands the next block on.
    pub fn take(&mut self) -> Option<Bytes> {
        let content = self.ready.pop_front()?;
        self.taken += 1;
        Some(content)
    }

    /// Whether everything has been handed on.
    pub fn finished(&self) -> bool {
        self.complete() && self.ready.is_empty()
    }

    /// Sets aside memory up to `share` blocks, where `free` beyond those that are reserved can be had.
    pub fn grant(&mut self, share: u64, free: u64) {
        let granted = self.granted();
        let most = granted.max(RESERVED).saturating_add(free);
        let wished = share.max(RESERVED).min(most);
        self.limit += wished.saturating_sub(granted);
    }

    /// What the sender should hear now: `(next, limit)`, if it is worth a message. `always`: whatever it is.
    pub fn tidings(&mut self, always: bool) -> Option<(u64, u64)> {
        let now = (self.next(), self.limit);
        let news = (now.0 - self.told.0).max(now.1 - self.told.1);
        // A quarter of the window, so that news arrive long before the sender has to wait for them.
        let worth = news > 0 && (self.complete() || news >= (self.granted() / 4).max(1));
        (always || worth).then(|| {
            self.told = now;
            now
        })
    }
}

#[cfg(test)]
mod tests;
