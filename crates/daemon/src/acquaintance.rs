//! Two daemons that know of each other: versions, clocks, policies. For people to see; nothing is decided by it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use link::Peer;
use model::ServiceName;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::Soon;
use crate::dispatch::{AskError, Hears, Topic, Unheard, ask};
use crate::view::{LinkState, PeerState, Said, View, milliseconds, now};

/// The topic: a postcard [`Card`] for a postcard [`Card`].
pub(crate) const TOPIC: Topic = Topic(0);

/// How often a peer is asked again.
const EVERY: Duration = Duration::from_secs(5);

/// How long it may take to answer.
const WITHIN: Duration = Duration::from_secs(10);

/// What is believed of a peer's texts, in characters, and of its services, in number: they are shown and kept.
const TEXT_MAX: usize = 80;
const SERVICES_MAX: usize = 256;

/// What a daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Card {
    version: String,
    /// Milliseconds since 1970, by its own clock.
    clock: u64,
    policies: BTreeMap<ServiceName, String>,
}

/// Answers with our card.
pub(crate) struct Acquaintance(pub View);

// === impl Acquaintance ===

impl Hears for Acquaintance {
    fn topic(&self) -> Topic {
        TOPIC
    }

    fn hear(&self, from: Peer, body: Bytes) -> Soon<'_, Result<Bytes, Unheard>> {
        Box::pin(async move {
            // The asker's own card is not kept: it will be asked for, with a clock that can be measured.
            let _: Card = postcard::from_bytes(&body).map_err(|_| {
                tracing::debug!(peer = %from.site(), "a card cannot be read");
                Unheard
            })?;
            let card = postcard::to_stdvec(&Card::of(&self.0)).map_err(|_| Unheard)?;
            Ok(Bytes::from(card))
        })
    }
}

// === impl Card ===

impl Card {
    fn of(view: &View) -> Self {
        Self {
            version: view.version().to_owned(),
            clock: milliseconds(),
            policies: view.policies(),
        }
    }

    /// What it says, where all of it has a form that may be shown.
    fn said(self, asked: u64, round_trip: Duration) -> Option<Said> {
        let plain = |text: &str| {
            text.len() <= TEXT_MAX && text.chars().all(|c| c.is_ascii_graphic() || c == ' ')
        };
        let good = plain(&self.version)
            && self.policies.len() <= SERVICES_MAX
            && self
                .policies
                .iter()
                .all(|(name, version)| plain(name.as_str()) && plain(version));
        let trip = u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX);
        // Its clock was read between the question and the answer: half-way, for lack of anything better.
        let middle = i128::from(asked) + i128::from(trip / 2);
        let offset = i128::from(self.clock) - middle;
        good.then(|| Said {
            version: self.version,
            clock_offset_ms: i64::try_from(offset).unwrap_or(i64::MAX),
            round_trip_ms: trip,
            policies: self.policies,
        })
    }
}

/// Keeps what is known of `peer` fresh, for as long as the link lives.
pub(crate) async fn keep_acquainted(peer: Peer, view: View) {
    let site = peer.site().clone();
    loop {
        let session = peer.connected().await;
        tracing::info!(peer = %site, session, "connected");
        put(&view, &peer, |known| {
            *known = PeerState {
                since: Some(now()),
                said: None,
            };
        });
        let asking = async {
            loop {
                match ask_for_card(&peer, &view).await {
                    Ok(Some(said)) => put(&view, &peer, |known| known.said = Some(said)),
                    Ok(None) => {
                        tracing::warn!(peer = %site, "what the peer says of itself cannot be read")
                    }
                    Err(error) => {
                        tracing::debug!(peer = %site, %error, "the peer does not say who it is")
                    }
                }
                tokio::time::sleep(EVERY).await;
            }
        };
        tokio::select! {
            () = peer.gone(session) => {}
            () = asking => {}
        }
        tracing::info!(peer = %site, session, "connection lost");
        put(&view, &peer, |known| *known = PeerState::default());
    }
}

async fn ask_for_card(peer: &Peer, view: &View) -> Result<Option<Said>, AskError> {
    let ours = postcard::to_stdvec(&Card::of(view)).map_err(|_| AskError::Malformed)?;
    let (asked, clock) = (milliseconds(), Instant::now());
    let answer = ask(peer, TOPIC, &ours, WITHIN).await?;
    let card: Card = postcard::from_bytes(&answer).map_err(|_| AskError::Malformed)?;
    Ok(card.said(asked, clock.elapsed()))
}

fn put(view: &View, peer: &Peer, change: impl FnOnce(&mut PeerState)) {
    let mut state = view.lock();
    // The link may have gone in this instant, and with it what is known of peers.
    if matches!(state.link, LinkState::Up { .. }) {
        change(state.peers.entry(peer.site().clone()).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(version: &str) -> Card {
        Card {
            version: version.to_owned(),
            clock: 5_000,
            policies: BTreeMap::new(),
        }
    }

    #[test]
    fn the_clock_offset_is_taken_half_way() {
        let said = card("0.1.0").said(4_000, Duration::from_millis(200));
        let said = said.expect("it is plain");
        assert_eq!((said.clock_offset_ms, said.round_trip_ms), (900, 200));
    }

    #[test]
    fn a_peer_cannot_have_anything_shown() {
        for bad in ["a\nb", "\u{1b}[2J", &"x".repeat(81), "é"] {
            assert!(card(bad).said(0, Duration::ZERO).is_none(), "{bad:?}");
        }
    }
}
