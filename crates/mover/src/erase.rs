//! Erases at a former home what users left there, once the home has shown that it holds them; and at his home whoever has a
//! right to be forgotten.
//!
//! The proof is the target's decision row, which was committed together with the rows: a [`Holder`] asks for it again. Where both
//! databases are reached from one process it reads it; else the target's daemon does, and answers once it knows it to stand on the standbys
//! as well ([`holds`]). `delete.rs` deletes; [`purge`] carries on from there, until the bytes are gone.

mod delete;
mod forget;
mod holder;
pub mod purge;

use model::{ServiceName, UserKey};
use postgres::connect::Session;
use residency::erasures::Scope;
use residency::journal::BatchRow;

use crate::error::Result;
use crate::route::End;
use delete::{Deleted, delete};
pub use forget::{Forgotten, forget};
pub use holder::{Holder, Reached, holds};

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
    target: &dyn Holder,
    batch: &BatchRow,
    only: Option<&[UserKey]>,
) -> Result<Erased> {
    let mut users = batch.users.clone();
    users.retain(|(user, _)| only.is_none_or(|only| only.contains(user)));
    let held = target.holds(service, &batch.batch).await?;
    let mut erased = Erased::default();
    if !held {
        let (target, batch) = (target.site(), &batch.batch);
        let reason = format!("{target} shows no acceptance of batch {batch}");
        erased.kept = users
            .into_iter()
            .map(|(user, _)| (user, reason.clone()))
            .collect();
        return Ok(erased);
    }
    let scope = Scope::Batch {
        batch: batch.batch.clone(),
        r#move: batch.r#move.clone(),
    };
    // What both agreed on is about the whole batch.
    let agreed = batch.digest.as_ref().and_then(|digest| digest.get("rows"));
    let agreed = agreed.filter(|_| users.len() == batch.users.len());
    match delete(source, session, &scope, &users, agreed).await? {
        Deleted::Rows { users, rows } => {
            erased.users = users;
            erased.rows = rows;
        }
        Deleted::Kept(reason) if users.len() == 1 => {
            erased.kept = users
                .into_iter()
                .map(|(user, _)| (user, reason.clone()))
                .collect();
        }
        Deleted::Kept(_) => {
            for user in users {
                match delete(source, session, &scope, std::slice::from_ref(&user), None).await? {
                    Deleted::Rows { users, rows } => {
                        erased.users += users;
                        erased.rows += rows;
                    }
                    Deleted::Kept(reason) => erased.kept.push((user.0, reason)),
                }
            }
        }
    }
    Ok(erased)
}
