//! The way of users who leave this site: its own database, and the target's daemon.

use std::sync::Arc;

use ::daemon::View;
use model::{ServiceName, SiteName};
use mover::ports::{NoDoor, RowsOnly};
use mover::route::{Route, Stop, Target};
use postgres::preflight::Side;
use remote::Caller;

use super::homes::Description;
use crate::commands::apply::failure;
use crate::commands::homes::Home;
use crate::commands::routes::{bounds, differences, end, inspected, refuse};
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};

/// The route of `name` from `from`, this site, to `to`. Both ends are looked at, each by its own daemon: whatever blocks a move is
/// found before a byte moves.
pub(super) async fn route(
    config: &Config,
    view: &View,
    name: &ServiceName,
    (from, to): (&SiteName, &SiteName),
    phase: Option<&str>,
    stop: Stop,
) -> Outcome<Arc<Route>> {
    config.movable(name)?;
    let service = config.service(name)?;
    let home = Home::open_installed(name, service, from, "move").await?;
    let Some(peer) = view.peer(to) else {
        return Err(Failure::new(
            Exit::Unreached,
            anyhow::anyhow!("{name}: this daemon has no link to {to}"),
        )
        .mend(format!(
            "give {to} and this site `link` with addresses and pins"
        )));
    };
    let caller = Caller::new(peer, name.clone());
    let described = caller.describe().await;
    let described =
        described.map_err(|error| failure(error, format!("{name}: looking at {to}")))?;
    let there: Description = postcard::from_bytes(&described).or_fail(Exit::Unreached, || {
        format!("{name}: {to} describes its database in a form of another version")
    })?;
    let here = Side {
        site: from,
        schema: home.schema()?,
        catalog: &home.catalog,
    };
    let far = Side {
        site: to,
        schema: &there.schema,
        catalog: &there.catalog,
    };
    // First what tells the table and the column; an installation that is out of date may follow from it.
    refuse(name, differences(service, here, far))?;
    refuse(name, inspected(name, service, &home).await?)?;
    refuse(name, there.findings)?;
    Ok(Arc::new(Route {
        service: name.clone(),
        source: end(service, &home)?,
        target: Target {
            site: to.clone(),
            far: Arc::new(caller),
        },
        phase: phase.map(str::to_owned),
        bounds: bounds(service),
        door: Arc::new(NoDoor),
        manifests: Arc::new(RowsOnly),
        stop,
    }))
}
