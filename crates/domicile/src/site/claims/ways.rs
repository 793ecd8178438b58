//! The ways to other sites' gateways, for claims, and what comes from them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::gateway::site::{Claims as Takes, Peers, Soon};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use link::Purpose;
use model::SiteName;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;

use super::word::{Ask, Said};
use super::{Claims, Failed, http};

/// The largest question and answer: a page of names is an eighth of it.
const MESSAGE_MAX: usize = 1 << 20;

/// How long a question may take, the handshake included: several round trips of the longest path, and a commit.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections to one site that rest.
const IDLE_MAX: usize = 8;

type Connection = SendRequest<Full<Bytes>>;

/// The ways to the other sites.
pub(super) struct Ways {
    peers: Option<Arc<Peers>>,
    sites: Vec<SiteName>,
    idle: Mutex<BTreeMap<SiteName, Vec<Connection>>>,
}

/// Takes what peers' gateways come with. Their connections belong to the gateway's threads, the work is done where sessions live.
pub struct Desk {
    pub(super) claims: Arc<Claims>,
    pub(super) work: Handle,
}

// === impl Ways ===

impl Ways {
    /// The ways to `sites`, which are numbered as the addresses of `peers` are.
    pub fn new(peers: Option<Arc<Peers>>, sites: &[SiteName]) -> Self {
        Self {
            peers,
            sites: sites.to_vec(),
            idle: Mutex::default(),
        }
    }

    /// Asks `site`. Whatever is asked may be asked twice, so one that rested and turns out to have ended is no failure.
    pub async fn ask(&self, site: &SiteName, ask: &Ask) -> Result<Said, Failed> {
        let body = Bytes::from(serde_json::to_vec(ask)?);
        let asked = async {
            while let Some(rested) = self.rested(site) {
                if let Ok(said) = self.ask_over(site, rested, body.clone()).await {
                    return Ok(said);
                }
            }
            let fresh = self.connect(site).await?;
            self.ask_over(site, fresh, body).await
        };
        timeout(PATIENCE, asked).await?
    }

    async fn connect(&self, site: &SiteName) -> Result<Connection, Failed> {
        let at = self.sites.iter().position(|known| known == site);
        let peers = self.peers.as_ref().ok_or("no way to other sites")?;
        let address = at.and_then(|at| peers.addresses.get(at)?.as_ref());
        let address = address.ok_or("no address of this site's gateways")?;
        let stream = peers.sealed.connect(address, site, Purpose::Claims).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped, or the other side hangs up.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn ask_over(
        &self,
        site: &SiteName,
        mut connection: Connection,
        body: Bytes,
    ) -> Result<Said, Failed> {
        connection.ready().await?;
        let request = Request::post("/").header("host", site.as_str());
        let response = connection
            .send_request(request.body(Full::new(body))?)
            .await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MESSAGE_MAX)
            .collect()
            .await?;
        if status != StatusCode::OK {
            return Err(format!("it answered {status}").into());
        }
        let said = serde_json::from_slice(&body.to_bytes())?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = idle.entry(site.clone()).or_default();
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        Ok(said)
    }

    fn rested(&self, site: &SiteName) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = idle.get_mut(site)?;
        std::iter::from_fn(|| idle.pop()).find(|connection| !connection.is_closed())
    }
}

// === impl Desk ===

impl Takes for Desk {
    fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        peer: SiteName,
        end: CancellationToken,
    ) -> Soon<'static, ()> {
        let (claims, work) = (Arc::clone(&self.claims), self.work.clone());
        Box::pin(http::serve(stream, MESSAGE_MAX, end, move |_, body| {
            let (claims, peer) = (Arc::clone(&claims), peer.clone());
            let answered = work.spawn(async move {
                let Ok(ask) = serde_json::from_slice::<Ask>(&body) else {
                    return None;
                };
                let said = claims.answer(&peer, ask).await;
                serde_json::to_value(said).ok()
            });
            async move {
                match answered.await {
                    Ok(Some(body)) => http::Answer {
                        status: StatusCode::OK,
                        body,
                    },
                    Ok(None) => http::Answer::error(
                        StatusCode::BAD_REQUEST,
                        "this is no question about claims that this version knows",
                    ),
                    Err(_) => http::Answer::error(StatusCode::SERVICE_UNAVAILABLE, "it ends"),
                }
            }
        }))
    }
}
