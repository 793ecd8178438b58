//! The target's word that it holds a batch, without which nothing of it is erased at its source.

use handoff::decision::Decision;
use model::{BatchId, ServiceName, SiteName};
use postgres::connect::Session;
use residency::decisions;

use crate::durable::all_durable;
use crate::error::{At, Result};
use crate::ports::Soon;

const DOING: &str = "asking for the proof that the target holds a batch";

/// Whoever can say whether a target accepted a batch.
pub trait Holder: Send + Sync {
    /// The target.
    fn site(&self) -> &SiteName;

    /// Whether it did, by the row that it committed with the users' rows. Never by what somebody remembers.
    ///
    /// # Errors
    /// Where that cannot be said; nothing is erased then.
    fn holds<'a>(&'a self, service: &'a ServiceName, batch: &'a BatchId) -> Soon<'a, Result<bool>>;
}

/// A target whose database this process has opened.
#[derive(Clone, Copy, Debug)]
pub struct Reached<'a> {
    /// The target.
    pub site: &'a SiteName,
    /// A session there.
    pub session: &'a Session,
}

// === impl Reached ===

impl Holder for Reached<'_> {
    fn site(&self) -> &SiteName {
        self.site
    }

    fn holds<'a>(&'a self, service: &'a ServiceName, batch: &'a BatchId) -> Soon<'a, Result<bool>> {
        Box::pin(async move {
            let standing = decisions::standing(&**self.session, service, batch).await;
            Ok(standing.at(self.site, DOING)? == Some(Decision::Accepted))
        })
    }
}

/// What the target `own` answers to the site `source`: whether it accepted a batch of that site's, and holds it so that losing
/// its primary does not undo that.
///
/// # Errors
/// Where its database does not say so, or its standbys do not confirm it.
pub async fn holds(
    service: &ServiceName,
    own: Reached<'_>,
    (batch, source): (&BatchId, &SiteName),
) -> Result<bool> {
    let accepted = decisions::accepted_from(&**own.session, service, batch, source)
        .await
        .at(own.site, DOING)?;
    if accepted {
        // The commit that made it may have lost its standby's word.
        all_durable(own.session, own.site).await?;
    }
    Ok(accepted)
}
