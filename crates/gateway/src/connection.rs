//! A client's connection, request by request: read it, find out whose it is and where he lives, send it there, carry the answer back.

mod recall;
mod route;
mod send;

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use model::SiteName;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::doors::Slot;
use crate::http::body::{Body, Next};
use crate::http::head::{self, Framing, Malformed, room};
use crate::http::read::{self, NoHead, say};
use crate::http::respond::Answer;
use crate::lines::{Open, Token};
use crate::request::{self, Request};
use crate::stream::Stream;
use crate::tally::Course;
use crate::thread::Thread;
use crate::who;

/// What a connection that rests keeps of its buffers, each.
const RESTS: usize = 8 << 10;

/// How long what still comes after the last answer is taken, as nginx does.
const LINGER: Duration = Duration::from_secs(5);

/// A client's, or a peer's gateway's.
pub(crate) struct Connection {
    thread: Rc<Thread>,
    stream: Stream,
    from: IpAddr,
    peer: Option<SiteName>,
    input: BytesMut,
    /// The head that goes on, without an end.
    onward: Vec<u8>,
    /// What is to be written next.
    out: Vec<u8>,
    /// A body that can be sent again.
    body: Vec<u8>,
    origin: Vec<u8>,
    slot: Arc<Slot>,
    /// As this gateway knows the connection of a peer's.
    line: Option<Open>,
    /// Of the request that is served.
    course: Course,
}

/// What becomes of a connection after a request.
enum After {
    Next,
    /// It ends; whoever is at the other end may still be sending.
    End,
    /// It ends, and nobody is sending.
    Gone,
}

/// What a head asks for.
enum Understood {
    Request(Request),
    Refused(Answer),
    /// What became of the request of that number over the line of that token.
    Recall(Token, u64),
}

/// The body of a request.
enum Held {
    /// Whole, in [`Connection::body`].
    Whole,
    /// Too large to be kept: what is to come is read on.
    Streams(Body),
}

impl Connection {
    /// Serves `stream` to its end: of a client at `from`, sealed or not, or of the gateway of `peer`.
    pub async fn serve(
        thread: Rc<Thread>,
        stream: Stream,
        (from, sealed): (IpAddr, bool),
        peer: Option<SiteName>,
    ) {
        let slot = thread.gateway.doors.slot();
        let mut connection = Self {
            thread,
            stream,
            from,
            peer,
            input: BytesMut::new(),
            onward: Vec::new(),
            out: Vec::new(),
            body: Vec::new(),
            origin: request::origin(from, sealed),
            slot,
            line: None,
            course: Course::default(),
        };
        if connection.peer.is_some() && connection.greet().await.is_err() {
            return;
        }
        let ended = loop {
            match connection.one().await {
                Ok(After::Next) => {}
                ended => break ended,
            }
        };
        let _ = connection.stream.shutdown().await;
        if let Ok(After::End) = ended {
            connection.linger().await;
        }
    }

    /// Takes what still comes after the last answer: a connection that is closed with something unread is reset, and a reset takes with it what the
    /// other end has not read of the answer (RFC 9112, 9.6).
    async fn linger(&mut self) {
        self.input.clear();
        let takes = async {
            while read::more(&mut self.stream, &mut self.input, 0)
                .await
                .is_ok()
            {
                self.input.clear();
            }
        };
        let _ = timeout(LINGER, takes).await;
    }

    /// One request. An error means that the client is gone, or was told all there was to say.
    async fn one(&mut self) -> io::Result<After> {
        self.body.clear();
        self.out.clear();
        for buffer in [&mut self.body, &mut self.out, &mut self.onward] {
            buffer.shrink_to(RESTS);
        }
        let idle = self.thread.gateway.limits.idle;
        let reading = timeout(idle, read::head(&mut self.stream, &mut self.input));
        let read = tokio::select! {
            biased;
            read = reading => read,
            // Between requests, or before the rest of a head: the client sends it again elsewhere.
            () = self.thread.end.cancelled() => return Ok(After::Gone),
        };
        let length = match read {
            Err(_) | Ok(Err(NoHead::Ended)) => return Ok(After::Gone),
            Ok(Err(NoHead::Broken(error))) => return Err(error),
            Ok(Err(NoHead::TooLarge)) => return self.malformed(Malformed::TooLarge).await,
            Ok(Ok(length)) => length,
        };
        if let Some(open) = &self.line {
            open.line.comes();
        }
        let mut request = match self.understand(length) {
            Ok(Understood::Request(request)) => request,
            Ok(Understood::Refused(answer)) => return self.refuse(answer, false, true).await,
            Ok(Understood::Recall(token, number)) => {
                self.input.advance(length);
                return self.recall(&token, number).await;
            }
            Err(malformed) => return self.malformed(malformed).await,
        };
        self.input.advance(length);
        let Some(held) = self.hold(&request).await? else {
            return Ok(After::End);
        };
        let began = Instant::now();
        self.course = Course::default();
        let after = self.route(&mut request, held, began).await;
        self.count(&request, began.elapsed());
        after
    }

    /// What the first `length` bytes ask for.
    fn understand(&mut self, length: usize) -> Result<Understood, Malformed> {
        let mut room = room();
        let head = head::parse(&self.input[..length], &mut room)?;
        let asked = request::asked(&head, self.from, self.peer.as_ref());
        if let Some((token, number)) = recall::asked(&asked) {
            return Ok(Understood::Recall(token, number));
        }
        let gateway = &*self.thread.gateway;
        let request = who::of(gateway, &asked).and_then(|who| {
            Request::new(gateway, &head, &asked, who, &self.origin, &mut self.onward)
        });
        Ok(match request {
            Ok(request) => Understood::Request(request),
            Err(refused) => Understood::Refused(refused.into()),
        })
    }

    /// Reads the body, as far as one is kept; `None` where the client did not send it.
    async fn hold(&mut self, request: &Request) -> io::Result<Option<Held>> {
        let limits = &self.thread.gateway.limits;
        self.body.clear();
        if request.framing == Framing::Empty {
            return Ok(Some(Held::Whole));
        }
        if request.expects {
            say(&mut self.stream, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut body = Body::new(request.framing);
        loop {
            let next = body.next(&self.input).map_err(io::Error::other)?;
            match next {
                Next::End => return Ok(Some(Held::Whole)),
                Next::Skip(bytes) => self.input.advance(bytes),
                Next::Data(bytes) if self.body.len() + bytes > limits.resend => {
                    return Ok(Some(Held::Streams(body)));
                }
                Next::Data(bytes) => {
                    self.body.extend_from_slice(&self.input[..bytes]);
                    self.input.advance(bytes);
                    body.took(bytes);
                }
                Next::More => match timeout(
                    limits.idle,
                    read::more(&mut self.stream, &mut self.input, 0),
                )
                .await
                {
                    Ok(read) => read?,
                    Err(_) => return Ok(None),
                },
            }
        }
    }

    /// Counts a request of a client's, and writes it to the log of who wants that: nothing of whose it is, or what for.
    fn count(&self, request: &Request, took: Duration) {
        let gateway = &*self.thread.gateway;
        if self.peer.is_some() {
            // Counted where the client came in.
            return;
        }
        let user = request.who.user();
        let (service, market) = (
            request.who.service(),
            user.and_then(|user| user.market.as_ref()),
        );
        let course = self.course;
        gateway.tally.count(service, market, course, took);
        tracing::debug!(
            target: "access",
            service = gateway.services.get(usize::from(service)).map(|service| service.name.as_str()),
            home = course.home.map(|home| gateway.name(home)),
            user = user.is_some(),
            status = course.status,
            ms = took.as_secs_f64() * 1e3,
            parked = course.parked,
            turns = course.turns,
        );
    }

    /// Whether the connection cannot go on after an answer of the gateway's own: the rest of a body would be taken for a request.
    fn must_end(&self, request: &Request, held: &Held) -> bool {
        request.close || matches!(held, Held::Streams(_))
    }

    async fn malformed(&mut self, malformed: Malformed) -> io::Result<After> {
        tracing::debug!(why = %malformed, "a request was refused");
        let answer = Answer::new(
            malformed.status(),
            "the request is malformed, or in a form that is not taken here",
        )
        .closing();
        self.refuse(answer, false, true).await
    }

    async fn refuse(&mut self, answer: Answer, head_only: bool, end: bool) -> io::Result<After> {
        self.course.status = answer.status;
        self.out.clear();
        answer.write(&mut self.out, head_only, end);
        say(&mut self.stream, &self.out).await?;
        Ok(if end || answer.close {
            After::End
        } else {
            After::Next
        })
    }
}
