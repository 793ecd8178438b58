//! Gives attempts up: users stay where they are, and what was copied of them is deleted at the target.
//!
//! At the source first, durably; then it is told to the target until it has cleaned up.

use handoff::record::{Event, State};
use model::fault::point;
use model::{Attempt, UserKey};
use postgres::{delete, replica};
use residency::records::{self, Change};
use residency::{inbound, journal};

use crate::desk::{Desk, commit, transaction};
use crate::error::{At, Result};
use crate::route::{Offices, Route};

/// How many users are cleaned up in one transaction: bounds its length.
const CLEAR_TOGETHER: usize = 500;

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
    clear_attempt(route, offices, desk, attempt).await?;
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
    clear(route, offices, desk, users, attempt).await
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

/// The target's part: every user of the attempt who is still arriving or being cleared is cleaned up.
pub async fn clear_attempt(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    attempt: Attempt,
) -> Result<()> {
    let (source, target) = (&route.source.site, &route.target);
    let doing = "cleaning up after an attempt";
    let users = records::of_attempt(&*desk.target, attempt, &["arriving", "clearing"], source)
        .await
        .at(&target.site, doing)?;
    inbound::set_state(&*desk.target, source, attempt, "cancelled")
        .await
        .at(&target.site, doing)?;
    for part in users.chunks(CLEAR_TOGETHER) {
        clear(route, offices, desk, part, attempt).await?;
    }
    inbound::forget_spool(&*desk.target, source, attempt)
        .await
        .at(&target.site, doing)?;
    inbound::set_state(&*desk.target, source, attempt, "finished")
        .await
        .at(&target.site, doing)
}

/// Cleans up after `users`: those still arriving go through `clearing`; the record that their arrival replaced comes back
/// in the transaction that deletes the last of their rows.
pub async fn clear(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    users: &[UserKey],
    attempt: Attempt,
) -> Result<()> {
    let target = &route.target;
    let doing = "cleaning up after users who do not arrive";
    let tx = transaction(&mut desk.target, target, doing).await?;
    offices.arrivals.hold(&tx).await.at(&target.site, doing)?;
    let records = records::lock(&tx, target.kind(), users)
        .await
        .at(&target.site, doing)?;
    let mut arriving = Vec::new();
    let mut clearing = Vec::new();
    for (user, record) in users.iter().zip(&records) {
        match record.as_ref().map(|r| &r.state) {
            Some(State::Arriving {
                from, attempt: of, ..
            }) if *of == attempt && *from == route.source.site => {
                arriving.push(Change {
                    user: user.clone(),
                    event: Event::Clear {
                        attempt,
                        epoch: None,
                    },
                });
                clearing.push(user.clone());
            }
            Some(State::Clearing {
                from, attempt: of, ..
            }) if *of == attempt && *from == route.source.site => clearing.push(user.clone()),
            // Cleared before a crash, or never begun.
            _ => {}
        }
    }
    if clearing.is_empty() {
        return Ok(());
    }
    records::change(&tx, target.kind(), &arriving, None)
        .await
        .at(&target.site, doing)?;
    replica::assume(&tx).await.at(&target.site, doing)?;
    delete::rows(&tx, &target.schema, &clearing)
        .await
        .at(&target.site, doing)?;
    let cleared: Vec<Change> = clearing
        .into_iter()
        .map(|user| Change {
            user,
            event: Event::Cleared { attempt },
        })
        .collect();
    records::change(&tx, target.kind(), &cleared, None)
        .await
        .at(&target.site, doing)?;
    point("before-cleared");
    commit(tx, target, doing).await?;
    point("after-cleared");
    Ok(())
}
