//! `[service.NAME]`: one application whose data is homed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use model::ownership::Ownership;
use model::table::TableName;
use model::{ServiceName, SiteName};

use super::bounds::{read_batch, read_erase, read_limits};
use super::claims::{Claims, read_claims};
use super::gateway::read_upstreams;
use super::reader::{Node, Table};
use super::secret::{Database, Secret, UrlFrom, is_url};
use super::site::{Site, check_name};
use super::tables::read_tables;
use super::{Batch, ConfigError, Erase, Limits, Reader};

/// Where the users stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserColumns {
    /// The user table.
    pub table: TableName,
    /// Its column that holds the user's key.
    pub key: String,
    /// A column or an SQL expression over the user's row that gives the market.
    pub market: Option<String>,
}

/// How user keys are kept unique across sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Sequences are disjoint by site.
    Ranges,
    /// Keys are UUIDs.
    Uuid,
    /// The application hands out keys that are unique everywhere.
    Application,
}

/// The classification of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classified {
    /// Whose its rows are.
    pub ownership: Ownership,
    /// The line that says so, from 1.
    pub line: usize,
}

/// One service.
#[derive(Clone, Debug)]
pub struct Service {
    /// The site at which all users lived before the first move.
    pub origin: SiteName,
    /// Where the users stand.
    pub user: UserColumns,
    /// How keys are kept unique.
    pub ids: Ids,
    /// The home database at each site; the origin's is among them but for [`Reader::Site`].
    pub databases: BTreeMap<SiteName, Database>,
    /// Where the application is asked at each site, `host:port`, without TLS.
    pub upstreams: BTreeMap<SiteName, String>,
    /// The tables that somebody classified; the user table need not be among them.
    pub tables: BTreeMap<TableName, Classified>,
    /// What is fenced together.
    pub batch: Batch,
    /// What a move may cost.
    pub limits: Limits,
    /// When the source is erased.
    pub erase: Erase,
    /// Names that are unique at all sites.
    pub claims: Option<Claims>,
    /// Keys that name users' data which this version does not move, with their lines.
    pub left_behind: Vec<(&'static str, usize)>,
}

impl Service {
    /// The tables that still say `"?"`, with their lines, in the order of the file.
    pub fn undecided(&self) -> impl Iterator<Item = (&TableName, usize)> {
        let mut undecided: Vec<_> = self
            .tables
            .iter()
            .filter(|(_, classified)| classified.ownership == Ownership::Undecided)
            .map(|(table, classified)| (table, classified.line))
            .collect();
        undecided.sort_by_key(|(_, line)| *line);
        undecided.into_iter()
    }

    /// The classification of each table, without the lines.
    pub fn ownership(&self) -> BTreeMap<TableName, Ownership> {
        let pairs = self.tables.iter();
        pairs
            .map(|(table, classified)| (table.clone(), classified.ownership.clone()))
            .collect()
    }
}

type Sites = BTreeMap<SiteName, Site>;

pub(super) fn read(
    node: Node<'_>,
    reader: Reader,
    sites: &Sites,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<ServiceName, Service>, ConfigError> {
    let mut services = BTreeMap::new();
    for (name, node) in node.table()?.rest() {
        check_name(&name, &node)?;
        let service = read_one(&node, reader, sites, warnings)?;
        services.insert(ServiceName::from(name), service);
    }
    if services.is_empty() {
        return Err(node.error("no service is configured"));
    }
    Ok(services)
}

fn read_one(
    node: &Node<'_>,
    reader: Reader,
    sites: &Sites,
    warnings: &mut Vec<String>,
) -> Result<Service, ConfigError> {
    let mut table = node.table()?;
    let databases = read_databases(table.need("database")?, sites)?;
    let origin = table.need("origin")?;
    let origin_site = known_site(&origin, sites)?;
    if reader == Reader::Programme && !databases.contains_key(&origin_site) {
        return Err(origin.error(format_args!(
            "the service has no database at its origin {origin_site}"
        )));
    }
    let user = read_user(table.need("user")?)?;
    let ids = table
        .need("ids")?
        .read("\"ranges\", \"uuid\" or \"application\"", |text| {
            Some(match text {
                "ranges" => Ids::Ranges,
                "uuid" => Ids::Uuid,
                "application" => Ids::Application,
                _ => return None,
            })
        })?;
    let tables = read_tables(table.take("tables"), &user)?;
    let batch = read_batch(table.take("batch"))?;
    let limits = read_limits(table.take("limits"))?;
    let erase = read_erase(table.take("erase"))?;
    let claims = table.take("claims");
    let claims = claims.map(|node| read_claims(&node, &user, &origin_site, sites));
    let upstreams = read_upstreams(&mut table, sites)?;
    let left_behind = read_later(&mut table, sites, warnings)?;
    table.finish()?;
    Ok(Service {
        origin: origin_site,
        user,
        ids,
        databases,
        upstreams,
        tables,
        batch,
        limits,
        erase,
        claims: claims.transpose()?,
        left_behind,
    })
}

/// The site that a string names, which must be configured.
pub(super) fn known_site(node: &Node<'_>, sites: &Sites) -> Result<SiteName, ConfigError> {
    let site = SiteName::from(node.string()?);
    match sites.contains_key(&site) {
        true => Ok(site),
        false => Err(node.error(format_args!(
            "there is no site {site}; there are: {}",
            list(sites)
        ))),
    }
}

fn list(sites: &Sites) -> String {
    sites
        .keys()
        .map(SiteName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A table whose keys are sites.
pub(super) fn by_site<'a>(
    node: &Node<'a>,
    sites: &Sites,
) -> Result<Vec<(SiteName, Node<'a>)>, ConfigError> {
    let mut found = Vec::new();
    for (site, node) in node.table()?.rest() {
        if !sites.contains_key(&SiteName::from(site.as_str())) {
            return Err(node.error(format_args!(
                "there is no site {site}; there are: {}",
                list(sites)
            )));
        }
        found.push((SiteName::from(site), node));
    }
    Ok(found)
}

fn read_databases(
    node: Node<'_>,
    sites: &Sites,
) -> Result<BTreeMap<SiteName, Database>, ConfigError> {
    let mut databases = BTreeMap::new();
    for (site, node) in by_site(&node, sites)? {
        let from = match node.as_string() {
            Some(url) if is_url(url) => UrlFrom::Here(Secret::new(url)),
            // The text is not repeated: it may be a URL with a slip of the pen, password and all.
            Some(_) => return Err(node.error("not a postgres:// URL")),
            None if !node.is_table() => {
                return Err(node.error("expected a URL, { env = \"NAME\" } or { file = \"PATH\" }"));
            }
            None => {
                let mut table = node.table()?;
                let (env, file) = (table.string("env")?, table.string("file")?);
                table.finish()?;
                match (env, file) {
                    // Names are printed, a URL never is.
                    (Some(text), _) | (_, Some(text)) if is_url(&text) => {
                        return Err(node.error(format_args!(
                            "env and file name where the URL stands; a URL stands by itself: {site} = \"postgres://…\""
                        )));
                    }
                    (Some(name), None) if !name.is_empty() => UrlFrom::Env(name),
                    (None, Some(file)) if !file.is_empty() => UrlFrom::File(PathBuf::from(file)),
                    _ => {
                        return Err(
                            node.error("expected one of env = \"NAME\" and file = \"PATH\"")
                        );
                    }
                }
            }
        };
        let database = Database {
            from,
            path: node.path.clone(),
            file: node.file().to_owned(),
            line: node.line,
        };
        databases.insert(site, database);
    }
    Ok(databases)
}

fn read_user(node: Node<'_>) -> Result<UserColumns, ConfigError> {
    let mut table = node.table()?;
    let user = UserColumns {
        table: TableName::parse(table.need("table")?.string()?),
        key: table.need("key")?.string()?.to_owned(),
        market: table.string("market")?,
    };
    table.finish()?;
    let empty = user.table.name.is_empty() || user.key.is_empty();
    match empty || user.market.as_deref() == Some("") {
        true => Err(node.error("table, key and market cannot be empty")),
        false => Ok(user),
    }
}

/// The keys that later versions act on: checked for their form, kept as a warning.
fn read_later(
    table: &mut Table<'_>,
    sites: &Sites,
    warnings: &mut Vec<String>,
) -> Result<Vec<(&'static str, usize)>, ConfigError> {
    let mut left_behind = Vec::new();
    let carriers: [(&str, &[&str], &str); 2] = [
        ("objects", &["key"], "store"),
        ("messages", &["subject", "stream"], "server"),
    ];
    for (key, strings, places) in carriers {
        let Some(node) = table.take(key) else {
            continue;
        };
        let mut inner = node.table()?;
        for name in strings {
            inner.string(name)?;
        }
        if let Some(places) = inner.take(places) {
            for (_, place) in by_site(&places, sites)? {
                place.string()?;
            }
        }
        inner.finish()?;
        warnings.push(format!("{}: not moved by this version", node.path));
        left_behind.push((key, node.line));
    }
    Ok(left_behind)
}
