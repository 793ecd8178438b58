//! From the configuration to a daemon's settings.

use std::path::{Path, PathBuf};

use daemon::{Admin, DatabaseUrl, Link, Service, Settings};
use link::{Dials, Identity, PeerSettings, who_dials};
use model::SiteName;

use crate::cli::Role;
use crate::config::{Config, KeyFile, Site};
use crate::exit::{Failure, Outcome};

/// The settings of `site`'s daemon. Of other sites their addresses and pins alone are looked at.
pub(super) fn of(
    config: &Config,
    site: &SiteName,
    role: Role,
    socket: Option<&Path>,
) -> Outcome<Settings> {
    let own = config
        .sites
        .get(site)
        .ok_or_else(|| Failure::usage(format_args!("there is no site {site}")))?;
    let mut services = Vec::new();
    for (name, service) in &config.services {
        if let Some(database) = service.databases.get(site) {
            services.push(Service {
                name: name.clone(),
                origin: service.origin.clone(),
                database: DatabaseUrl::new(database.url()?.expose()),
            });
        }
    }
    if services.is_empty() {
        return Err(
            Failure::usage(format_args!("no service has a database at {site}")).mend(format!(
                "under [service.NAME]: database.{site} = {{ env = \"…\" }}"
            )),
        );
    }
    let leads = role != Role::Gateway;
    let link = match leads {
        true => link(config, site, own)?,
        false => None,
    };
    // A gateway leads nothing: of a daemon it has the health and the metrics.
    services.retain(|_| leads);
    Ok(Settings {
        site: site.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        services,
        link,
        admin: Admin {
            socket: match leads {
                true => place(config, site, socket),
                false => gateways_place(config, site, socket),
            },
            listen: own.admin.listen.clone(),
        },
        patience: Settings::PATIENCE,
    })
}

/// The command line's socket, the configuration's, one in the folder that the service manager gave us, one beside the
/// configuration.
pub(super) fn place(config: &Config, site: &SiteName, socket: Option<&Path>) -> PathBuf {
    let configured = config.sites.get(site);
    let configured = configured.and_then(|own| own.admin.socket.as_deref());
    if let Some(path) = socket.or(configured) {
        return path.to_owned();
    }
    let given = std::env::var_os("RUNTIME_DIRECTORY");
    // Several are given with colons between.
    let given = given.and_then(|all| std::env::split_paths(&all).next());
    let beside = config.file.parent().unwrap_or(Path::new("."));
    let folder = given.filter(|folder| !folder.as_os_str().is_empty());
    folder
        .as_deref()
        .unwrap_or(beside)
        .join(format!("domicile-{site}.sock"))
}

/// A gateway's own, beside that of the site's daemon where none is named: both may run on one machine.
fn gateways_place(config: &Config, site: &SiteName, socket: Option<&Path>) -> PathBuf {
    let place = place(config, site, socket);
    match socket {
        Some(_) => place,
        None => place.with_extension("gateway.sock"),
    }
}

/// The link, if one of the other sites is linked to `site`.
fn link(config: &Config, site: &SiteName, own: &Site) -> Outcome<Option<Link>> {
    let reachable = |site: &Site| {
        site.link
            .as_ref()
            .is_some_and(|link| link.address.is_some())
    };
    let mut peers = Vec::new();
    let mut waits = false;
    for (name, other) in config.sites.iter().filter(|(name, _)| *name != site) {
        let dials = who_dials((site, reachable(own)), (name, reachable(other)));
        let (Some(dials), Some(theirs)) = (dials, &other.link) else {
            tracing::warn!(peer = %name, "no link to this site: the configuration has no address for one of the two, or no `link` of it");
            continue;
        };
        let Some(pins) = theirs.pins.clone() else {
            tracing::warn!(peer = %name, "no link to this site: the configuration has no pins of it");
            continue;
        };
        waits |= dials == Dials::Peer;
        peers.push(PeerSettings {
            site: name.clone(),
            pins,
            dial: theirs.address.clone().filter(|_| dials == Dials::Own),
        });
    }
    if peers.is_empty() {
        return Ok(None);
    }
    let own_link = own.link.as_ref();
    let listen = own_link.and_then(|link| link.listen.clone());
    if waits && listen.is_none() {
        return Err(
            Failure::usage(format_args!("{site} has an address, and listens nowhere")).mend(
                format!("under [site.{site}]: link = {{ listen = \"0.0.0.0:PORT\", … }}"),
            ),
        );
    }
    Ok(Some(Link {
        key: key(site, own)?.place(),
        listen: listen.filter(|_| waits),
        flows: own_link.map_or(link::Settings::FLOWS, |link| link.flows),
        peers,
    }))
}

/// The file of the site's key, looked at.
fn key<'a>(site: &SiteName, own: &'a Site) -> Outcome<&'a KeyFile> {
    let Some(file) = &own.key else {
        return Err(Failure::usage(format_args!(
            "the configuration names no key file of {site}, which the link needs"
        ))
        .mend(format!(
            "under [site.{site}]: key = {{ file = \"{site}.key\" }}; `domicile keys new` makes it"
        )));
    };
    file.key()?;
    let identity = Identity::load(&file.place());
    let known = own.link.as_ref().and_then(|link| link.pins.as_ref());
    if let (Ok(identity), Some(pins)) = (identity, known)
        && !pins.contain(&identity.pin())
    {
        tracing::warn!(
            "the site's key is not among its own pins: peers with this configuration will refuse it"
        );
    }
    Ok(file)
}
