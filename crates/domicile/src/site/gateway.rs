//! A site's gateway, as the configuration wants it: its threads, what it follows, whom it asks.

mod facts;
mod follow;
mod front;
mod history;
mod measured;
mod peers;
pub mod rules;

use std::net::ToSocketAddrs as _;
use std::sync::Arc;
use std::time::Duration;

use ::gateway::clean::Clean;
use ::gateway::doors::{Bounds, Doors};
use ::gateway::homes::{Homes, SiteId};
use ::gateway::site::{Claims, Gateway, Lease, Limits, Service};
use ::gateway::tally::Tally;
use ::gateway::thread::{self, Callers};
use model::SiteName;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Gateway as Settings};
use crate::exit::{Exit, Failure, OrFail as _, Outcome};
use facts::Facts;
use follow::Follower;
use history::History;
pub use measured::Measured;

/// How long requests under way may take to end when the gateway does: a service manager is told that it is gone within ten seconds.
const PATIENCE: Duration = Duration::from_secs(7);

/// A gateway that runs.
pub struct Running {
    end: CancellationToken,
    claims: Option<super::claims::Measured>,
    threads: Vec<std::thread::JoinHandle<std::io::Result<()>>>,
    tasks: JoinSet<()>,
    /// Those that tell the history, once more when the token says that no request is under way.
    histories: (CancellationToken, JoinSet<()>),
    gateway: Arc<Gateway>,
}

/// Starts the gateway of `site`, which the configuration must have.
///
/// # Errors
/// What is wrong in the configuration, or an address that cannot be had.
pub fn start(config: &Config, site: &SiteName) -> Outcome<Running> {
    let settings = settings(config, site)?;
    let sites: Vec<SiteName> = config.sites.keys().cloned().collect();
    if sites.len() > SiteId::MAX {
        return Err(Failure::usage(format_args!(
            "a gateway knows at most {} sites",
            SiteId::MAX
        )));
    }
    let number = |name: &SiteName| {
        let at = sites.iter().position(|known| known == name);
        at.and_then(|at| u8::try_from(at).ok()).map(SiteId)
    };
    let here =
        number(site).ok_or_else(|| Failure::usage(format_args!("there is no site {site}")))?;
    let mut services = Vec::new();
    let mut homes = facts::Homes {
        services: Vec::new(),
    };
    let mut followed = Vec::new();
    let mut tasks = JoinSet::new();
    for (name, service) in &config.services {
        if !config.routes.iter().any(|route| route.service == *name) {
            continue;
        }
        let Some(database) = service.databases.get(site) else {
            continue;
        };
        let origin = number(&service.origin).unwrap_or(SiteId::NOWHERE);
        let upstream = service.upstreams.get(site).cloned();
        if upstream.is_none() {
            return Err(Failure::usage(format_args!(
                "routes lead to the service {name}, which has a database at {site} and no application there"
            ))
            .mend(format!("under [service.{name}]: upstream.{site} = \"http://HOST:PORT\"")));
        }
        services.push(Service {
            name: name.clone(),
            origin,
            upstream,
            homes: Homes::new(here),
            lease: Lease::default(),
        });
        let facts = Arc::new(Facts::new(
            name.clone(),
            config.policy.clone(),
            sites.clone(),
        ));
        let (ask, asked) = facts::questions();
        homes.services.push((Arc::clone(&facts), ask));
        tasks.spawn(facts::answer(database.clone(), Arc::clone(&facts), asked));
        followed.push((database.clone(), facts));
    }
    if services.is_empty() {
        return Err(Failure::usage(format_args!(
            "no route leads to a service with a database at {site}"
        ))
        .mend("[[route]] says which requests go to which service: see docs/gateway.md"));
    }
    let rules = rules::rules(config, site)?;
    let peers = peers::of(config, site, &sites)?.map(Arc::new);
    let claims = super::claims::of(config, site, peers.clone(), &sites)?;
    let front = front::Front::new(settings)?;
    let gateway = Arc::new(Gateway {
        here,
        peers,
        claims: claims
            .as_ref()
            .map(|claims| Arc::new(claims.desk()) as Arc<dyn Claims>),
        sites,
        services,
        clean: Clean::new(&rules),
        rules,
        doors: Doors::default(),
        residents: Arc::new(homes),
        front: front.shown(),
        lines: Arc::default(),
        tally: Tally::new(config.policy.markets()),
        limits: limits(settings),
    });
    let process = uuid::Uuid::new_v4();
    let mut histories = (CancellationToken::new(), JoinSet::new());
    for (number, (database, facts)) in followed.into_iter().enumerate() {
        let name = process.to_string();
        let history = History::new(Arc::clone(&gateway), number as u16, name, database.clone());
        histories.1.spawn(history.keep(histories.0.clone()));
        let follower = Follower {
            gateway: Arc::clone(&gateway),
            service: number as u16,
            name: process.to_string(),
            database,
            facts,
        };
        tasks.spawn(follower.follow());
    }
    tasks.spawn(front.renew(Arc::clone(&gateway)));
    let end = CancellationToken::new();
    let measured = claims.as_ref().map(super::claims::Plugged::measured);
    if let Some(claims) = claims {
        claims.run(&mut tasks, &end);
    }
    let threads = listen(&gateway, settings, &end)?;
    tracing::info!(%site, listen = settings.listen, "the gateway is up");
    Ok(Running {
        end,
        claims: measured,
        threads,
        tasks,
        histories,
        gateway,
    })
}

/// The gateway of `site` in the configuration.
fn settings<'a>(config: &'a Config, site: &SiteName) -> Outcome<&'a Settings> {
    let own = config.sites.get(site).and_then(|own| own.gateway.as_ref());
    own.ok_or_else(|| {
        Failure::usage(format_args!("the configuration has no gateway of {site}")).mend(format!(
            "under [site.{site}]: gateway = {{ listen = \"0.0.0.0:8443\" }}"
        ))
    })
}

fn limits(settings: &Settings) -> Limits {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Limits {
        resend: size(settings.resend),
        parking: Bounds {
            requests: size(settings.park.requests),
            bytes: size(settings.park.bytes),
            time: settings.park.time,
        },
        ..Limits::default()
    }
}

/// Listens, and begins as many threads as are wanted.
fn listen(
    gateway: &Arc<Gateway>,
    settings: &Settings,
    end: &CancellationToken,
) -> Outcome<Vec<std::thread::JoinHandle<std::io::Result<()>>>> {
    let mut places = vec![(settings.listen.as_str(), Callers::Clients)];
    if gateway.peers.is_some()
        && let Some(peers) = &settings.peers
    {
        places.push((peers.listen.as_str(), Callers::Peers));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = settings
        .threads
        .and_then(|wanted| usize::try_from(wanted).ok());
    let mut threads = Vec::new();
    for number in 0..wanted.unwrap_or(cores).max(1) {
        let mut listeners = Vec::new();
        for (place, callers) in &places {
            let listener = bind(place)
                .or_fail(Exit::Usage, || {
                    format!("the gateway cannot listen on {place}")
                })
                .map_err(|failure| {
                    failure
                        .mend("name an address of this machine that is free: gateway of the site")
                })?;
            listeners.push((listener, *callers));
        }
        let (gateway, end) = (Arc::clone(gateway), end.clone());
        let run = move || thread::run(gateway, listeners, end, PATIENCE);
        let named = std::thread::Builder::new().name(format!("gateway {number}"));
        threads.push(named.spawn(run).or_fail(Exit::Usage, || {
            "a thread of the gateway cannot begin".to_owned()
        })?);
    }
    Ok(threads)
}

pub(super) fn bind(place: &str) -> std::io::Result<std::net::TcpListener> {
    let mut failed = std::io::Error::other("the name has no address");
    for address in place.to_socket_addrs()? {
        match thread::listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

// === impl Running ===

impl Running {
    /// What keeps it from serving, asked as long as the process lives.
    pub fn lacks(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let gateway = Arc::clone(&self.gateway);
        move || {
            let mut services = gateway.services.iter();
            let idle = services.find(|service| !service.lease.stands())?;
            Some(format!(
                "{}: the gateway does not follow its home database",
                idle.name
            ))
        }
    }

    /// For the registry of metrics.
    pub fn measured(&self) -> Measured {
        Measured(Arc::clone(&self.gateway))
    }

    /// The claims that it takes, for the registry of metrics; once.
    pub fn claims(&mut self) -> Option<super::claims::Measured> {
        self.claims.take()
    }

    /// Takes no further request, and lets those under way end, within bounds.
    pub async fn end(mut self) {
        self.end.cancel();
        let threads = std::mem::take(&mut self.threads);
        let ended = tokio::task::spawn_blocking(move || {
            for thread in threads {
                match thread.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => tracing::error!(%why, "a thread of the gateway failed"),
                    Err(_) => tracing::error!("a thread of the gateway panicked"),
                }
            }
        });
        let _ = ended.await;
        let (over, mut histories) = self.histories;
        over.cancel();
        while histories.join_next().await.is_some() {}
        self.tasks.shutdown().await;
    }
}
