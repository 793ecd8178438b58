//! `[[route]]`: which requests go to a service, and whose they are.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use ::gateway::clean;
use ::gateway::identify::{Nobody, Prefix};
use model::{ServiceName, SiteName};

use super::reader::Node;
use super::service::known_site;
use super::{ConfigError, Service, Site, Token};

/// The last segment of a path that may name a user: nobody nests users deeper.
const SEGMENT_MAX: u64 = 32;

/// A route.
#[derive(Clone, Debug)]
pub struct Route {
    /// The service that it leads to.
    pub service: ServiceName,
    /// The host; `None`: any.
    pub host: Option<String>,
    /// How its paths begin. Default: `/`, which is all.
    pub path: Prefix,
    /// What names the user, in the order in which it is looked for; none: nobody has users here.
    pub user: Vec<UserFrom>,
    /// What names the market.
    pub market: Option<MarketFrom>,
    /// What becomes of a request without a user. Default: it is refused.
    pub without_user: Nobody,
    /// The line that begins it, from 1.
    pub line: usize,
}

/// What names a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserFrom {
    /// A claim of a token.
    Claim(ClaimFrom),
    /// A header field of a front.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A segment of the path, from 1.
    Segment(NonZeroUsize),
    /// A parameter of the query.
    Query(String),
}

/// What names a market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarketFrom {
    /// A claim of a token.
    Claim(ClaimFrom),
    /// A header field of a front.
    Header(String),
}

/// A claim of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimFrom {
    /// The token's name in the configuration, where it stands.
    pub token: String,
    /// The claim.
    pub claim: String,
    /// The cookie that holds the token; `None`: `Authorization: Bearer` does.
    pub cookie: Option<String>,
}

/// What a route may point at.
pub(super) struct Known<'a> {
    pub sites: &'a BTreeMap<SiteName, Site>,
    pub services: &'a BTreeMap<ServiceName, Service>,
    pub tokens: &'a BTreeMap<String, Token>,
}

pub(super) fn read(
    node: Option<Node<'_>>,
    known: &Known<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Route>, ConfigError> {
    let mut routes: Vec<Route> = Vec::new();
    let Some(node) = node else {
        return Ok(routes);
    };
    for node in node.nodes()? {
        let route = known.route(&node)?;
        let mut before = routes.iter().enumerate();
        if let Some((number, _)) = before.find(|(_, before)| before.hides(&route)) {
            return Err(node.error(format_args!(
                "never taken: route[{number}] before it takes all its requests; put this one first"
            )));
        }
        let by_header = |from: &UserFrom| matches!(from, UserFrom::Header(_));
        let market = matches!(route.market, Some(MarketFrom::Header(_)));
        let mut gateways = known
            .sites
            .values()
            .filter_map(|site| site.gateway.as_ref());
        if (market || route.user.iter().any(by_header))
            && !gateways.any(|gateway| !gateway.fronts.is_empty())
        {
            warnings.push(format!(
                "{}: a header is believed from a front alone, and no site's gateway has fronts: requests with it are refused",
                node.path
            ));
        }
        routes.push(route);
    }
    Ok(routes)
}

// === impl Route ===

impl Route {
    /// Whether every request of `later` is one of its own.
    fn hides(&self, later: &Self) -> bool {
        let host = match (&self.host, &later.host) {
            (None, _) => true,
            (Some(own), Some(theirs)) => own.eq_ignore_ascii_case(theirs),
            (Some(_), None) => false,
        };
        host && self.path.includes(&later.path)
    }
}

// === impl Known ===

impl Known<'_> {
    fn route(&self, node: &Node<'_>) -> Result<Route, ConfigError> {
        let mut table = node.table()?;
        let service = self.service(&table.need("service")?)?;
        let host = table
            .take("host")
            .map(|node| node.read("a host name without port, as \"shop.example\"", host));
        let path = table.take("path").map(|node| {
            let form = "a path of plain segments, as \"/api\", without escapes and dots";
            node.read(form, Prefix::parse)
        });
        let user = match table.take("user") {
            None => Vec::new(),
            Some(one) if one.is_table() => vec![self.user(&one)?],
            Some(many) => {
                let sources = many.nodes()?;
                let sources: Result<Vec<_>, _> =
                    sources.iter().map(|node| self.user(node)).collect();
                sources?
            }
        };
        let market = table.take("market").map(|node| self.market(&node));
        let market = market.transpose()?;
        let without_user = match table.take("without_user") {
            None => Nobody::Refuse,
            Some(node) => {
                let nobody = self.nobody(&node)?;
                if nobody == Nobody::Market && market.is_none() {
                    return Err(node.error(
                        "nothing says which market: add `market = { header = \"…\" }` or a claim, or choose another answer",
                    ));
                }
                nobody
            }
        };
        if user.is_empty() && without_user == Nobody::Refuse {
            return Err(node.error(
                "nothing names a user and requests without one are refused: add `user = { … }`, or `without_user = \"local\"`",
            ));
        }
        table.finish()?;
        Ok(Route {
            service,
            host: host.transpose()?,
            path: path.transpose()?.unwrap_or_default(),
            user,
            market,
            without_user,
            line: node.line,
        })
    }

    fn service(&self, node: &Node<'_>) -> Result<ServiceName, ConfigError> {
        let name = ServiceName::from(node.string()?);
        if self.services.contains_key(&name) {
            return Ok(name);
        }
        let known: Vec<_> = self.services.keys().map(ServiceName::as_str).collect();
        Err(node.error(format_args!(
            "there is no service {name}; there are: {}",
            known.join(", ")
        )))
    }

    fn user(&self, node: &Node<'_>) -> Result<UserFrom, ConfigError> {
        let form = "expected one of { token = \"…\", claim = \"…\" }, { header = \"…\" }, { cookie = \"…\" }, { segment = 2 } and \
                    { query = \"…\" }";
        if !node.is_table() {
            return Err(node.error(form));
        }
        let mut table = node.table()?;
        let (token, claim) = (table.take("token"), table.take("claim"));
        let (header, cookie) = (table.take("header"), table.take("cookie"));
        let (segment, query) = (table.take("segment"), table.take("query"));
        table.finish()?;
        Ok(match (token, claim, cookie, header, segment, query) {
            (Some(token), Some(claim), cookie, None, None, None) => {
                UserFrom::Claim(self.claim(&token, &claim, cookie.as_ref())?)
            }
            (None, None, Some(cookie), None, None, None) => UserFrom::Cookie(cookie_name(&cookie)?),
            (None, None, None, Some(header), None, None) => UserFrom::Header(header_name(&header)?),
            (None, None, None, None, Some(segment), None) => {
                let number = segment.positive()?;
                let number = Some(number).filter(|number| *number <= SEGMENT_MAX);
                let number =
                    number.and_then(|number| NonZeroUsize::new(usize::try_from(number).ok()?));
                let most = format_args!("at most {SEGMENT_MAX}");
                UserFrom::Segment(number.ok_or_else(|| segment.error(most))?)
            }
            (None, None, None, None, None, Some(query)) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                let name = |text: &str| {
                    (!text.is_empty() && text.chars().all(plain)).then(|| text.to_owned())
                };
                UserFrom::Query(query.read("letters, digits, `-`, `_` and `.`", name)?)
            }
            _ => return Err(node.error(form)),
        })
    }

    fn market(&self, node: &Node<'_>) -> Result<MarketFrom, ConfigError> {
        let form = "expected one of { header = \"…\" } and { token = \"…\", claim = \"…\" }";
        if !node.is_table() {
            return Err(node.error(form));
        }
        let mut table = node.table()?;
        let (header, token) = (table.take("header"), table.take("token"));
        let (claim, cookie) = (table.take("claim"), table.take("cookie"));
        table.finish()?;
        Ok(match (header, token, claim, cookie) {
            (Some(header), None, None, None) => MarketFrom::Header(header_name(&header)?),
            (None, Some(token), Some(claim), cookie) => {
                MarketFrom::Claim(self.claim(&token, &claim, cookie.as_ref())?)
            }
            _ => return Err(node.error(form)),
        })
    }

    fn claim(
        &self,
        token: &Node<'_>,
        claim: &Node<'_>,
        cookie: Option<&Node<'_>>,
    ) -> Result<ClaimFrom, ConfigError> {
        let name = token.string()?;
        if !self.tokens.contains_key(name) {
            let known: Vec<_> = self.tokens.keys().map(String::as_str).collect();
            return Err(token.error(match known.as_slice() {
                [] => format!("there is no token {name}: configure [token.{name}]"),
                known => format!("there is no token {name}; there are: {}", known.join(", ")),
            }));
        }
        let full = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(ClaimFrom {
            token: name.to_owned(),
            claim: claim.read("the name of a claim", full)?,
            cookie: cookie.map(cookie_name).transpose()?,
        })
    }

    fn nobody(&self, node: &Node<'_>) -> Result<Nobody, ConfigError> {
        if node.is_table() {
            let mut table = node.table()?;
            let site = known_site(&table.need("site")?, self.sites)?;
            table.finish()?;
            return Ok(Nobody::Site(site));
        }
        let form = "\"local\", \"market\", \"refuse\" or { site = \"…\" }";
        node.read(form, |text| match text {
            "local" => Some(Nobody::Local),
            "market" => Some(Nobody::Market),
            "refuse" => Some(Nobody::Refuse),
            _ => None,
        })
    }
}

fn host(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let good = !text.is_empty() && !text.ends_with('.') && text.chars().all(plain);
    good.then(|| text.to_owned())
}

fn cookie_name(node: &Node<'_>) -> Result<String, ConfigError> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let name = |text: &str| (!text.is_empty() && text.chars().all(token)).then(|| text.to_owned());
    node.read("the name of a cookie", name)
}

/// The name of a header that a front sets: plain, and none that means something to every server on the way.
fn header_name(node: &Node<'_>) -> Result<String, ConfigError> {
    const TAKEN: [&str; 12] = [
        "host",
        "authorization",
        "cookie",
        "content-length",
        "content-type",
        "content-encoding",
        "date",
        "expect",
        "forwarded",
        "origin",
        "range",
        "via",
    ];
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let form = "letters, digits and `-`, as \"x-user\"";
    let name = node.read(form, |text| {
        (!text.is_empty() && text.chars().all(plain)).then(|| text.to_ascii_lowercase())
    })?;
    if name.starts_with(clean::RESERVED) {
        return Err(node.error(format_args!(
            "`{}` is for gateways alone; let the front use another name",
            clean::RESERVED
        )));
    }
    match TAKEN.contains(&name.as_str()) || clean::is_hop_by_hop(&name) {
        true => Err(node.error(format_args!(
            "`{name}` means something else to every server on the way; let the front use another name"
        ))),
        false => Ok(name),
    }
}
