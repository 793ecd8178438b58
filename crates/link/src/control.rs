//! A control connection, once the hellos are exchanged. It carries no bulk, so nothing on it waits behind any.

use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep, timeout};

use crate::inbox::{Incoming, Request};
use crate::message::{FRAME_MAX, Message};
use crate::peer::RequestError;
use crate::shared::{Begun, Shared};
use crate::transfer::Violation;
use crate::wire::{Wire, WireError, frame};

/// Heartbeats in the time of the longest silence. Whoever has had nothing to say says so often that he is there.
const HEARTBEATS: u32 = 6;

/// More heartbeats than this in that time are an attack on the processor.
const HEARTBEATS_MAX: u32 = 100;

/// Works until the connection ends, which ends the session.
pub(crate) async fn run(mut wire: Wire, shared: &Arc<Shared>, begun: Begun) -> WireError {
    wire.codec_mut().set_max_frame_length(FRAME_MAX);
    let (mut sink, mut frames) = wire.split();
    let Begun {
        mut out,
        reply,
        over,
        standing,
    } = begun;
    let silence = shared.silence;

    let writing = async {
        loop {
            let news = shared.news.notified();
            let waiting = shared.take_news(&standing);
            let nothing = waiting.is_empty();
            for message in waiting {
                sink.feed(message.encode()).await?;
            }
            if !nothing {
                sink.flush().await?;
            }
            tokio::select! {
                () = news => {}
                message = out.recv() => match message {
                    Some(message) => sink.send(message.encode()).await?,
                    None => return Err(WireError::Over),
                },
                () = sleep(silence / HEARTBEATS) => {
                    sink.send(Message::Heartbeat.encode()).await?;
                }
            }
        }
    };
    let reading = async {
        let (mut heartbeats, mut since) = (0_u32, Instant::now());
        loop {
            let came = timeout(silence, frame(&mut frames)).await;
            let came = came.unwrap_or(Err(WireError::Silent))?;
            match Message::decode(came)? {
                Message::Heartbeat => {
                    if since.elapsed() > silence {
                        (heartbeats, since) = (0, Instant::now());
                    }
                    heartbeats += 1;
                    if heartbeats > HEARTBEATS_MAX {
                        return Err(Violation::Heartbeats.into());
                    }
                }
                Message::Request(number, body) => {
                    let request = Incoming::Request(Request {
                        number,
                        body,
                        out: reply.clone(),
                    });
                    if shared.inbox.try_send(request).is_err() {
                        shared.say(Message::Busy(number));
                    }
                }
                Message::Notice(body) => match shared.inbox.try_send(Incoming::Notice(body)) {
                    Err(TrySendError::Full(_)) => return Err(Violation::Notices.into()),
                    // Nobody takes any, ever.
                    Err(TrySendError::Closed(_)) | Ok(()) => {}
                },
                Message::Response(number, body) => shared.answer(number, Ok(body)),
                Message::Busy(number) => shared.answer(number, Err(RequestError::Busy)),
                Message::Window {
                    transfer,
                    next,
                    limit,
                } => shared.window(transfer, next, limit)?,
                Message::Cancel(transfer) => shared.cancelled(transfer),
                Message::Abandon(transfer) => shared.abandoned(transfer),
            }
        }
    };
    let ended: Result<std::convert::Infallible, WireError> = tokio::select! {
        // What to say first: an answer that is ready should leave before the next question is read.
        biased;
        () = over.cancelled() => Err(WireError::Over),
        ended = writing => ended,
        ended = reading => ended,
    };
    match ended {
        Err(why) => why,
        Ok(never) => match never {},
    }
}
