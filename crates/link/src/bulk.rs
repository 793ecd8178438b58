//! A bulk connection, once the hellos are exchanged. Blocks of all transfers go over all of them, whichever is free: a
//! lost packet holds up one, and the others go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::block::{FRAME_MAX, Packed};
use crate::shared::Shared;
use crate::transfer::Violation;
use crate::wire::{Wire, WireError, frame};

/// Blocks in a row that had come before, or that nobody wants any more. A window's worth is honest after a connection
/// broke or a transfer was cancelled.
const STRAYS_MAX: u64 = 4_096;

/// A connection's place among the others. However it ends, also with a task that is aborted, what was on it is sent over
/// the others.
struct Place<'a>(&'a Shared, u64);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lost(self.1);
    }
}

/// Works until the connection ends.
pub(crate) async fn run(
    mut wire: Wire,
    shared: &Arc<Shared>,
    over: CancellationToken,
) -> WireError {
    wire.codec_mut().set_max_frame_length(FRAME_MAX);
    let (mut sink, mut frames) = wire.split();
    let place = Place(shared, shared.connection());
    let connection = place.1;

    let writing = async {
        loop {
            let block = shared.take(connection).await;
            sink.send(block.encode()).await?;
        }
    };
    let reading = async {
        let mut strays = 0;
        loop {
            let came = frame(&mut frames).await?;
            let wire = &shared.counted.wire_received;
            wire.fetch_add(4 + came.len() as u64, Ordering::Relaxed);
            let packed = Packed::decode(came)?;
            let header = packed.header;
            let fresh = match shared.wants(header.transfer, header.number)? {
                false => false,
                true => {
                    // Beside the tasks that answer for the control connection.
                    let content = match header.compressed {
                        true => spawn_blocking(move || packed.unpack()).await,
                        false => Ok(packed.unpack()),
                    };
                    let content = content.map_err(std::io::Error::other)??;
                    shared.accept(header.transfer, header.number, content, header.last)?
                }
            };
            strays = if fresh { 0 } else { strays + 1 };
            if strays > STRAYS_MAX {
                return Err(Violation::Strays.into());
            }
        }
    };
    let ended: Result<std::convert::Infallible, WireError> = tokio::select! {
        () = over.cancelled() => Err(WireError::Over),
        ended = writing => ended,
        ended = reading => ended,
    };
    match ended {
        Err(why) => why,
        Ok(never) => match never {},
    }
}
