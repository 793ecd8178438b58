//! Waits until what was committed stands on every standby that may be promoted.

use postgres::connect::Session;

use crate::error::{At, Result};
use crate::route::End;

/// Waits until whatever is committed at `end`, by whomever, is on the standbys.
pub(crate) async fn all_durable(session: &Session, end: &End) -> Result<()> {
    beat(session, end).await?;
    make_durable(session, end).await
}

/// A COMMIT whose wait for a standby was cancelled reports success with a warning: then another one is waited for,
/// whose success says that the first is on the standbys too.
pub(crate) async fn make_durable(session: &Session, end: &End) -> Result<()> {
    let mut before = session.unconfirmed_commits();
    if before == 0 {
        return Ok(());
    }
    loop {
        beat(session, end).await?;
        let now = session.unconfirmed_commits();
        if now == before {
            return Ok(());
        }
        before = now;
    }
}

async fn beat(session: &Session, end: &End) -> Result<()> {
    residency::journal::beat(&**session)
        .await
        .map(drop)
        .at(&end.site, "waiting until a commit is on the standbys")
}
