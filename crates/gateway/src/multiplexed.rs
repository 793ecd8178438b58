//! HTTP/2 from clients: each of its streams becomes a connection of its own, as if its request had come by HTTP/1.1, so that one path of
//! a request has all the rules. `hyper` speaks HTTP/2.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use crate::connection::Connection;
use crate::http::body::{Body, Next};
use crate::http::head::{Framing, HEAD_MAX, room};
use crate::http::{read, response};
use crate::stream::Stream;
use crate::thread::Thread;

/// What a client begins with that speaks HTTP/2 without having been asked (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI";

/// The name of HTTP/2 in TLS (RFC 9113, 3.1).
pub(crate) const ALPN: &[u8] = b"h2";

/// Requests of one connection side by side: what browsers expect at least is 100.
const STREAMS_MAX: u32 = 128;

/// What of a body stands between a stream and its connection, each way.
const PIPE: usize = 64 << 10;

/// How long a client may say nothing at all, where it is asked half way whether it is there.
const SILENT: Duration = Duration::from_secs(40);

/// Serves the requests of `stream` until it ends or the thread does.
pub(crate) async fn serve(thread: Rc<Thread>, stream: Stream, from: IpAddr) {
    let sealed = matches!(stream, Stream::Sealed(_));
    let end = thread.end.clone();
    let answers = service_fn(move |request| {
        let thread = Rc::clone(&thread);
        async move { Ok::<_, Infallible>(one(thread, request, from, sealed).await) }
    });
    let serving = http2::Builder::new(Here)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_MAX as u32)
        .keep_alive_interval(SILENT / 2)
        .keep_alive_timeout(SILENT / 2)
        .serve_connection(TokioIo::new(stream), answers);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        served = &mut serving => {
            if let Err(why) = served {
                tracing::debug!(%why, "a connection of HTTP/2 has ended");
            }
            return;
        }
        () = end.cancelled() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}

/// One request.
async fn one(
    thread: Rc<Thread>,
    request: Request<Incoming>,
    from: IpAddr,
    sealed: bool,
) -> Response<Carried> {
    let Some(head) = head(&request) else {
        return refused(StatusCode::BAD_REQUEST);
    };
    let head_only = request.method() == Method::HEAD;
    let (near, far) = tokio::io::duplex(PIPE);
    // Ends with the pipe.
    tokio::task::spawn_local(Connection::serve(
        thread,
        Stream::Pipe(far),
        (from, sealed),
        None,
    ));
    let (mut answer, mut ask) = tokio::io::split(near);
    let chunked = length(&request).is_none() && !request.body().is_end_stream();
    tokio::task::spawn_local(async move {
        if let Err(why) = carry(&head, request.into_body(), &mut ask, chunked).await {
            tracing::debug!(%why, "a request of HTTP/2 broke off");
        }
        // Nothing follows; and what broke off is not waited for.
        let _ = ask.shutdown().await;
    });
    let mut input = BytesMut::new();
    loop {
        let Ok(length) = read::head(&mut answer, &mut input).await else {
            return refused(StatusCode::BAD_GATEWAY);
        };
        let mut fields = room();
        let Ok(parsed) = response::parse(&input[..length], &mut fields, head_only) else {
            return refused(StatusCode::BAD_GATEWAY);
        };
        if parsed.status < 200 {
            input.advance(length);
            continue;
        }
        let mut built = Response::builder().status(parsed.status);
        for field in parsed
            .headers
            .iter()
            .filter(|field| !response::is_hop(field.name))
        {
            built = built.header(field.name, field.value);
        }
        let framing = parsed.framing;
        input.advance(length);
        let (give, take) = mpsc::channel(1);
        tokio::task::spawn_local(relay(answer, input, Body::new(framing), give));
        let ends = matches!(framing, Framing::Empty | Framing::Length(0));
        return built
            .body(Carried { take, ends })
            .unwrap_or_else(|_| refused(StatusCode::BAD_GATEWAY));
    }
}

/// The head as HTTP/1.1 has it; `None` where it has something that it must not have (RFC 9113, 8.2.2 and 8.3.1).
fn head(request: &Request<Incoming>) -> Option<Vec<u8>> {
    let fields = request.headers();
    let of_the_connection = [CONNECTION, TRANSFER_ENCODING, UPGRADE];
    if request.version() != Version::HTTP_2
        || of_the_connection
            .iter()
            .any(|name| fields.contains_key(name))
    {
        return None;
    }
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let host = match fields.get(HOST) {
        None => authority?,
        Some(host) => {
            let host = host.to_str().ok()?;
            // Two readers could each believe another one.
            (authority.is_none_or(|authority| authority.eq_ignore_ascii_case(host))
                && fields.get_all(HOST).iter().count() == 1)
                .then_some(host)?
        }
    };
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let mut head =
        format!("{} {target} HTTP/1.1\r\nhost: {host}\r\n", request.method()).into_bytes();
    // Clients may divide cookies over several fields (8.2.3): servers of HTTP/1.1 want one.
    let mut cookies = Vec::new();
    for (name, value) in fields {
        match name.as_str() {
            "host" | "content-length" => continue,
            "te" if value != "trailers" => return None,
            "te" => continue,
            "cookie" => {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value.as_bytes());
                continue;
            }
            name => head.extend_from_slice(name.as_bytes()),
        }
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    if !cookies.is_empty() {
        head.extend_from_slice(b"cookie: ");
        head.extend_from_slice(&cookies);
        head.extend_from_slice(b"\r\n");
    }
    match length(request) {
        Some(length) => head.extend_from_slice(format!("content-length: {length}\r\n").as_bytes()),
        None if request.body().is_end_stream() => {}
        None => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    head.extend_from_slice(b"\r\n");
    Some(head)
}

/// The length that a request declares; `hyper` holds its body to it.
fn length(request: &Request<Incoming>) -> Option<u64> {
    request
        .body()
        .size_hint()
        .exact()
        .filter(|_| request.headers().contains_key(CONTENT_LENGTH))
}

/// Carries a request.
async fn carry(
    head: &[u8],
    mut body: Incoming,
    to: &mut WriteHalf<DuplexStream>,
    chunked: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    to.write_all(head).await?;
    while let Some(frame) = body.frame().await {
        // Trailers are dropped, as on HTTP/1.1.
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if data.is_empty() {
            continue;
        }
        if chunked {
            to.write_all(format!("{:x}\r\n", data.len()).as_bytes())
                .await?;
        }
        to.write_all(&data).await?;
        if chunked {
            to.write_all(b"\r\n").await?;
        }
    }
    if chunked {
        to.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}

/// Carries an answer's body, piece by piece as they are taken.
async fn relay(
    mut from: ReadHalf<DuplexStream>,
    mut input: BytesMut,
    mut body: Body,
    give: mpsc::Sender<Result<Bytes, Broken>>,
) {
    loop {
        match body.next(&input) {
            Ok(Next::End) => return,
            Ok(Next::Skip(bytes)) => input.advance(bytes),
            Ok(Next::Data(bytes)) => {
                body.took(bytes);
                if give.send(Ok(input.split_to(bytes).freeze())).await.is_err() {
                    return;
                }
            }
            Ok(Next::More) if read::more(&mut from, &mut input, PIPE).await.is_ok() => {}
            Ok(Next::More) if body.until_close() => return,
            Ok(Next::More) | Err(_) => {
                let _ = give.send(Err(Broken)).await;
                return;
            }
        }
    }
}

fn refused(status: StatusCode) -> Response<Carried> {
    let (_, take) = mpsc::channel(1);
    let mut response = Response::new(Carried { take, ends: true });
    *response.status_mut() = status;
    response
}

/// An answer's body.
struct Carried {
    take: mpsc::Receiver<Result<Bytes, Broken>>,
    ends: bool,
}

/// The answer broke off.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
struct Broken;

impl hyper::body::Body for Carried {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.take
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.ends
    }
}

/// Runs on this thread.
#[derive(Clone, Copy, Debug)]
struct Here;

impl<F: Future + 'static> Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
