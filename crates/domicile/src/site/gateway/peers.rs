//! The ways to other sites' gateways, from the configuration.

use ::gateway::site::Peers;
use link::{Identity, Sealed};
use model::SiteName;

use crate::config::Config;
use crate::exit::{Failure, Outcome};

/// The ways from `site`, by the numbers of `sites`; `None` where no other site has an address of gateways and pins.
pub(super) fn of(config: &Config, site: &SiteName, sites: &[SiteName]) -> Outcome<Option<Peers>> {
    let mut addresses = Vec::new();
    let mut pins = Vec::new();
    for name in sites {
        let other = config.sites.get(name).filter(|_| name != site);
        let theirs = other.and_then(|other| other.link.as_ref()?.pins.clone());
        let peers = other.and_then(|other| other.gateway.as_ref()?.peers.as_ref());
        let address = peers.map(|peers| peers.address.clone());
        if other.is_some() && (theirs.is_none() || address.is_none()) {
            tracing::warn!(
                peer = %name,
                "requests of users who live at this site go nowhere: the configuration has no `gateway.peers` of it, or no pins"
            );
        }
        addresses.push(address.filter(|_| theirs.is_some()));
        pins.extend(theirs.map(|theirs| (name.clone(), theirs)));
    }
    if pins.is_empty() {
        return Ok(None);
    }
    let own = config.sites.get(site);
    let Some(key) = own.and_then(|own| own.key.as_ref()) else {
        return Err(Failure::usage(format_args!(
            "the configuration names no key file of {site}, by which other sites' gateways know this one"
        ))
        .mend(format!(
            "under [site.{site}]: key = {{ file = \"{site}.key\" }}; `domicile keys new` makes it"
        )));
    };
    key.key()?;
    let identity = Identity::load(&key.place()).map_err(Failure::usage)?;
    Ok(Some(Peers {
        sealed: Sealed::new(site.clone(), identity, pins),
        addresses,
    }))
}
