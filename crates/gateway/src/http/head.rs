//! A request's head: its form, where the body ends, and what becomes of the connection.

use httparse::Header;
use memchr::{memchr, memchr_iter, memmem};

/// The longest head, in bytes: four times what browsers send with all their cookies.
pub const HEAD_MAX: usize = 32 << 10;
/// The most header fields.
pub const HEADERS_MAX: usize = 100;

/// Room for the header fields of one head.
pub type Room<'a> = [Header<'a>; HEADERS_MAX];

/// An empty [`Room`].
pub fn room<'a>() -> Room<'a> {
    [httparse::EMPTY_HEADER; HEADERS_MAX]
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection: responses only.
    Close,
}

/// Why a request is refused before anything is looked at. Says nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Of the lines.
    #[error("the request's lines are malformed")]
    Lines,
    /// A line feed without a carriage return.
    #[error("a line ends without a carriage return")]
    BareLineFeed,
    /// [`HEAD_MAX`] or [`HEADERS_MAX`].
    #[error("the request's head is too large")]
    TooLarge,
    /// No HTTP/1.0 or HTTP/1.1.
    #[error("this version of HTTP is not spoken here")]
    Version,
    /// The target.
    #[error("the request's target is malformed")]
    Target,
    /// `CONNECT`, `TRACE`.
    #[error("this method is not forwarded")]
    Method,
    /// None, several, or none that can be.
    #[error("the request needs one Host")]
    Host,
    /// Length and coding together, several of them, or any that two readers could read in two ways.
    #[error("the length of the request's body is ambiguous")]
    Framing,
    /// Anything but `100-continue`.
    #[error("this expectation cannot be met")]
    Expectation,
}

/// A request's head, as far as the gateway must understand it.
#[derive(Debug)]
pub struct RequestHead<'h, 'b> {
    /// The method.
    pub method: &'b str,
    /// Host without port.
    pub host: &'b str,
    /// Host as it goes on, with port.
    pub authority: &'b str,
    /// Path and query, as they go on.
    pub target: &'b str,
    /// The path.
    pub path: &'b str,
    /// What follows `?`.
    pub query: Option<&'b str>,
    /// All header fields.
    pub headers: &'h [Header<'b>],
    /// Bytes of the head.
    pub length: usize,
    /// Its body.
    pub framing: Framing,
    /// HTTP/1.0: no chunks may be sent back.
    pub old: bool,
    /// Whether the client wants the connection closed after the answer.
    pub close: bool,
    /// Asks for a WebSocket.
    pub websocket: bool,
    /// Waits for `100 Continue` before it sends its body.
    pub expects: bool,
}

/// Where the head ends in `bytes`, if it does; what was looked at before `from` is not looked at again.
pub fn end(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3);
    memmem::find(&bytes[from..], b"\r\n\r\n").map(|at| from + at + 4)
}

// === impl Malformed ===

impl Malformed {
    /// The status that answers it.
    pub fn status(self) -> u16 {
        match self {
            Self::TooLarge => 431,
            Self::Version => 505,
            Self::Method => 501,
            Self::Expectation => 417,
            _ => 400,
        }
    }
}

/// Reads the head that is the whole of `bytes`.
///
/// # Errors
/// Whatever two readers could understand in two ways is refused, also what RFC 9112 lets a recipient mend.
pub fn parse<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut Room<'b>,
) -> Result<RequestHead<'h, 'b>, Malformed> {
    // `httparse` takes a bare line feed for the end of a line; others do not.
    let mut lines = memchr_iter(b'\n', bytes);
    if lines.any(|at| at == 0 || bytes[at - 1] != b'\r') {
        return Err(Malformed::BareLineFeed);
    }
    let mut request = httparse::Request::new(room);
    let parsed = request.parse(bytes).map_err(|error| match error {
        httparse::Error::TooManyHeaders => Malformed::TooLarge,
        httparse::Error::Version => Malformed::Version,
        _ => Malformed::Lines,
    })?;
    let (httparse::Status::Complete(length), Some(method), Some(target), Some(version)) =
        (parsed, request.method, request.path, request.version)
    else {
        return Err(Malformed::Lines);
    };
    let headers: &'h [Header<'b>] = request.headers;
    let fields = Fields::of(headers, version)?;
    if matches!(method, "CONNECT" | "TRACE") {
        return Err(Malformed::Method);
    }
    let (named, target) = split(method, target)?;
    let authority = match (fields.host, named) {
        (Some(host), None) => host,
        // Two readers could each believe another one.
        (Some(host), Some(named)) if host.eq_ignore_ascii_case(named) => host,
        (None, Some(named)) if version == 0 => named,
        (None, None) if version == 0 => "",
        _ => return Err(Malformed::Host),
    };
    let (path, query) = match memchr(b'?', target.as_bytes()) {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    };
    Ok(RequestHead {
        method,
        host: without_port(authority)?,
        authority,
        target,
        path,
        query,
        headers,
        length,
        framing: fields.framing,
        old: version == 0,
        close: fields.close || version == 0 && !fields.keeps,
        websocket: fields.upgrades && fields.websocket && method == "GET",
        expects: fields.expects && version == 1,
    })
}

/// The authority that an absolute target names, and path with query.
fn split<'b>(method: &str, target: &'b str) -> Result<(Option<&'b str>, &'b str), Malformed> {
    let plain = |byte: u8| byte > b' ' && byte < 0x7f && byte != b'#';
    if !target.bytes().all(plain) {
        return Err(Malformed::Target);
    }
    if target.starts_with('/') {
        return Ok((None, target));
    }
    if target == "*" && method == "OPTIONS" {
        return Ok((None, target));
    }
    let scheme = |scheme: &str| {
        let start = target.get(..scheme.len())?;
        start
            .eq_ignore_ascii_case(scheme)
            .then(|| &target[scheme.len()..])
    };
    let rest = scheme("http://").or_else(|| scheme("https://"));
    let rest = rest.ok_or(Malformed::Target)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    match &rest[end..] {
        "" => Ok((Some(rest), "/")),
        path if path.starts_with('/') => Ok((Some(&rest[..end]), path)),
        _ => Err(Malformed::Target),
    }
}

/// The host of `authority`, which may have a port; nothing that a name or an address cannot have.
fn without_port(authority: &str) -> Result<&str, Malformed> {
    let colon = authority.rfind([':', ']']);
    let host = match colon.map(|at| (at, authority.as_bytes()[at])) {
        Some((at, b':')) if authority[at + 1..].bytes().all(|b| b.is_ascii_digit()) => {
            &authority[..at]
        }
        _ => authority,
    };
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    match host.bytes().all(plain) {
        true => Ok(host),
        false => Err(Malformed::Host),
    }
}

/// What the header fields say that decide over the message itself.
#[derive(Debug)]
struct Fields<'b> {
    host: Option<&'b str>,
    framing: Framing,
    close: bool,
    keeps: bool,
    upgrades: bool,
    websocket: bool,
    expects: bool,
}

impl<'b> Fields<'b> {
    fn of(headers: &[Header<'b>], version: u8) -> Result<Self, Malformed> {
        let mut fields = Self {
            host: None,
            framing: Framing::Empty,
            close: false,
            keeps: false,
            upgrades: false,
            websocket: false,
            expects: false,
        };
        for header in headers {
            // By length first: a request has many fields, and few of these.
            match header.name.len() {
                4 if header.name.eq_ignore_ascii_case("host") => {
                    let host = std::str::from_utf8(header.value).map_err(|_| Malformed::Host)?;
                    if fields.host.replace(host).is_some() || host.is_empty() && version == 1 {
                        return Err(Malformed::Host);
                    }
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    let length = Framing::Length(length(header.value).ok_or(Malformed::Framing)?);
                    fields.frame(length)?;
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    if version == 0 || !header.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Malformed::Framing);
                    }
                    fields.frame(Framing::Chunked)?;
                }
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    for token in header.value.split(|byte| *byte == b',') {
                        match token.trim_ascii() {
                            t if t.eq_ignore_ascii_case(b"close") => fields.close = true,
                            t if t.eq_ignore_ascii_case(b"keep-alive") => fields.keeps = true,
                            t if t.eq_ignore_ascii_case(b"upgrade") => fields.upgrades = true,
                            _ => {}
                        }
                    }
                }
                7 if header.name.eq_ignore_ascii_case("upgrade") => {
                    fields.websocket = header.value.eq_ignore_ascii_case(b"websocket");
                }
                6 if header.name.eq_ignore_ascii_case("expect") => {
                    if !header.value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(Malformed::Expectation);
                    }
                    fields.expects = true;
                }
                _ => {}
            }
        }
        Ok(fields)
    }

    fn frame(&mut self, framing: Framing) -> Result<(), Malformed> {
        match std::mem::replace(&mut self.framing, framing) {
            Framing::Empty => Ok(()),
            _ => Err(Malformed::Framing),
        }
    }
}

/// A length: digits and nothing else, of a size that counts.
pub(super) fn length(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = text.iter();
    Some(digits.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
