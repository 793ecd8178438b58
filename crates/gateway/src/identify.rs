//! Whose request it is: the route that it takes, the user and the market that it names, and what becomes of it without a user.
//!
//! What is found decides where a request goes and no more: who may do what is the application's to say, as it was before. A token
//! is checked again at the site that serves the request. But two readers that find two users in one request would send it to a
//! site that is not home, so whatever has two readings is refused here (see `docs/gateway.md`).

mod path;
mod places;
mod refused;
mod spelling;
mod token;

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use model::{KeyKind, Market, ServiceName, SiteName, UserKey};

use crate::asked::Asked;
pub use path::Prefix;
pub use refused::Refused;
pub(crate) use spelling::{Names, Spelling, fold, length};
pub use token::{
    Algorithm, BadKey, Key, LEEWAY, LEEWAY_MAX, TOKEN_BYTES_MAX, TokenError, Verified, Verifier,
};

/// The longest market that is taken from a request, in bytes; it is a country or a word for some.
pub const MARKET_BYTES_MAX: usize = 64;

/// What names a user.
#[derive(Clone, Debug)]
pub enum Source {
    /// A claim of a token.
    Claim(Claim),
    /// A header field that a trusted front sets.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A segment of the path, from 1.
    Segment(NonZeroUsize),
    /// A parameter of the query.
    Query(String),
}

/// A claim of a token that one issuer signed.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What the token must be.
    pub token: Arc<Verifier>,
    /// The claim.
    pub name: String,
    /// The cookie in which the token stands; `None`: `Authorization: Bearer`.
    pub cookie: Option<String>,
}

/// What names a market.
#[derive(Clone, Debug)]
pub enum MarketSource {
    /// A claim of a token.
    Claim(Claim),
    /// A header field that a trusted front sets.
    Header(String),
}

/// What becomes of a request that names no user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Nobody {
    /// It is served at this site.
    Local,
    /// It goes where policy sends users of its market, as somebody who is about to become one.
    Market,
    /// It goes to this site.
    Site(SiteName),
    /// It is refused.
    #[default]
    Refuse,
}

/// Which requests go to a service, and whose they are.
#[derive(Clone, Debug)]
pub struct Route {
    /// The service.
    pub service: ServiceName,
    /// The host, whatever its case; `None`: any.
    pub host: Option<String>,
    /// How its paths begin.
    pub path: Prefix,
    /// What names the user; the first that is there decides.
    pub user: Vec<Source>,
    /// What names the market.
    pub market: Option<MarketSource>,
    /// What becomes of a request without a user.
    pub nobody: Nobody,
}

/// All routes of a gateway, in their order, and whose headers it believes.
#[derive(Clone, Debug)]
pub struct Rules {
    routes: Vec<Route>,
    fronts: Vec<IpNet>,
    identity: Names,
}

/// Whose a request is. `Debug` shows neither user nor market.
#[derive(PartialEq, Eq)]
pub struct Identified<'r> {
    /// The service that it is for.
    pub service: &'r ServiceName,
    /// The number of its route, from 0.
    pub route: usize,
    /// The user, in PostgreSQL's own spelling of the key.
    pub user: Option<UserKey>,
    /// The market that it names, for users whose home nobody knows.
    pub market: Option<Market>,
    /// What becomes of it without a user. [`Nobody::Refuse`] stands beside a user alone.
    pub nobody: &'r Nobody,
}

// === impl Rules ===

impl Rules {
    /// The rules of `routes`, with the headers of the `fronts`' networks believed, and of nobody else but peers.
    pub fn new(mut routes: Vec<Route>, fronts: Vec<IpNet>) -> Self {
        for route in &mut routes {
            for name in route.headers_mut() {
                name.make_ascii_lowercase();
            }
        }
        let identity = Names::new(routes.iter().flat_map(Route::headers));
        Self {
            routes,
            fronts,
            identity,
        }
    }

    /// The routes, in their order.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Whether the headers by which fronts name users and markets are believed in this request: a front's gateway brought it, or a
    /// peer, who heard it from a front or dropped them.
    pub fn trusts(&self, asked: &Asked<'_>) -> bool {
        // A socket for both families shows the older addresses inside the newer form.
        let from = asked.from.to_canonical();
        asked.peer.is_some() || self.fronts.iter().any(|front| front.contains(&from))
    }

    /// The headers by which fronts name users and markets on any route.
    pub(crate) fn identity(&self) -> &Names {
        &self.identity
    }

    /// Whose `asked` is. `kind` says of which kind a service's keys are, `None` while that is not known.
    ///
    /// The first route in order whose host and path fit is the one; of its sources the first that is there decides, good or bad.
    ///
    /// # Errors
    /// [`Refused`], where no route fits, where something that names a user or market is not trusted, not good or has two
    /// readings, or where there is no user and the route wants one.
    pub fn identify(
        &self,
        asked: &Asked<'_>,
        now: SystemTime,
        kind: impl Fn(&ServiceName) -> Option<KeyKind>,
    ) -> Result<Identified<'_>, Refused> {
        path::check(asked.path)?;
        let fits = |route: &&Route| route.fits(asked);
        let (number, route) = match self.routes.iter().position(|route| fits(&route)) {
            Some(number) => (number, &self.routes[number]),
            None => return Err(Refused::NoRoute),
        };
        let trusted = self.trusts(asked);
        // Before any other source is asked: a forged header is refused also where nobody would have looked at it.
        for name in route.headers() {
            places::header(asked, name, trusted)?;
        }
        let mut reading = Reading {
            asked,
            now,
            trusted,
            verified: None,
        };
        let mut user = None;
        for source in &route.user {
            if let Some(raw) = reading.user(source)? {
                let kind = kind(&route.service).ok_or(Refused::NotReady)?;
                user = Some(kind.canonical(&raw).ok_or(Refused::NotAKey)?);
                break;
            }
        }
        if user.is_none() && route.nobody == Nobody::Refuse {
            return Err(Refused::UserWanted);
        }
        let market = match &route.market {
            Some(source) => reading.market(source)?,
            None => None,
        };
        Ok(Identified {
            service: &route.service,
            route: number,
            user,
            market,
            nobody: &route.nobody,
        })
    }
}

// === impl Route ===

impl Route {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        let host = match &self.host {
            None => true,
            Some(host) => {
                // A name that is written whole, up to the root.
                let asked = asked.host.strip_suffix('.').unwrap_or(asked.host);
                asked.eq_ignore_ascii_case(host)
            }
        };
        host && self.path.covers(asked.path)
    }

    fn headers(&self) -> impl Iterator<Item = &str> {
        let users = self.user.iter().filter_map(|source| match source {
            Source::Header(name) => Some(name.as_str()),
            _ => None,
        });
        let market = match &self.market {
            Some(MarketSource::Header(name)) => Some(name.as_str()),
            _ => None,
        };
        users.chain(market)
    }

    fn headers_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let users = self.user.iter_mut().filter_map(|source| match source {
            Source::Header(name) => Some(name),
            _ => None,
        });
        let market = match &mut self.market {
            Some(MarketSource::Header(name)) => Some(name),
            _ => None,
        };
        users.chain(market)
    }
}

/// One request while it is read.
struct Reading<'r, 'a> {
    asked: &'r Asked<'a>,
    now: SystemTime,
    trusted: bool,
    /// The token that was found good last, as user and market often stand in one.
    verified: Option<(&'r Arc<Verifier>, &'a str, Verified)>,
}

// === impl Reading ===

impl<'r, 'a> Reading<'r, 'a> {
    /// What `source` says of the user, as it was written; `None` where it is absent.
    fn user(&mut self, source: &'r Source) -> Result<Option<Cow<'a, str>>, Refused> {
        let asked = self.asked;
        match source {
            Source::Claim(claim) => match self.token(claim)? {
                None => Ok(None),
                Some(verified) => {
                    let claimed = verified.claim(&claim.name)?.ok_or(TokenError::Claim)?;
                    Ok(Some(Cow::Owned(claimed.into_owned())))
                }
            },
            Source::Header(name) => {
                Ok(places::header(asked, name, self.trusted)?.map(Cow::Borrowed))
            }
            Source::Cookie(name) => Ok(places::cookie(asked, name)?.map(Cow::Borrowed)),
            Source::Segment(number) => path::segment(asked.path, number.get()),
            Source::Query(name) => places::query(asked, name),
        }
    }

    fn market(&mut self, source: &'r MarketSource) -> Result<Option<Market>, Refused> {
        let market = match source {
            MarketSource::Header(name) => places::header(self.asked, name, self.trusted)?,
            MarketSource::Claim(claim) => {
                let Some(verified) = self.token(claim)? else {
                    return Ok(None);
                };
                let claimed = verified.claim(&claim.name)?;
                return claimed.as_deref().map(checked_market).transpose();
            }
        };
        market.map(checked_market).transpose()
    }

    /// The token in the place that `claim` names, verified; `None` where there is none.
    fn token(&mut self, claim: &'r Claim) -> Result<Option<&Verified>, Refused> {
        let text = match &claim.cookie {
            None => places::bearer(self.asked)?,
            Some(name) => places::cookie(self.asked, name)?,
        };
        let Some(text) = text else {
            return Ok(None);
        };
        let known = self.verified.take();
        let known =
            known.filter(|(token, known, _)| Arc::ptr_eq(token, &claim.token) && *known == text);
        let known = match known {
            Some(known) => known,
            None => (&claim.token, text, claim.token.verify(text, self.now)?),
        };
        Ok(Some(&self.verified.insert(known).2))
    }
}

fn checked_market(text: &str) -> Result<Market, Refused> {
    let bounded = !text.is_empty() && text.len() <= MARKET_BYTES_MAX;
    match bounded && !text.chars().any(char::is_control) {
        true => Ok(Market::new(text)),
        false => Err(Refused::Malformed),
    }
}

// === impl Identified ===

impl fmt::Debug for Identified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identified")
            .field("service", &self.service)
            .field("route", &self.route)
            .field("user", &self.user.as_ref().map(|_| "(hidden)"))
            .field("market", &self.market.as_ref().map(|_| "(hidden)"))
            .field("nobody", &self.nobody)
            .finish()
    }
}
