//! What a site's daemon does for moves: receives users who come, and carries those who leave; and for the ledgers, which it seals
//! and has its peers countersign. The works that `serve` plugs
//! into the daemon, and the words in which the commands of the same machine speak with it.

mod admin;
mod answers;
mod ask;
mod departures;
mod homes;
mod route;
mod seals;
mod vouched;

use std::sync::Arc;
use std::time::Duration;

use ::daemon::Daemon;
use model::SiteName;
use mover::failure::Failure as Told;
use remote::{Questions, Reception};

pub use ask::{of_daemon, reach};

use crate::config::{Config, scrub};
use crate::exit::Failure;
use answers::SiteAnswers;
use departures::Departures;
use homes::SiteHomes;
use seals::Seals;

/// How often it is looked whether visitors have gone.
const SWEEP: Duration = Duration::from_secs(30);

/// Adds to `daemon` what it does for moves at `site`.
#[must_use]
pub fn plug(mut daemon: Daemon, config: Config, site: &SiteName) -> Daemon {
    let config = Arc::new(config);
    let homes = SiteHomes::new(Arc::clone(&config), site.clone());
    let reception = Arc::new(Reception::new(site.clone(), Arc::new(homes)));
    let view = daemon.view().clone();
    let vouched = Arc::new(vouched::Vouched::new(view.clone()));
    let measured = vouched::Measured(Arc::clone(&vouched));
    daemon.registry().register_collector(Box::new(measured));
    let seals = Seals::new(Arc::clone(&config), site.clone(), Arc::clone(&vouched));
    let answers = SiteAnswers::new(Arc::clone(&config), site.clone(), view.clone(), vouched);
    let departures = Arc::new(Departures::new(config, site.clone(), view));
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
        .hears(Arc::new(Questions::new(Arc::new(answers))))
        .work(Arc::new(work))
        .work(Arc::new(seals))
        .work(Arc::clone(&departures) as Arc<dyn ::daemon::Work>)
        .routes(admin::routes(departures))
}

/// A failure in words, for a log.
fn told(failure: &Failure) -> String {
    scrub(&format!("{:#}", failure.error))
}

/// A failure as a peer is told of it.
fn failure_of(site: &SiteName, failure: &Failure) -> Told {
    tracing::warn!(%site, "{failure}");
    Told::Other {
        site: site.clone(),
        what: told(failure),
        sqlstate: None,
        ends: false,
    }
}
