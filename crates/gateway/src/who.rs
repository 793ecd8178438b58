//! Whose request it is, in the numbers that the data path uses; and what becomes of one that is nobody's.

use std::time::SystemTime;

use model::{KeyKind, Market, ServiceName, UserKey};

use crate::asked::Asked;
use crate::homes::SiteId;
use crate::http::respond::Answer;
use crate::identify::{Nobody, Refused};
use crate::locate::Traveller;
use crate::site::Gateway;

/// The field in which an application names the user of a request that it refused, and a gateway tells its peer so.
pub(crate) const NAMED: &str = "domicile-user";

/// Whose request it is.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    /// A user's.
    User(Traveller),
    /// A user's, whom no place of the request names: an application found out.
    Named(Traveller),
    /// Nobody's: it goes to this site.
    Nobody {
        /// The service.
        service: u16,
        /// Where its route sends it.
        site: SiteId,
    },
}

/// Says whose it is, or why it goes nowhere.
pub(crate) fn of(gateway: &Gateway, asked: &Asked<'_>) -> Result<Who, Refused> {
    let kind =
        |name: &ServiceName| -> Option<KeyKind> { gateway.residents.kind(gateway.service(name)?) };
    let identified = gateway.rules.identify(asked, SystemTime::now(), kind)?;
    let service = gateway
        .service(identified.service)
        .ok_or(Refused::NoRoute)?;
    let market = identified.market;
    if let Some(user) = identified.user {
        return Ok(Who::User(traveller(gateway, service, user, market)));
    }
    if let Some(key) = named_by_peer(asked)? {
        let named = named(gateway, service, key, market)?;
        return Ok(Who::Named(named));
    }
    // What a peer sent here it sent here by its own rules; on it does not go.
    let site = match identified.nobody {
        _ if asked.peer.is_some() => gateway.here,
        Nobody::Local => gateway.here,
        Nobody::Site(site) => gateway.site(site).ok_or(Refused::NoRoute)?,
        Nobody::Market => gateway.newcomers(service, market.as_ref()),
        Nobody::Refuse => return Err(Refused::UserWanted),
    };
    Ok(Who::Nobody { service, site })
}

impl Who {
    /// Whose it is.
    pub fn user(&self) -> Option<&Traveller> {
        match self {
            Self::User(traveller) | Self::Named(traveller) => Some(traveller),
            Self::Nobody { .. } => None,
        }
    }

    /// The service that it is for.
    pub fn service(&self) -> u16 {
        match self {
            Self::User(traveller) | Self::Named(traveller) => traveller.service,
            Self::Nobody { service, .. } => *service,
        }
    }
}

/// Whom an application at a peer's site named, if it did.
fn named_by_peer<'a>(asked: &Asked<'a>) -> Result<Option<&'a str>, Refused> {
    let mut names = asked
        .headers
        .iter()
        .filter(|header| asked.peer.is_some() && header.name.eq_ignore_ascii_case(NAMED));
    let (first, second) = (names.next(), names.next());
    match (first, second) {
        (None, _) => Ok(None),
        (Some(one), None) => std::str::from_utf8(one.value)
            .map(Some)
            .map_err(|_| Refused::NotAKey),
        (Some(_), Some(_)) => Err(Refused::Malformed),
    }
}

/// The user whom an application named.
///
/// # Errors
/// What it said is no key of the service.
pub(crate) fn named(
    gateway: &Gateway,
    service: u16,
    key: &str,
    market: Option<Market>,
) -> Result<Traveller, Refused> {
    let kind = gateway.residents.kind(service).ok_or(Refused::NotReady)?;
    let user = kind.canonical(key).ok_or(Refused::NotAKey)?;
    Ok(traveller(gateway, service, user, market))
}

fn traveller(gateway: &Gateway, service: u16, user: UserKey, market: Option<Market>) -> Traveller {
    let homes = &gateway.services[usize::from(service)].homes;
    let hash = homes.user(user.as_str());
    Traveller {
        service,
        user,
        hash,
        market,
    }
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotReady => Self::again(refused.reason()),
            _ => Self::new(refused.status(), refused.reason()),
        }
    }
}
