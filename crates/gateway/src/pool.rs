//! Connections to the application and to peers' gateways, kept for the next request. One pool a thread: nobody waits for a lock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::lines::Token;
use crate::stream::Stream;

/// Connections at rest to one place, a thread. Further ones are closed.
const RESTING_MAX: usize = 1024;

/// A connection that rested longer is not used again: shorter than what servers wait by default (Node 5 s, Apache 5 s, uvicorn 5 s).
const RESTED_MAX: Duration = Duration::from_secs(4);

/// Where a connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// The application of the service of this number, at this site.
    Local(u16),
    /// The gateway of the site of this number.
    Peer(u8),
}

/// A connection to a [`Place`], with what was read from it and not used yet.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub stream: Stream,
    pub input: BytesMut,
    /// Whether it has carried a request before: then the other end may have closed it while it rested.
    pub used: bool,
    /// By which the peer's gateway knows this connection.
    pub line: Option<Token>,
    /// Requests that were sent over it.
    pub sent: u64,
}

/// The connections of one thread that rest.
#[derive(Debug, Default)]
pub(crate) struct Pool(RefCell<HashMap<Place, Vec<(Upstream, Instant)>>>);

// === impl Pool ===

impl Pool {
    /// The one that rested least, if there is one that can be used.
    pub fn take(&self, place: Place) -> Option<Upstream> {
        let mut resting = self.0.borrow_mut();
        let resting = resting.get_mut(&place)?;
        while let Some((upstream, since)) = resting.pop() {
            if since.elapsed() > RESTED_MAX {
                // The others rested longer.
                resting.clear();
            } else if upstream.stream.is_quiet() {
                return Some(upstream);
            }
        }
        None
    }

    /// Keeps a connection on which everything was read that belongs to its last answer.
    pub fn put(&self, place: Place, mut upstream: Upstream) {
        // Whoever speaks before he is asked is not believed.
        if !upstream.input.is_empty() {
            return;
        }
        upstream.used = true;
        let mut resting = self.0.borrow_mut();
        let resting = resting.entry(place).or_default();
        if resting.len() < RESTING_MAX {
            resting.push((upstream, Instant::now()));
        }
    }

    /// Closes what rested for too long, each second, for ever.
    pub async fn sweep(self: Rc<Self>) {
        let mut each = tokio::time::interval(Duration::from_secs(1));
        loop {
            each.tick().await;
            for resting in self.0.borrow_mut().values_mut() {
                resting.retain(|(_, since)| since.elapsed() <= RESTED_MAX);
            }
        }
    }
}
