//! Finds out what an earlier run left, and brings it to where this one can go on: batches in doubt are asked about,
//! fences that were not offered are lifted, broken copies are given up, complete ones are kept.

use std::collections::HashMap;

use handoff::record::{Event, State};
use model::fault::{Bug, planted};
use model::{Attempt, MoveId, UserKey};
use postgres::lsn::Lsn;
use postgres::slot::Slot;
use postgres::snapshot::Snapshot;
use residency::inbound::Inbound;
use residency::journal::{self, Departure};
use residency::records::{self, Change};

use crate::desk::{Desk, commit, transaction};
use crate::error::{At, Result};
use crate::portion::Progress;
use crate::prepare::contradiction;
use crate::put_back;
use crate::route::{Offices, Route};
use crate::settle::{markets, settle};

/// A chunk whose copy survived.
#[derive(Debug)]
pub struct Survivor {
    /// Its move.
    pub r#move: MoveId,
    /// Its attempt.
    pub attempt: Attempt,
    /// Where its rows stand.
    pub inbound: Inbound,
    /// What its copy saw.
    pub snapshot: Snapshot,
}

impl Survivor {
    /// Where the stream takes it up: drained chunks are applied to, others are spooled first.
    pub fn progress(&self) -> Progress {
        let streaming = self.inbound.state == "streaming";
        Progress {
            snapshot: streaming.then(|| self.snapshot.clone()),
            position: Lsn(self.inbound.position),
        }
    }
}

/// Brings both ends into order. Returns the chunks that go on.
pub async fn recover(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    slot: &Slot,
) -> Result<Vec<Survivor>> {
    batches_in_doubt(route, offices, desk).await?;
    lift_fences(route, offices, desk).await?;
    let survivors = chunks(route, offices, desk, slot).await?;
    orphans(route, desk, &survivors).await?;
    Ok(survivors)
}

/// Offered, and no answer written down: the target knows, or says no.
pub(crate) async fn batches_in_doubt(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
) -> Result<()> {
    let (source, target) = (&route.source, &route.target);
    let offered = journal::batches_in(&*desk.source, "offered", &target.site)
        .await
        .at(&source.site, "looking for batches in doubt")?;
    if planted(Bug::AbortFromOffered) {
        return reopen(route, offices, desk, offered).await;
    }
    for (batch, attempt, users) in offered {
        let decision = desk.target.became(&batch, &users).await?;
        let keys: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
        let markets = markets(&*desk.source, source, &keys).await;
        let id = MoveId::new(batch.as_str().rsplit_once('/').map_or("", |(id, _)| id));
        let departure = Departure {
            batch: &batch,
            r#move: &id,
            attempt,
            users: &users,
            rows: 0,
            digest: None,
            pause: None,
            markets: markets.as_ref(),
        };
        settle(route, offices, desk, &departure, &decision).await?;
    }
    Ok(())
}

/// Fenced and not offered: the source may reopen alone.
async fn lift_fences(route: &Route, offices: &Offices, desk: &mut Desk) -> Result<()> {
    let fenced = journal::batches_in(&*desk.source, "fenced", &route.target.site)
        .await
        .at(&route.source.site, "looking for fences")?;
    reopen(route, offices, desk, fenced).await
}

type Batches = Vec<(model::BatchId, Attempt, Vec<(model::UserKey, model::Epoch)>)>;

async fn reopen(route: &Route, offices: &Offices, desk: &mut Desk, batches: Batches) -> Result<()> {
    let source = &route.source;
    let doing = "lifting a fence";
    for (batch, _, users) in batches {
        let tx = transaction(&mut desk.source, source, doing).await?;
        offices.departures.hold(&tx).await.at(&source.site, doing)?;
        let changes: Vec<Change> = users
            .into_iter()
            .map(|(user, _)| Change {
                user,
                event: Event::Reopen {
                    batch: batch.clone(),
                },
            })
            .collect();
        records::change(&tx, source.kind(), &changes, None)
            .await
            .at(&source.site, doing)?;
        commit(tx, source, doing).await?;
    }
    Ok(())
}

/// Keeps chunks whose copy is complete under the slot that still is; gives the others up.
async fn chunks(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    slot: &Slot,
) -> Result<Vec<Survivor>> {
    let (source, target) = (&route.source.site, &route.target.site);
    let open = journal::open_chunks(&*desk.source, target)
        .await
        .at(source, "reading unfinished chunks")?;
    let arriving = desk.target.inbound().await?;
    let mut arriving: HashMap<Attempt, Inbound> = arriving
        .into_iter()
        .map(|inbound| (inbound.attempt, inbound))
        .collect();
    let mut survivors = Vec::new();
    for chunk in open {
        let inbound = arriving.remove(&chunk.attempt);
        let whole = inbound.filter(|inbound| {
            chunk.state != "cancelled"
                && chunk.slot == slot.identity
                && inbound.slot == slot.identity
                && matches!(inbound.state.as_str(), "copied" | "streaming")
        });
        let snapshot = whole
            .as_ref()
            .and_then(|inbound| inbound.snapshot.as_ref()?.parse().ok());
        match (whole, snapshot) {
            (Some(inbound), Some(snapshot)) => {
                journal::set_chunk(&*desk.source, chunk.attempt, "copied")
                    .await
                    .at(source, "recording a chunk's state")?;
                survivors.push(Survivor {
                    r#move: chunk.r#move,
                    attempt: chunk.attempt,
                    inbound,
                    snapshot,
                });
            }
            _ => put_back::cancel(route, offices, desk, chunk.attempt).await?,
        }
    }
    // Begun at the target, never enrolled at the source.
    for attempt in arriving.into_keys() {
        desk.target.clear_attempt(attempt).await?;
    }
    Ok(survivors)
}

/// Users who arrive here while the source does not send them, or whose clean-up was cut short.
async fn orphans(route: &Route, desk: &mut Desk, survivors: &[Survivor]) -> Result<()> {
    let (source, target) = (&route.source, &route.target.site);
    let found = desk.target.arriving().await?;
    for (attempt, users) in found {
        let records = records::look(&*desk.source, source.kind(), &users)
            .await
            .at(&source.site, "looking for orphans")?;
        let mut left = Vec::new();
        for (user, record) in users.into_iter().zip(records) {
            match record.map(|r| r.state) {
                Some(State::Moving {
                    attempt: of, to, ..
                }) if of == attempt && to == *target => {
                    if !survivors.iter().any(|survivor| survivor.attempt == attempt) {
                        return Err(contradiction(
                            route,
                            &user,
                            "moving in an attempt that nobody knows",
                        ));
                    }
                }
                Some(State::Fenced { .. } | State::Offered { .. }) => {
                    return Err(contradiction(route, &user, "still closed after recovery"));
                }
                _ => left.push(user),
            }
        }
        put_back::clear(desk, left, attempt).await?;
    }
    Ok(())
}
