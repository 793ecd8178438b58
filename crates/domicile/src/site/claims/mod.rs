//! Names that are unique at all sites, in the gateway's process: takes what this site's applications ask, keeps the registry where this is its
//! site, says what this home's rows hold, and sees that the two agree.

mod front;
mod hash;
mod home;
mod http;
mod judge;
mod measured;
mod registry;
mod settle;
mod tell;
mod ways;
mod word;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::gateway::site::Peers;
use model::table::TableName;
use model::{ServiceName, SiteName};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail as _, Outcome};
use hash::Hasher;
use home::Home;
pub use measured::Measured;
use measured::Tally;
pub use ways::Desk;
use ways::Ways;
use word::{Ask, Said, What};

/// Any error of the work on claims: it is logged, and whoever asked is told to come again.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// The claims of all services that have any, at this site.
pub struct Claims {
    here: SiteName,
    services: BTreeMap<ServiceName, Service>,
    ways: Ways,
    tally: Tally,
}

/// A service with claims.
struct Service {
    name: ServiceName,
    /// The registry's site.
    at: SiteName,
    lease: Duration,
    kinds: Kinds,
    hasher: Hasher,
    /// The sites with gateways: those that tell their names, and are asked.
    sites: Vec<SiteName>,
    /// Its home database at this site.
    home: Option<Home>,
}

/// Where names stand: the user table, the column of its key, and those of the names by their kinds.
#[derive(Clone, Debug)]
struct Kinds {
    table: TableName,
    key: String,
    columns: BTreeMap<String, String>,
}

/// What runs for claims.
pub struct Plugged {
    claims: Arc<Claims>,
    listener: Option<std::net::TcpListener>,
}

/// The claims of `site`, where the configuration has any; listens where its applications come.
///
/// # Errors
/// What is wrong in the configuration, a key that cannot be had, or an address.
pub fn of(
    config: &Config,
    site: &SiteName,
    peers: Option<Arc<Peers>>,
    sites: &[SiteName],
) -> Outcome<Option<Plugged>> {
    let has_gateway = |name: &&SiteName| {
        let known = config.sites.get(*name);
        known.is_some_and(|known| known.gateway.is_some())
    };
    let mut services = BTreeMap::new();
    for (name, service) in &config.services {
        let Some(claims) = &service.claims else {
            continue;
        };
        let database = service.databases.get(site);
        if !has_gateway(&&claims.at) || claims.at == *site && database.is_none() {
            return Err(Failure::usage(format_args!(
                "the registry of {name}'s claims is at {}, which has no {} in the configuration",
                claims.at,
                match claims.at == *site {
                    true => "database of the service",
                    false => "gateway",
                }
            ))
            .mend(format!(
                "under [service.{name}.claims]: at = a site with a gateway and a database of the service"
            )));
        }
        let kinds = Kinds {
            table: service.user.table.clone(),
            key: service.user.key.clone(),
            columns: claims.names.clone(),
        };
        let hasher = Hasher::new(&claims.key()?);
        let home = database.map(|database| Home::new((name, site), database, &kinds, &hasher));
        services.insert(
            name.clone(),
            Service {
                name: name.clone(),
                at: claims.at.clone(),
                lease: claims.lease,
                kinds,
                hasher,
                sites: sites.iter().filter(has_gateway).cloned().collect(),
                home,
            },
        );
    }
    let own = config.sites.get(site).and_then(|own| own.gateway.as_ref());
    let place = own.and_then(|own| own.claims.as_deref());
    if services.is_empty() {
        return match place {
            None => Ok(None),
            Some(_) => Err(Failure::usage(format_args!(
                "the gateway of {site} takes claims, and no service has any"
            ))
            .mend("[service.NAME.claims] says which names are unique: see docs/claims.md")),
        };
    }
    let listener = place.map(|place| {
        let listener = super::gateway::bind(place);
        listener
            .or_fail(Exit::Usage, || format!("claims cannot be taken at {place}"))
            .map_err(|failure| {
                failure.mend(
                    "name an address of this machine that is free: gateway.claims of the site",
                )
            })
    });
    let claims = Claims {
        here: site.clone(),
        services,
        ways: Ways::new(peers, sites),
        tally: Tally::default(),
    };
    Ok(Some(Plugged {
        claims: Arc::new(claims),
        listener: listener.transpose()?,
    }))
}

// === impl Plugged ===

impl Plugged {
    /// Who takes what peers come with; their work is done in the runtime in which this is called.
    pub fn desk(&self) -> Desk {
        Desk {
            claims: Arc::clone(&self.claims),
            work: Handle::current(),
        }
    }

    /// For the registry of metrics.
    pub fn measured(&self) -> Measured {
        Measured(Arc::clone(&self.claims))
    }

    /// Begins all that runs by itself.
    pub fn run(self, tasks: &mut JoinSet<()>, end: &CancellationToken) {
        for name in self.claims.services.keys() {
            let (claims, name) = (Arc::clone(&self.claims), name.clone());
            tasks.spawn(async move { claims.reconcile(&name).await });
        }
        if let Some(listener) = self.listener {
            tasks.spawn(front::listen(self.claims, listener, end.clone()));
        }
    }
}

// === impl Claims ===

impl Claims {
    /// Asks the registry, which may be here.
    async fn ask_registry(&self, service: &Service, what: What) -> Said {
        if service.at != self.here {
            return self.ask_peer(&service.at, service, what).await;
        }
        let ask = service.ask(what);
        self.answer(&self.here, ask).await
    }

    /// Asks the gateways of another site.
    async fn ask_peer(&self, site: &SiteName, service: &Service, what: What) -> Said {
        let said = self.ways.ask(site, &service.ask(what)).await;
        let said = said.unwrap_or_else(|why| {
            let why = model::causes(&*why);
            tracing::warn!(service = %service.name, peer = %site, %why, "the site's gateways cannot be asked about claims");
            Said::Unreached
        });
        if let Said::OtherKey = said {
            tracing::error!(service = %service.name, peer = %site, "the two sites have different keys for claims: nothing can be claimed");
        }
        said
    }
}

// === impl Service ===

impl Service {
    fn ask(&self, what: What) -> Ask {
        Ask {
            service: self.name.clone(),
            key: word::Text(self.hasher.key()),
            what,
        }
    }
}
