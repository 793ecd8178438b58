//! One request to an upstream and its answer back.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::doors::Slot;
use crate::http::body::{BadChunks, Body, Next};
use crate::http::head::{Framing, room};
use crate::http::read::{self, NoHead, say};
use crate::http::response::{self, ResponseHead, is_hop, is_ours};

/// What of a large body is carried at once.
const PIECE: usize = 64 << 10;

/// What must be known of a request to carry its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    /// HEAD: the answer has no body.
    pub head_only: bool,
    /// HTTP/1.0: the answer may not be chunked.
    pub old: bool,
    /// Whether the client's connection is to be closed after it.
    pub close: bool,
    /// Whose word that nothing was executed is believed.
    pub believes: Believes<'a>,
    /// How long the answer may take to begin.
    pub patience: Duration,
}

/// Whose word is believed that a request was not executed: it comes with the status 421.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Believes<'a> {
    /// An application's that shows the nonce which the guard of the home database gave it with its refusal: the home database has rolled
    /// the transaction back.
    Guard(Option<&'a str>),
    /// Another gateway's, which says where the user lives.
    Gateway,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answered {
    /// The client has the whole answer.
    Whole {
        /// Its status.
        status: u16,
        /// Whether the client's connection can go on.
        keep: bool,
        /// Whether the upstream's can.
        reuse: bool,
    },
    /// `101`: both connections belong to another protocol from here on.
    Switched,
    /// The other end did not execute it, and says so. The answer was read, and not given on.
    Misdirected {
        /// What it says.
        says: Misdirected,
        /// Whether the upstream's connection can go on.
        reuse: bool,
    },
}

/// What a refusal to execute says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Misdirected {
    /// Whose request it is, from an application that found out: its route names nobody.
    pub user: Option<String>,
    /// The home, from a gateway; or where an application believes that the user lives whom it names.
    pub home: Option<String>,
    /// Its epoch, from a gateway.
    pub epoch: Option<i64>,
    /// That the origin knows nothing of him.
    pub newcomer: bool,
    /// What became of a request that was asked for over another connection, from a gateway.
    pub recalled: Option<Fate>,
}

/// What became of a request that has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was not executed, and will not be.
    Never,
    /// Nobody knows.
    Unknown,
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The upstream ended or broke before the client was told anything.
    #[error("it ended without an answer")]
    Nothing,
    /// It took too long to begin.
    #[error("it did not answer in time")]
    Late,
    /// It said what cannot be read.
    #[error("its answer is malformed")]
    Malformed,
    /// It, or the client, broke off within the answer: the client has a part of it.
    #[error("the answer broke off")]
    Within,
}

impl From<BadChunks> for Failed {
    fn from(_: BadChunks) -> Self {
        Self::Within
    }
}

impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Self {
        Self::Within
    }
}

/// Reads the answer from `from`, and gives it to `to`.
pub(crate) async fn answer(
    from: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    to: &mut (impl AsyncWrite + Unpin),
    out: &mut Vec<u8>,
    asking: Asking<'_>,
    slot: &Slot,
) -> Result<Answered, Failed> {
    let began = begin(from, input, out, asking).await?;
    let (length, framing, status, close, events) = match began {
        Began::Switched => {
            say(to, out).await?;
            return Ok(Answered::Switched);
        }
        Began::Misdirected(says, framing, close) => {
            let mut body = Body::new(framing);
            let reuse = !close && skip(from, input, &mut body).await.is_ok();
            return Ok(Answered::Misdirected { says, reuse });
        }
        Began::Answer {
            length,
            framing,
            status,
            close,
            events,
        } => (length, framing, status, close, events),
    };
    let mut body = Body::new(framing);
    let chunked = framing == Framing::Chunked || framing == Framing::Close;
    let keep = !(asking.close || asking.old && chunked);
    if let Framing::Length(whole) = framing
        && out.is_empty()
    {
        // The head may go on as it stands, and with it as much of the body as is there.
        let there =
            usize::try_from(whole).map_or(input.len(), |whole| input.len().min(length + whole));
        say(to, &input[..there]).await?;
        input.advance(there);
        body.took(there - length);
    } else if framing == Framing::Empty && out.is_empty() {
        say(to, &input[..length]).await?;
        input.advance(length);
    } else {
        input.advance(length);
    }
    if body.ended() {
        if !out.is_empty() {
            say(to, out).await?;
            out.clear();
        }
    } else {
        let chunks = chunked && !asking.old;
        let relay = relay(from, input, to, out, &mut body, chunks);
        match events {
            false => relay.await?,
            // A stream of events has no end: it is ended where its user changes home, and the client connects again.
            true => tokio::select! {
                relayed = relay => relayed?,
                () = slot.told_to_leave() => return Err(Failed::Within),
            },
        }
    }
    Ok(Answered::Whole {
        status,
        keep,
        reuse: !close && body.ended(),
    })
}

/// How an answer begins.
enum Began {
    Switched,
    Misdirected(Misdirected, Framing, bool),
    Answer {
        length: usize,
        framing: Framing,
        status: u16,
        close: bool,
        events: bool,
    },
}

/// Reads the head. Leaves in `out` the one that the client gets, or nothing where it may go on as it stands at the front of `input`.
async fn begin(
    from: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    out: &mut Vec<u8>,
    asking: Asking<'_>,
) -> Result<Began, Failed> {
    loop {
        let length = match timeout(asking.patience, read::head(from, input)).await {
            Err(_) => return Err(Failed::Late),
            Ok(Ok(length)) => length,
            Ok(Err(NoHead::Ended | NoHead::Broken(_))) => return Err(Failed::Nothing),
            Ok(Err(NoHead::TooLarge)) => return Err(Failed::Malformed),
        };
        let mut room = room();
        let head = response::parse(&input[..length], &mut room, asking.head_only);
        let head = head.map_err(|_| Failed::Malformed)?;
        out.clear();
        if head.status == 101 {
            write_head(out, &head, None, true);
            input.advance(length);
            return Ok(Began::Switched);
        }
        if head.status < 200 {
            // The gateway has asked for the body itself, and early hints are only that.
            input.advance(length);
            continue;
        }
        if head.status == 421
            && let Some(says) = misdirected(&head, asking.believes)
        {
            let (framing, close) = (head.framing, head.close);
            input.advance(length);
            return Ok(Began::Misdirected(says, framing, close));
        }
        let chunked = matches!(head.framing, Framing::Chunked | Framing::Close);
        let closes = asking.close || asking.old;
        if !head.plain || closes {
            let framing = (chunked && !asking.old).then_some("transfer-encoding: chunked\r\n");
            write_head(out, &head, framing, false);
            out.extend_from_slice(match closes {
                true if !asking.close && !chunked => b"connection: keep-alive\r\n\r\n".as_slice(),
                true => b"connection: close\r\n\r\n",
                false => b"\r\n",
            });
        }
        return Ok(Began::Answer {
            length,
            framing: head.framing,
            status: head.status,
            close: head.close,
            events: head.events,
        });
    }
}

/// The head without what is about one connection alone, and without an end.
fn write_head(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_, '_>,
    framing: Option<&str>,
    switched: bool,
) {
    use std::io::Write as _;
    // Into memory: it cannot fail.
    let _ = write!(out, "HTTP/1.1 {} {}\r\n", head.status, head.reason);
    for header in head.headers {
        if is_hop(header.name) || is_ours(header.name) {
            continue;
        }
        out.extend_from_slice(header.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(header.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(framing.unwrap_or("").as_bytes());
    if switched {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n\r\n");
    }
}

/// What a 421 says, if it comes from somebody who is believed.
fn misdirected(head: &ResponseHead<'_, '_>, believes: Believes<'_>) -> Option<Misdirected> {
    let mut says = Misdirected::default();
    let mut refused = None;
    for header in head.headers.iter().filter(|header| is_ours(header.name)) {
        let Ok(value) = std::str::from_utf8(header.value) else {
            continue;
        };
        match header.name.to_ascii_lowercase().as_str() {
            "domicile-refused" => refused = Some(value),
            "domicile-user" => says.user = Some(value.to_owned()),
            "domicile-home" => says.home = Some(value.to_owned()),
            "domicile-epoch" => says.epoch = value.parse().ok(),
            "domicile-newcomer" => says.newcomer = true,
            "domicile-recalled" => {
                says.recalled = Some(match value {
                    "never" => Fate::Never,
                    _ => Fate::Unknown,
                })
            }
            _ => {}
        }
    }
    match believes {
        // Of what gateways say an application says nothing, but where it names a user.
        Believes::Guard(nonce) => (nonce.is_some() && refused == nonce).then(|| Misdirected {
            home: says.home.filter(|_| says.user.is_some()),
            user: says.user,
            ..Misdirected::default()
        }),
        Believes::Gateway => {
            let says = Misdirected { user: None, ..says };
            (says.home.is_some() || says.recalled.is_some()).then_some(says)
        }
    }
}

/// Carries a body, `out` before it; in chunks, if they are wanted.
pub(crate) async fn relay(
    from: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    to: &mut (impl AsyncWrite + Unpin),
    out: &mut Vec<u8>,
    body: &mut Body,
    chunks: bool,
) -> Result<(), Failed> {
    use std::io::Write as _;
    loop {
        match body.next(input)? {
            Next::Skip(bytes) => input.advance(bytes),
            Next::Data(bytes) if chunks || !out.is_empty() => {
                if chunks {
                    let _ = write!(out, "{bytes:x}\r\n");
                }
                out.extend_from_slice(&input[..bytes]);
                if chunks {
                    out.extend_from_slice(b"\r\n");
                }
                input.advance(bytes);
                body.took(bytes);
            }
            Next::Data(bytes) => {
                say(to, &input[..bytes]).await?;
                input.advance(bytes);
                body.took(bytes);
            }
            Next::End => {
                if chunks {
                    out.extend_from_slice(b"0\r\n\r\n");
                }
                return Ok(say(to, &std::mem::take(out)).await?);
            }
            Next::More => {
                say(to, out).await?;
                out.clear();
                match read::more(from, input, PIECE).await {
                    Ok(()) => {}
                    Err(error)
                        if error.kind() == io::ErrorKind::UnexpectedEof && body.until_close() =>
                    {
                        body.closed();
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// Reads an answer's body that nobody wants, if it is short.
async fn skip(
    from: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    body: &mut Body,
) -> Result<(), Failed> {
    let mut skipped = 0;
    while skipped < PIECE {
        match body.next(input)? {
            Next::End => return Ok(()),
            Next::More => read::more(from, input, 0).await?,
            Next::Skip(bytes) => input.advance(bytes),
            Next::Data(bytes) => {
                input.advance(bytes);
                body.took(bytes);
                skipped += bytes;
            }
        }
    }
    Err(Failed::Malformed)
}
