//! `[site.NAME]`: a place with its own stores.

use std::collections::BTreeMap;

use model::SiteName;

use super::admin::Admin;
use super::gateway::{Gateway, read_gateway};
use super::key::KeyFile;
use super::link::{Link, read_link};
use super::reader::Node;
use super::{ConfigError, Reader};

/// Whether a database opens for writes by itself after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterRestart {
    /// At once.
    #[default]
    Open,
    /// Only when it has been compared with its peers.
    Closed,
}

/// One site.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// The country that it stands in.
    pub country: Option<String>,
    /// Who runs the machines.
    pub provider: Option<String>,
    /// What its databases do after a restart. Default: open.
    pub after_restart: AfterRestart,
    /// How it is linked to the others.
    pub link: Option<Link>,
    /// Where its own key stands.
    pub key: Option<KeyFile>,
    /// Where its daemon is asked and told.
    pub admin: Admin,
    /// Where requests come in.
    pub gateway: Option<Gateway>,
}

pub(super) fn read(
    node: Node<'_>,
    reader: Reader,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<SiteName, Site>, ConfigError> {
    let mut sites = BTreeMap::new();
    for (name, node) in node.table()?.rest() {
        check_name(&name, &node)?;
        let mut table = node.table()?;
        let mut site = Site {
            country: table.string("country")?,
            provider: table.string("provider")?,
            ..Site::default()
        };
        if let Some(key) = table.take("key") {
            site.key = Some(KeyFile::read(&key)?);
        }
        if let Some(link) = table.take("link") {
            let read = read_link(&link)?;
            let placed = read.listen.is_some() || read.address.is_some();
            if placed && reader == Reader::Programme {
                warnings.push(format!(
                    "{}: but for its pins, for `domicile serve` alone; this command works in one process",
                    link.path
                ));
            }
            site.link = Some(read);
        }
        if let Some(admin) = table.take("admin") {
            site.admin = Admin::read(&admin)?;
        }
        if let Some(gateway) = table.take("gateway") {
            site.gateway = Some(read_gateway(&gateway)?);
        }
        if let Some(after) = table.take("after_restart") {
            site.after_restart = after.read("\"open\" or \"closed\"", |text| match text {
                "open" => Some(AfterRestart::Open),
                "closed" => Some(AfterRestart::Closed),
                _ => None,
            })?;
        }
        table.finish()?;
        refuse_shared_pins(&node, &site, &sites)?;
        sites.insert(SiteName::from(name), site);
    }
    if sites.is_empty() {
        return Err(node.error("no site is configured"));
    }
    Ok(sites)
}

/// A key that is known as two sites' could speak for either.
fn refuse_shared_pins(
    node: &Node<'_>,
    site: &Site,
    others: &BTreeMap<SiteName, Site>,
) -> Result<(), ConfigError> {
    let pins = |site: &'_ Site| site.link.as_ref().and_then(|link| link.pins.clone());
    let Some(own) = pins(site) else {
        return Ok(());
    };
    for (name, other) in others {
        let theirs = pins(other);
        if let Some(pin) = own
            .iter()
            .find(|pin| theirs.as_ref().is_some_and(|pins| pins.contain(pin)))
        {
            return Err(node.error(format_args!(
                "the pin {pin} is also {name}'s: each site needs a key of its own"
            )));
        }
    }
    Ok(())
}

/// Names of sites and services become parts of slot names, file names and environment variables.
pub(super) fn check_name(name: &str, node: &Node<'_>) -> Result<(), ConfigError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(plain)
        && name.len() <= 40;
    match good {
        true => Ok(()),
        false => Err(node.error(
            "a name is 1 to 40 lower-case letters, digits, `-` or `_`, and begins with a letter",
        )),
    }
}
