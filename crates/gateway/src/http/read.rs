//! Reading heads from a connection, and writing to one.

use std::future::Future as _;
use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::head;

/// What is read at once: a page and a half of the kernel's skb, and what a small request or answer needs whole.
const PIECE: usize = 8 << 10;

/// How long whoever is spoken to may take nothing, for one piece of what is said: then nobody is there.
const HEARS: Duration = Duration::from_secs(60);

/// Why there is no head.
#[derive(Debug)]
pub(crate) enum NoHead {
    /// The connection ended before its first byte.
    Ended,
    /// It ended, or broke, within.
    Broken(io::Error),
    /// It is longer than [`head::HEAD_MAX`].
    TooLarge,
}

/// Reads until `input` begins with a whole head; gives its length.
pub(crate) async fn head(
    from: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> Result<usize, NoHead> {
    let mut looked = 0;
    loop {
        if let Some(end) = head::end(input, looked) {
            return match end > head::HEAD_MAX {
                true => Err(NoHead::TooLarge),
                false => Ok(end),
            };
        }
        looked = input.len();
        if looked > head::HEAD_MAX {
            return Err(NoHead::TooLarge);
        }
        input.reserve(PIECE);
        match from.read_buf(input).await {
            Ok(0) if looked == 0 => return Err(NoHead::Ended),
            Ok(0) => return Err(NoHead::Broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(_) if looked == 0 => return Err(NoHead::Ended),
            Err(error) => return Err(NoHead::Broken(error)),
        }
    }
}

/// Writes `bytes`, and sees to it that they leave: TLS keeps what it is not told to send.
pub(crate) async fn say(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let mut says = std::pin::pin!(async {
        to.write_all(bytes).await?;
        to.flush().await
    });
    // As a rule there is room for it, and no clock has to be asked.
    let at_once = std::future::poll_fn(|cx| Poll::Ready(says.as_mut().poll(cx))).await;
    match at_once {
        Poll::Ready(said) => said,
        Poll::Pending => timeout(HEARS, says).await?,
    }
}

/// Reads more.
pub(crate) async fn more(
    from: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    piece: usize,
) -> io::Result<()> {
    input.reserve(piece.max(PIECE));
    match from.read_buf(input).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
