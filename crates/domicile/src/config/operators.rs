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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    /// Of RFC 8410, section 10.1.
    const KEY: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

    fn parse(operators: &str) -> Result<Config, String> {
        let text = format!(
            "[site.beijing]\n[service.shop]\norigin = \"beijing\"\nids = \"uuid\"\n\
             user = {{ table = \"customer\", key = \"id\" }}\ndatabase.beijing = \"postgres://b/shop\"\n\
             [operators]\n{operators}"
        );
        Config::parse(&text, Path::new("domicile.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn an_operator_is_a_name_and_a_public_key_of_his_own() {
        let config = parse(&format!("alice = \"{KEY}\"")).expect("it is good");
        assert_eq!(config.operators["alice"].to_string(), KEY);
        let twice = parse(&format!("alice = \"{KEY}\"\nbob = \"{KEY}\"")).expect_err("one key");
        assert!(
            twice.contains("operators.bob: it is also alice's key"),
            "{twice}"
        );
        let pasted = parse("alice = \"MC4CAQAwBQYDK2VwBCIEIGeheim\"").expect_err("no public key");
        assert!(
            pasted.contains("operators.alice") && !pasted.contains("eheim"),
            "{pasted}"
        );
    }
}
