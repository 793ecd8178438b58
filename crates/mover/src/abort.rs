//! Gives up what is unfinished: after a limit, or for good where somebody ends the move.

use model::MoveId;
use postgres::connect::Session;
use postgres::slot;
use residency::office::Office;
use residency::{entries, install, journal};
use serde_json::json;
use tokio_postgres::error::SqlState;

use crate::ask::Call;
use crate::compare::wants_open;
use crate::desk::{Desk, commit, transaction};
use crate::error::{At, Result};
use crate::recover::recover;
use crate::rest;
use crate::route::{End, Offices, Route};

/// How long giving up waits for one of the application's transactions, in milliseconds.
const GIVE_UP_LOCKS_MS: u32 = 5_000;

/// Ends a running move that no process carries. Whoever has not moved lives where he did; whoever has, stays moved. Batches
/// in doubt are asked about first.
///
/// # Errors
/// [`residency::Error::Office`], under [`crate::Error::Residency`], where a process carries a move there. Whatever the
/// error, the next call goes on.
pub async fn abort(route: &Route, id: &MoveId) -> Result<()> {
    let (offices, _held) = take_offices(route).await?;
    let mut desk = Desk::open(route, &offices, "mover").await?;
    end(route, &offices, &mut desk, id).await?;
    rest::at_both(route).await;
    Ok(())
}

/// Takes the offices at both ends: that of departures for as long as the session lives, whose name tells others which
/// process it is, that of arrivals for as long as the offices do.
pub(crate) async fn take_offices(route: &Route) -> Result<(Offices, Session)> {
    let source = &route.source;
    let purpose = format!("office {}", std::process::id());
    let held = source.session(&purpose).await?;
    let departures = Office::take(&held, Office::DEPARTURES)
        .await
        .at(&source.site, "taking office")?;
    wants_open(source, &held).await?;
    let call = Call {
        service: route.service.clone(),
        from: source.site.clone(),
        phase: route.phase.clone(),
        pause_max: route.bounds.pause_max,
        patience: route.bounds.barrier_patience,
    };
    let offices = Offices {
        departures,
        arrivals: route.target.far.visit(call).await?,
    };
    Ok((offices, held))
}

/// Ends the move `id` with everybody at one of the two sites.
pub(crate) async fn end(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    id: &MoveId,
) -> Result<()> {
    let (source, nothing) = (&route.source, nothing(route));
    recover(route, offices, desk, &nothing).await?;
    drop_idle_slot(source, &desk.source, &nothing.name).await?;
    let doing = "ending an aborted move";
    let tx = transaction(&mut desk.source, source, doing).await?;
    offices.departures.hold(&tx).await.at(&source.site, doing)?;
    journal::end_move(&tx, id, "aborted")
        .await
        .at(&source.site, doing)?;
    let body = json!({
        "service": route.service, "move": id, "from": source.site, "to": route.target.site,
    });
    entries::append(&tx, "aborted", body, &[])
        .await
        .at(&source.site, doing)?;
    commit(tx, source, doing).await
}

/// The slot under whose identity nothing unfinished can go on.
fn nothing(route: &Route) -> slot::Slot {
    slot::Slot {
        name: install::stream_name(&route.service),
        identity: String::new(),
        fresh: false,
    }
}

/// A limit was reached: everything unfinished is given up, and no WAL is kept back any more.
///
/// Whom an open transaction of the application's holds, he is waited for within a bound: he lives where he lived, and
/// the next run puts his record back.
pub(crate) async fn give_up(route: &Route, offices: &Offices) -> Result<()> {
    let source = &route.source;
    // Sessions of its own: what was cut short may still hold the others.
    let mut desk = Desk::open(route, offices, "mover").await?;
    let bounded = format!("SET lock_timeout = {GIVE_UP_LOCKS_MS}");
    desk.source
        .batch_execute(&bounded)
        .await
        .map_err(|error| postgres::Error::from_server("giving up", error))
        .at(&source.site, "giving up")?;
    let nothing = nothing(route);
    // First: whatever cannot be put back yet begins anew, too, so nothing needs this slot any more.
    slot::drop(&desk.source, &nothing.name)
        .await
        .at(&source.site, "dropping the slot")?;
    match recover(route, offices, &mut desk, &nothing).await {
        Err(error) if error.sqlstate() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            tracing::warn!(site = %source.site, "an open transaction holds users who were to be put back: left to the next run");
            Ok(())
        }
        ended => ended.map(drop),
    }
}

/// Drops the slot, unless an unfinished chunk needs it.
pub(crate) async fn drop_idle_slot(source: &End, session: &Session, stream: &str) -> Result<()> {
    let doing = "dropping the slot";
    if !journal::any_open_chunk(&**session)
        .await
        .at(&source.site, doing)?
    {
        slot::drop(session, stream).await.at(&source.site, doing)?;
    }
    Ok(())
}
