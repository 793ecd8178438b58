//! The rules of a site's gateway, from the configuration: whose a request is.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::gateway::identify::{Claim, MarketSource, Route, Rules, Source, Verifier};
use ipnet::IpNet;
use model::SiteName;

use crate::config::{self, ClaimFrom, Config, ConfigError, MarketFrom, UserFrom};

/// The rules of `site`'s gateway: all routes of `config`, and the fronts of this site alone. Reads the keys of those tokens that
/// routes name; another site's gateway may have others in its environment.
///
/// # Errors
/// A key that cannot be had, or is none.
pub fn rules(config: &Config, site: &SiteName) -> Result<Rules, ConfigError> {
    let routes = config.routes.iter();
    let mut tokens = Tokens {
        config,
        read: BTreeMap::new(),
    };
    let routes = routes.map(|route| tokens.route(route));
    let routes = routes.collect::<Result<Vec<_>, _>>()?;
    Ok(Rules::new(routes, fronts(config, site)))
}

/// Whose headers `site`'s gateway believes; nobody's where it has none.
fn fronts(config: &Config, site: &SiteName) -> Vec<IpNet> {
    let site = config.sites.get(site);
    let gateway = site.and_then(|site| site.gateway.as_ref());
    gateway.map_or_else(Vec::new, |gateway| gateway.fronts.clone())
}

/// The tokens of a configuration, each of which is read once.
struct Tokens<'c> {
    config: &'c Config,
    read: BTreeMap<&'c str, Arc<Verifier>>,
}

// === impl Tokens ===

impl<'c> Tokens<'c> {
    fn route(&mut self, route: &'c config::Route) -> Result<Route, ConfigError> {
        let mut user = Vec::with_capacity(route.user.len());
        for from in &route.user {
            user.push(match from {
                UserFrom::Claim(claim) => Source::Claim(self.claim(route, claim)?),
                UserFrom::Header(name) => Source::Header(name.clone()),
                UserFrom::Cookie(name) => Source::Cookie(name.clone()),
                UserFrom::Segment(number) => Source::Segment(*number),
                UserFrom::Query(name) => Source::Query(name.clone()),
            });
        }
        let market = match &route.market {
            None => None,
            Some(MarketFrom::Claim(claim)) => Some(MarketSource::Claim(self.claim(route, claim)?)),
            Some(MarketFrom::Header(name)) => Some(MarketSource::Header(name.clone())),
        };
        Ok(Route {
            service: route.service.clone(),
            host: route.host.clone(),
            path: route.path.clone(),
            user,
            market,
            nobody: route.without_user.clone(),
        })
    }

    fn claim(&mut self, route: &config::Route, from: &'c ClaimFrom) -> Result<Claim, ConfigError> {
        let name = from.token.as_str();
        let token = match (self.read.get(name), self.config.tokens.get(name)) {
            (Some(token), _) => Arc::clone(token),
            (None, Some(token)) => {
                let token = Arc::new(token.verifier()?);
                self.read.insert(name, Arc::clone(&token));
                token
            }
            (None, None) => {
                return Err(ConfigError::Wrong {
                    file: self.config.file.clone(),
                    line: route.line,
                    what: format!("there is no token {name}: configure [token.{name}]"),
                });
            }
        };
        Ok(Claim {
            token,
            name: from.claim.clone(),
            cookie: from.cookie.clone(),
        })
    }
}
