//! Frames on a TLS connection, and what can end one.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt as _;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::block::BlockError;
use crate::hello::{HELLO_MAX, Why};
use crate::message::Meaningless;
use crate::transfer::Violation;

/// Frames: four bytes of length, big-endian, and that many bytes. A longer length than allowed is refused before
/// anything is allocated for it.
pub(crate) type Wire = Framed<TlsStream<TcpStream>, LengthDelimitedCodec>;

/// What ends a connection.
#[derive(Debug, Error)]
pub(crate) enum WireError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the peer ended the connection")]
    Ended,
    #[error("the peer says nothing any more")]
    Silent,
    #[error("this side ended the connection")]
    Over,
    #[error("what came is no hello")]
    NoHello(#[source] serde_json::Error),
    #[error("the hello is refused: {0}")]
    Refused(Why),
    #[error("the peer refuses the hello: {0}")]
    RefusedThere(Why),
    #[error("the peer broke the protocol")]
    Message(#[from] Meaningless),
    #[error("the peer broke the protocol")]
    Block(#[from] BlockError),
    #[error("the peer broke the protocol")]
    Violation(#[from] Violation),
}

/// A fresh connection, on which a hello comes first.
pub(crate) fn wire(stream: TlsStream<TcpStream>) -> Wire {
    let codec = LengthDelimitedCodec::builder()
        .max_frame_length(HELLO_MAX)
        .new_codec();
    Framed::new(stream, codec)
}

/// The next frame.
pub(crate) async fn frame(
    frames: &mut (impl futures_util::Stream<Item = io::Result<bytes::BytesMut>> + Unpin),
) -> Result<Bytes, WireError> {
    match frames.next().await {
        Some(frame) => Ok(frame?.freeze()),
        None => Err(WireError::Ended),
    }
}
