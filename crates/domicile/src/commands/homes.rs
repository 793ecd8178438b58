//! A service's home databases, opened and read.

use std::collections::BTreeSet;

use model::table::HomeSchema;
use model::{ServiceName, SiteName};
use postgres::catalog::{self, Catalog};
use postgres::classify::{self, ClassifyError, Declared};
use postgres::connect::{ConnectError, Session, connect};

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
    /// Whether the server is a standby.
    pub standby: bool,
    /// The same for two homes if and only if they are one database of one running server.
    identity: (String, u32),
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
        let session = connect(url.expose(), purpose).await.map_err(|error| {
            unreached(
                error,
                format!("{name}: cannot reach its database at {site}"),
                &database.place(),
            )
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
        home.refuse_another(name, service).await?;
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
        // A copy of a cluster has the same system identifier; the same start, to the microsecond, nobody has.
        let row = session
            .query_one(
                "SELECT pg_is_in_recovery(), pg_postmaster_start_time()::text, oid \
                   FROM pg_database WHERE datname = current_database()",
                &[],
            )
            .await
            .or_fail(Exit::Unreached, || {
                format!("{name}: cannot look at the server at {site}")
            })?;
        Ok(Self {
            site: site.clone(),
            session,
            catalog,
            schema,
            standby: row.get(0),
            identity: (row.get(1), row.get(2)),
        })
    }

    /// Refuses a database that was installed as another service's or site's home: who lives there is not what the
    /// configuration would make of it.
    pub async fn refuse_another(&self, name: &ServiceName, service: &Service) -> Outcome<()> {
        let found = residency::audit::installed_as(&*self.session)
            .await
            .or_fail(Exit::Unreached, || {
                format!("{name}: cannot look at the database at {}", self.site)
            })?;
        let Some(found) = found else { return Ok(()) };
        let wanted = [name.as_str(), self.site.as_str(), service.origin.as_str()];
        if found == wanted {
            return Ok(());
        }
        let [of, at, from] = found;
        Err(Failure::usage(format_args!(
            "{name}: the database of {} ({}) is installed for service {of} at site {at}, origin {from}",
            self.site,
            self.session.place()
        ))
        .mend(format!(
            "correct {}, the site or the origin",
            service.databases[&self.site].place()
        )))
    }

    /// Refuses a home that is the same database as `other`, which is another site's.
    pub fn refuse_same(&self, name: &ServiceName, service: &Service, other: &Self) -> Outcome<()> {
        if self.identity != other.identity {
            return Ok(());
        }
        let (a, b) = (&other.site, &self.site);
        Err(Failure::usage(format_args!(
            "{name}: the databases of {a} and {b} are one and the same ({})",
            self.session.place()
        ))
        .mend(format!(
            "correct {} or {}: every site has a database of its own",
            service.databases[a].place(),
            service.databases[b].place()
        )))
    }

    /// Refuses a standby, for a command that writes.
    pub fn refuse_standby(&self, name: &ServiceName) -> Outcome<()> {
        match self.standby {
            false => Ok(()),
            true => Err(Failure::usage(format_args!(
                "{name}: the server at {} is a standby ({}): nothing can be written there",
                self.site,
                self.session.place()
            ))
            .mend("give the primary's address")),
        }
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

/// A database that was not reached: its exit code, and what to do, by the reason. `place` says where its URL stands.
pub fn unreached(error: ConnectError, doing: String, place: &str) -> Failure {
    let exit = match &error {
        ConnectError::Malformed => Exit::Usage,
        ConnectError::TooOld { .. } => Exit::Unfinished,
        _ => Exit::Unreached,
    };
    let code = error.sqlstate().map(|state| state.code().to_owned());
    let mend = match (&error, code.as_deref()) {
        (ConnectError::Malformed, _) => format!(
            "write {place} as postgres://ROLE:PASSWORD@HOST:PORT/DATABASE; in a password @ is %40, : is %3A, / is %2F"
        ),
        (ConnectError::TooOld { .. }, _) => "upgrade to PostgreSQL 14 or later".to_owned(),
        (_, Some("28P01")) => format!("correct role and password in {place}"),
        (_, Some("28000")) => format!(
            "correct the role in {place} and let it in (pg_hba.conf); `domicile install --admin SITE=URL` creates the \
             mover's role"
        ),
        (_, Some("3D000")) => format!("create the database, or correct its name in {place}"),
        (_, Some("53300")) => "end sessions that nobody needs, or raise max_connections".to_owned(),
        (_, Some("57P03")) => "wait until the server takes connections".to_owned(),
        _ => format!("start the server, or correct host, port and password in {place}"),
    };
    Failure::new(exit, anyhow::Error::from(error).context(doing)).mend(mend)
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

/// Those of them whose databases this configuration knows: all, unless sites are linked.
pub fn here(service: &Service) -> Vec<&SiteName> {
    let mut sites = sites(service);
    sites.retain(|site| service.databases.contains_key(*site));
    sites
}

/// Says on standard error which sites a command does not look at, as their databases are not known here.
///
/// # Errors
/// 2 where no database is known here at all.
pub fn say_elsewhere(config: &Config) -> Outcome<()> {
    let elsewhere: Vec<&str> = config
        .elsewhere()
        .into_iter()
        .map(SiteName::as_str)
        .collect();
    refuse_nowhere(config)?;
    if !elsewhere.is_empty() {
        eprintln!(
            "warning: not looked at: {}, as the databases there are not known here; ask there as well",
            elsewhere.join(", ")
        );
    }
    Ok(())
}

/// Refuses a command where no database is known at all.
pub fn refuse_nowhere(config: &Config) -> Outcome<()> {
    match config.elsewhere().len() == config.sites.len() {
        false => Ok(()),
        true => Err(Failure::usage("no site's database is known here").mend(
            "run it where the daemon of a site runs, with that site's configuration and environment",
        )),
    }
}

/// Refuses a command that `needs` the databases of all sites, where those of some are not known here.
pub fn refuse_elsewhere(config: &Config, needs: &str) -> Outcome<()> {
    let elsewhere: Vec<&str> = config
        .elsewhere()
        .into_iter()
        .map(SiteName::as_str)
        .collect();
    if elsewhere.is_empty() {
        return Ok(());
    }
    let elsewhere = elsewhere.join(", ");
    Err(Failure::usage(format_args!(
        "{needs}; those of {elsewhere} are not known here"
    ))
    .mend("run it where all of them are reached, with a configuration that names them all"))
}

/// The site that a flag names, which must be configured and have a database that is known here.
pub fn known_here(config: &Config, name: &str) -> Outcome<SiteName> {
    let site = known_site(config, name)?;
    match config.elsewhere().contains(&&site) {
        false => Ok(site),
        true => Err(
            Failure::usage(format_args!("the databases of {site} are not known here"))
                .mend(format!("run it at {site}")),
        ),
    }
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
