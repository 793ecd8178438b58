//! Copies a chunk: its snapshot at the source, one transaction at the target.

use model::fault::point;
use postgres::connect::Session;
use postgres::copy;
use postgres::pace::Pace;
use postgres::snapshot::Snapshot;
use residency::journal;
use tokio::sync::mpsc;

use crate::ask::{Answer, Ask};
use crate::error::{At, Error, Result};
use crate::far::{Pending, Seat};
use crate::prepare::Chunk;
use crate::route::Route;

/// What came of copying.
#[derive(Debug)]
pub enum Outcome {
    /// The rows are durable at the target.
    Copied {
        /// What the copy saw.
        snapshot: Snapshot,
        /// How much there was.
        copied: copy::Copied,
    },
    /// Rows of some user do not fit at the target; nothing was copied. The reason holds no values.
    Unfit(String),
    /// Whoever steers stopped it; nothing was copied.
    Stopped,
}

/// What the target said while it was still sent to, or the bytes that were sent.
enum Sent {
    All(u64),
    Early(Answer),
    Unread(postgres::Error),
}

/// Copies `chunk` with sessions of its own, which are of no further use unless it was copied.
pub async fn copy_chunk(
    route: &Route,
    (source, target): (&mut Session, &Seat),
    chunk: &Chunk,
    pace: &mut Pace,
) -> Result<Outcome> {
    let from = &route.source;
    let users = chunk.keys();
    let reader = copy::open(source, &from.schema, &users)
        .await
        .at(&from.site, "opening a chunk's snapshot")?;
    point("before-copy");
    // Halved until it is one of them alone; whoever begins to share a row from now on is told by the stream.
    if let Some((_, table)) = reader
        .shared(&from.schema, &users)
        .await
        .at(&from.site, "looking for rows that several users own")?
        .first()
    {
        let reason = format!("a row of {table} belongs to another user too");
        return Ok(Outcome::Unfit(reason));
    }
    let asked = Ask::Copy {
        attempt: chunk.attempt,
        users,
        returning: chunk.returning,
    };
    let mut taken = target.send(asked).await?;
    let sent = send(route, &reader, target, &mut taken, pace).await?;
    let snapshot = reader.snapshot().clone();
    let (answer, bytes) = match sent {
        Sent::All(bytes) => {
            reader.close().await.at(&from.site, "copying a chunk")?;
            let snapshot = snapshot.clone();
            match target.tell(Ask::Copied { snapshot, bytes }).await {
                // It did not want the last of it, and says why.
                Ok(()) | Err(Error::Left { .. }) => (taken.await?, bytes),
                Err(error) => return Err(error),
            }
        }
        Sent::Early(answer) => {
            drop(reader);
            (answer, 0)
        }
        Sent::Unread(postgres::Error::Stopped) => return Ok(Outcome::Stopped),
        Sent::Unread(error) if error.is_about_rows() => {
            return Ok(Outcome::Unfit(postgres::apply::reason(&error)));
        }
        Sent::Unread(error) => return Err(error).at(&from.site, "copying a chunk"),
    };
    let rows = match answer {
        Answer::Written { rows } => rows,
        Answer::Unfit(reason) => return Ok(Outcome::Unfit(reason)),
        other => return Err(target.beside_the_point(&other)),
    };
    journal::set_chunk(&**source, chunk.attempt, "copied")
        .await
        .at(&from.site, "copying a chunk")?;
    let copied = copy::Copied { rows, bytes };
    Ok(Outcome::Copied { snapshot, copied })
}

/// Sends what `reader` reads, until all is sent or the target says that it does not want it.
async fn send(
    route: &Route,
    reader: &copy::Reader<'_>,
    target: &Seat,
    taken: &mut Pending,
    pace: &mut Pace,
) -> Result<Sent> {
    let (pieces, mut next) = mpsc::channel(1);
    let reading = async {
        let read = reader.read(&route.source.schema, &pieces, pace, route.bounds.row_max);
        let read = read.await;
        drop(pieces);
        read
    };
    let sending = async {
        let early = loop {
            let Some(piece) = next.recv().await else {
                break Ok(None);
            };
            tokio::select! {
                biased;
                early = &mut *taken => break early.map(Some),
                told = target.tell(Ask::Copying(piece)) => match told {
                    Ok(()) => {}
                    // It says why.
                    Err(Error::Left { .. }) => break (&mut *taken).await.map(Some),
                    Err(error) => break Err(error),
                },
            }
        };
        // What is still read goes nowhere.
        next.close();
        early
    };
    let (read, sent) = tokio::join!(reading, sending);
    Ok(match (sent?, read) {
        (Some(answer), _) => Sent::Early(answer),
        (None, Ok(bytes)) => Sent::All(bytes),
        (None, Err(error)) => Sent::Unread(error),
    })
}
