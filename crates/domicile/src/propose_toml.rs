//! What `init` prints: a configuration as text, with comments for whoever has to decide.

use model::ownership::{Case, Ownership};

use crate::config::{Ids, Secret};

/// The name of a table as proposed, and whose its rows are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposedTable {
    /// The table, as the configuration writes it.
    pub table: String,
    /// The classification; undecided where somebody has to decide.
    pub ownership: Ownership,
    /// Why, where that is worth a comment.
    pub why: Option<String>,
}

/// What `init` found out.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The service.
    pub service: String,
    /// The user table.
    pub user_table: String,
    /// The column of the user's key.
    pub key: String,
    /// The column or expression of the market, if one was named.
    pub market: Option<String>,
    /// Why this market, or why none; a comment.
    pub market_why: String,
    /// How keys are kept unique.
    pub ids: Ids,
    /// The sites with the URLs of their home databases; the first is the origin.
    pub sites: Vec<(String, Secret)>,
    /// Every table but the user table, in the order in which they are to be read.
    pub tables: Vec<ProposedTable>,
}

/// The configuration as TOML. It reads with [`Config::parse`](crate::config::Config::parse) wherever the
/// names of service and sites are valid and each path leads to a table that belongs to users.
pub fn render(proposal: &Proposal) -> String {
    let mut out = Lines::default();
    out.line(
        "# Proposed by `domicile init`. Read it, answer every \"?\", then run `domicile check`.",
    );
    out.line("");
    for (site, _) in &proposal.sites {
        out.line(format!("[site.{site}]"));
        out.line("# country = \"..\"");
        out.line("");
    }
    service(proposal, &mut out);
    tables(proposal, &mut out);
    policy(proposal, &mut out);
    out.0
}

fn service(proposal: &Proposal, out: &mut Lines) {
    out.line(format!("[service.{}]", proposal.service));
    if let Some((origin, _)) = proposal.sites.first() {
        out.line(format!("origin = {}", quoted(origin)));
    }
    let market = match &proposal.market {
        Some(market) => format!(", market = {}", quoted(market)),
        None => String::new(),
    };
    let (table, key) = (quoted(&proposal.user_table), quoted(&proposal.key));
    out.line(format!("user = {{ table = {table}, key = {key}{market} }}"));
    for why in proposal.market_why.lines() {
        out.line(format!("# market: {why}"));
    }
    let (ids, why) = match proposal.ids {
        Ids::Uuid => ("uuid", "keys are UUIDs, unique everywhere"),
        Ids::Ranges => (
            "ranges",
            "keys come from sequences, which are kept disjoint by site",
        ),
        Ids::Application => (
            "application",
            "you say that the application hands out keys that are unique at all sites",
        ),
    };
    out.line(format!("ids = \"{ids}\"    # {why}"));
    for (site, url) in &proposal.sites {
        match carries_secret(url.expose()) {
            false => out.line(format!("database.{site} = {}", quoted(url.expose()))),
            true => {
                let name = variable(&proposal.service, site);
                out.line(format!(
                    "database.{site} = {{ env = \"{name}\" }}    # set {name} to the URL, which has a password in it"
                ));
            }
        }
    }
    out.line("");
}

fn tables(proposal: &Proposal, out: &mut Lines) {
    out.line("# Whose the rows of each table are: \"column\" (it holds the user's key), \"column -> table\" (owned by the");
    out.line("# row that it points at), \"<- table.column\" (owned by the row that points at it), a list of the first two (the");
    out.line("# first that is not null decides), { when = \"kind = 'order'\", owner = … } or a list of these, \"reference\" (the");
    out.line("# same at all sites, not moved), \"ignore\" (neither moved nor guarded). \"?\" stops `apply`.");
    out.line(format!("[service.{}.tables]", proposal.service));
    for proposed in &proposal.tables {
        for why in proposed.why.iter().flat_map(|why| why.lines()) {
            out.line(format!("# {why}"));
        }
        out.line(format!(
            "{} = {}",
            key(&proposed.table),
            written(&proposed.ownership)
        ));
    }
    out.line("");
}

/// A classification as the configuration has it.
fn written(ownership: &Ownership) -> String {
    let case = |case: &Case| {
        let when: Vec<String> = case.when.iter().map(ToString::to_string).collect();
        format!(
            "{{ when = {}, owner = {} }}",
            quoted(&when.join(" AND ")),
            quoted(&case.owner.to_string())
        )
    };
    let list = |members: Vec<String>| format!("[{}]", members.join(", "));
    match ownership {
        Ownership::First(ways) => list(ways.iter().map(written).collect()),
        Ownership::Cases(cases) => list(cases.iter().map(case).collect()),
        Ownership::ReferenceCopied => "{ reference = \"copy\" }".to_owned(),
        Ownership::Column(_)
        | Ownership::Path { .. }
        | Ownership::Against { .. }
        | Ownership::Reference
        | Ownership::Ignore
        | Ownership::Undecided => quoted(&ownership.to_string()),
    }
}

fn policy(proposal: &Proposal, out: &mut Lines) {
    let site = |n: usize| {
        proposal
            .sites
            .get(n)
            .map_or("SITE", |(site, _)| site.as_str())
    };
    out.line("# Where each market belongs. Markets are written as the data has them. For example:");
    out.line("#");
    out.line("# [policy]");
    out.line(format!(
        "# pinned = {{ CN = \"{}\" }}    # may never leave, in any service and phase",
        site(0)
    ));
    out.line("#");
    out.line("# [[phase]]");
    out.line("# name = \"first\"");
    out.line(format!("# service = [\"{}\"]", proposal.service));
    out.line(format!(
        "# home = {{ IN = \"{}\" }}    # \"*\" = \"{}\": every other market",
        site(1),
        site(1)
    ));
    let basis =
        r#"{ code = "standard-contract", document = "SC-2026-17", expires = "2030-01-01" }"#;
    out.line(format!(
        "# basis = {basis}    # what permits it; no move without"
    ));
}

/// The environment variable that `init` proposes for a URL: `SHOP_BEIJING_URL`.
pub fn variable(service: &str, site: &str) -> String {
    let upper = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    format!("{service}_{site}_URL").chars().map(upper).collect()
}

/// Whether a URL has a password in it, in the place for it or among the parameters. What is not plainly
/// free of one counts as having one.
fn carries_secret(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else {
        return true;
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    // A password may itself contain `/` or `?`, so the last `@` of the whole counts.
    let user = rest.rsplit_once('@').map_or("", |(user, _)| user);
    user.contains(':') || user.len() > end || url.to_ascii_lowercase().contains("password")
}

/// A TOML basic string, on one line. JSON's escapes are TOML's too, but for DEL, which TOML wants escaped.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}

/// A TOML key, quoted where it must be.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(bare) {
        true => name.to_owned(),
        false => quoted(name),
    }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, line: impl AsRef<str>) {
        self.0.push_str(line.as_ref());
        self.0.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, UrlFrom};

    fn proposal() -> Proposal {
        let table = |table: &str, ownership: &str, why: Option<&str>| ProposedTable {
            table: table.into(),
            ownership: Ownership::parse(ownership).expect("a form"),
            why: why.map(Into::into),
        };
        Proposal {
            service: "shop".into(),
            user_table: "customer".into(),
            key: "customer_id".into(),
            market: Some("coalesce(country, '\\none')".into()),
            market_why: "as given".into(),
            ids: Ids::Application,
            sites: vec![
                (
                    "beijing".into(),
                    Secret::new("postgres://shop:geheim@bj/shop"),
                ),
                ("sao-paulo".into(), Secret::new("postgres://sp/shop")),
            ],
            tables: vec![
                table("invoice", "customer_id", None),
                table("invoice_line", "invoice_id -> invoice", None),
                table("audit.log", "ignore", Some("no foreign key leads to it")),
                table(
                    "odd \"name\"",
                    "?",
                    Some("two ways lead to the user:\nbuyer_id and seller_id"),
                ),
            ],
        }
    }

    #[test]
    fn what_is_proposed_reads_with_the_reader() {
        let text = render(&proposal());
        let config = Config::parse(&text, Path::new("domicile.toml"))
            .unwrap_or_else(|e| panic!("{e}\n{text}"));
        let shop = config.service(&"shop".into()).unwrap();
        assert_eq!(shop.origin.as_str(), "beijing");
        assert_eq!(
            shop.user.market.as_deref(),
            Some("coalesce(country, '\\none')")
        );
        assert_eq!(shop.tables.len(), 4);
        let open: Vec<_> = shop
            .undecided()
            .map(|(table, _)| table.name.as_str())
            .collect();
        assert_eq!(open, ["odd \"name\""]);
        let log = &shop.tables[&model::table::TableName::parse("audit.log")];
        assert_eq!(log.ownership, Ownership::Ignore);
        assert!(text.contains(
            "# two ways lead to the user:\n# buyer_id and seller_id\n\"odd \\\"name\\\"\" = \"?\"\n"
        ));
    }

    #[test]
    fn a_password_becomes_an_environment_variable() {
        let text = render(&proposal());
        assert!(!text.contains("geheim"));
        let config = Config::parse(&text, Path::new("domicile.toml")).unwrap();
        let databases = &config.services[&"shop".into()].databases;
        assert_eq!(
            databases[&"beijing".into()].from,
            UrlFrom::Env("SHOP_BEIJING_URL".into())
        );
        assert_eq!(
            databases[&"sao-paulo".into()].url().unwrap().expose(),
            "postgres://sp/shop"
        );
        assert_eq!(variable("shop", "sao-paulo"), "SHOP_SAO_PAULO_URL");
    }

    #[test]
    fn only_a_url_plainly_without_a_password_is_printed() {
        for url in [
            "postgres://u:p@h/d",
            "postgres://u:p/q?r@h/d",
            "postgres://h/d?user=u&password=p",
            "postgres://u/x@h/d",
            "host=h password=p",
        ] {
            assert!(carries_secret(url), "{url}");
        }
        for url in [
            "postgres://h/d",
            "postgres://u@h:5432/d",
            "postgresql:///d?host=/run",
            "postgres://h:5432",
        ] {
            assert!(!carries_secret(url), "{url}");
        }
    }

    #[test]
    fn the_commented_example_reads_once_it_is_uncommented() {
        let text = render(&proposal());
        let (before, example) = text.split_once("# [policy]\n").unwrap();
        let lines = example
            .lines()
            .map(|line| line.trim_start_matches('#').trim());
        let text = format!(
            "{before}[policy]\n{}\n",
            lines.collect::<Vec<_>>().join("\n")
        );
        let config = Config::parse(&text, Path::new("domicile.toml"))
            .unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(config.policy.phases.len(), 1);
        assert_eq!(config.policy.pinned.len(), 1);
    }
}
