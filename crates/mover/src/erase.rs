//! Erases at a former home what users left there, once the home has shown that it holds them.
//!
//! The proof, while both databases are reached from one process, is the target's decision row: it was committed
//! together with the rows, and is asked for again here.

use handoff::decision::Decision;
use handoff::record::{Event, State};
use model::fault::{Bug, planted, point};
use model::{ServiceName, SiteName, UserKey};
use postgres::connect::Session;
use postgres::{delete, replica};
use residency::journal::BatchRow;
use residency::records::{self, Change};
use residency::{decisions, entries};
use serde_json::json;

use crate::desk::{commit, transaction};
use crate::error::{At, Result};
use crate::route::End;

/// What erasing one batch came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Users whose rows were deleted.
    pub users: u64,
    /// Rows deleted.
    pub rows: u64,
    /// Users kept, with the reason.
    pub kept: Vec<(UserKey, String)>,
}

/// Deletes, at `source`, the rows that the users of `batch` left there. `only` restricts it to some.
///
/// Users who have come back, went on, or are erased already are passed over; all this is found under lock, in the
/// transaction that deletes. One user tied to others' rows does not keep the rest: they go one by one then.
pub async fn erase_batch(
    service: &ServiceName,
    source: &End,
    session: &mut Session,
    target: (&SiteName, &Session),
    batch: &BatchRow,
    only: Option<&[UserKey]>,
) -> Result<Erased> {
    let mut users = batch.users.clone();
    users.retain(|(user, _)| only.is_none_or(|only| only.contains(user)));
    let held = decisions::standing(&**target.1, service, &batch.batch)
        .await
        .at(
            target.0,
            "asking for the proof that the target holds a batch",
        )?;
    let mut erased = Erased::default();
    if held != Some(Decision::Accepted) {
        let reason = format!("{} shows no acceptance of batch {}", target.0, batch.batch);
        erased.kept = users
            .into_iter()
            .map(|(user, _)| (user, reason.clone()))
            .collect();
        return Ok(erased);
    }
    match erase_users(source, session, batch, &users).await {
        Ok((count, rows)) => {
            erased.users = count;
            erased.rows = rows;
        }
        Err(error) if is_tied(&error) => {
            for user in users {
                match erase_users(source, session, batch, std::slice::from_ref(&user)).await {
                    Ok((count, rows)) => {
                        erased.users += count;
                        erased.rows += rows;
                    }
                    Err(error) if is_tied(&error) => erased.kept.push((user.0, chain(&error))),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(error) => return Err(error),
    }
    Ok(erased)
}

async fn erase_users(
    source: &End,
    session: &mut Session,
    batch: &BatchRow,
    users: &[(UserKey, model::Epoch)],
) -> Result<(u64, u64)> {
    let doing = "erasing users' rows";
    let tx = transaction(session, source, doing).await?;
    let keys: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
    let records = records::lock(&tx, source.kind(), &keys)
        .await
        .at(&source.site, doing)?;
    let mut gone = Vec::new();
    let mut changes = Vec::new();
    for ((user, epoch), record) in users.iter().zip(&records) {
        let departed = matches!(record.as_ref().map(|r| &r.state),
            Some(State::Departed { epoch: at, erased: false, .. }) if at == epoch);
        if departed || planted(Bug::EraseUnconditionally) {
            gone.push(user.clone());
        }
        if departed {
            changes.push(Change {
                user: user.clone(),
                event: Event::Erased { epoch: *epoch },
            });
        }
    }
    if gone.is_empty() {
        return Ok((0, 0));
    }
    records::change(&tx, source.kind(), &changes, None)
        .await
        .at(&source.site, doing)?;
    replica::assume(&tx).await.at(&source.site, doing)?;
    let rows = delete::rows(&tx, &source.schema, &gone)
        .await
        .at(&source.site, doing)?;
    let body = json!({
        "batch": batch.batch, "move": batch.r#move, "site": source.site, "rows": rows, "state": "deleted",
    });
    entries::append(&tx, "erased", body, &gone)
        .await
        .at(&source.site, doing)?;
    point("before-erase");
    commit(tx, source, doing).await?;
    point("after-erase");
    Ok((gone.len() as u64, rows))
}

fn is_tied(error: &crate::Error) -> bool {
    matches!(
        error,
        crate::Error::Postgres {
            source: postgres::Error::Tied { .. },
            ..
        }
    )
}

fn chain(error: &crate::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}
