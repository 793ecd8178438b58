//! What the peer says, for the application to take.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::message::{BODY_MAX, Message};
use crate::peer::RequestError;

/// Requests and notices that wait to be taken. Above it requests are answered "busy", and a notice ends the connection:
/// reading on is what keeps windows and heartbeats flowing, so neither may hold it up. At most 64 MiB.
pub const WAITING_MAX: usize = 64;

/// Something that came.
#[derive(Debug)]
pub enum Incoming {
    /// Wants an answer.
    Request(Request),
    /// Wants none.
    Notice(Bytes),
}

/// A request of the peer's. It may be one that was asked before: whoever lost the connection asks again.
#[derive(Debug)]
pub struct Request {
    /// The application's bytes, at most [`BODY_MAX`].
    pub body: Bytes,
    pub(crate) number: u64,
    pub(crate) out: mpsc::Sender<Message>,
}

/// Where requests and notices come out, in the order in which they were sent.
#[derive(Debug)]
pub struct Inbox(pub(crate) mpsc::Receiver<Incoming>);

impl Request {
    /// Answers, over the connection that the request came by. A request that is dropped unanswered ends for the peer
    /// with its time limit.
    pub async fn reply(self, body: Bytes) -> Result<(), RequestError> {
        if body.len() > BODY_MAX {
            return Err(RequestError::TooLong(body.len()));
        }
        let response = Message::Response(self.number, body);
        let sent = self.out.send(response).await;
        sent.map_err(|_| RequestError::NotConnected)
    }
}

impl Inbox {
    /// The next one; `None` when the link has been shut down.
    pub async fn next(&mut self) -> Option<Incoming> {
        self.0.recv().await
    }
}
