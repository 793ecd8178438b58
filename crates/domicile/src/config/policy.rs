//! `[policy]` and `[[phase]]`: where each market belongs.

use std::collections::BTreeMap;

use model::policy::{Basis, Phase, Policy};
use model::{Market, ServiceName, SiteName};

use super::reader::Node;
use super::service::{Service, known_site};
use super::{ConfigError, Reader, Site};

type Sites = BTreeMap<SiteName, Site>;
type Services = BTreeMap<ServiceName, Service>;

pub(super) fn read(
    policy: Option<Node<'_>>,
    phases: Option<Node<'_>>,
    reader: Reader,
    sites: &Sites,
    services: &Services,
) -> Result<Policy, ConfigError> {
    let mut read = Policy::default();
    if let Some(policy) = policy {
        let mut table = policy.table()?;
        if let Some(pinned) = table.take("pinned") {
            read.pinned = read_pinned(&pinned, reader, sites, services)?;
        }
        table.finish()?;
    }
    for node in phases
        .map(|node| node.nodes())
        .transpose()?
        .into_iter()
        .flatten()
    {
        let phase = read_phase(&node, &read, reader, sites, services)?;
        read.phases.push(phase);
    }
    Ok(read)
}

fn read_pinned(
    node: &Node<'_>,
    reader: Reader,
    sites: &Sites,
    services: &Services,
) -> Result<BTreeMap<Market, SiteName>, ConfigError> {
    let mut pinned = BTreeMap::new();
    for (market, node) in node.table()?.rest() {
        if market == "*" {
            return Err(node.error("\"*\" cannot be pinned; name the markets"));
        }
        let site = known_site(&node, sites)?;
        // A pin holds for every service, so each must be able to keep it.
        for (name, service) in services {
            check_database(&node, reader, name, service, &site)?;
        }
        pinned.insert(Market::from(market), site);
    }
    Ok(pinned)
}

fn read_phase(
    node: &Node<'_>,
    before: &Policy,
    reader: Reader,
    sites: &Sites,
    services: &Services,
) -> Result<Phase, ConfigError> {
    let mut table = node.table()?;
    let name_node = table.need("name")?;
    let name = name_node.string()?;
    if name.trim().is_empty() {
        return Err(name_node.error("a phase needs a name"));
    }
    if before.phase(name).is_some() {
        return Err(name_node.error(format_args!(
            "there is another phase {name:?} before this one"
        )));
    }
    let named = read_services(&table.need("service")?, services)?;
    let mut phase = Phase {
        name: name.to_owned(),
        services: named,
        home: BTreeMap::new(),
        others: None,
        basis: table
            .take("basis")
            .map(|node| read_basis(&node))
            .transpose()?,
    };
    for (market, node) in table.need("home")?.table()?.rest() {
        let site = known_site(&node, sites)?;
        for name in &phase.services {
            check_database(&node, reader, name, &services[name], &site)?;
        }
        if market == "*" {
            phase.others = Some(site);
            continue;
        }
        let market = Market::from(market);
        if let Some(pin) = before.pinned.get(&market).filter(|pin| **pin != site) {
            return Err(node.error(format_args!(
                "the market {market} is pinned to {pin} and can have no other home; take it out here, or out of \
                 policy.pinned"
            )));
        }
        phase.home.insert(market, site);
    }
    table.finish()?;
    Ok(phase)
}

fn read_basis(node: &Node<'_>) -> Result<Basis, ConfigError> {
    let mut table = node.table()?;
    let mut filled = |key| {
        let node = table.need(key)?;
        match node.string()?.trim() {
            "" => Err(node.error("says nothing; a move needs a basis that somebody can look up")),
            text => Ok(text.to_owned()),
        }
    };
    let (code, document) = (filled("code")?, filled("document")?);
    let expires = table
        .need("expires")?
        .read("a day, as \"2027-01-31\"", day)?;
    let purpose = table.string("purpose")?;
    let mut data = Vec::new();
    if let Some(classes) = table.take("data") {
        for class in classes.nodes()? {
            data.push(class.string()?.to_owned());
        }
    }
    table.finish()?;
    Ok(Basis {
        code,
        document,
        expires,
        purpose,
        data,
    })
}

/// A day of the calendar, as `YYYY-MM-DD`.
pub(super) fn day(text: &str) -> Option<String> {
    let day: toml::value::Datetime = text.parse().ok()?;
    let alone = day.time.is_none() && day.offset.is_none();
    day.date.filter(|_| alone).map(|date| date.to_string())
}

fn read_services(node: &Node<'_>, services: &Services) -> Result<Vec<ServiceName>, ConfigError> {
    let mut named = Vec::new();
    for item in node.nodes()? {
        let name = ServiceName::from(item.string()?);
        if !services.contains_key(&name) {
            let known: Vec<_> = services.keys().map(ServiceName::as_str).collect();
            return Err(item.error(format_args!(
                "there is no service {name}; there are: {}",
                known.join(", ")
            )));
        }
        if !named.contains(&name) {
            named.push(name);
        }
    }
    match named.is_empty() {
        true => Err(node.error("a phase concerns at least one service")),
        false => Ok(named),
    }
}

fn check_database(
    node: &Node<'_>,
    reader: Reader,
    name: &ServiceName,
    service: &Service,
    site: &SiteName,
) -> Result<(), ConfigError> {
    // One site's daemon does not know where the others' databases are; whoever installs the policy does.
    match reader == Reader::Site || service.databases.contains_key(site) {
        true => Ok(()),
        false => Err(node.error(format_args!(
            "the service {name} has no database at {site}: configure service.{name}.database.{site}, or name \
             another home"
        ))),
    }
}
