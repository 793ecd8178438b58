//! Waits until what was committed stands on every standby that may be promoted.

use model::SiteName;
use postgres::connect::Session;

use crate::error::{At, Result};

/// Waits until whatever is committed at `site`, by whomever, is on the standbys.
pub(crate) async fn all_durable(session: &Session, site: &SiteName) -> Result<()> {
    beat(session, site).await?;
    make_durable(session, site).await
}

/// A COMMIT whose wait for a standby was cancelled reports success with a warning: then another one is waited for,
/// whose success says that the first is on the standbys too.
pub(crate) async fn make_durable(session: &Session, site: &SiteName) -> Result<()> {
    let mut before = session.unconfirmed_commits();
    if before == 0 {
        return Ok(());
    }
    loop {
        beat(session, site).await?;
        let now = session.unconfirmed_commits();
        if now == before {
            return Ok(());
        }
        before = now;
    }
}

async fn beat(session: &Session, site: &SiteName) -> Result<()> {
    residency::journal::beat(&**session)
        .await
        .map(drop)
        .at(site, "waiting until a commit is on the standbys")
}
