//! `[service.NAME.claims]`: names that are unique at all sites, and where they are kept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use model::SiteName;
use model::table::TableName;

use super::reader::Node;
use super::service::{UserColumns, known_site};
use super::site::{Site, check_name};
use super::token::{KeyFrom, read_key};
use super::{ConfigError, quantity};

/// The shortest key, in bytes: as long as the hash.
const KEY_MIN: usize = 32;

/// How long a claim stands that its home does not confirm, where nothing is said: the time in which somebody signs up.
const LEASE: Duration = Duration::from_secs(600);

/// The shortest lease: whoever claims has to write within it, from the other end of the world.
const LEASE_MIN: Duration = Duration::from_secs(1);

/// The longest lease: so long a name that was never written stays taken.
const LEASE_MAX: Duration = Duration::from_secs(86_400);

/// What a service's claims are.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The site whose database keeps the registry. Default: the origin.
    pub at: SiteName,
    /// How long a claim stands that its home does not confirm. Default 10 min.
    pub lease: Duration,
    /// Of each kind of name the column of the user table that holds it.
    pub names: BTreeMap<String, String>,
    key: KeyFrom,
    /// What the key is called in messages: `service.shop.claims.key`.
    path: String,
    file: PathBuf,
    line: usize,
}

pub(super) fn read_claims(
    node: &Node<'_>,
    user: &UserColumns,
    origin: &SiteName,
    sites: &BTreeMap<SiteName, Site>,
) -> Result<Claims, ConfigError> {
    let mut table = node.table()?;
    let at = table.take("at").map(|node| known_site(&node, sites));
    let key_node = table.need("key")?;
    let key = read_key(&key_node)?;
    let lease = table.take("lease").map(|node| {
        let whole = |text: &str| {
            quantity::duration(text).filter(|lease| (LEASE_MIN..=LEASE_MAX).contains(lease))
        };
        node.read("a duration from \"1s\" to \"1d\"", whole)
    });
    let names_node = table.need("names")?;
    let names = read_names(&names_node, user)?;
    table.finish()?;
    Ok(Claims {
        at: at.transpose()?.unwrap_or_else(|| origin.clone()),
        lease: lease.transpose()?.unwrap_or(LEASE),
        names,
        key,
        path: key_node.path.clone(),
        file: key_node.file().to_owned(),
        line: key_node.line,
    })
}

fn read_names(
    node: &Node<'_>,
    user: &UserColumns,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut names = BTreeMap::new();
    for (kind, node) in node.table()?.rest() {
        check_name(&kind, &node)?;
        let wanted = format!("a column of the user table, as in \"{}.email\"", user.table);
        let column = node.read(&wanted, |text| {
            let (table, column) = text.rsplit_once('.')?;
            let fits = TableName::parse(table) == user.table && !column.is_empty();
            fits.then(|| column.to_owned())
        })?;
        names.insert(kind, column);
    }
    match names.is_empty() {
        true => Err(node.error(
            "no kind of name is there; write what must be unique, as in { email = \"customer.email\" }",
        )),
        false => Ok(names),
    }
}

// === impl Claims ===

impl Claims {
    /// The key, the same at all sites. Looks at the environment or the file now.
    ///
    /// # Errors
    /// Where it cannot be had, or is shorter than 32 bytes. Nothing of it is in them.
    pub fn key(&self) -> Result<Vec<u8>, ConfigError> {
        self.key_from(|name| std::env::var(name).ok())
    }

    /// As [`key`](Self::key), with the environment given.
    pub(super) fn key_from(
        &self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<u8>, ConfigError> {
        let refuse = |what: String, source| ConfigError::Key {
            file: self.file.clone(),
            line: self.line,
            what: format!("{}: {} {what}", self.path, self.key.place()),
            source,
        };
        let key = self.key.secret(environment);
        let key = key.map_err(|(what, source)| refuse(what, source))?;
        match key.len() {
            KEY_MIN.. => Ok(key),
            bytes => Err(refuse(
                format!("holds {bytes} bytes; {KEY_MIN} are the least: `openssl rand -base64 32`"),
                None,
            )),
        }
    }
}
