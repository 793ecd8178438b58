//! HTTP as claims speak it, to applications and between sites: a bounded body in, JSON out.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a connection may rest between requests, and a head take without a word.
const IDLE: Duration = Duration::from_secs(75);

/// How long a body may take: it is small.
const BODY: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

/// Serves a connection to its end, or until `end` and what is under way then. Bodies are of at most `most` bytes.
pub(super) async fn serve<S, F>(
    stream: S,
    most: usize,
    end: CancellationToken,
    answer: impl Fn(Parts, Bytes) -> F,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Answer>,
{
    let one = async |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        let read = timeout(BODY, Limited::new(body, most).collect()).await;
        let answer = match read {
            Ok(Ok(body)) => answer(head, body.to_bytes()).await,
            Ok(Err(_)) => Answer::error(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is too large, or broke off",
            ),
            Err(_) => Answer::error(StatusCode::REQUEST_TIMEOUT, "the body did not come"),
        };
        Ok::<_, Infallible>(response(&answer))
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service_fn(one));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        () = end.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    // How a connection ends concerns nobody but the other end.
    let _ = connection.await;
}

fn response(answer: &Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body.to_string())));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if answer.status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

// === impl Answer ===

impl Answer {
    /// What went wrong. Nothing of the request may stand in it.
    pub fn error(status: StatusCode, what: &str) -> Self {
        Self {
            status,
            body: json!({ "error": what }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_told_to_come_again_is_told_when() {
        let again = response(&Answer::error(StatusCode::SERVICE_UNAVAILABLE, "later"));
        assert_eq!(again.headers()[RETRY_AFTER], "1");
        let never = response(&Answer::error(StatusCode::CONFLICT, "taken"));
        assert!(!never.headers().contains_key(RETRY_AFTER));
        assert_eq!(never.headers()[CONTENT_TYPE], "application/json");
    }
}
