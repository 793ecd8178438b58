//! The side that dials: one control connection, the bulk connections of its session, and again after a wait when they end.
//! Where it dials stands in the configuration; no message can name another place.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt as _;
use model::{SiteName, causes};
use rand::RngExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::hello::{Answer, Hello, PROTOCOL};
use crate::shared::Shared;
use crate::tls::{ALPN, Tls};
use crate::wire::{Wire, WireError, frame, wire};
use crate::{bulk, control, socket};

/// How long handshake and hellos may take together.
const GREETING: Duration = Duration::from_secs(10);

/// A connection that lasted this long after its welcome was a good one: after it the waits begin from the shortest again.
/// Short, as users may be paused while there is none: a peer that was started anew a few times must not be away for half a
/// minute. Long enough that one which breaks at once each time is dialled ever more rarely.
const LASTED: Duration = Duration::from_secs(2);

/// Everything that it takes to dial one peer.
pub(crate) struct Dialler {
    pub own: SiteName,
    pub address: String,
    pub life: u64,
    pub tls: Arc<Tls>,
    pub shared: Arc<Shared>,
}

/// Keeps a session with a peer, for ever.
pub(crate) async fn keep(dialler: Dialler, flows: u16) {
    let dialler = Arc::new(dialler);
    let mut backoff = Backoff::default();
    loop {
        let session: u64 = rand::rng().random();
        match dialler.greet(session, None).await {
            Ok((wire, life)) => {
                let began = Instant::now();
                let site = &dialler.shared.site;
                info!(%site, "link connected");
                let begun = dialler.shared.begin(session, life);
                // Aborted where this ends: bulk connections do not outlive their session.
                let mut bulk = JoinSet::new();
                for flow in 0..flows {
                    bulk.spawn(keep_flow(Arc::clone(&dialler), session, flow));
                }
                let why = control::run(wire, &dialler.shared, begun).await;
                bulk.shutdown().await;
                warn!(%site, why = %causes(&why), "link lost");
                if began.elapsed() > LASTED {
                    backoff.reset();
                }
            }
            Err(why) => {
                let site = &dialler.shared.site;
                warn!(%site, address = dialler.address, why = %causes(&why), "cannot connect the link");
            }
        }
        sleep(backoff.next()).await;
    }
}

/// Keeps one bulk connection, as long as its session stands.
async fn keep_flow(dialler: Arc<Dialler>, session: u64, flow: u16) {
    let mut backoff = Backoff::default();
    loop {
        let Ok(over) = dialler.shared.join(session, flow) else {
            return;
        };
        let why = match dialler.greet(session, Some(flow)).await {
            Ok((wire, _)) => {
                let began = Instant::now();
                let why = bulk::run(wire, &dialler.shared, over).await;
                if began.elapsed() > LASTED {
                    backoff.reset();
                }
                why
            }
            Err(why) => why,
        };
        debug!(site = %dialler.shared.site, flow, why = %causes(&why), "bulk connection lost");
        sleep(backoff.next()).await;
    }
}

// === impl Dialler ===

impl Dialler {
    /// Connects, shows and sees certificates, and exchanges hellos. Gives the connection and the peer's life.
    async fn greet(&self, session: u64, flow: Option<u16>) -> Result<(Wire, u64), WireError> {
        let stream = socket::dial(&self.address).await?;
        let greeted = timeout(GREETING, async {
            let stream = self.tls.connect(stream, &self.shared.site, ALPN).await?;
            let mut wire = wire(stream);
            let hello = Hello {
                protocol: PROTOCOL,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                from: self.own.clone(),
                to: self.shared.site.clone(),
                life: self.life,
                session,
                flow,
            };
            let hello = serde_json::to_vec(&hello).map_err(WireError::NoHello)?;
            wire.send(Bytes::from(hello)).await?;
            // Only now is it known that the peer took our certificate.
            let answer = frame(&mut wire).await?;
            match serde_json::from_slice(&answer).map_err(WireError::NoHello)? {
                Answer::Welcome { version, life } => {
                    debug!(site = %self.shared.site, version, "welcome");
                    Ok((wire, life))
                }
                Answer::Refused(why) => Err(WireError::RefusedThere(why)),
            }
        });
        greeted.await.unwrap_or(Err(WireError::Silent))
    }
}
