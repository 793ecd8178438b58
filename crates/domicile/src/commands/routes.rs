//! From configuration to routes: the ends of moves, read and held against each other.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::{ServiceName, SiteName};
use mover::compare::{Near, Teller, compare, hear_out};
use mover::host::Host;
use mover::ports::{NoDoor, RowsOnly};
use mover::route::{Bounds, End, Route, Stop, Target};
use postgres::preflight::{self, Expectation, Level, Side};
use residency::door;

use super::apply::failure;
use super::homes::{self, Home};
use crate::config::{Config, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};

/// Transactions open for longer are only warned of by `check`; a move waits for them, bounded.
const LONG_TRANSACTION: Duration = Duration::from_secs(60);

/// The ends that this command has looked at.
#[derive(Default)]
pub struct Ends {
    homes: BTreeMap<(ServiceName, SiteName), Home>,
}

impl Ends {
    /// The route of `name` from `from` to `to`, both ends looked at: whatever blocks a move is found before a
    /// byte moves.
    pub async fn route(
        &mut self,
        config: &Config,
        name: &ServiceName,
        (from, to): (&SiteName, &SiteName),
        phase: Option<&str>,
    ) -> Outcome<Arc<Route>> {
        config.movable(name)?;
        let service = config.service(name)?;
        for site in [from, to] {
            let key = (name.clone(), site.clone());
            if let Entry::Vacant(vacant) = self.homes.entry(key) {
                vacant.insert(Home::open(name, service, site, "move").await?);
            }
        }
        let home = |site| self.home(name, site);
        home(to).refuse_same(name, service, home(from))?;
        // First what tells the table and the column; an installation that is out of date may follow from it.
        refuse_differences(name, service, home(from), home(to))?;
        for site in [from, to] {
            refuse_blockers(name, service, home(site)).await?;
        }
        for site in [from, to] {
            compared(name, service, home(site)).await?;
        }
        self.between(name, service, (from, to), phase)
    }

    /// The route of a move that is only to be put back: what would block a move does not block that.
    pub async fn route_back(
        &mut self,
        config: &Config,
        name: &ServiceName,
        (from, to): (&SiteName, &SiteName),
    ) -> Outcome<Arc<Route>> {
        let service = config.service(name)?;
        for site in [from, to] {
            let home = Home::open_installed(name, service, site, "move").await?;
            compared(name, service, &home).await?;
            self.homes.insert((name.clone(), site.clone()), home);
        }
        self.between(name, service, (from, to), None)
    }

    fn home(&self, name: &ServiceName, site: &SiteName) -> &Home {
        &self.homes[&(name.clone(), site.clone())]
    }

    /// The route between two homes that were opened.
    fn between(
        &self,
        name: &ServiceName,
        service: &Service,
        (from, to): (&SiteName, &SiteName),
        phase: Option<&str>,
    ) -> Outcome<Arc<Route>> {
        Ok(Arc::new(Route {
            service: name.clone(),
            source: end(service, self.home(name, from))?,
            target: Target {
                site: to.clone(),
                far: Arc::new(Host {
                    service: name.clone(),
                    end: end(service, self.home(name, to))?,
                    manifests: Arc::new(RowsOnly),
                }),
            },
            phase: phase.map(str::to_owned),
            bounds: bounds(service),
            door: Arc::new(NoDoor),
            manifests: Arc::new(RowsOnly),
            stop: Stop::never(),
        }))
    }
}

/// Makes sure that every site was compared with its peers since its server started, before anybody is counted there.
pub async fn compare_all(config: &Config) -> Outcome<()> {
    for (name, service) in &config.services {
        for site in homes::sites(service) {
            let home = Home::open(name, service, site, "compare").await?;
            // Without it nobody has moved, or it must be installed again first, which is said where that is looked at.
            let stands = door::stands(&*home.session)
                .await
                .or_fail(Exit::Unreached, || {
                    format!("{name}: cannot look at the database at {site}")
                })?;
            if stands && home.schema.is_ok() && !home.standby {
                compared(name, service, &home).await?;
            }
        }
    }
    Ok(())
}

/// Makes sure that `home` was compared with its peers since its server started: with the databases of all its sites.
pub async fn compared(name: &ServiceName, service: &Service, home: &Home) -> Outcome<()> {
    let cannot = || {
        format!(
            "{name}: cannot compare the records of {} with its peers'",
            home.site
        )
    };
    let open = door::is_open(&*home.session)
        .await
        .or_fail(Exit::Unreached, cannot)?;
    if open {
        return Ok(());
    }
    let mut peers: Vec<Arc<dyn Teller>> = Vec::new();
    for site in homes::sites(service)
        .into_iter()
        .filter(|site| **site != home.site)
    {
        let peer = Home::open_installed(name, service, site, "compare").await;
        let peer = peer.map_err(|failure| {
            failure.mend(format!(
                "the server of {} was restarted: before anything moves it is compared with all sites of the service; \
                 bring {site} back, or run `domicile guard open --site {}` if it is gone for good",
                home.site, home.site
            ))
        })?;
        peers.push(Arc::new(Near::new(site.clone(), peer.session)));
    }
    let heard = compare(&end(service, home)?, &peers).await;
    let heard = heard.map_err(|error| failure(error, cannot()))?;
    if let Some(heard) = heard.filter(|heard| heard.lost + heard.overtaken > 0) {
        let (site, lost, overtaken) = (&home.site, heard.lost, heard.overtaken);
        tracing::warn!(%site, lost, overtaken, "this database went back in time");
        eprintln!(
            "{name}: the database of {site} went back in time: {overtaken} users whom it took for its own live elsewhere, \
             {lost} are lost here and closed until somebody resolves them (`domicile resolve`)"
        );
    }
    Ok(())
}

/// The other sites of a service: whoever may have its users. Their databases need not be in the file of `site`.
pub fn peers(config: &Config, name: &ServiceName, site: &SiteName) -> Outcome<BTreeSet<SiteName>> {
    let service = config.service(name)?;
    let phases = config.policy.phases.iter();
    let phases = phases.filter(|phase| phase.services.contains(name));
    let of_phases = phases.flat_map(|phase| phase.home.values().chain(&phase.others));
    let mut sites: BTreeSet<SiteName> = of_phases
        .chain(config.policy.pinned.values())
        .chain(service.databases.keys())
        .chain([&service.origin])
        .cloned()
        .collect();
    sites.remove(site);
    Ok(sites)
}

/// Lets the site `at` hear what `from` tells.
pub async fn heard(
    name: &ServiceName,
    service: &Service,
    at: &SiteName,
    from: &SiteName,
) -> Outcome<()> {
    let mut home = Home::open_installed(name, service, at, "compare").await?;
    let peer = Home::open_installed(name, service, from, "compare").await?;
    let here = end(service, &home)?;
    let near = Near::new(from.clone(), peer.session);
    let heard = hear_out(&here, &mut home.session, &near).await;
    heard
        .map(drop)
        .map_err(|error| failure(error, format!("{name}: {at} cannot hear {from}")))
}

/// The end of a move that `home` is.
pub fn end(service: &Service, home: &Home) -> Outcome<End> {
    Ok(End {
        site: home.site.clone(),
        url: service.databases[&home.site].url()?.expose().to_owned(),
        schema: Arc::new(home.schema()?.clone()),
    })
}

/// The bounds of a service's moves.
pub fn bounds(service: &Service) -> Bounds {
    Bounds {
        batch_users: usize::try_from(service.batch.users).unwrap_or(usize::MAX),
        batch_rows: service.batch.rows,
        pause_max: service.limits.max_pause,
        wal_max: Some(service.limits.wal),
        rate: service.limits.rate,
        row_max: service.limits.row,
        ..Bounds::default()
    }
}

async fn refuse_blockers(name: &ServiceName, service: &Service, home: &Home) -> Outcome<()> {
    refuse(name, inspected(name, service, home).await?)
}

/// What a look at `home` finds.
pub async fn inspected(
    name: &ServiceName,
    service: &Service,
    home: &Home,
) -> Outcome<Vec<preflight::Finding>> {
    let expect = Expectation {
        service: name,
        origin: &service.origin,
        schema: home.schema()?,
        catalog: &home.catalog,
        ids: homes::ids(service),
        long_transaction: LONG_TRANSACTION,
    };
    preflight::inspect(&home.session, &home.site, &expect)
        .await
        .or_fail(Exit::Unreached, || {
            format!("{name}: cannot look at the database at {}", home.site)
        })
}

fn refuse_differences(name: &ServiceName, service: &Service, a: &Home, b: &Home) -> Outcome<()> {
    fn side(home: &Home) -> Outcome<Side<'_>> {
        Ok(Side {
            site: &home.site,
            schema: home.schema()?,
            catalog: &home.catalog,
        })
    }
    refuse(name, differences(service, side(a)?, side(b)?))
}

/// What differs at `b` from `a`.
pub fn differences(service: &Service, a: Side<'_>, b: Side<'_>) -> Vec<preflight::Finding> {
    let mut found = preflight::compare(&a, &b);
    found.extend(preflight::compare_ids(&[a, b], homes::ids(service)));
    found
}

/// A failure that names the first blocker of what was found.
pub fn refuse(name: &ServiceName, found: Vec<preflight::Finding>) -> Outcome<()> {
    let blockers: Vec<_> = found
        .into_iter()
        .filter(|f| f.level == Level::Blocker)
        .collect();
    let Some(first) = blockers.first() else {
        return Ok(());
    };
    let more = match blockers.len() {
        1 => String::new(),
        n => format!(" (and {} more: run `domicile check`)", n - 1),
    };
    Err(Failure::new(
        Exit::Unfinished,
        anyhow::anyhow!("{name}: at {}: {}{more}", first.site, first.what),
    )
    .mend(first.mend.clone()))
}
