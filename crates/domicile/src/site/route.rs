//! The way of users who leave this site: its own database, and the target's daemon.

use std::sync::Arc;

use ::daemon::View;
use model::{ServiceName, SiteName};
use mover::door::GatewaysDoor;
use mover::ports::RowsOnly;
use mover::route::{Route, Stop, Target};
use postgres::preflight::{Finding, Side};
use remote::Caller;

use super::homes::Description;
use crate::commands::apply::failure;
use crate::commands::homes::Home;
use crate::commands::routes::{bounds, differences, end, inspected, refuse};
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};

/// Both ends of a way, looked at, each by its own daemon.
pub(super) struct Looked {
    /// This end.
    pub home: Home,
    /// The other.
    pub caller: Caller,
    /// What a look at both finds. First what tells the table and the column: an installation that is out of date may follow from it.
    pub found: Vec<Finding>,
}

/// Looks at both ends of the way of `name` from `from`, this site, to `to`.
pub(super) async fn look(
    config: &Config,
    view: &View,
    name: &ServiceName,
    (from, to): (&SiteName, &SiteName),
) -> Outcome<Looked> {
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
    let mut found = differences(service, here, far);
    found.extend(inspected(name, service, &home).await?);
    found.extend(there.findings);
    Ok(Looked {
        home,
        caller,
        found,
    })
}

/// The route of `name` from `from`, this site, to `to`: whatever blocks a move is found before a byte moves.
pub(super) async fn route(
    config: &Config,
    view: &View,
    name: &ServiceName,
    (from, to): (&SiteName, &SiteName),
    phase: Option<&str>,
    stop: Stop,
) -> Outcome<Arc<Route>> {
    let service = config.service(name)?;
    let looked = look(config, view, name, (from, to)).await?;
    refuse(name, looked.found)?;
    let source = end(service, &looked.home)?;
    Ok(Arc::new(Route {
        service: name.clone(),
        door: Arc::new(GatewaysDoor::of(source.clone())),
        source,
        target: Target {
            site: to.clone(),
            far: Arc::new(looked.caller),
        },
        phase: phase.map(str::to_owned),
        bounds: bounds(service),
        manifests: Arc::new(RowsOnly),
        stop,
    }))
}
