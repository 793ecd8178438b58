//! The application's handle on a peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use model::SiteName;
use thiserror::Error;
use tokio::time::timeout;

use crate::message::{BODY_MAX, Message};
use crate::receiving::Receiving;
use crate::sending::Sending;
use crate::shared::{Pended, Shared};
use crate::transfer::{TransferError, TransferId};

/// A peer. Clones are the same peer.
#[derive(Clone)]
pub struct Peer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) names: Arc<AtomicU64>,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The body is longer than [`BODY_MAX`]. Nothing was sent.
    #[error("a body of {0} bytes is longer than {BODY_MAX}")]
    TooLong(usize),
    /// There is no connection. Nothing was sent.
    #[error("the peer is not connected; nothing was sent")]
    NotConnected,
    /// The peer has more requests waiting than it takes. It has not seen this one.
    #[error("the peer has too many requests waiting; it did not take this one")]
    Busy,
    /// The connection ended, or the time did, after the request was handed over. The peer may have carried it out, or
    /// may yet: ask. It is never sent again of itself.
    #[error("outcome unknown: the connection or the time ended before the answer came")]
    OutcomeUnknown,
}

/// Bytes that went over the bulk connections since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Content that was sent, with what was sent again.
    pub raw_sent: u64,
    /// The same as frames: compressed, with headers, without what TLS and TCP add (under 1 %).
    pub wire_sent: u64,
    /// Content that came, each block once.
    pub raw_received: u64,
    /// Frames that came.
    pub wire_received: u64,
    /// Blocks whose connection broke before they were acknowledged.
    pub blocks_again: u64,
}

/// Forgets a request that nobody waits for any more, however the waiting ended.
struct Forget<'a>(&'a Shared, u64);

// === impl Forget ===

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.lock().pending.remove(&self.1);
    }
}

// === impl Peer ===

impl Peer {
    /// Its site.
    pub fn site(&self) -> &SiteName {
        &self.shared.site
    }

    /// The number of the session that stands, counted from 1, or `None`. Whoever sends notices watches it: what was
    /// under way when it changes may be lost.
    pub fn session(&self) -> Option<u64> {
        *self.shared.sessions.borrow()
    }

    /// Waits until there is a session, and gives its number. Waits for ever where the peer never comes.
    pub async fn connected(&self) -> u64 {
        let mut sessions = self.shared.sessions.subscribe();
        loop {
            if let Some(number) = *sessions.borrow_and_update() {
                return number;
            }
            if sessions.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Waits until session `number` is over.
    pub async fn gone(&self, number: u64) {
        let mut sessions = self.shared.sessions.subscribe();
        // The sender lives in `shared`, so waiting cannot fail.
        let _ = sessions.wait_for(|session| *session != Some(number)).await;
    }

    /// Asks, and waits at most `within` for the answer.
    pub async fn request(&self, body: Bytes, within: Duration) -> Result<Bytes, RequestError> {
        if body.len() > BODY_MAX {
            return Err(RequestError::TooLong(body.len()));
        }
        let pended = self.shared.pend().ok_or(RequestError::NotConnected)?;
        let Pended {
            number,
            out,
            answer,
        } = pended;
        let _forget = Forget(&self.shared, number);
        let asked = async {
            // A message that waits in the queue of a session that ends is not sent; from outside that cannot be told
            // from one that was.
            let sent = out.send(Message::Request(number, body)).await;
            sent.map_err(|_| RequestError::OutcomeUnknown)?;
            answer.await.map_err(|_| RequestError::OutcomeUnknown)?
        };
        let answered = timeout(within, asked).await;
        answered.unwrap_or(Err(RequestError::OutcomeUnknown))
    }

    /// Says something that wants no answer. `Ok` means that it is on its way; that it came nobody says.
    pub async fn notify(&self, body: Bytes) -> Result<(), RequestError> {
        if body.len() > BODY_MAX {
            return Err(RequestError::TooLong(body.len()));
        }
        let out = self.shared.out().ok_or(RequestError::NotConnected)?;
        let sent = out.send(Message::Notice(body)).await;
        sent.map_err(|_| RequestError::NotConnected)
    }

    /// Begins a transfer to the peer. Its [`id`](Sending::id) has to be told to the peer, which then
    /// [`receive`](Self::receive)s it; until it does, nothing is sent.
    pub fn send(&self) -> Result<Sending, TransferError> {
        let id = TransferId(self.names.fetch_add(1, Ordering::Relaxed));
        self.shared.open(id)?;
        Ok(Sending::new(Arc::clone(&self.shared), id))
    }

    /// The other end of a transfer that the peer has begun. Each can be received once.
    pub fn receive(&self, id: TransferId) -> Result<Receiving, TransferError> {
        self.shared.receive(id)?;
        Ok(Receiving::new(Arc::clone(&self.shared), id))
    }

    /// What went over the bulk connections.
    pub fn traffic(&self) -> Traffic {
        let counted = &self.shared.counted;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            raw_sent: read(&counted.raw_sent),
            wire_sent: read(&counted.wire_sent),
            raw_received: read(&counted.raw_received),
            wire_received: read(&counted.wire_received),
            blocks_again: read(&counted.blocks_again),
        }
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("site", self.site())
            .field("session", &self.session())
            .finish_non_exhaustive()
    }
}
