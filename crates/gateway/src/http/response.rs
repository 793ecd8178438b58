//! A response's head.

use httparse::Header;

use super::head::{Framing, Room, length};

/// A response's head, as far as the gateway must understand it.
#[derive(Debug)]
pub struct ResponseHead<'h, 'b> {
    /// The status.
    pub status: u16,
    /// What it is called.
    pub reason: &'b str,
    /// All header fields.
    pub headers: &'h [Header<'b>],
    /// Its body.
    pub framing: Framing,
    /// Whether the connection ends with it.
    pub close: bool,
    /// Whether no field is about this connection alone: the head may go on as it stands.
    pub plain: bool,
    /// A stream of events (`text/event-stream`).
    pub events: bool,
}

/// A response that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is malformed")]
pub struct BadResponse;

/// Reads the head that is the whole of `bytes`, of the answer to a request of `method`.
pub fn parse<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut Room<'b>,
    head_only: bool,
) -> Result<ResponseHead<'h, 'b>, BadResponse> {
    let mut response = httparse::Response::new(room);
    let parsed = response.parse(bytes).map_err(|_| BadResponse)?;
    let (true, Some(status), Some(version)) =
        (parsed.is_complete(), response.code, response.version)
    else {
        return Err(BadResponse);
    };
    let reason = response.reason.unwrap_or("");
    let headers: &'h [Header<'b>] = response.headers;
    let mut head = ResponseHead {
        status,
        reason,
        headers,
        framing: Framing::Close,
        close: version == 0,
        plain: version == 1,
        events: false,
    };
    let (mut sized, mut chunked) = (None, false);
    for header in headers {
        match header.name.len() {
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let length = length(header.value).ok_or(BadResponse)?;
                if sized.replace(length).is_some() {
                    return Err(BadResponse);
                }
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                if chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadResponse);
                }
                chunked = true;
                head.plain = false;
            }
            10 if header.name.eq_ignore_ascii_case("connection") => {
                let mut tokens = header.value.split(|byte| *byte == b',');
                head.close |= tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
                head.plain = false;
            }
            12 if header.name.eq_ignore_ascii_case("content-type") => {
                let events = b"text/event-stream";
                let start = header.value.get(..events.len());
                head.events = start.is_some_and(|start| start.eq_ignore_ascii_case(events));
            }
            _ if is_hop(header.name) || is_ours(header.name) => head.plain = false,
            _ => {}
        }
    }
    head.framing = match (sized, chunked) {
        (Some(_), true) => return Err(BadResponse),
        _ if head_only || status == 204 || status == 304 || status < 200 => Framing::Empty,
        (Some(length), false) => Framing::Length(length),
        (None, true) => Framing::Chunked,
        (None, false) => Framing::Close,
    };
    head.close |= head.framing == Framing::Close;
    head.plain &= !head.close;
    Ok(head)
}

/// Whether a field is about one connection alone (RFC 9110 section 7.6.1).
pub fn is_hop(name: &str) -> bool {
    match name.len() {
        2 => name.eq_ignore_ascii_case("te"),
        7 => name.eq_ignore_ascii_case("trailer") || name.eq_ignore_ascii_case("upgrade"),
        10 => name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("keep-alive"),
        16 => name.eq_ignore_ascii_case("proxy-connection"),
        17 => name.eq_ignore_ascii_case("transfer-encoding"),
        18 => name.eq_ignore_ascii_case("proxy-authenticate"),
        19 => name.eq_ignore_ascii_case("proxy-authorization"),
        _ => false,
    }
}

/// Whether a field is one of those that gateways say to each other, which nobody else may.
pub fn is_ours(name: &str) -> bool {
    // Servers that make variables of names take `_` and `-` for the same.
    let start = name.as_bytes().get(..9);
    start.is_some_and(|start| {
        start[..8].eq_ignore_ascii_case(b"domicile") && matches!(start[8], b'-' | b'_')
    })
}
