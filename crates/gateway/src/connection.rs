//! A client's connection, request by request: read it, find out whose it is and where he lives, send it there, carry the answer back.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use model::SiteName;
use tokio::io::{AsyncWriteExt as _, split};
use tokio::time::timeout;

use crate::doors::Slot;
use crate::exchange::{Answered, Asking, Believes, Failed, Misdirected, answer, relay};
use crate::homes::SiteId;
use crate::http::body::{Body, Next};
use crate::http::head::{self, Framing, Malformed, room};
use crate::http::read::{self, NoHead, say};
use crate::http::respond::Answer;
use crate::locate::{Way, Word};
use crate::pool::{Place, Upstream};
use crate::request::{self, HOPS_MAX, Request, Said};
use crate::stream::Stream;
use crate::tally::Course;
use crate::thread::Thread;
use crate::tunnel;
use crate::who::{self, Who};

/// How long to wait before an application whose guard refused is asked again, and before it is looked again for what cannot be known yet.
const REFUSED: Duration = Duration::from_millis(20);

/// What a connection that rests keeps of its buffers, each.
const RESTS: usize = 8 << 10;

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
    /// Of the request that is served.
    course: Course,
}

/// What becomes of a connection after a request.
enum After {
    Next,
    End,
}

/// The body of a request.
enum Held {
    /// Whole, in [`Connection::body`].
    Whole,
    /// Too large to be kept: what is to come is read on.
    Streams(Body),
}

/// What sending a request came to.
enum Sent {
    Done(After),
    /// It was not executed, and may be sent again, elsewhere or later.
    Again(Misdirected),
    Refused(Answer),
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
            course: Course::default(),
        };
        while let Ok(After::Next) = connection.one().await {}
        let _ = connection.stream.shutdown().await;
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
            () = self.thread.end.cancelled() => return Ok(After::End),
        };
        let length = match read {
            Err(_) | Ok(Err(NoHead::Ended)) => return Ok(After::End),
            Ok(Err(NoHead::Broken(error))) => return Err(error),
            Ok(Err(NoHead::TooLarge)) => return self.malformed(Malformed::TooLarge).await,
            Ok(Ok(length)) => length,
        };
        let request = match self.understand(length) {
            Ok(Ok(request)) => request,
            Ok(Err(answer)) => return self.refuse(answer, false, true).await,
            Err(malformed) => return self.malformed(malformed).await,
        };
        self.input.advance(length);
        let Some(held) = self.hold(&request).await? else {
            return Ok(After::End);
        };
        let began = Instant::now();
        self.course = Course::default();
        let after = self.route(&request, held).await;
        self.count(&request, began.elapsed());
        after
    }

    /// The request whose head is the first `length` bytes; its answer where it is refused.
    fn understand(&mut self, length: usize) -> Result<Result<Request, Answer>, Malformed> {
        let mut room = room();
        let head = head::parse(&self.input[..length], &mut room)?;
        let asked = request::asked(&head, self.from, self.peer.as_ref());
        let gateway = &*self.thread.gateway;
        let request = who::of(gateway, &asked).and_then(|who| {
            Request::new(gateway, &head, &asked, who, &self.origin, &mut self.onward)
        });
        Ok(request.map_err(Answer::from))
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

    /// Sends a request where it belongs, as often as it is told that this is elsewhere, within bounds.
    async fn route(&mut self, request: &Request, mut held: Held) -> io::Result<After> {
        let thread = Rc::clone(&self.thread);
        let gateway = &*thread.gateway;
        let slot = Arc::clone(&self.slot);
        let mut said = request.said;
        let mut told = said.word;
        let parked_until = tokio::time::Instant::now() + gateway.limits.parking.time;
        loop {
            let (service, way, passing) = match &request.who {
                Who::Nobody { service, site } if *site == gateway.here => {
                    (*service, Way::Here, None)
                }
                Who::Nobody { service, site } => (
                    *service,
                    Way::There {
                        site: *site,
                        word: Word::default(),
                    },
                    None,
                ),
                Who::User(traveller) => {
                    let way = gateway.locate(traveller, told).await;
                    let (way, passing) = match way {
                        Way::Here => gateway.admit(&slot, traveller),
                        elsewhere => (elsewhere, None),
                    };
                    (traveller.service, way, passing)
                }
            };
            let (place, word) = match way {
                Way::Here => (Place::Local(service), Word::default()),
                Way::There { site, word } if said.hops < HOPS_MAX => {
                    if self.peer.is_some() && said.can_resend {
                        return self.misdirect(request, held, site, word).await;
                    }
                    (Place::Peer(site.0), word)
                }
                Way::There { .. } => return self.give_up(held, request).await,
                Way::Lost => {
                    let answer =
                        Answer::new(503, "this user is closed until an operator has looked");
                    return self
                        .refuse(answer, request.head_only, self.must_end(request, &held))
                        .await;
                }
                Way::NotKnown if self.waits_for_word(parked_until).await => continue,
                Way::NotKnown => {
                    let answer = Answer::again("it cannot be said now where this user lives");
                    return self
                        .refuse(answer, request.head_only, self.must_end(request, &held))
                        .await;
                }
                Way::Wait => {
                    self.course.parked = true;
                    let bytes = self.onward.len() + self.body.len();
                    if wait(gateway, request, bytes, parked_until).await {
                        continue;
                    }
                    let answer = Answer::again("this user is changing home");
                    return self
                        .refuse(answer, request.head_only, self.must_end(request, &held))
                        .await;
                }
            };
            self.course.home = Some(match place {
                Place::Local(_) => gateway.here,
                Place::Peer(site) => SiteId(site),
            });
            if let Place::Peer(_) = place {
                said.hops += 1;
            }
            let onward = Said {
                hops: said.hops,
                word,
                can_resend: matches!(held, Held::Whole),
            };
            let sent = self.send(place, request, onward, &mut held).await;
            drop(passing);
            match sent? {
                Sent::Done(after) => return Ok(after),
                Sent::Refused(answer) => {
                    return self
                        .refuse(answer, request.head_only, self.must_end(request, &held))
                        .await;
                }
                Sent::Again(says) => {
                    let (word, way) = self.learn(request, &says).await;
                    told = word;
                    self.course.turns += 1;
                    let local = matches!(place, Place::Local(_));
                    if local && way == Way::Wait {
                        // Fenced where no door was closed: the guard was the first to say so.
                        tokio::time::sleep(REFUSED).await;
                        if tokio::time::Instant::now() < parked_until {
                            continue;
                        }
                    }
                    // Every answer that sends it on counts, so that no two gateways can keep it between them.
                    said.hops += u8::from(local);
                    if said.hops > HOPS_MAX {
                        return self.give_up(held, request).await;
                    }
                }
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
        let (service, market) = match &request.who {
            Who::User(traveller) => (traveller.service, traveller.market.as_ref()),
            Who::Nobody { service, .. } => (*service, None),
        };
        let course = self.course;
        gateway.tally.count(service, market, course, took);
        tracing::debug!(
            target: "access",
            service = gateway.services.get(usize::from(service)).map(|service| service.name.as_str()),
            home = course.home.map(|home| gateway.name(home)),
            user = matches!(request.who, Who::User(_)),
            status = course.status,
            ms = took.as_secs_f64() * 1e3,
            parked = course.parked,
            turns = course.turns,
        );
    }

    /// Waits a little where it cannot be said where a user lives, as while the home database is started again; within the bounds of what may wait.
    async fn waits_for_word(&self, until: tokio::time::Instant) -> bool {
        let gateway = &*self.thread.gateway;
        let bytes = self.onward.len() + self.body.len();
        let Ok(_room) = gateway.doors.enter(bytes, gateway.limits.parking) else {
            return false;
        };
        tokio::time::sleep(REFUSED).await;
        tokio::time::Instant::now() < until
    }

    /// Draws the conclusion from a refusal to execute; gives what is known by it, and where the home database says that he is.
    async fn learn(&self, request: &Request, says: &Misdirected) -> (Word, Way) {
        let gateway = &*self.thread.gateway;
        let Who::User(traveller) = &request.who else {
            return (Word::default(), Way::Here);
        };
        let home = says
            .home
            .as_ref()
            .and_then(|home| gateway.site(&SiteName::from(home.as_str())));
        match (home, says.epoch) {
            (Some(site), Some(epoch)) if site != gateway.here => {
                if let Some(service) = gateway.services.get(usize::from(traveller.service)) {
                    service.homes.hear(traveller.hash, site, epoch);
                }
                let word = Word::default();
                (word, Way::There { site, word })
            }
            // He lives here, another gateway says; or the application's guard refused him. The home database knows.
            _ => {
                let way = gateway.ask(traveller, Word::default()).await;
                let word = Word {
                    epoch: says.epoch,
                    newcomer: says.newcomer && home == Some(gateway.here),
                };
                (word, way)
            }
        }
    }

    /// Sends it once.
    async fn send(
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
            // Where the answer came before the end of the request, the rest of that would be taken for the next, at either end.
            let mut carried = true;
            let answered = match held {
                Held::Whole => self.exchange(&mut upstream, asking).await,
                Held::Streams(body) => {
                    let streamed = self.stream(&mut upstream, asking, body, request.framing);
                    let (answered, whole) = streamed.await;
                    carried = whole;
                    answered
                }
            };
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

    /// A request that is whole.
    async fn exchange(
        &mut self,
        upstream: &mut Upstream,
        asking: Asking<'_>,
    ) -> Result<Answered, Failed> {
        if say(&mut upstream.stream, &self.out).await.is_err() {
            return Err(Failed::Nothing);
        }
        self.out.clear();
        let Upstream { stream, input, .. } = upstream;
        answer(
            stream,
            input,
            &mut self.stream,
            &mut self.out,
            asking,
            &self.slot,
        )
        .await
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

    /// Tells a peer's gateway where the user lives.
    async fn misdirect(
        &mut self,
        request: &Request,
        held: Held,
        site: SiteId,
        word: Word,
    ) -> io::Result<After> {
        use std::io::Write as _;
        let gateway = &*self.thread.gateway;
        self.out.clear();
        let _ = write!(
            self.out,
            "HTTP/1.1 421 Misdirected Request\r\ncontent-length: 0\r\ndomicile-home: {}\r\n",
            gateway.name(site)
        );
        if let Some(epoch) = word.epoch {
            let _ = write!(self.out, "domicile-epoch: {epoch}\r\n");
        }
        if word.newcomer {
            self.out.extend_from_slice(b"domicile-newcomer: yes\r\n");
        }
        let end = self.must_end(request, &held);
        if end {
            self.out.extend_from_slice(b"connection: close\r\n");
        }
        self.out.extend_from_slice(b"\r\n");
        say(&mut self.stream, &self.out).await?;
        Ok(if end { After::End } else { After::Next })
    }

    async fn give_up(&mut self, held: Held, request: &Request) -> io::Result<After> {
        let answer = Answer::again("no site says that this user lives there");
        self.refuse(answer, request.head_only, self.must_end(request, &held))
            .await
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

/// Waits until the user's door is open, within bounds; whether it is worth looking again.
async fn wait(
    gateway: &crate::site::Gateway,
    request: &Request,
    bytes: usize,
    until: tokio::time::Instant,
) -> bool {
    let Who::User(traveller) = &request.who else {
        return false;
    };
    match gateway
        .doors
        .park(traveller.hash, bytes, gateway.limits.parking)
    {
        Err(_) => false,
        Ok(Some(mut parked)) => tokio::time::timeout_at(until, parked.opened())
            .await
            .is_ok(),
        // The database says so, and word of it has not come: soon.
        Ok(None) => {
            tokio::time::sleep(REFUSED / 10).await;
            tokio::time::Instant::now() < until
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
