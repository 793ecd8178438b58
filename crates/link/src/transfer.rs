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
        Ok(())
    }

    /// The next block to send, over `connection`.
    pub fn take(&mut self, connection: u64) -> Option<Packed> {
        if self.failed.is_some() {
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
mod tests {
    use super::*;

    fn block(number: u64) -> Packed {
        Packed::pack(TransferId(1), number, Bytes::from_static(b"x"), false).unwrap()
    }

    fn outgoing(blocks: u64) -> Outgoing {
        let mut outgoing = Outgoing::default();
        (0..blocks).for_each(|number| outgoing.push(block(number)));
        outgoing
    }

    fn sent(outgoing: &mut Outgoing, connection: u64) -> Vec<u64> {
        std::iter::from_fn(|| outgoing.take(connection))
            .map(|packed| packed.header.number)
            .collect()
    }

    fn bytes(number: u64) -> Bytes {
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    #[test]
    fn nothing_is_sent_before_there_is_a_window_nor_beyond_it() {
        let mut outgoing = outgoing(4);
        assert!(sent(&mut outgoing, 1).is_empty());
        outgoing.window(0, 3).unwrap();
        assert_eq!(sent(&mut outgoing, 1), [0, 1, 2]);
        outgoing.window(1, 4).unwrap();
        assert_eq!(sent(&mut outgoing, 1), [3]);
        assert_eq!(outgoing.held(), 3);
    }

    #[test]
    fn what_was_on_a_broken_connection_is_sent_again_and_nothing_else() {
        let mut outgoing = outgoing(5);
        outgoing.window(0, 5).unwrap();
        for connection in [1, 2, 1, 2, 1] {
            outgoing.take(connection);
        }
        outgoing.window(1, 5).unwrap();
        assert_eq!(outgoing.lost(1), 2);
        assert_eq!(sent(&mut outgoing, 3), [2, 4]);
        assert_eq!(outgoing.lost(1), 0);
        outgoing.window(5, 5).unwrap();
        assert!(outgoing.settled());
    }

    #[test]
    fn an_old_window_changes_nothing_and_a_window_over_what_was_sent_is_refused() {
        let mut outgoing = outgoing(3);
        outgoing.window(2, 8).unwrap();
        outgoing.window(1, 4).unwrap();
        assert_eq!((outgoing.acked, outgoing.limit), (2, 8));
        assert_eq!(outgoing.window(4, 9), Err(Violation::NeverSent));
    }

    #[test]
    fn a_slow_receivers_transfer_keeps_little_more_than_the_receiver_takes() {
        let mut outgoing = outgoing(RESERVED);
        assert!(!outgoing.has_room(100));
        outgoing.window(0, 2).unwrap();
        assert!(outgoing.has_room(100) && !outgoing.has_room(0));
        outgoing.push(block(RESERVED));
        outgoing.push(block(RESERVED + 1));
        assert!(!outgoing.has_room(100));
    }

    #[test]
    fn blocks_are_handed_on_once_and_in_order_however_they_come() {
        // Every order of five blocks, each block twice.
        let mut orders = vec![Vec::new()];
        for number in 0..5_u64 {
            orders = orders
                .into_iter()
                .flat_map(|order: Vec<u64>| {
                    (0..=order.len()).map(move |at| {
                        let mut order = order.clone();
                        order.insert(at, number);
                        order
                    })
                })
                .collect();
        }
        assert_eq!(orders.len(), 120);
        for order in orders {
            let mut incoming = Incoming::default();
            incoming.grant(8, 8);
            let mut taken = Vec::new();
            for number in order.iter().flat_map(|number| [*number, *number]) {
                incoming.accept(number, bytes(number), number == 4).unwrap();
                taken.extend(std::iter::from_fn(|| incoming.take()));
            }
            assert_eq!(taken, (0..5).map(bytes).collect::<Vec<_>>(), "{order:?}");
            assert!(incoming.finished());
        }
    }

    #[test]
    fn blocks_that_may_not_come_are_violations() {
        let mut incoming = Incoming::default();
        assert_eq!(
            incoming.accept(0, bytes(0), false),
            Err(Violation::BeyondWindow)
        );
        incoming.grant(4, 0);
        assert_eq!(
            incoming.accept(4, bytes(4), false),
            Err(Violation::BeyondWindow)
        );
        assert_eq!(incoming.accept(2, bytes(2), false), Ok(true));
        assert_eq!(
            incoming.accept(1, bytes(1), true),
            Err(Violation::BeyondLast)
        );
        assert_eq!(incoming.accept(2, bytes(2), true), Ok(false));
        assert_eq!(incoming.accept(0, bytes(0), false), Ok(true));
        assert_eq!(incoming.accept(0, bytes(0), false), Ok(false));
    }

    #[test]
    fn memory_is_granted_up_to_the_share_and_only_where_it_is_free() {
        let mut incoming = Incoming::default();
        incoming.grant(64, 0);
        assert_eq!(incoming.granted(), RESERVED);
        incoming.grant(64, 10);
        assert_eq!(incoming.granted(), RESERVED + 10);
        incoming.grant(8, 100);
        assert_eq!(incoming.granted(), RESERVED + 10, "what is granted stays");
        incoming.grant(64, 100);
        assert_eq!(incoming.granted(), 64);
        incoming.accept(0, bytes(0), false).unwrap();
        incoming.take();
        assert_eq!(incoming.granted(), 63);
    }

    #[test]
    fn the_sender_hears_at_once_of_the_first_window_and_of_the_end() {
        let mut incoming = Incoming::default();
        incoming.grant(40, 40);
        assert_eq!(incoming.tidings(false), Some((0, 40)));
        assert_eq!(incoming.tidings(false), None);
        for number in 0..9 {
            incoming.accept(number, bytes(number), false).unwrap();
        }
        assert_eq!(incoming.tidings(false), None);
        incoming.accept(9, bytes(9), false).unwrap();
        assert_eq!(incoming.tidings(false), Some((10, 40)));
        incoming.accept(10, bytes(10), true).unwrap();
        assert_eq!(incoming.tidings(false), Some((11, 40)));
        assert_eq!(incoming.tidings(true), Some((11, 40)));
    }
}
