//! What the configuration says of gateways that does not fit together.

use model::{ServiceName, SiteName};

use crate::config::{Config, Service};
use crate::render::check::{Finding, Level};

/// What is wrong, or is missing.
pub fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let routed = config.services.iter().filter(|(name, _)| {
        let mut routes = config.routes.iter();
        routes.any(|route| route.service == **name)
    });
    let routed: Vec<_> = routed.collect();
    for (site, own) in &config.sites {
        let here: Vec<_> = routed
            .iter()
            .filter(|(_, service)| service.databases.contains_key(site))
            .collect();
        let Some(gateway) = &own.gateway else {
            findings.extend(here.iter().map(|(name, _)| without(name, site)));
            continue;
        };
        if here.is_empty() {
            findings.push(Finding {
                level: Level::Blocker,
                site: Some(site.to_string()),
                what:
                    "the site has a gateway, and no route leads to a service with a database here"
                        .into(),
                mend: "add a [[route]], or take `gateway` out: see docs/gateway.md".into(),
            });
        }
        let lacking = here
            .iter()
            .filter(|(_, service)| !service.upstreams.contains_key(site));
        findings.extend(lacking.map(|(name, _)| Finding {
            level: Level::Blocker,
            site: Some(site.to_string()),
            what: format!("{name}: routes lead here, and there is no application"),
            mend: format!("under [service.{name}]: upstream.{site} = \"http://HOST:PORT\""),
        }));
        if gateway.peers.is_none() && here.iter().any(|(_, service)| elsewhere(service, site)) {
            findings.push(Finding {
                level: Level::Warning,
                site: Some(site.to_string()),
                what: "gateways of other sites cannot send this one the requests of its users"
                    .into(),
                mend: format!(
                    "under [site.{site}], in gateway: peers = {{ listen = \"0.0.0.0:8444\", address = \"HOST:8444\" }}"
                ),
            });
        }
    }
    findings
}

fn elsewhere(service: &Service, site: &SiteName) -> bool {
    service.databases.keys().any(|other| other != site)
}

fn without(name: &ServiceName, site: &SiteName) -> Finding {
    Finding {
        level: Level::Warning,
        site: Some(site.to_string()),
        what: format!(
            "{name}: the site has no gateway: requests of its users that come in elsewhere are answered 503"
        ),
        mend: format!("under [site.{site}]: gateway = {{ listen = \"0.0.0.0:8443\", … }}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITES: &str = "
        [service.shop]
        user = { table = \"customer\", key = \"customer_id\", market = \"country\" }
        ids = \"uuid\"
        origin = \"beijing\"
        database.beijing = \"postgres://a\"
        database.singapore = \"postgres://b\"
    ";

    fn found(rest: &str) -> Vec<(Level, String, String)> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("domicile.toml");
        std::fs::write(&file, format!("{SITES}{rest}")).unwrap();
        let config = Config::load(&file).unwrap();
        let found = findings(&config).into_iter();
        found
            .map(|finding| {
                (
                    finding.level,
                    finding.site.unwrap_or_default(),
                    finding.what,
                )
            })
            .collect()
    }

    #[test]
    fn what_does_not_fit_together_is_said() {
        assert_eq!(found("[site.beijing]\n[site.singapore]\n").len(), 0);
        let route = "[[route]]\nservice = \"shop\"\nuser = { segment = 2 }\n";
        let lone = format!(
            "upstream.singapore = \"http://s:1\"\n\
             [site.beijing]\ngateway = {{ listen = \"127.0.0.1:1\" }}\n[site.singapore]\n{route}"
        );
        let found = found(&lone);
        let levels: Vec<_> = found
            .iter()
            .map(|(level, site, _)| (*level, site.as_str()))
            .collect();
        let expected = [
            (Level::Blocker, "beijing"),
            (Level::Warning, "beijing"),
            (Level::Warning, "singapore"),
        ];
        assert_eq!(levels, expected, "{found:?}");
        let idle = "[site.beijing]\ngateway = { listen = \"127.0.0.1:1\" }\n[site.singapore]\n";
        let idle = self::found(idle);
        assert_eq!(idle.len(), 1, "{idle:?}");
        assert!(idle[0].2.contains("no route"), "{idle:?}");
    }
}
