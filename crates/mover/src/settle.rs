//! The end of a handoff at the source: what the target said of a batch is written down.

use std::collections::BTreeMap;

use handoff::decision::Decision;
use handoff::record::{Event, Resident};
use model::fault::point;
use model::{Attempt, Market, UserKey};
use postgres::kept::Keeping;
use residency::entries;
use residency::journal::{self, Departure};
use residency::kept::Asks;
use residency::office::Office;
use residency::records::{self, Change};
use serde_json::{Map, Value, json};

use crate::desk::{Desk, commit, transaction};
use crate::error::{At, Result};
use crate::put_back;
use crate::route::{End, Offices, Route};

/// Writes at the source what the target said, and cleans up, at the target, after users whom a refusal names.
pub async fn settle(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    departure: &Departure<'_>,
    decision: &Decision,
) -> Result<()> {
    write_down(route, offices, desk, departure, decision).await?;
    match decision {
        Decision::Accepted => Ok(()),
        Decision::Refused { named, .. } => clear_named(desk, named, departure.attempt).await,
    }
}

pub(crate) async fn clear_named(
    desk: &Desk,
    named: &[(UserKey, String)],
    attempt: Attempt,
) -> Result<()> {
    let named = named.iter().map(|(user, _)| user.clone());
    put_back::clear(desk, named.collect(), attempt).await
}

/// Writes at the source what the target said: all users of the batch in one transaction.
pub(crate) async fn write_down(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    departure: &Departure<'_>,
    decision: &Decision,
) -> Result<()> {
    let source = &route.source;
    let doing = "writing down the target's answer";
    let users: Vec<UserKey> = departure
        .users
        .iter()
        .map(|(user, _)| user.clone())
        .collect();
    let kept = desk.source.kept();
    let tx = transaction(&mut desk.source, source, doing).await?;
    let asked = Keeping::new(&tx, &kept);
    let records = held(&asked, source, &offices.departures, &users, doing).await?;
    let event = |user: &UserKey| match decision {
        Decision::Accepted => Event::Accepted {
            batch: departure.batch.clone(),
        },
        Decision::Refused { named, highest } => Event::Refused {
            batch: departure.batch.clone(),
            named: named.iter().any(|(name, _)| name == user),
            highest: *highest,
        },
    };
    let changes: Vec<Change> = users
        .iter()
        .map(|user| Change {
            user: user.clone(),
            event: event(user),
        })
        .collect();
    let next = records::steps(&changes, &records).at(&source.site, doing)?;
    let written = records::write(&asked, source.kind(), &users, &next, None);
    if *decision == Decision::Accepted {
        let mut body: Map<String, Value> = Map::new();
        body.insert("service".into(), json!(route.service));
        body.insert("batch".into(), json!(departure.batch));
        body.insert("from".into(), json!(source.site));
        body.insert("to".into(), json!(route.target.site));
        body.insert("rows".into(), json!(departure.rows));
        let (written, departed, entered) = tokio::join!(
            biased;
            written,
            journal::depart(&asked, source.kind(), departure),
            entries::append(&asked, "departed", Value::Object(body), &users),
        );
        written.at(&source.site, doing)?;
        departed.at(&source.site, doing)?;
        entered.at(&source.site, doing)?;
    } else {
        written.await.at(&source.site, doing)?;
    }
    point("before-departed");
    commit(tx, source, doing).await?;
    point("after-departed");
    Ok(())
}

/// Of which markets `users` of the source are, for the journal. No move fails for it.
pub(crate) async fn markets(
    session: &impl Asks,
    source: &End,
    users: &[UserKey],
) -> Option<BTreeMap<Market, u64>> {
    let found = postgres::markets::of(session, &source.schema, users).await;
    let failed = |error| tracing::warn!(why = %model::causes(&error), "the journal will not say of which markets users are");
    found.map_err(failed).ok()
}

/// The records of `users`, locked, in a transaction that holds `office`.
pub(crate) async fn held(
    tx: &impl Asks,
    end: &End,
    office: &Office,
    users: &[UserKey],
    doing: &'static str,
) -> Result<Vec<Option<Resident>>> {
    // Sent together; the server takes them in this order.
    let (office, records) = tokio::join!(
        biased;
        office.hold(tx),
        records::lock(tx, end.kind(), users),
    );
    office.at(&end.site, doing)?;
    records.at(&end.site, doing)
}
