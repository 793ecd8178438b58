//! What a site's daemon does for moves: receives users who come, and carries those who leave. The works that `serve` plugs
//! into the daemon, and the words in which the commands of the same machine speak with it.

mod admin;
mod ask;
mod comparing;
mod departures;
mod homes;
mod route;

use std::sync::Arc;
use std::time::Duration;

use ::daemon::Daemon;
use model::SiteName;
use remote::{Reception, Telling};

pub use ask::{of_daemon, reach};

use crate::config::Config;
use comparing::{Comparing, OwnRecords};
use departures::Departures;
use homes::SiteHomes;

/// How often it is looked whether visitors have gone.
const SWEEP: Duration = Duration::from_secs(30);

/// Adds to `daemon` what it does for moves at `site`.
#[must_use]
pub fn plug(daemon: Daemon, config: Config, site: &SiteName) -> Daemon {
    let config = Arc::new(config);
    let homes = SiteHomes::new(Arc::clone(&config), site.clone());
    let reception = Arc::new(Reception::new(site.clone(), Arc::new(homes)));
    let telling = OwnRecords::new(Arc::clone(&config), site.clone(), Arc::clone(&reception));
    let telling = Telling::new(site.clone(), Arc::new(telling));
    let comparing = Comparing::new(Arc::clone(&config), site.clone());
    let departures = Arc::new(Departures::new(config, site.clone(), daemon.view().clone()));
    let visited = Arc::clone(&reception);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            visited.sweep();
        }
    });
    let work = homes::Doors::new(Arc::clone(&reception));
    daemon
        .hears(reception)
        .hears(Arc::new(telling))
        .work(Arc::new(comparing))
        .work(Arc::new(work))
        .work(Arc::clone(&departures) as Arc<dyn ::daemon::Work>)
        .routes(admin::routes(departures))
}
