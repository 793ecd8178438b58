//! Takes the rows of a chunk, in one transaction.

use model::fault::point;
use model::{Attempt, UserKey};
use postgres::connect::Session;
use postgres::copy::{Copied, Writer};
use postgres::{delete, replica};
use residency::{inbound, records};

use super::{Asks, Visit};
use crate::ask::{Answer, Ask};
use crate::desk::{commit, transaction};
use crate::error::{At, Error, Result};

/// A chunk whose rows come.
pub(super) struct Coming {
    pub(super) attempt: Attempt,
    pub(super) users: Vec<UserKey>,
    pub(super) returning: bool,
}

const DOING: &str = "copying a chunk";

/// Takes what is told until the copy is whole. After any other end nothing was copied, and the session is of no further
/// use: what is still under way to it belongs to nothing.
pub(super) async fn take(
    visit: &Visit,
    session: &mut Session,
    coming: Coming,
    asks: &mut Asks,
) -> Result<Answer> {
    let taken = rows(visit, session, &coming, asks).await;
    if !matches!(taken, Ok(Answer::Written { .. })) {
        asks.close();
    }
    taken
}

async fn rows(
    visit: &Visit,
    session: &mut Session,
    coming: &Coming,
    asks: &mut Asks,
) -> Result<Answer> {
    let to = visit.target();
    let tx = transaction(session, to, DOING).await?;
    visit.office.hold(&tx).await.at(&to.site, DOING)?;
    let held = records::hold(&tx, to.kind(), &coming.users, "arriving", coming.attempt)
        .await
        .at(&to.site, DOING)?;
    if !held {
        return Err(Error::StreamGone);
    }
    replica::assume(&tx).await.at(&to.site, DOING)?;
    if coming.returning
        && let Err(error) = delete::rows(&tx, &to.schema, &coming.users).await
    {
        return unfit(error, visit);
    }
    let mut writer = Writer::default();
    let (snapshot, bytes) = loop {
        // Dropped senders: the source has broken the copy off.
        let told = asks.recv().await.ok_or(Error::StreamGone)?;
        match told.ask {
            Ask::Copying(piece) => {
                if let Err(error) = writer.write(&tx, &to.schema, piece).await {
                    return unfit(error, visit);
                }
            }
            Ask::Copied { snapshot, bytes } => break (snapshot, bytes),
            _ => return Err(visit.disorder()),
        }
    };
    let rows = match writer.finish() {
        Ok(rows) => rows,
        Err(error) => return unfit(error, visit),
    };
    let copied = Copied { rows, bytes };
    let recorded = inbound::copied(
        &tx,
        visit.from(),
        coming.attempt,
        &snapshot.to_string(),
        copied.rows,
        copied.bytes,
    )
    .await
    .at(&to.site, DOING)?;
    if !recorded {
        return Err(Error::StreamGone);
    }
    point("before-copied");
    commit(tx, to, DOING).await?;
    point("after-copied");
    Ok(Answer::Written { rows })
}

fn unfit(error: postgres::Error, visit: &Visit) -> Result<Answer> {
    if error.is_about_rows() {
        return Ok(Answer::Unfit(postgres::apply::reason(&error)));
    }
    Err(error).at(&visit.target().site, DOING)
}
