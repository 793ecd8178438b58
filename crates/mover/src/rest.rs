//! The guard by need, at both ends: put on before anybody's record leaves rest, taken off where nobody needs it any more.

use std::time::Duration;

use postgres::connect::Session;
use residency::{rest, watch};

use crate::desk::Desk;
use crate::drive::ends_the_attempts;
use crate::error::{At, Error, Result};
use crate::route::{End, Route};

/// How often an enrolment or a beginning is begun anew.
const FOOTINGS: u32 = 20;

/// How long letting the guard rest may take at one end: longer than looking for rows without parents may, and nothing
/// depends on it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Puts the guard on wherever it rests, at both ends, and makes sure that it stands.
///
/// # Errors
/// [`residency::Error::Held`], under [`Error::Residency`], names a table that could not be had in time; nothing has changed
/// then but guards. [`Error::Unguarded`] where somebody else took it off.
pub(crate) async fn raise(route: &Route, desk: &mut Desk) -> Result<()> {
    raise_at(
        &route.source,
        &mut desk.source,
        route.bounds.barrier_patience,
    )
    .await?;
    desk.target.raise().await
}

/// As [`raise`], at one end.
pub(crate) async fn raise_at(end: &End, session: &mut Session, patience: Duration) -> Result<()> {
    rest::raise(session, &end.schema, patience)
        .await
        .at(&end.site, "putting the guard on")?;
    guarded(end, session).await
}

/// Makes sure that the guard stands on every table of `end`: whoever took it off closes moves.
pub(crate) async fn guarded(end: &End, session: &Session) -> Result<()> {
    let tables = watch::unguarded(&**session, &end.schema)
        .await
        .at(&end.site, "looking whether the guard stands")?;
    match tables.is_empty() {
        true => Ok(()),
        false => Err(Error::Unguarded {
            site: end.site.clone(),
            tables,
        }),
    }
}

/// Whether the guard stands at `end`, and stays until `tx` ends: [`residency::rest::stands`].
pub(crate) async fn stands(tx: &tokio_postgres::Transaction<'_>, end: &End) -> Result<bool> {
    rest::stands(tx, &end.schema)
        .await
        .at(&end.site, "looking whether the guard stands and stays")
}

/// How often something was begun anew because another move's end took the guard off in between, or somebody changed a
/// table just then.
#[derive(Default)]
pub(crate) struct Footing(u32);

impl Footing {
    /// Puts the guard on again, within a bound.
    pub(crate) async fn again(
        &mut self,
        end: &End,
        session: &mut Session,
        patience: Duration,
    ) -> Result<()> {
        self.0 += 1;
        if self.0 > FOOTINGS {
            let tables = vec!["some table, which others lock or change all the time".to_owned()];
            let site = end.site.clone();
            return Err(Error::Unguarded { site, tables });
        }
        raise_at(end, session, patience).await
    }
}

/// Lets the guard rest at both ends of `route`, where it may: see [`at`].
pub(crate) async fn at_both(route: &Route) {
    at(&route.source).await;
    route.target.far.rest().await;
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
