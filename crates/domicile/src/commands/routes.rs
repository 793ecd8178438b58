//! From configuration to routes: the ends of moves, read and held against each other.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::{ServiceName, SiteName};
use mover::compare::{Heard, Near, Teller, hear_peers, open_heard};
use mover::door::GatewaysDoor;
use mover::host::Host;
use mover::ports::RowsOnly;
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
        let source = end(service, self.home(name, from))?;
        Ok(Arc::new(Route {
            service: name.clone(),
            door: Arc::new(GatewaysDoor::of(source.clone())),
            source,
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
            manifests: Arc::new(RowsOnly),
            stop: Stop::never(),
        }))
    }
}

/// Makes sure that every site was compared with its peers since its server started, before anybody is counted there.
pub async fn compare_all(config: &Config) -> Outcome<()> {
    for (name, service) in &config.services {
        compare_service(name, service).await?;
    }
    Ok(())
}

/// As [`compare_all`], where `home` is not open.
pub async fn compared(name: &ServiceName, service: &Service, home: &Home) -> Outcome<()> {
    let open = door::is_open(&*home.session)
        .await
        .or_fail(Exit::Unreached, || cannot_compare(name, &home.site))?;
    match open {
        true => Ok(()),
        false => compare_service(name, service).await,
    }
}

/// Lets every site of a service hear its peers, and opens those that are not.
pub async fn compare_service(name: &ServiceName, service: &Service) -> Outcome<()> {
    let mut homes = Vec::new();
    for site in homes::sites(service) {
        let home = Home::open(name, service, site, "compare").await?;
        let stands = door::stands(&*home.session)
            .await
            .or_fail(Exit::Unreached, || cannot_compare(name, site))?;
        // Without it nobody has moved, or it must be installed again first, which is said where that is looked at.
        if stands && home.schema.is_ok() && !home.standby {
            homes.push(home);
        }
    }
    let mut sites = Vec::new();
    for home in &homes {
        let mut peers: Vec<Arc<dyn Teller>> = Vec::new();
        for peer in homes.iter().filter(|peer| peer.site != home.site) {
            let session = end(service, peer)?.session("compare").await;
            let session =
                session.map_err(|error| failure(error, cannot_compare(name, &home.site)))?;
            peers.push(Arc::new(Near::new(peer.site.clone(), session)));
        }
        sites.push((end(service, home)?, peers, Heard::default()));
    }
    // All of them first: one that went back may have had somebody on his way to another.
    for (here, peers, heard) in &mut sites {
        let told = hear_peers(here, peers).await;
        heard.add(told.map_err(|error| failure(error, cannot_compare(name, &here.site)))?);
    }
    for (here, peers, heard) in &mut sites {
        let told = open_heard(here, peers).await;
        heard.add(told.map_err(|error| failure(error, cannot_compare(name, &here.site)))?);
        if heard.lost + heard.overtaken > 0 {
            eprintln!(
                "{name}: the database of {} went back in time: {} users whom it took for its own live elsewhere, {} are lost \
                 there and closed until somebody resolves them (`domicile resolve`)",
                here.site, heard.overtaken, heard.lost
            );
        }
    }
    Ok(())
}

fn cannot_compare(name: &ServiceName, site: &SiteName) -> String {
    format!("{name}: cannot compare the records of {site} with its peers'")
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
