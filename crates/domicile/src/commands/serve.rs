//! `serve`: a site's daemon. Reads the configuration, and gives the daemon plain settings.

mod manager;
mod settings;

use std::path::{Path, PathBuf};

use daemon::{Daemon, DaemonError, Ending};
use link::StartError;
use model::SiteName;

use super::homes::known_site;
use crate::cli::{Cli, Role, Serve};
use crate::config::{Config, Reader};
use crate::exit::{Exit, Failure, Outcome};
use crate::site;

/// The admin socket of `site`'s daemon: of the command line, of the configuration, or where it is put otherwise.
pub fn socket_of(config: &Config, site: &SiteName, named: Option<&Path>) -> PathBuf {
    settings::place(config, site, named)
}

/// Runs until it is told to end.
pub async fn run(cli: &Cli, args: &Serve) -> Outcome {
    // Heard before anything is begun, so that there is no moment at which a signal is not.
    let ending = Ending::by_signals().map_err(failed)?;
    let config = Config::load_for(Reader::Site, &cli.config)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let site = known_site(&config, &args.site)?;
    let settings = settings::of(&config, &site, args.role, args.socket.as_deref())?;
    let has_gateway = config
        .sites
        .get(&site)
        .is_some_and(|own| own.gateway.is_some());
    let mut gateway = match args.role {
        Role::Mover => None,
        Role::All if !has_gateway => None,
        Role::All | Role::Gateway => Some(site::gateway::start(&config, &site)?),
    };
    let mut daemon = Daemon::new(settings).tells(manager::tell);
    if let Some(gateway) = &mut gateway {
        daemon
            .registry()
            .register_collector(Box::new(gateway.measured()));
        if let Some(claims) = gateway.claims() {
            daemon.registry().register_collector(Box::new(claims));
        }
        daemon.view().wants(gateway.lacks());
    }
    let daemon = match args.role {
        Role::Gateway => daemon,
        Role::All | Role::Mover => site::plug(daemon, config, &site),
    };
    let ran = daemon.run(ending.clone()).await;
    if let Some(gateway) = gateway {
        gateway.end().await;
    }
    ran.map_err(failed)?;
    Ok(match ending.at_once.is_cancelled() {
        true => Exit::Unfinished,
        false => Exit::Done,
    })
}

/// Nothing that ends a daemon mends itself: the exit code is that of wrong use.
fn failed(error: DaemonError) -> Failure {
    let mend = match &error {
        DaemonError::Socket { .. } => {
            "name a path in a folder that this account may write to: admin = { socket = \"…\" } of the site, or --socket"
        }
        DaemonError::SocketTaken { .. } => {
            "each daemon of a machine needs a socket of its own: --socket PATH"
        }
        DaemonError::Listen { .. } => {
            "name an address of this machine that is free: admin = { listen = \"…\" } of the site"
        }
        DaemonError::Link(StartError::Listen { .. }) => {
            "name an address of this machine that is free: link = { listen = \"…\" } of the site; a daemon that leads \
             no more lets go of it within a second"
        }
        DaemonError::Link(_) => "correct `link` of the sites",
        _ => return Failure::new(Exit::Usage, error),
    };
    Failure::new(Exit::Usage, error).mend(mend)
}
