//! A connection that has become a WebSocket (RFC 6455): bytes both ways, until its user changes home. Then the client is told so by a close
//! frame, and connects again.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, split};
use tokio::time::{Instant, timeout_at};

use crate::doors::Slot;
use crate::http::read::say;
use crate::pool::Upstream;
use crate::stream::Stream;

/// How long the frame that is just being carried may take to end before the connection is closed within it.
const FRAME: Duration = Duration::from_millis(100);

/// A close frame (RFC 6455, 5.5.1) with the status "service restart" (1012, IANA's registry of WebSocket close codes), at which clients connect again.
const CLOSE: &[u8] = b"\x88\x0f\x03\xf4changing home";

/// The client's side.
pub(crate) struct Client<'a> {
    pub stream: &'a mut Stream,
    pub input: &'a mut BytesMut,
}

/// Where in a stream of frames one stands (RFC 6455, 5.2).
#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    /// Bytes of the frame's payload to come.
    left: u64,
}

/// Carries bytes both ways until either side ends, or the user's door is closed.
pub(crate) async fn carry(client: Client<'_>, upstream: Upstream, slot: &Slot) {
    let Client { stream, input } = client;
    let Upstream {
        stream: mut other,
        input: mut said,
        ..
    } = upstream;
    if say(&mut other, input).await.is_err() {
        return;
    }
    let (mut from_client, to_client) = split(stream);
    let (from_upstream, mut to_upstream) = split(&mut other);
    let up = tokio::io::copy(&mut from_client, &mut to_upstream);
    let down = down(from_upstream, to_client, &mut said, slot);
    tokio::select! {
        _ = up => {}
        _ = down => {}
    }
}

/// Carries what the application says, `said` first.
async fn down(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    said: &mut BytesMut,
    slot: &Slot,
) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut until = None;
    loop {
        frames.pass(said);
        say(&mut to, said).await?;
        said.clear();
        if until.is_some() && frames.is_between() {
            return say(&mut to, CLOSE).await;
        }
        let read = from.read_buf(said);
        let read = match until {
            Some(until) => timeout_at(until, read).await?,
            None => tokio::select! {
                read = read => read,
                () = slot.told_to_leave() => {
                    until = Some(Instant::now() + FRAME);
                    continue;
                }
            },
        };
        if read? == 0 {
            return Ok(());
        }
    }
}

// === impl Frames ===

impl Frames {
    /// Whether one frame has ended and the next not begun.
    fn is_between(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }

    /// Goes on by `bytes`.
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let here =
                    usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= here as u64;
                bytes = &bytes[here..];
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            if let Some(payload) = payload(&self.head) {
                self.left = payload;
                self.head.clear();
            }
        }
    }
}

/// The length of the payload, if `head` is a whole head.
fn payload(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let more = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 != 0 { 4 } else { 0 };
    if head.len() < 2 + more + mask {
        return None;
    }
    Some(match more {
        0 => u64::from(second & 0x7f),
        _ => head[2..2 + more]
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with a payload of so many bytes.
    fn frame(payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match payload {
            0..126 => frame.push(mask | payload as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend_from_slice(&(payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[9; 4][..if masked { 4 } else { 0 }]);
        frame.resize(frame.len() + payload, 7);
        frame
    }

    #[test]
    fn it_is_known_where_a_frame_ends_however_it_arrives() {
        for masked in [false, true] {
            for size in [0, 1, 125, 126, 127, 65535, 65536, 70_000] {
                let whole = frame(size, masked);
                for piece in [1, 2, 3, 7, whole.len()] {
                    let mut frames = Frames::default();
                    for (at, bytes) in whole.chunks(piece).enumerate() {
                        assert_eq!(frames.is_between(), at == 0);
                        frames.pass(bytes);
                    }
                    assert!(frames.is_between(), "{size} in pieces of {piece}");
                    frames.pass(&[whole.as_slice(), &whole].concat());
                    assert!(frames.is_between());
                }
            }
        }
    }

    #[test]
    fn the_close_frame_is_one() {
        let mut frames = Frames::default();
        frames.pass(CLOSE);
        assert!(frames.is_between());
        assert_eq!(u16::from_be_bytes([CLOSE[2], CLOSE[3]]), 1012);
        assert_eq!(usize::from(CLOSE[1]), CLOSE.len() - 2);
    }
}
