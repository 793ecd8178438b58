//! The side that listens. Until a caller has shown who he is he costs little, and not for long.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt as _;
use model::{SiteName, causes};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::hello::{self, Answer, Hello, Why, judge};
use crate::shared::{Begun, Shared};
use crate::tls::Tls;
use crate::wire::{Wire, WireError, frame, wire};
use crate::{bulk, control, socket};

/// How long handshake and hellos may take together.
const GREETING: Duration = Duration::from_secs(10);

/// Callers who have not shown yet who they are. Further ones are turned away unheard.
const CALLERS_MAX: usize = 64;

/// How long to wait when the system gives no connection: as a rule there are no file descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Everything that it takes to let peers in.
#[derive(Debug)]
pub(crate) struct Door {
    pub own: SiteName,
    pub life: u64,
    pub tls: Arc<Tls>,
    /// The peers who dial; those whom this site dials are not let in.
    pub guests: BTreeMap<SiteName, Arc<Shared>>,
    pub refused: Arc<AtomicU64>,
}

/// A hello that may pass, whose it is, and for a bulk connection what ends it.
type Admitted = (Hello, Arc<Shared>, Option<CancellationToken>);

/// A caller who has been let in.
enum Guest {
    Control(Wire, Arc<Shared>, Begun),
    Bulk(Wire, Arc<Shared>, CancellationToken),
}

/// Lets peers in, for ever.
pub(crate) async fn listen(listener: TcpListener, door: Arc<Door>) {
    let callers = Arc::new(Semaphore::new(CALLERS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(why) => {
                warn!(%why, "cannot take a connection");
                sleep(EXHAUSTED).await;
                continue;
            }
        };
        let Ok(caller) = Arc::clone(&callers).try_acquire_owned() else {
            door.refuse(address, "too many callers");
            continue;
        };
        let door = Arc::clone(&door);
        connections.spawn(async move {
            let greeted = timeout(GREETING, door.greet(stream)).await;
            drop(caller);
            match greeted.unwrap_or(Err(WireError::Silent)) {
                Ok(guest) => guest.stay().await,
                Err(why) => door.refuse(address, &causes(&why)),
            }
        });
    }
}

// === impl Door ===

impl Door {
    fn refuse(&self, address: SocketAddr, why: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        warn!(%address, why, "a connection to the link was refused");
    }

    /// Lets a hello of `site`'s pass, or says why not; a bulk connection joins its session.
    fn admit(&self, hello: Hello, site: &SiteName) -> Result<Admitted, Why> {
        debug!(%site, version = hello.version, flow = ?hello.flow, "hello");
        judge(&hello, &self.own, site)?;
        let shared = self.guests.get(site).ok_or(Why::Dials)?;
        let joined = hello.flow.map(|flow| shared.join(hello.session, flow));
        let joined = joined.transpose()?;
        Ok((hello, Arc::clone(shared), joined))
    }

    async fn greet(&self, stream: TcpStream) -> Result<Guest, WireError> {
        socket::prepare(&stream)?;
        let (stream, site, _) = self.tls.accept(stream).await?;
        let mut wire = wire(stream);
        let hello = frame(&mut wire).await?;
        let read = hello::read(&hello).map_err(WireError::NoHello)?;
        let (hello, shared, joined) = match read.and_then(|hello| self.admit(hello, &site)) {
            Ok(admitted) => admitted,
            Err(why) => {
                answer(&mut wire, &Answer::Refused(why)).await?;
                return Err(WireError::Refused(why));
            }
        };
        let welcome = Answer::Welcome {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            life: self.life,
        };
        match joined {
            Some(over) => {
                answer(&mut wire, &welcome).await?;
                Ok(Guest::Bulk(wire, shared, over))
            }
            None => {
                // Before the welcome: once it has that, the peer opens bulk connections, which must find the session.
                let begun = shared.begin(hello.session, hello.life);
                answer(&mut wire, &welcome).await?;
                info!(%site, "link connected");
                Ok(Guest::Control(wire, shared, begun))
            }
        }
    }
}

async fn answer(wire: &mut Wire, answer: &Answer) -> Result<(), WireError> {
    let answer = serde_json::to_vec(answer).map_err(WireError::NoHello)?;
    Ok(wire.send(Bytes::from(answer)).await?)
}

// === impl Guest ===

impl Guest {
    async fn stay(self) {
        match self {
            Self::Control(wire, shared, begun) => {
                let why = control::run(wire, &shared, begun).await;
                warn!(site = %shared.site, why = %causes(&why), "link lost");
            }
            Self::Bulk(wire, shared, over) => {
                let why = bulk::run(wire, &shared, over).await;
                debug!(site = %shared.site, why = %causes(&why), "bulk connection lost");
            }
        }
    }
}
