//! `domicile.toml`: one file for a programme. This room is the only reader of it.
//!
//! Every key of the format is known, also those that only later versions act on: these are checked for
//! their form and give a warning. An unknown key is an error with its name, the file and the line.

mod admin;
mod alerts;
mod bounds;
mod claims;
#[cfg(test)]
mod claims_tests;
mod error;
mod gateway;
#[cfg(test)]
mod gateway_tests;
mod key;
mod link;
mod operators;
mod policy;
mod quantity;
mod reader;
mod route;
#[cfg(test)]
mod route_tests;
mod secret;
mod service;
mod site;
mod tables;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ledger::destroyed::Operators;
use model::policy::Policy;
use model::{ServiceName, SiteName};
use toml::de::DeTable;

pub use admin::Admin;
pub use alerts::Alerts;
pub use bounds::{Batch, Erase, Hold, Limits};
pub use claims::Claims;
pub use error::ConfigError;
pub use gateway::{Gateway, GatewayPeers, Park, Tls};
pub use key::KeyFile;
pub use link::Link;
pub use quantity::{duration, rate};
use reader::{Source, Table};
pub use route::{ClaimFrom, MarketFrom, Route, UserFrom};
pub use secret::{Database, Secret, UrlFrom, scrub};
pub use service::{Classified, Ids, Service, UserColumns};
pub use site::{AfterRestart, Site};
pub use token::{KeyFrom, Token};

/// A configuration that hangs together: every name in it that points at something points at something.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file.
    pub file: PathBuf,
    /// The sites.
    pub sites: BTreeMap<SiteName, Site>,
    /// Whose word counts where a site is destroyed for good.
    pub operators: Operators,
    /// The services.
    pub services: BTreeMap<ServiceName, Service>,
    /// Where each market belongs.
    pub policy: Policy,
    /// What issuers' tokens must be, by the names that routes use.
    pub tokens: BTreeMap<String, Token>,
    /// Which requests go where, in their order.
    pub routes: Vec<Route>,
    /// When a daemon says that something stands still.
    pub alerts: Alerts,
    /// What is configured and has no effect in this version, one line each.
    pub warnings: Vec<String>,
}

/// Who reads the configuration, and so what must stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// One process that works at all sites: each service has a database at its origin.
    Programme,
    /// The daemon of one site, whose copy need not know of the databases of others.
    Site,
}

impl Config {
    /// Reads `file`, for a command. Where sites are linked it need not know of the databases of others.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::load_for(Reader::Site, file)?;
        if !config.is_linked() {
            return Self::load_for(Reader::Programme, file);
        }
        config.forget_others();
        Ok(config)
    }

    /// Whether sites are linked: then each has a daemon, which opens its own databases alone.
    pub fn is_linked(&self) -> bool {
        let mut links = self.sites.values().filter_map(|site| site.link.as_ref());
        links.any(|link| link.address.is_some())
    }

    /// The sites none of whose databases is known here, where sites are linked.
    pub fn elsewhere(&self) -> Vec<&SiteName> {
        let known = |site: &&SiteName| {
            let mut services = self.services.values();
            services.any(|service| service.databases.contains_key(*site))
        };
        let sites = self.sites.keys().filter(|_| self.is_linked());
        sites.filter(|site| !known(site)).collect()
    }

    /// A URL that cannot be had here is one of another site's, where this configuration has another site's key.
    fn forget_others(&mut self) {
        let sites = &self.sites;
        let own = |site: &SiteName| sites.get(site).is_some_and(|site| site.key.is_some());
        for service in self.services.values_mut() {
            service
                .databases
                .retain(|site, database| own(site) || database.url().is_ok());
        }
    }

    /// Reads `file`.
    pub fn load_for(reader: Reader, file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        Self::parse_for(reader, &text, file)
    }

    /// Reads `text`, which stands in `file`, as [`load`](Self::load) does.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        Self::parse_for(Reader::Programme, text, file)
    }

    fn parse_for(reader: Reader, text: &str, file: &Path) -> Result<Self, ConfigError> {
        let source = Source { file, text };
        let document = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            source.error(source.line(at), error.message())
        })?;
        let mut warnings = Vec::new();
        let mut top = Table::document(&source, document.get_ref());
        let sites = site::read(top.need("site")?, reader, &mut warnings)?;
        let operators = top.take("operators");
        let operators = operators.map(|node| operators::read(&node, &sites));
        let operators = operators.transpose()?.unwrap_or_default();
        let services = service::read(top.need("service")?, reader, &sites, &mut warnings)?;
        let policy = policy::read(
            top.take("policy"),
            top.take("phase"),
            reader,
            &sites,
            &services,
        )?;
        let tokens = token::read(top.take("token"))?;
        let known = route::Known {
            sites: &sites,
            services: &services,
            tokens: &tokens,
        };
        let routes = route::read(top.take("route"), &known, &mut warnings)?;
        let alerts = alerts::read(top.take("alerts"))?;
        top.finish()?;
        Ok(Self {
            file: file.to_owned(),
            sites,
            operators,
            services,
            policy,
            tokens,
            routes,
            alerts,
            warnings,
        })
    }

    /// The service called `name`.
    pub fn service(&self, name: &ServiceName) -> Result<&Service, ConfigError> {
        let known = || {
            let names: Vec<_> = self.services.keys().map(ServiceName::as_str).collect();
            names.join(", ")
        };
        self.services
            .get(name)
            .ok_or_else(|| ConfigError::NoService {
                file: self.file.clone(),
                name: name.clone(),
                known: known(),
            })
    }

    /// Refuses a service whose users cannot be moved by this version without leaving a part of their
    /// data behind, or one with a table that nobody has classified yet.
    pub fn movable(&self, name: &ServiceName) -> Result<(), ConfigError> {
        let service = self.service(name)?;
        let refuse = |line, what| ConfigError::Wrong {
            file: self.file.clone(),
            line,
            what,
        };
        if let Some((key, line)) = service.left_behind.first() {
            let what = format!(
                "service.{name}.{key}: not moved by this version, so a move would leave them behind; \
                 take the key out to move the rows alone"
            );
            return Err(refuse(*line, what));
        }
        let mut undecided = service.undecided();
        let Some((table, line)) = undecided.next() else {
            return Ok(());
        };
        let others: Vec<_> = undecided.map(|(table, _)| table.to_string()).collect();
        let others = match others.as_slice() {
            [] => String::new(),
            others => format!(" (nor are: {})", others.join(", ")),
        };
        let what = format!(
            "service.{name}.tables.{table}: not classified yet, \"?\" stands there{others}; write the column that \
             holds the user's key, \"column -> table\", \"reference\" or \"ignore\""
        );
        Err(refuse(line, what))
    }
}
