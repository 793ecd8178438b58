//! Frames of the control connection: a byte that says what it is, a number, and a body.
//!
//! | kind | number | body |
//! |---|---|---|
//! | 1 request | the request's | the application's bytes |
//! | 2 response | the request's | the application's bytes |
//! | 3 busy | the request's | none: it was not taken |
//! | 4 notice | 0 | the application's bytes |
//! | 5 heartbeat | 0 | none |
//! | 6 window | a transfer's | next 8, limit 8 (big-endian): see [`transfer`](crate::transfer) |
//! | 7 cancel | a transfer's | none: the receiver wants no more |
//! | 8 abandon | a transfer's | none: the sender has no more to give |

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use thiserror::Error;

use crate::transfer::TransferId;

/// The most bytes in the body of a request, a response or a notice.
pub const BODY_MAX: usize = 1 << 20;

/// Kind and number.
const HEADER: usize = 9;

/// The longest frame on a control connection.
pub(crate) const FRAME_MAX: usize = HEADER + BODY_MAX;

/// One frame of the control connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Request(u64, Bytes),
    Response(u64, Bytes),
    Busy(u64),
    Notice(Bytes),
    Heartbeat,
    Window {
        transfer: TransferId,
        next: u64,
        limit: u64,
    },
    Cancel(TransferId),
    Abandon(TransferId),
}

/// A frame that means nothing; it ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a control frame of {length} bytes and kind {kind} means nothing")]
pub(crate) struct Meaningless {
    kind: u8,
    length: usize,
}

impl Message {
    pub fn encode(&self) -> Bytes {
        let (kind, number, body): (u8, u64, &[u8]) = match self {
            Self::Request(number, body) => (1, *number, body),
            Self::Response(number, body) => (2, *number, body),
            Self::Busy(number) => (3, *number, &[]),
            Self::Notice(body) => (4, 0, body),
            Self::Heartbeat => (5, 0, &[]),
            Self::Window { transfer, .. } => (6, transfer.0, &[]),
            Self::Cancel(transfer) => (7, transfer.0, &[]),
            Self::Abandon(transfer) => (8, transfer.0, &[]),
        };
        let mut frame = BytesMut::with_capacity(HEADER + 16 + body.len());
        frame.put_u8(kind);
        frame.put_u64(number);
        frame.put_slice(body);
        if let Self::Window { next, limit, .. } = self {
            frame.put_u64(*next);
            frame.put_u64(*limit);
        }
        frame.freeze()
    }

    pub fn decode(mut frame: Bytes) -> Result<Self, Meaningless> {
        let length = frame.len();
        if length < HEADER {
            return Err(Meaningless { kind: 0, length });
        }
        let (kind, number) = (frame.get_u8(), frame.get_u64());
        Ok(match (kind, frame.len()) {
            (1, _) => Self::Request(number, frame),
            (2, _) => Self::Response(number, frame),
            (3, 0) => Self::Busy(number),
            (4, _) => Self::Notice(frame),
            (5, 0) => Self::Heartbeat,
            (6, 16) => Self::Window {
                transfer: TransferId(number),
                next: frame.get_u64(),
                limit: frame.get_u64(),
            },
            (7, 0) => Self::Cancel(TransferId(number)),
            (8, 0) => Self::Abandon(TransferId(number)),
            _ => return Err(Meaningless { kind, length }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_reads_as_it_was_written() {
        let body = Bytes::from_static(b"body");
        let transfer = TransferId(u64::MAX);
        for message in [
            Message::Request(1, body.clone()),
            Message::Request(2, Bytes::new()),
            Message::Response(3, body.clone()),
            Message::Busy(4),
            Message::Notice(body),
            Message::Heartbeat,
            Message::Window {
                transfer,
                next: 5,
                limit: u64::MAX,
            },
            Message::Cancel(transfer),
            Message::Abandon(transfer),
        ] {
            assert_eq!(Message::decode(message.encode()), Ok(message));
        }
    }

    #[test]
    fn frames_of_any_other_form_are_refused() {
        let heartbeat = Message::Heartbeat.encode();
        assert!(Message::decode(heartbeat.slice(..8)).is_err());
        assert!(Message::decode(Bytes::new()).is_err());
        let mut long = BytesMut::from(&heartbeat[..]);
        long.put_u8(0);
        assert!(Message::decode(long.freeze()).is_err());
        for kind in [0, 9, 255] {
            let mut unknown = BytesMut::from(&heartbeat[..]);
            unknown[0] = kind;
            assert!(Message::decode(unknown.freeze()).is_err(), "{kind}");
        }
    }
}
