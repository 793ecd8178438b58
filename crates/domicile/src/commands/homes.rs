//! A service's home databases, opened and read.

use std::collections::BTreeSet;

use model::table::HomeSchema;
use model::{ServiceName, SiteName};
use postgres::catalog::{self, Catalog};
use postgres::classify::{self, ClassifyError, Declared};
use postgres::connect::{Session, connect};

use crate::config::{Config, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};

/// One home database, with what its catalog says and how that reads under the configuration.
#[derive(Debug)]
pub struct Home {
    /// The site.
    pub site: SiteName,
    /// An open session.
    pub session: Session,
    /// What stands there.
    pub catalog: Catalog,
    /// The classified tables, or everything that keeps them from being classified.
    pub schema: Result<HomeSchema, Vec<ClassifyError>>,
}

impl Home {
    /// Connects to `name`'s database at `site` as `domicile <purpose>`, and reads its catalog.
    pub async fn open(
        name: &ServiceName,
        service: &Service,
        site: &SiteName,
        purpose: &str,
    ) -> Outcome<Self> {
        let database = service.databases.get(site).ok_or_else(|| {
            Failure::usage(format_args!("the service {name} has no database at {site}"))
        })?;
        let url = database.url()?;
        let session = connect(url.expose(), purpose)
            .await
            .or_fail(Exit::Unreached, || {
                format!("{name}: cannot reach its database at {site}")
            })?;
        Self::read(name, service, site, session).await
    }

    /// Like [`open`](Self::open), for a command that needs the records: Domicile must be installed there.
    pub async fn open_installed(
        name: &ServiceName,
        service: &Service,
        site: &SiteName,
        purpose: &str,
    ) -> Outcome<Self> {
        let home = Self::open(name, service, site, purpose).await?;
        let installed = residency::audit::installed(&*home.session)
            .await
            .or_fail(Exit::Unreached, || {
                format!("{name}: cannot look at the database at {site}")
            })?;
        match installed {
            true => Ok(home),
            false => Err(Failure::usage(format_args!(
                "{name}: Domicile is not installed at {site}"
            ))
            .mend("run `domicile install`")),
        }
    }

    /// Reads the catalog at the other end of `session`.
    pub async fn read(
        name: &ServiceName,
        service: &Service,
        site: &SiteName,
        session: Session,
    ) -> Outcome<Self> {
        let catalog = catalog::read(&session).await.or_fail(Exit::Unreached, || {
            format!("{name}: cannot read the catalog at {site}")
        })?;
        let schema = classify::classify(&catalog, &declared(service));
        Ok(Self {
            site: site.clone(),
            session,
            catalog,
            schema,
        })
    }

    /// The classified tables, or a failure that names what is in the way.
    pub fn schema(&self) -> Outcome<&HomeSchema> {
        self.schema.as_ref().map_err(|errors| {
            let list: Vec<_> = errors.iter().map(ToString::to_string).collect();
            Failure::usage(format_args!(
                "the tables at {} are not classified: {}",
                self.site,
                list.join("; ")
            ))
            .mend("run `domicile check`, which says what to do about each")
        })
    }
}

/// What the configuration says about a service's tables, in the words of the room below.
pub fn declared(service: &Service) -> Declared {
    let others = service
        .ownership()
        .into_iter()
        .filter(|(table, _)| *table != service.user.table);
    Declared {
        user_table: service.user.table.to_string(),
        key: service.user.key.clone(),
        market: service.user.market.clone(),
        tables: others
            .map(|(table, ownership)| (table.to_string(), ownership))
            .collect(),
    }
}

/// How ids are kept apart, in the words of the room below.
pub fn ids(service: &Service) -> postgres::preflight::Ids {
    use crate::config::Ids;
    match service.ids {
        Ids::Ranges => postgres::preflight::Ids::Ranges,
        Ids::Uuid => postgres::preflight::Ids::Uuid,
        Ids::Application => postgres::preflight::Ids::Application,
    }
}

/// The sites of a service, its origin first.
pub fn sites(service: &Service) -> Vec<&SiteName> {
    let others = service
        .databases
        .keys()
        .filter(|site| **site != service.origin);
    std::iter::once(&service.origin).chain(others).collect()
}

/// The site that a flag names, which must be configured.
pub fn known_site(config: &Config, name: &str) -> Outcome<SiteName> {
    let site = SiteName::from(name);
    if config.sites.contains_key(&site) {
        return Ok(site);
    }
    let known: BTreeSet<_> = config.sites.keys().map(SiteName::as_str).collect();
    let known: Vec<_> = known.into_iter().collect();
    Err(Failure::usage(format_args!(
        "there is no site {name}; there are: {}",
        known.join(", ")
    )))
}
