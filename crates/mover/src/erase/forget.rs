//! Erases a user at his home: his right to be forgotten.
//!
//! What the application sees is what it would see had it deleted him itself: he has no rows, and still a record, settled, under
//! an epoch of its own (docs/decisions/0012).

use handoff::record::State;
use model::UserKey;
use postgres::connect::Session;
use residency::erasures::Scope;
use residency::records;

use super::delete::{Deleted, delete};
use crate::error::{At, Result};
use crate::route::End;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// His rows are deleted.
    Rows(u64),
    /// He has no rows here.
    Nothing,
    /// He does not live here, or not in peace: the state of his record. Nothing was done.
    NotSettled(&'static str),
    /// Nothing was deleted, for this reason.
    Kept(String),
}

/// Deletes all rows of `user`, who lives at `home`.
pub async fn forget(home: &End, session: &mut Session, user: &UserKey) -> Result<Forgotten> {
    let records = records::look(&**session, home.kind(), std::slice::from_ref(user))
        .await
        .at(&home.site, "looking whether a user lives here")?;
    let epoch = match records.into_iter().next().flatten() {
        None => return Ok(Forgotten::NotSettled("unknown")),
        Some(record) => match record.state {
            State::Settled { epoch } => epoch,
            other => return Ok(Forgotten::NotSettled(other.name())),
        },
    };
    let users = [(user.clone(), epoch)];
    Ok(
        match delete(home, session, &Scope::User, &users, None).await? {
            Deleted::Rows { users: 0, .. } => Forgotten::Nothing,
            Deleted::Rows { rows, .. } => Forgotten::Rows(rows),
            Deleted::Kept(reason) => Forgotten::Kept(reason),
        },
    )
}
