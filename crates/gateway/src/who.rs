//! Whose request it is, in the numbers that the data path uses; and what becomes of one that is nobody's.

use std::time::SystemTime;

use model::{KeyKind, ServiceName};

use crate::asked::Asked;
use crate::homes::SiteId;
use crate::http::respond::Answer;
use crate::identify::{Nobody, Refused};
use crate::locate::Traveller;
use crate::site::Gateway;

/// Whose request it is.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    /// A user's.
    User(Traveller),
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
    if let Some(user) = identified.user {
        let homes = &gateway.services[usize::from(service)].homes;
        let hash = homes.user(user.as_str());
        let market = identified.market;
        return Ok(Who::User(Traveller {
            service,
            user,
            hash,
            market,
        }));
    }
    // What a peer sent here it sent here by its own rules; on it does not go.
    let site = match identified.nobody {
        _ if asked.peer.is_some() => gateway.here,
        Nobody::Local => gateway.here,
        Nobody::Site(site) => gateway.site(site).ok_or(Refused::NoRoute)?,
        Nobody::Market => gateway.newcomers(service, identified.market.as_ref()),
        Nobody::Refuse => return Err(Refused::UserWanted),
    };
    Ok(Who::Nobody { service, site })
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotReady => Self::again(refused.reason()),
            _ => Self::new(refused.status(), refused.reason()),
        }
    }
}
