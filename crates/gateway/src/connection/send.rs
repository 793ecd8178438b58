//! Sends a request once, and carries the answer back.

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use tokio::io::split;

use super::recall::Keeping;
use super::{After, Connection, Held};
use crate::exchange::{Answered, Asking, Believes, Failed, Misdirected, answer, relay};
use crate::http::body::Body;
use crate::http::head::Framing;
use crate::http::read::say;
use crate::http::respond::Answer;
use crate::pool::{Place, Upstream};
use crate::request::{Request, Said};
use crate::tunnel;
use crate::who::{NAMED, Who};

/// What sending a request came to.
pub(super) enum Sent {
    Done(After),
    /// It was not executed, and may be sent again, elsewhere or later.
    Again(Misdirected),
    /// The connection was lost, and it is certain that it was not executed, nor will be.
    Never,
    Refused(Answer),
}

/// What came of a request that was whole.
pub(super) struct Exchanged {
    pub answered: Result<Answered, Failed>,
    /// The answer as it was written, if it was to be kept and could be.
    kept: Option<Bytes>,
    /// Whether the client was lost before it had all of it.
    lost: bool,
}

impl Connection {
    /// Sends it once.
    pub(super) async fn send(
        &mut self,
        place: Place,
        request: &Request,
        said: Said,
        held: &mut Held,
    ) -> io::Result<Sent> {
        let thread = Rc::clone(&self.thread);
        let limits = thread.gateway.limits;
        loop {
            let Ok((mut upstream, resting)) = thread.connect(place).await else {
                return Ok(Sent::Refused(Answer::again(
                    "the application is not reached",
                )));
            };
            self.compose(place, request, said, held);
            let nonce = match place {
                Place::Local(service) => thread.gateway.residents.nonce(service),
                Place::Peer(_) => None,
            };
            let asking = Asking {
                head_only: request.head_only,
                old: request.old,
                close: request.close,
                believes: match place {
                    Place::Local(_) => Believes::Guard(nonce.as_deref()),
                    Place::Peer(_) => Believes::Gateway,
                },
                patience: limits.answer,
            };
            upstream.sent += 1;
            // A peer's gateway that asks later is told what came of it; one that asked already was told that nothing does.
            if let Some(open) = &self.line
                && !open.line.gives()
            {
                return Err(io::Error::other("the connection is given up"));
            }
            // Where the answer came before the end of the request, the rest of that would be taken for the next, at either end.
            let mut carried = true;
            let Exchanged {
                answered,
                kept,
                lost,
            } = match held {
                Held::Whole => {
                    let keeps = self.line.is_some() && !request.safe;
                    self.exchange(&mut upstream, asking, keeps).await
                }
                Held::Streams(body) => {
                    let streamed = self.stream(&mut upstream, asking, body, request.framing);
                    let (answered, whole) = streamed.await;
                    carried = whole;
                    Exchanged {
                        answered,
                        kept: None,
                        lost: false,
                    }
                }
            };
            if let Some(open) = &self.line {
                match &answered {
                    Ok(Answered::Misdirected { .. }) => open.line.takes_back(),
                    Ok(_) | Err(_) => open.line.answered(kept),
                }
            }
            if lost {
                return Err(io::Error::other("the peer's gateway is gone"));
            }
            match answered {
                Ok(Answered::Whole {
                    status,
                    keep,
                    reuse,
                }) => {
                    self.course.status = status;
                    if reuse && carried {
                        thread.pool.put(place, upstream);
                    }
                    return Ok(Sent::Done(match keep && carried {
                        true => After::Next,
                        false => After::End,
                    }));
                }
                Ok(Answered::Misdirected { says, reuse }) => {
                    if reuse && carried {
                        thread.pool.put(place, upstream);
                    }
                    return Ok(match held {
                        Held::Whole => Sent::Again(says),
                        Held::Streams(_) => Sent::Refused(Answer::again(
                            "this user has changed home; nothing was executed",
                        )),
                    });
                }
                Ok(Answered::Switched) if request.websocket => {
                    self.course.status = 101;
                    let client = tunnel::Client {
                        stream: &mut self.stream,
                        input: &mut self.input,
                    };
                    tunnel::carry(client, upstream, &self.slot).await;
                    return Ok(Sent::Done(After::End));
                }
                Ok(Answered::Switched) => return Err(io::Error::other("switched unasked")),
                // It rested and was closed at the other end before it heard this; what it did hear it may have executed, so
                // only what does nothing twice is sent twice.
                Err(Failed::Nothing) if resting && request.safe && matches!(held, Held::Whole) => {}
                Err(Failed::Nothing) if request.safe => {
                    return Ok(Sent::Refused(Answer::again("the application broke off")));
                }
                Err(Failed::Nothing)
                    if matches!((place, &held), (Place::Peer(_), Held::Whole))
                        && let Some(token) = &upstream.line =>
                {
                    return self.ask_again(place, token, upstream.sent, asking).await;
                }
                Err(Failed::Nothing | Failed::Malformed) => {
                    return Ok(Sent::Refused(Answer::new(
                        502,
                        "the application broke off; whether it executed the request is not known",
                    )));
                }
                Err(Failed::Late) => {
                    return Ok(Sent::Refused(Answer::new(
                        504,
                        "the application did not answer in time; whether it executed the request is not known",
                    )));
                }
                Err(Failed::Within) => return Err(io::Error::other("the answer broke off")),
            }
        }
    }

    /// Writes the head, and a body that is whole, to `out`.
    fn compose(&mut self, place: Place, request: &Request, said: Said, held: &Held) {
        use std::io::Write as _;
        self.out.clear();
        self.out.extend_from_slice(&self.onward);
        if request.websocket {
            self.out
                .extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
        if let Place::Peer(_) = place {
            said.write(&mut self.out);
            if let Who::Named(traveller) = &request.who {
                let _ = write!(self.out, "{NAMED}: {}\r\n", traveller.user.as_str());
            }
        }
        match (held, request.framing) {
            (_, Framing::Empty | Framing::Close) => {}
            (Held::Streams(_), Framing::Chunked) => self
                .out
                .extend_from_slice(b"transfer-encoding: chunked\r\n"),
            (Held::Streams(_), Framing::Length(length)) => {
                let _ = write!(self.out, "content-length: {length}\r\n");
            }
            (Held::Whole, _) => {
                let _ = write!(self.out, "content-length: {}\r\n", self.body.len());
            }
        }
        self.out.extend_from_slice(b"\r\n");
        match held {
            Held::Whole => self.out.extend_from_slice(&self.body),
            Held::Streams(_) => {}
        }
    }

    /// A request that is whole. With `keeps` the answer is kept, and read to its end even if the client is lost.
    pub(super) async fn exchange(
        &mut self,
        upstream: &mut Upstream,
        asking: Asking<'_>,
        keeps: bool,
    ) -> Exchanged {
        let mut exchanged = Exchanged {
            answered: Err(Failed::Nothing),
            kept: None,
            lost: false,
        };
        if say(&mut upstream.stream, &self.out).await.is_err() {
            return exchanged;
        }
        self.out.clear();
        let (from, input) = (&mut upstream.stream, &mut upstream.input);
        let (to, out, slot) = (&mut self.stream, &mut self.out, &self.slot);
        if keeps {
            let mut to = Keeping::new(to);
            exchanged.answered = answer(from, input, &mut to, out, asking, slot).await;
            (exchanged.kept, exchanged.lost) = to.into_parts();
        } else {
            exchanged.answered = answer(from, input, to, out, asking, slot).await;
        }
        exchanged
    }

    /// A request whose body is carried while it comes. The answer may come before its end: says, too, whether all of it was carried.
    async fn stream(
        &mut self,
        upstream: &mut Upstream,
        asking: Asking<'_>,
        body: &mut Body,
        framing: Framing,
    ) -> (Result<Answered, Failed>, bool) {
        let Upstream { stream, input, .. } = upstream;
        let (mut from_client, mut to_client) = split(&mut self.stream);
        let (mut from_upstream, mut to_upstream) = split(stream);
        let chunks = framing == Framing::Chunked;
        let out = &mut self.out;
        append(out, &self.body, chunks);
        let mut answer_out = Vec::new();
        let carries = relay(
            &mut from_client,
            &mut self.input,
            &mut to_upstream,
            out,
            body,
            chunks,
        );
        let answers = answer(
            &mut from_upstream,
            input,
            &mut to_client,
            &mut answer_out,
            asking,
            &self.slot,
        );
        let (mut carries, mut answers) = (std::pin::pin!(carries), std::pin::pin!(answers));
        tokio::select! {
            // The upstream may have answered and closed without wanting the rest.
            carried = &mut carries => (answers.await, carried.is_ok()),
            answered = &mut answers => (answered, false),
        }
    }
}

fn append(out: &mut Vec<u8>, data: &[u8], chunk: bool) {
    use std::io::Write as _;
    match (chunk, data.is_empty()) {
        (_, true) => {}
        (false, _) => out.extend_from_slice(data),
        (true, _) => {
            let _ = write!(out, "{:x}\r\n", data.len());
            out.extend_from_slice(data);
            out.extend_from_slice(b"\r\n");
        }
    }
}
