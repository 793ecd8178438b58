//! Copies a chunk: its snapshot at the source, one transaction at the target.

use model::fault::point;
use postgres::connect::Session;
use postgres::pace::Pace;
use postgres::snapshot::Snapshot;
use postgres::{copy, delete, replica};
use residency::{inbound, journal, records};

use crate::desk::{commit, transaction};
use crate::error::{At, Error, Result};
use crate::prepare::Chunk;
use crate::route::{Offices, Route};

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

/// Copies `chunk` with sessions of its own, which are of no further use unless it was copied.
pub async fn copy_chunk(
    route: &Route,
    offices: &Offices,
    (source, target): (&mut Session, &mut Session),
    chunk: &Chunk,
    pace: &mut Pace,
) -> Result<Outcome> {
    let (from, to) = (&route.source, &route.target);
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
    let doing = "copying a chunk";
    let tx = transaction(target, to, doing).await?;
    offices.arrivals.hold(&tx).await.at(&to.site, doing)?;
    let held = records::hold(&tx, to.kind(), &users, "arriving", chunk.attempt)
        .await
        .at(&to.site, doing)?;
    if !held {
        return Err(Error::StreamGone);
    }
    replica::assume(&tx).await.at(&to.site, doing)?;
    if chunk.returning
        && let Err(error) = delete::rows(&tx, &to.schema, &users).await
    {
        return unfit(error, route);
    }
    let copied = match reader
        .copy(&from.schema, &tx, pace, route.bounds.row_max)
        .await
    {
        Ok(copied) => copied,
        Err(postgres::Error::Stopped) => return Ok(Outcome::Stopped),
        Err(error) => return unfit(error, route),
    };
    let snapshot = reader.snapshot().clone();
    reader.close().await.at(&from.site, doing)?;
    let recorded = inbound::copied(
        &tx,
        &from.site,
        chunk.attempt,
        &snapshot.to_string(),
        copied.rows,
        copied.bytes,
    )
    .await
    .at(&to.site, doing)?;
    if !recorded {
        return Err(Error::StreamGone);
    }
    point("before-copied");
    commit(tx, to, doing).await?;
    point("after-copied");
    journal::set_chunk(&**source, chunk.attempt, "copied")
        .await
        .at(&from.site, doing)?;
    Ok(Outcome::Copied { snapshot, copied })
}

fn unfit(error: postgres::Error, route: &Route) -> Result<Outcome> {
    if error.is_about_rows() {
        return Ok(Outcome::Unfit(postgres::apply::reason(&error)));
    }
    Err(error).at(&route.target.site, "copying a chunk")
}
