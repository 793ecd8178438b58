//! Asks a peer's gateway what became of a write whose connection was lost, and answers such questions. See [`lines`](crate::lines).

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, timeout};

use super::send::Sent;
use super::{After, Connection};
use crate::asked::Asked;
use crate::exchange::{Answered, Asking, Failed, Fate};
use crate::http::read::say;
use crate::http::respond::Answer;
use crate::lines::{ANSWER_MAX, Recalled, Token};
use crate::pool::Place;
use crate::stream::Stream;

/// The field that asks: a token, a blank, a number.
const RECALL: &str = "domicile-recall";

/// How long to wait before a gateway is tried again that was not reached.
const AGAIN: Duration = Duration::from_millis(50);

/// What a peer's gateway asks for by this request, if it is such a question.
pub(super) fn asked(asked: &Asked<'_>) -> Option<(Token, u64)> {
    if asked.peer.is_none() || asked.method != "OPTIONS" {
        return None;
    }
    let field = asked.headers.iter().find(|field| field.name == RECALL)?;
    let (token, number) = std::str::from_utf8(field.value).ok()?.split_once(' ')?;
    Some((token.into(), number.parse().ok()?))
}

impl Connection {
    /// Tells a peer's gateway, before anything else is said, by which token this connection is known.
    pub(super) async fn greet(&mut self) -> io::Result<()> {
        let open = self.thread.gateway.lines.open();
        let open = open.ok_or_else(|| io::Error::other("no random bytes"))?;
        let greeting = format!("{}\n", open.line.token);
        self.line = Some(open);
        say(&mut self.stream, greeting.as_bytes()).await
    }

    /// Answers what became of a request.
    pub(super) async fn recall(&mut self, token: &str, number: u64) -> io::Result<After> {
        let gateway = &*self.thread.gateway;
        let recalled = timeout(gateway.limits.answer, gateway.lines.recall(token, number));
        let fate = match recalled.await {
            Ok(Recalled::Answer(answer)) => {
                say(&mut self.stream, &answer).await?;
                // As it was written for another connection: it may have said that this is its last.
                return Ok(After::End);
            }
            Ok(Recalled::Never) => "never",
            Ok(Recalled::Unknown) | Err(_) => "unknown",
        };
        let answer = format!(
            "HTTP/1.1 421 Misdirected Request\r\ncontent-length: 0\r\ndomicile-recalled: {fate}\r\n\r\n"
        );
        say(&mut self.stream, answer.as_bytes()).await?;
        Ok(After::Next)
    }

    /// Asks what became of a write, the `number`th of the line of that `token`, which was lost; carries the answer on, if there is one.
    pub(super) async fn ask_again(
        &mut self,
        place: Place,
        token: &str,
        number: u64,
        asking: Asking<'_>,
    ) -> io::Result<Sent> {
        let thread = Rc::clone(&self.thread);
        let until = Instant::now() + thread.gateway.limits.parking.time;
        while Instant::now() < until {
            let Ok(mut upstream) = thread.dial(place).await else {
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            upstream.sent += 1;
            self.out.clear();
            let question = format!(
                "OPTIONS * HTTP/1.1\r\nhost: gateway\r\n{RECALL}: {token} {number}\r\n\r\n"
            );
            self.out.extend_from_slice(question.as_bytes());
            match self.exchange(&mut upstream, asking, false).await.answered {
                Ok(Answered::Whole { status, keep, .. }) => {
                    self.course.status = status;
                    return Ok(Sent::Done(match keep {
                        true => After::Next,
                        false => After::End,
                    }));
                }
                Ok(Answered::Misdirected { says, .. }) if says.recalled == Some(Fate::Never) => {
                    thread.pool.put(place, upstream);
                    return Ok(Sent::Never);
                }
                Err(Failed::Nothing) => tokio::time::sleep(AGAIN).await,
                Err(Failed::Within) => return Err(io::Error::other("the answer broke off")),
                Ok(_) | Err(Failed::Late | Failed::Malformed) => break,
            }
        }
        Ok(Sent::Refused(Answer::new(
            502,
            "the path to the user's home broke off; whether the request was executed is not known",
        )))
    }
}

/// Writes to a peer's gateway, and keeps what is written: it goes on where the connection is lost, so that the answer is whole when it is asked for.
pub(super) struct Keeping<'a> {
    to: &'a mut Stream,
    /// `None` where it was too much.
    kept: Option<Vec<u8>>,
    lost: bool,
}

// === impl Keeping ===

impl<'a> Keeping<'a> {
    pub fn new(to: &'a mut Stream) -> Self {
        let kept = Some(Vec::new());
        Self {
            to,
            kept,
            lost: false,
        }
    }

    /// What was written, and whether the connection was lost.
    pub fn into_parts(self) -> (Option<Bytes>, bool) {
        (self.kept.map(Bytes::from), self.lost)
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            match kept.len() + bytes.len() <= ANSWER_MAX {
                true => kept.extend_from_slice(bytes),
                false => self.kept = None,
            }
        }
    }
}

impl AsyncWrite for Keeping<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut written = bytes.len();
        if !self.lost {
            match ready!(Pin::new(&mut *self.to).poll_write(cx, bytes)) {
                Ok(some) => written = some,
                Err(_) => self.lost = true,
            }
        }
        self.keep(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.lost && ready!(Pin::new(&mut *self.to).poll_flush(cx)).is_err() {
            self.lost = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.to).poll_shutdown(cx)
    }
}
