//! The gateway's own answers. One file: what outsiders are told stands here and nowhere else.

/// An answer of the gateway's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// One sentence, for a person.
    pub says: &'static str,
    /// After how many seconds to try again.
    pub retry_after: Option<u32>,
    /// Whether the connection ends with it, as what follows cannot be told from the request's rest.
    pub close: bool,
}

// === impl Answer ===

impl Answer {
    /// An answer after which the connection goes on.
    pub const fn new(status: u16, says: &'static str) -> Self {
        Self {
            status,
            says,
            retry_after: None,
            close: false,
        }
    }

    /// Nothing was executed: the same request may be sent again in a second.
    pub const fn again(says: &'static str) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(503, says)
        }
    }

    /// Ends the connection.
    pub const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Writes it whole to `out`; without the body where the request was HEAD.
    pub fn write(&self, out: &mut Vec<u8>, head_only: bool, close: bool) {
        use std::io::Write as _;
        let body = self.says.len() + 1;
        // Into memory: it cannot fail.
        let _ = write!(
            out,
            "HTTP/1.1 {} {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {body}\r\n",
            self.status,
            reason(self.status),
        );
        if let Some(seconds) = self.retry_after {
            let _ = write!(out, "retry-after: {seconds}\r\n");
        }
        if self.close || close {
            out.extend_from_slice(b"connection: close\r\n");
        }
        out.extend_from_slice(b"cache-control: no-store\r\n\r\n");
        if !head_only {
            out.extend_from_slice(self.says.as_bytes());
            out.push(b'\n');
        }
    }
}

/// What a status is called.
fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}
