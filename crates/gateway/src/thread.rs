//! One thread of a gateway: its listeners, its connections, its pool. Threads share nothing but [`Gateway`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use link::Purpose;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::Connection;
use crate::lines::{GREETING, Token};
use crate::multiplexed;
use crate::pool::{Place, Pool, Upstream};
use crate::site::Gateway;
use crate::stream::Stream;

/// How long an upstream may take to take a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// How long a client may take over the handshake of TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the connections of a thread have in common.
pub(crate) struct Thread {
    pub gateway: Arc<Gateway>,
    pub pool: Rc<Pool>,
    /// No further request is taken from here on.
    pub end: CancellationToken,
}

impl Thread {
    /// A connection to `place`, and whether it has rested.
    pub async fn connect(&self, place: Place) -> io::Result<(Upstream, bool)> {
        match self.pool.take(place) {
            Some(upstream) => Ok((upstream, true)),
            None => Ok((self.dial(place).await?, false)),
        }
    }

    /// A new connection to `place`.
    pub async fn dial(&self, place: Place) -> io::Result<Upstream> {
        let mut line = None;
        let stream = match place {
            Place::Local(service) => {
                let service = self.gateway.services.get(usize::from(service));
                let address = service.and_then(|service| service.upstream.as_deref());
                let address =
                    address.ok_or_else(|| io::Error::other("no application at this site"))?;
                let stream = timeout(CONNECT, TcpStream::connect(address)).await??;
                stream.set_nodelay(true)?;
                Stream::Plain(stream)
            }
            Place::Peer(site) => {
                let at = usize::from(site);
                let peers = self.gateway.peers.as_ref();
                let way = peers.zip(self.gateway.sites.get(at));
                let (peers, site) = way.ok_or_else(|| io::Error::other("no way to this site"))?;
                let address = peers.addresses.get(at).and_then(Option::as_ref);
                let address = address
                    .ok_or_else(|| io::Error::other("no address of this site's gateways"))?;
                let sealed = peers
                    .sealed
                    .connect(address, site, Purpose::Requests)
                    .await?;
                let mut stream = Stream::Sealed(Box::new(sealed));
                line = Some(timeout(CONNECT, greeting(&mut stream)).await??);
                stream
            }
        };
        Ok(Upstream {
            stream,
            input: BytesMut::new(),
            used: false,
            line,
            sent: 0,
        })
    }
}

/// Reads by which token the gateway at the other end knows this connection.
async fn greeting(stream: &mut Stream) -> io::Result<Token> {
    let mut said = [0; GREETING];
    stream.read_exact(&mut said).await?;
    let token = said.strip_suffix(b"\n");
    let token = token.filter(|token| token.iter().all(u8::is_ascii_hexdigit));
    let token = token.and_then(|token| std::str::from_utf8(token).ok());
    token
        .map(Token::from)
        .ok_or_else(|| io::Error::other("this is no gateway, or one of another version"))
}

/// Listens at `address`, as others may that listen there too: the kernel spreads connections over them.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        None,
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Who comes to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Clients, by TLS where there is a certificate to show them.
    Clients,
    /// Gateways of other sites.
    Peers,
}

/// Serves whoever comes to `listeners` on this thread until `end`, and then for at most `patience` what is under way.
pub fn run(
    gateway: Arc<Gateway>,
    listeners: Vec<(std::net::TcpListener, Callers)>,
    end: CancellationToken,
    patience: Duration,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let thread = Rc::new(Thread {
            gateway,
            pool: Rc::new(Pool::default()),
            end,
        });
        let sweeping = tokio::task::spawn_local(Rc::clone(&thread.pool).sweep());
        let connections = TaskTracker::new();
        let mut accepting = JoinSet::new();
        for (listener, callers) in listeners {
            let listener = TcpListener::from_std(listener)?;
            accepting.spawn_local(accept(
                Rc::clone(&thread),
                listener,
                callers,
                connections.clone(),
            ));
        }
        while accepting.join_next().await.is_some() {}
        connections.close();
        let _ = timeout(patience, connections.wait()).await;
        sweeping.abort();
        Ok(())
    })
}

/// Takes connections until the end.
async fn accept(
    thread: Rc<Thread>,
    listener: TcpListener,
    callers: Callers,
    connections: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = thread.end.cancelled() => return,
        };
        match accepted {
            Ok((stream, from)) => {
                connections.spawn_local(greet(Rc::clone(&thread), stream, from.ip(), callers));
            }
            Err(why) => {
                // As a rule there are no file descriptors left.
                tracing::warn!(%why, "cannot take a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Shakes hands, and serves.
async fn greet(thread: Rc<Thread>, stream: TcpStream, from: IpAddr, callers: Callers) {
    let gateway = Arc::clone(&thread.gateway);
    let (stream, peer) = match (callers, &gateway.peers) {
        (Callers::Peers, None) => return,
        (Callers::Peers, Some(peers)) => match peers.sealed.accept(stream).await {
            Ok((stream, peer, Purpose::Requests)) => (Stream::Sealed(Box::new(stream)), Some(peer)),
            Ok((stream, peer, Purpose::Claims)) => {
                if let Some(claims) = &gateway.claims {
                    claims.serve(stream, peer, thread.end.clone()).await;
                }
                return;
            }
            Err(why) => {
                tracing::warn!(%from, %why, "a connection of a peer's gateway was refused");
                return;
            }
        },
        (Callers::Clients, _) => {
            if stream.set_nodelay(true).is_err() {
                return;
            }
            let front = gateway
                .front
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            match front {
                None => (Stream::Plain(stream), None),
                Some(config) => {
                    match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
                        Ok(Ok(stream)) => (Stream::Sealed(Box::new(stream.into())), None),
                        Ok(Err(_)) | Err(_) => return,
                    }
                }
            }
        }
    };
    if peer.is_none() && is_multiplexed(&stream).await {
        return multiplexed::serve(thread, stream, from).await;
    }
    let sealed = matches!(stream, Stream::Sealed(_));
    Connection::serve(thread, stream, (from, sealed), peer).await;
}

/// Whether a client speaks HTTP/2: agreed on in TLS, or begun with.
async fn is_multiplexed(stream: &Stream) -> bool {
    match stream {
        Stream::Sealed(tls) => tls.get_ref().1.alpn_protocol() == Some(multiplexed::ALPN),
        Stream::Plain(tcp) => {
            let mut first = [0; multiplexed::PREFACE.len()];
            let seen = timeout(HANDSHAKE, tcp.peek(&mut first)).await;
            matches!(seen, Ok(Ok(seen)) if seen == first.len() && first == multiplexed::PREFACE)
        }
        Stream::Pipe(_) => false,
    }
}
