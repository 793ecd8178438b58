//! What peers say, handed to whoever hears it.
//!
//! A request is one byte for the topic, then the hearer's bytes; its answer is one byte (0 answered, 1 nobody hears this
//! topic here, 2 the hearer could not answer), then the hearer's bytes. A notice is a request without an answer.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use link::{Inbox, Incoming, Peer, RequestError, WAITING_MAX};
use thiserror::Error;
use tokio::task::JoinSet;

use crate::{DaemonError, Soon};

/// What a message is about: its first byte. Never given to something else once a version had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Topic(pub u8);

/// Somebody who hears what peers say about a topic.
///
/// Messages are heard side by side, at most 64 of a peer's, and so in any order, also two notices: what must be in order carries a
/// number. Each may have been said before: whoever lost the connection asks again. A hearer bounds the time that it takes;
/// the peer may long have stopped waiting. It is dropped where it stands when the daemon stops leading.
pub trait Hears: Send + Sync {
    /// The topic.
    fn topic(&self) -> Topic;

    /// Answers a request of `from`'s. Over the peer, transfers that the request names can be received.
    fn hear(&self, from: Peer, body: Bytes) -> Soon<'_, Result<Bytes, Unheard>>;

    /// Takes a notice of `from`'s.
    fn note(&self, from: Peer, body: Bytes) -> Soon<'_, ()> {
        let _ = (from, body);
        Box::pin(async {})
    }
}

/// A request was not understood or could not be carried out, and the asker is told no more than that. What an asker should
/// know goes into an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the request could not be answered")]
pub struct Unheard;

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// The link says why.
    #[error(transparent)]
    Link(#[from] RequestError),
    /// Nobody hears this topic there: another version, as a rule.
    #[error("the peer does not know topic {}", .0.0)]
    Unknown(Topic),
    /// The peer could not answer. It may have done part of what was asked.
    #[error("the peer could not answer")]
    Unheard,
    /// The answer has no form that we know.
    #[error("the peer's answer cannot be read")]
    Malformed,
}

const ANSWERED: u8 = 0;
const UNKNOWN: u8 = 1;
const UNHEARD: u8 = 2;

/// Asks `peer`, and waits at most `within` for the answer.
///
/// # Errors
/// [`AskError`]. All but [`RequestError::NotConnected`], [`RequestError::Busy`], [`RequestError::TooLong`] and
/// [`AskError::Unknown`] leave open what has happened there.
pub async fn ask(
    peer: &Peer,
    topic: Topic,
    body: &[u8],
    within: Duration,
) -> Result<Bytes, AskError> {
    let mut answer = peer.request(framed(topic.0, body), within).await?;
    match (!answer.is_empty()).then(|| answer.split_to(1)[0]) {
        Some(ANSWERED) => Ok(answer),
        Some(UNKNOWN) => Err(AskError::Unknown(topic)),
        Some(UNHEARD) => Err(AskError::Unheard),
        Some(_) | None => Err(AskError::Malformed),
    }
}

/// Tells `peer` something that wants no answer; that it came nobody says.
///
/// # Errors
/// Where nothing was sent.
pub async fn notify(peer: &Peer, topic: Topic, body: &[u8]) -> Result<(), RequestError> {
    peer.notify(framed(topic.0, body)).await
}

fn framed(first: u8, body: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(1 + body.len());
    framed.put_u8(first);
    framed.put_slice(body);
    framed.freeze()
}

/// Everybody who hears, by topic.
#[derive(Clone, Default)]
pub(crate) struct Hearers(Arc<BTreeMap<Topic, Arc<dyn Hears>>>);

// === impl Hearers ===

impl Hearers {
    /// One for each topic.
    pub fn new(all: Vec<Arc<dyn Hears>>) -> Result<Self, DaemonError> {
        let mut by_topic: BTreeMap<Topic, Arc<dyn Hears>> = BTreeMap::new();
        for one in all {
            let topic = one.topic();
            if by_topic.insert(topic, one).is_some() {
                return Err(DaemonError::Topic(topic.0));
            }
        }
        Ok(Self(Arc::new(by_topic)))
    }

    async fn handle(self, peer: Peer, said: Incoming) {
        match said {
            Incoming::Request(request) => {
                let answer = self.answer(peer, request.body.clone()).await;
                // The asker asks again, or not.
                if let Err(error) = request.reply(answer).await {
                    tracing::debug!(%error, "an answer was not taken");
                }
            }
            Incoming::Notice(mut body) => {
                let Some((hearer, topic)) = self.hearer(&mut body) else {
                    return;
                };
                let noted = AssertUnwindSafe(hearer.note(peer, body)).catch_unwind();
                if noted.await.is_err() {
                    tracing::error!(topic, "a notice made its hearer panic");
                }
            }
        }
    }

    async fn answer(&self, peer: Peer, mut body: Bytes) -> Bytes {
        let Some((hearer, topic)) = self.hearer(&mut body) else {
            return framed(UNKNOWN, &[]);
        };
        let heard = AssertUnwindSafe(hearer.hear(peer, body)).catch_unwind();
        match heard.await {
            Ok(Ok(answer)) => framed(ANSWERED, &answer),
            Ok(Err(Unheard)) => framed(UNHEARD, &[]),
            Err(_) => {
                tracing::error!(topic, "a request made its hearer panic");
                framed(UNHEARD, &[])
            }
        }
    }

    /// Who hears `body`, whose topic is taken off.
    fn hearer(&self, body: &mut Bytes) -> Option<(&Arc<dyn Hears>, u8)> {
        let topic = (!body.is_empty()).then(|| body.split_to(1)[0])?;
        Some((self.0.get(&Topic(topic))?, topic))
    }
}

/// Hands on what `peer` says until the link is shut down; what is being heard is dropped with it.
pub(crate) async fn dispatch(peer: Peer, mut inbox: Inbox, hearers: Hearers) {
    let mut hearing = JoinSet::new();
    loop {
        // At most as many are heard as may wait: above that they wait, and the peer is told "busy".
        let room = hearing.len() < WAITING_MAX;
        tokio::select! {
            said = inbox.next(), if room => match said {
                Some(said) => drop(hearing.spawn(hearers.clone().handle(peer.clone(), said))),
                None => return,
            },
            Some(_) = hearing.join_next(), if !hearing.is_empty() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u8);

    impl Hears for Echo {
        fn topic(&self) -> Topic {
            Topic(self.0)
        }

        fn hear(&self, _: Peer, body: Bytes) -> Soon<'_, Result<Bytes, Unheard>> {
            Box::pin(async { Ok(body) })
        }
    }

    #[test]
    fn a_topic_has_one_hearer() {
        let twice: Vec<Arc<dyn Hears>> = vec![Arc::new(Echo(7)), Arc::new(Echo(7))];
        let refused = Hearers::new(twice).err();
        assert!(matches!(refused, Some(DaemonError::Topic(7))));
    }

    #[test]
    fn what_nobody_hears_has_no_hearer() {
        let hearers = Hearers::new(vec![Arc::new(Echo(7))]).expect("one");
        let mut body = Bytes::from_static(&[7, 1, 2]);
        assert_eq!(hearers.hearer(&mut body).map(|(_, topic)| topic), Some(7));
        assert_eq!(&body[..], [1, 2]);
        assert!(hearers.hearer(&mut Bytes::from_static(&[8])).is_none());
        assert!(hearers.hearer(&mut Bytes::new()).is_none());
    }
}
