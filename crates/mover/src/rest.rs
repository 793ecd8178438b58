//! The guard by need, at both ends: put on before anybody's record leaves rest, taken off where nobody needs it any more.

use std::time::Duration;

use residency::rest;

use crate::desk::Desk;
use crate::drive::ends_the_attempts;
use crate::error::{At, Error, Result};
use crate::prepare::guarded;
use crate::route::{End, Route};

/// How long letting the guard rest may take at one end: longer than looking for rows without parents may, and nothing
/// depends on it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Puts the guard on wherever it rests, at both ends, and makes sure that it stands.
///
/// # Errors
/// [`residency::Error::Held`], under [`Error::Residency`], names a table that could not be had in time; nothing has changed
/// then but guards. [`Error::Unguarded`] where somebody else took it off.
pub(crate) async fn raise(route: &Route, desk: &mut Desk) -> Result<()> {
    let patience = route.bounds.barrier_patience;
    for (end, session) in [
        (&route.source, &mut desk.source),
        (&route.target, &mut desk.target),
    ] {
        rest::raise(session, &end.schema, patience)
            .await
            .at(&end.site, "putting the guard on")?;
    }
    guarded(route, desk).await
}

/// Lets the guard rest at both ends of `route`, where it may: see [`at`].
pub(crate) async fn at_both(route: &Route) {
    at(&route.source).await;
    at(&route.target).await;
}

/// Lets the guard rest at `end`, where it may. Whether it does is looked up there under lock; where it cannot be looked up, or
/// a table cannot be had quickly, it stays, which harms nobody but by what it costs.
pub async fn at(end: &End) {
    let resting = async {
        let mut session = end.session("guard").await?;
        rest::rest(&mut session, &end.schema)
            .await
            .at(&end.site, "letting the guard rest")
    };
    match tokio::time::timeout(PATIENCE, resting).await {
        Ok(Ok(tables)) => {
            tracing::debug!(site = %end.site, tables = tables.join(", "), "the guard rests");
        }
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(site = %end.site, error, "the guard stays");
        }
        Err(_) => tracing::debug!(site = %end.site, "the guard stays: looking took too long"),
    }
}

/// Whether a run that ended so leaves the databases within reach.
pub(crate) fn reached(error: &Error) -> bool {
    let ended = matches!(
        error,
        Error::Aborted { .. } | Error::ReferenceDiffers { .. }
    );
    ended || ends_the_attempts(error)
}
