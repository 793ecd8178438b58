//! Where in a stream of bytes a body's own bytes stand, and where it ends.

use super::head::Framing;

/// The longest line before a chunk, its extensions included, and all trailers together.
const LINE_MAX: usize = 4 << 10;

/// How far a body was read.
#[derive(Debug)]
pub struct Body(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes to come, and no line after them.
    Length(u64),
    /// Before a chunk's first line.
    Line,
    /// Within a chunk.
    Chunk(u64),
    /// Before the end of a chunk's last line.
    Ending,
    /// Among the trailers, of which so many bytes were skipped.
    Trailers(usize),
    /// Until the connection is closed.
    Close,
    Ended,
}

/// What stands at the front of the bytes that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// So many of the body's own: to be told by [`Body::took`].
    Data(usize),
    /// So many that only frame it.
    Skip(usize),
    /// Too few to say.
    More,
    /// The body ends here.
    End,
}

/// A body whose framing cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body's chunks are malformed")]
pub struct BadChunks;

// === impl Body ===

impl Body {
    /// Before its first byte.
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Empty | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Line,
            Framing::Close => State::Close,
        })
    }

    /// Whether all of it was read.
    pub fn ended(&self) -> bool {
        self.0 == State::Ended
    }

    /// Whether it ends with the connection.
    pub fn until_close(&self) -> bool {
        self.0 == State::Close
    }

    /// The connection was closed: the end of a body that ends so.
    pub fn closed(&mut self) {
        if self.until_close() {
            self.0 = State::Ended;
        }
    }

    /// What comes next in `bytes`.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Next, BadChunks> {
        let available = bytes.len();
        Ok(match self.0 {
            State::Ended => Next::End,
            _ if available == 0 => Next::More,
            State::Length(left) | State::Chunk(left) => Next::Data(smaller(left, available)),
            State::Close => Next::Data(available),
            State::Ending => match bytes {
                [b'\r', b'\n', ..] => {
                    self.0 = State::Line;
                    Next::Skip(2)
                }
                [b'\r'] => Next::More,
                _ => return Err(BadChunks),
            },
            State::Line => match line(bytes)? {
                None => Next::More,
                Some(end) => {
                    self.0 = match size(&bytes[..end])? {
                        0 => State::Trailers(0),
                        size => State::Chunk(size),
                    };
                    Next::Skip(end + 2)
                }
            },
            State::Trailers(skipped) => match line(bytes)? {
                None => Next::More,
                Some(0) => {
                    self.0 = State::Ended;
                    Next::Skip(2)
                }
                Some(end) if skipped + end > LINE_MAX => return Err(BadChunks),
                Some(end) => {
                    self.0 = State::Trailers(skipped + end);
                    Next::Skip(end + 2)
                }
            },
        })
    }

    /// So many of the body's own bytes were taken.
    pub fn took(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.0 = match self.0 {
            State::Length(left) if left == bytes => State::Ended,
            State::Length(left) => State::Length(left - bytes),
            State::Chunk(left) if left == bytes => State::Ending,
            State::Chunk(left) => State::Chunk(left - bytes),
            other => other,
        };
    }
}

fn smaller(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

/// Where the first line of `bytes` ends, before its CRLF. A line feed alone ends nothing, and is refused.
fn line(bytes: &[u8]) -> Result<Option<usize>, BadChunks> {
    match memchr::memchr(b'\n', bytes) {
        Some(at) if at > 0 && bytes[at - 1] == b'\r' && at <= LINE_MAX => {
            let line = &bytes[..at - 1];
            match line.iter().all(|byte| *byte >= b' ' || *byte == b'\t') {
                true => Ok(Some(at - 1)),
                false => Err(BadChunks),
            }
        }
        Some(_) => Err(BadChunks),
        None if bytes.len() > LINE_MAX => Err(BadChunks),
        None => Ok(None),
    }
}

/// The size that a chunk's line says: 1 to 15 hexadecimal digits, then nothing or an extension, which nobody needs.
fn size(line: &[u8]) -> Result<u64, BadChunks> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let digits = digits.count();
    if !(1..=15).contains(&digits) || line.get(digits).is_some_and(|next| *next != b';') {
        return Err(BadChunks);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| BadChunks)?;
    u64::from_str_radix(text, 16).map_err(|_| BadChunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` piece by piece, each of `piece` bytes.
    fn read(
        framing: Framing,
        text: &[u8],
        piece: usize,
    ) -> Result<(Vec<u8>, usize, bool), BadChunks> {
        let (mut body, mut data, mut at, mut there) = (Body::new(framing), Vec::new(), 0, 0);
        loop {
            match body.next(&text[at..there])? {
                Next::End => return Ok((data, at, true)),
                Next::More if there == text.len() => return Ok((data, at, false)),
                Next::More => there = text.len().min(there + piece),
                Next::Skip(n) => at += n,
                Next::Data(n) => {
                    data.extend_from_slice(&text[at..at + n]);
                    body.took(n);
                    at += n;
                }
            }
        }
    }

    #[test]
    fn a_body_ends_where_its_framing_says_however_it_arrives() {
        let chunked = b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nTrailer: t\r\n\r\nGET";
        for piece in 1..chunked.len() {
            let (data, at, ended) = read(Framing::Chunked, chunked, piece).unwrap();
            assert_eq!(
                (data.as_slice(), at, ended),
                (&b"hello!"[..], chunked.len() - 3, true)
            );
            let (data, at, ended) = read(Framing::Length(5), b"helloGET", piece).unwrap();
            assert_eq!((data.as_slice(), at, ended), (&b"hello"[..], 5, true));
        }
    }

    #[test]
    fn chunks_that_two_readers_could_read_in_two_ways_are_refused() {
        for bad in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "-1\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\t;x\r\nhello\r\n0\r\n\r\n",
            "\r\n\r\n",
            "g\r\n\r\n",
            "5,5\r\nhello\r\n0\r\n\r\n",
            "10000000000000000\r\nhello",
            "ffffffffffffffff1\r\nhello",
            "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
            "5;\rx\r\nhello\r\n0\r\n\r\n",
            "5;\0\r\nhello\r\n0\r\n\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\n\n",
        ] {
            let read = read(Framing::Chunked, bad.as_bytes(), 64);
            assert_eq!(read.map(|read| read.2), Err(BadChunks), "{bad:?}");
        }
    }

    #[test]
    fn lines_and_trailers_are_bounded() {
        let long = format!("5;{}", "x".repeat(LINE_MAX));
        assert!(read(Framing::Chunked, long.as_bytes(), 99).is_err());
        let many = format!("0\r\n{}", "a: b\r\n".repeat(LINE_MAX));
        assert!(read(Framing::Chunked, many.as_bytes(), 99).is_err());
    }
}
