//! Cleans up after users who do not arrive.

use handoff::record::{Event, State};
use model::fault::point;
use model::{Attempt, UserKey};
use postgres::connect::Session;
use postgres::{delete, replica};
use residency::inbound;
use residency::records::{self, Change};

use super::Visit;
use crate::desk::{commit, transaction};
use crate::error::{At, Result};

/// How many users are cleaned up in one transaction: bounds its length.
const TOGETHER: usize = 500;

/// Every user of the attempt who is still arriving or being cleared. May be called again after a crash anywhere in it.
pub(super) async fn attempt(visit: &Visit, session: &mut Session, attempt: Attempt) -> Result<()> {
    let (from, target) = (visit.from(), visit.target());
    let doing = "cleaning up after an attempt";
    let left = records::of_attempt(&**session, attempt, &["arriving", "clearing"], from)
        .await
        .at(&target.site, doing)?;
    inbound::set_state(&**session, from, attempt, "cancelled")
        .await
        .at(&target.site, doing)?;
    for part in left.chunks(TOGETHER) {
        users(visit, session, part, attempt).await?;
    }
    inbound::forget_spool(&**session, from, attempt)
        .await
        .at(&target.site, doing)?;
    inbound::set_state(&**session, from, attempt, "finished")
        .await
        .at(&target.site, doing)
}

/// `users`: those still arriving go through `clearing`; the record that their arrival replaced comes back in the
/// transaction that deletes the last of their rows.
pub(super) async fn users(
    visit: &Visit,
    session: &mut Session,
    users: &[UserKey],
    attempt: Attempt,
) -> Result<()> {
    let target = visit.target();
    let doing = "cleaning up after users who do not arrive";
    let tx = transaction(session, target, doing).await?;
    visit.office.hold(&tx).await.at(&target.site, doing)?;
    let records = records::lock(&tx, target.kind(), users)
        .await
        .at(&target.site, doing)?;
    let mut arriving = Vec::new();
    let mut clearing = Vec::new();
    for (user, record) in users.iter().zip(&records) {
        match record.as_ref().map(|r| &r.state) {
            Some(State::Arriving {
                from, attempt: of, ..
            }) if *of == attempt && from == visit.from() => {
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
            }) if *of == attempt && from == visit.from() => clearing.push(user.clone()),
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
