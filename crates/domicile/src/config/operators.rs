//! `[operators]`: the people whose word counts where a site is destroyed for good, each with a public key.

use std::collections::BTreeMap;

use ledger::destroyed::Operators;
use ledger::key::PublicKey;
use model::SiteName;

use super::ConfigError;
use super::reader::Node;
use super::site::{Site, check_name};

/// Each key is one person's: neither another operator's nor a site's.
pub(super) fn read(
    node: &Node<'_>,
    sites: &BTreeMap<SiteName, Site>,
) -> Result<Operators, ConfigError> {
    let mut operators = Operators::new();
    for (name, node) in node.table()?.rest() {
        check_name(&name, &node)?;
        // The text is not repeated: somebody may have put the key itself there.
        let key: PublicKey = node.string()?.parse().map_err(|why| node.error(why))?;
        if let Some((other, _)) = operators.iter().find(|(_, other)| **other == key) {
            return Err(node.error(format_args!(
                "it is also {other}'s key: each operator needs a key of his own"
            )));
        }
        let pinned = |site: &Site| {
            let pins = site.link.as_ref().and_then(|link| link.pins.as_ref());
            pins.is_some_and(|pins| pins.contain(&key.pin()))
        };
        if let Some((site, _)) = sites.iter().find(|(_, site)| pinned(site)) {
            return Err(node.error(format_args!(
                "it is the key of the site {site}: an operator's is kept apart from every machine's"
            )));
        }
        operators.insert(name, key);
    }
    Ok(operators)
}
