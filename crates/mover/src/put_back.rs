//! Gives attempts up: users stay where they are, and what was copied of them is deleted at the target.
//!
//! At the source first, durably; then it is told to the target until it has cleaned up.

use handoff::record::{Event, State};
use model::fault::point;
use model::{Attempt, UserKey};
use residency::journal;
use residency::records::{self, Change};

use crate::desk::{Desk, commit, transaction};
use crate::error::{At, Result};
use crate::route::{Offices, Route};

/// Gives a whole attempt up, on both sides. May be called again after a crash anywhere in it.
pub async fn cancel(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    attempt: Attempt,
) -> Result<()> {
    let source = &route.source;
    let doing = "giving an attempt up";
    let tx = transaction(&mut desk.source, source, doing).await?;
    offices.departures.hold(&tx).await.at(&source.site, doing)?;
    let moving = records::of_attempt(&tx, attempt, &["moving"], &route.target.site)
        .await
        .at(&source.site, doing)?;
    withdraw(&tx, route, &moving, attempt).await?;
    journal::set_chunk(&tx, attempt, "cancelled")
        .await
        .at(&source.site, doing)?;
    point("before-cancel");
    commit(tx, source, doing).await?;
    point("after-cancel");
    desk.target.clear_attempt(attempt).await?;
    journal::set_chunk(&*desk.source, attempt, "finished")
        .await
        .at(&source.site, doing)
}

/// Takes single users out of an attempt that goes on.
pub async fn take_out(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    users: &[UserKey],
    attempt: Attempt,
) -> Result<()> {
    let source = &route.source;
    let doing = "taking users out of an attempt";
    let tx = transaction(&mut desk.source, source, doing).await?;
    offices.departures.hold(&tx).await.at(&source.site, doing)?;
    let records = records::lock(&tx, source.kind(), users)
        .await
        .at(&source.site, doing)?;
    let moving: Vec<UserKey> = users
        .iter()
        .zip(&records)
        .filter(|(_, record)| {
            matches!(record.as_ref().map(|r| &r.state),
                     Some(State::Moving { attempt: of, .. }) if *of == attempt)
        })
        .map(|(user, _)| user.clone())
        .collect();
    withdraw(&tx, route, &moving, attempt).await?;
    commit(tx, source, doing).await?;
    clear(desk, users.to_vec(), attempt).await
}

async fn withdraw(
    tx: &tokio_postgres::Transaction<'_>,
    route: &Route,
    users: &[UserKey],
    attempt: Attempt,
) -> Result<()> {
    let changes: Vec<Change> = users
        .iter()
        .map(|user| Change {
            user: user.clone(),
            event: Event::Withdraw { attempt },
        })
        .collect();
    records::change(tx, route.source.kind(), &changes, None)
        .await
        .at(&route.source.site, "giving an attempt up")?;
    Ok(())
}

/// Cleans up, at the target, after `users` who do not arrive.
pub(crate) async fn clear(desk: &Desk, users: Vec<UserKey>, attempt: Attempt) -> Result<()> {
    match users.is_empty() {
        true => Ok(()),
        false => desk.target.clear(attempt, users).await,
    }
}
