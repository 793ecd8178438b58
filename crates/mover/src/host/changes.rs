//! Applies the changes that the source's stream brings, or spools them while their chunk is copied; rows and position in
//! one transaction.

use std::collections::HashSet;

use futures_util::future::try_join_all;
use model::fault::{Bug, planted, point};
use model::{Attempt, UserKey};
use postgres::connect::Session;
use postgres::kept::{Keeping, Kept};
use postgres::snapshot::Snapshot;
use postgres::transaction::{Change, read_changes, write_changes};
use postgres::{apply, replica};
use residency::inbound::{self, Spooled};
use residency::records;

use super::Visit;
use crate::desk::{commit, transaction};
use crate::error::{At, Error, Result};
use crate::portion::{self, Work};

/// How many spooled transactions are drained at once: bounds memory.
const DRAIN: i64 = 1_000;

/// Rows, spool and positions of all attempts concerned, in one transaction.
pub(super) async fn write(visit: &Visit, session: &mut Session, work: Vec<Work>) -> Result<()> {
    let (source, target) = (visit.from(), &visit.target().site);
    let doing = "applying changes";
    point("before-apply");
    let kept = session.kept();
    let mut tx = transaction(session, visit.target(), doing).await?;
    let asked = Keeping::new(&tx, &kept);
    // Sent together; the server takes them in this order.
    let moved = try_join_all(work.iter().map(async |work| {
        let upto = work.upto();
        Ok::<_, residency::Error>(
            planted(Bug::PositionApart)
                || inbound::advance(&asked, source, work.attempt, work.from.0, upto.0).await?,
        )
    }));
    let (held, assumed, moved) = tokio::join!(
        biased;
        visit.office.hold(&asked),
        replica::assume(&tx),
        moved,
    );
    held.at(target, doing)?;
    assumed.at(target, doing)?;
    if moved.at(target, doing)?.contains(&false) {
        // Somebody else wrote for this attempt: our office is lost, whatever its row says.
        return Err(Error::StreamGone);
    }
    for work in &work {
        for portion in &work.portions {
            for (user, reason) in &portion.spoil {
                inbound::spoil(&tx, visit.kind(), source, work.attempt, user, reason)
                    .await
                    .at(target, doing)?;
            }
        }
        if work.copying {
            let portions = work.portions.iter().filter(|p| !p.changes.is_empty());
            let spooled: Vec<Spooled> = portions
                .map(|portion| Spooled {
                    xid: portion.xid,
                    commit_lsn: portion.commit_lsn.0,
                    changes: write_changes(&portion.changes),
                })
                .collect();
            inbound::spool(&tx, source, work.attempt, &spooled)
                .await
                .at(target, doing)?;
        } else {
            let changes: Vec<Change> = work
                .portions
                .iter()
                .flat_map(|p| p.changes.iter().cloned())
                .collect();
            apply_changes(&mut tx, &kept, visit, work.attempt, changes).await?;
        }
    }
    commit(tx, visit.target(), doing).await?;
    if planted(Bug::PositionApart) {
        point("position-apart");
        for work in &work {
            let upto = work.upto();
            inbound::advance(&**session, source, work.attempt, work.from.0, upto.0)
                .await
                .at(target, doing)?;
        }
    }
    point("after-apply");
    Ok(())
}

/// Applies what was spooled while the chunk was copied; from then on it streams.
pub(super) async fn drain(
    visit: &Visit,
    session: &mut Session,
    attempt: Attempt,
    snapshot: &Snapshot,
) -> Result<()> {
    let (source, target) = (visit.from(), &visit.target().site);
    let doing = "draining the spool";
    let kept = session.kept();
    loop {
        let mut tx = transaction(session, visit.target(), doing).await?;
        visit.office.hold(&tx).await.at(target, doing)?;
        replica::assume(&tx).await.at(target, doing)?;
        let spooled = inbound::take_spooled(&tx, source, attempt, DRAIN)
            .await
            .at(target, doing)?;
        let last = spooled.len() < DRAIN as usize;
        let mut changes = Vec::new();
        for transaction in spooled {
            if portion::came_after(snapshot, transaction.xid) {
                let read = read_changes(&transaction.changes).map_err(postgres::Error::from);
                changes.extend(read.at(target, doing)?);
            }
        }
        apply_changes(&mut tx, &kept, visit, attempt, changes).await?;
        if last {
            inbound::set_state(&tx, source, attempt, "streaming")
                .await
                .at(target, doing)?;
        }
        point("before-drained");
        commit(tx, visit.target(), doing).await?;
        point("after-drained");
        if last {
            return Ok(());
        }
    }
}

/// Applies `changes` for those of their users who are still arriving under `attempt`; users to whom one cannot be
/// applied are recorded as spoilt.
async fn apply_changes(
    tx: &mut tokio_postgres::Transaction<'_>,
    kept: &Kept,
    visit: &Visit,
    attempt: Attempt,
    changes: Vec<Change>,
) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let (source, target) = (visit.from(), visit.target());
    let doing = "applying changes";
    let mut users: Vec<UserKey> = changes
        .iter()
        .map(|c| UserKey::from(c.user.as_str()))
        .collect();
    users.sort();
    users.dedup();
    let asked = Keeping::new(&*tx, kept);
    let (held, spoilt) = tokio::join!(
        biased;
        records::hold_those(&asked, target.kind(), &users, "arriving", attempt),
        inbound::spoilt(&asked, source, attempt),
    );
    let held: HashSet<UserKey> = held.at(&target.site, doing)?.into_iter().collect();
    let mut out: HashSet<UserKey> = users
        .into_iter()
        .filter(|user| !held.contains(user))
        .collect();
    out.extend(
        spoilt
            .at(&target.site, doing)?
            .into_iter()
            .map(|(user, _)| user),
    );
    let newly = apply::apply(tx, kept, &target.schema, &changes, &out)
        .await
        .at(&target.site, doing)?;
    for spoilt in newly {
        inbound::spoil(
            tx,
            target.kind(),
            source,
            attempt,
            &spoilt.user,
            &spoilt.reason,
        )
        .await
        .at(&target.site, doing)?;
    }
    Ok(())
}
