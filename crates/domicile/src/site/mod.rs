//! What a site's daemon does for moves: receives users who come, and carries those who leave; and for the ledgers, which it seals
//! and has its peers countersign. The works that `serve` plugs
//! into the daemon, and the words in which the commands of the same machine speak with it.

mod admin;
mod alarms;
mod answers;
mod ask;
pub mod claims;
mod comparing;
mod departures;
mod figures;
pub mod gateway;
mod holding;
mod homes;
mod outlook;
mod passengers;
mod peer;
mod reclaiming;
mod route;
mod saying;
mod seals;
mod verifying;
mod vouched;

use std::sync::Arc;
use std::time::Duration;

use ::daemon::{Daemon, View};
use model::{ServiceName, SiteName};
use mover::failure::{Failure as Told, for_others};
use remote::{Questions, Reception, Telling};

pub use ask::{of_daemon, reach};
pub use departures::Ended;
pub use holding::ByDaemon;
pub use peer::Peer;

use crate::config::{Config, ConfigError, scrub};
use crate::exit::{Exit, Failure, Outcome};
use alarms::{Alarms, Raised};
use answers::SiteAnswers;
use comparing::{Comparing, OwnRecords};
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
    let visited = Arc::clone(&reception);
    let telling = OwnRecords::new(Arc::clone(&config), site.clone(), visited, view.clone());
    let telling = Telling::new(site.clone(), Arc::new(telling));
    let comparing = Comparing::new(Arc::clone(&config), site.clone());
    let vouched = Arc::new(vouched::Vouched::new(view.clone()));
    let measured = vouched::Measured(Arc::clone(&vouched));
    daemon.registry().register_collector(Box::new(measured));
    let raised = Arc::new(Raised::new(view.clone()));
    let measured = alarms::Measured(Arc::clone(&raised));
    daemon.registry().register_collector(Box::new(measured));
    let alarms = Alarms::new(Arc::clone(&config), site.clone(), raised);
    let seals = Seals::new(Arc::clone(&config), site.clone(), Arc::clone(&vouched));
    let answers = SiteAnswers::new(Arc::clone(&config), site.clone(), view.clone(), vouched);
    let reclaiming = reclaiming::routes(Arc::clone(&config), site.clone(), view.clone());
    let outlook = outlook::routes(Arc::clone(&config), site.clone(), view.clone());
    let departures = Arc::new(Departures::new(config, site.clone(), view.clone()));
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
        .work(Arc::new(alarms))
        .hears(Arc::new(Questions::new(Arc::new(answers))))
        .work(Arc::new(work))
        .work(Arc::new(seals))
        .work(Arc::clone(&departures) as Arc<dyn ::daemon::Work>)
        .routes(admin::routes(departures))
        .routes(holding::routes(view.clone()))
        .routes(figures::routes(view.clone()))
        .routes(verifying::routes(view))
        .routes(outlook)
        .routes(reclaiming)
}

/// The link to `site`, for a question about `name`.
fn linked(view: &View, name: &ServiceName, site: &SiteName) -> Outcome<link::Peer> {
    view.peer(site).ok_or_else(|| {
        Failure::new(
            Exit::Unreached,
            anyhow::anyhow!("{name}: this daemon has no link to {site}"),
        )
        .mend("ask the daemon that leads: `GET /status` of each says which")
    })
}

/// A failure in words, for a log.
fn told(failure: &Failure) -> String {
    scrub(&format!("{:#}", failure.error))
}

/// A failure as a peer is told of it; our own log has all of it.
fn failure_of(config: &Config, site: &SiteName, failure: &Failure) -> Told {
    tracing::warn!(%site, "{failure}");
    let mut what = match failure.error.downcast_ref::<ConfigError>() {
        // Names files and variables of this machine.
        Some(_) => "its configuration is not in order".to_owned(),
        None => scrub(&for_others(&*failure.error)),
    };
    // Some of our own words name the database.
    for service in config.services.values() {
        let database = service.databases.get(site);
        if let Some(Ok(url)) = database.map(crate::config::Database::url) {
            let place = postgres::connect::redacted(url.expose());
            what = what.replace(&place, "its database");
        }
    }
    Told::Other {
        site: site.clone(),
        what,
        sqlstate: None,
        ends: false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use postgres::connect::ConnectError;

    use super::*;
    use crate::exit::OrFail as _;

    const CONFIG: &str = r#"
        [site.beijing]
        [site.singapore]
        [service.shop]
        origin = "beijing"
        ids = "ranges"
        database.beijing = "postgres://mover:geheim@db.internal:5433/shop"
        user = { table = "customer", key = "id" }
    "#;

    #[test]
    fn a_peer_hears_neither_host_nor_port_nor_role() {
        let config = Config::parse(CONFIG, Path::new("domicile.toml")).expect("it is good");
        let site = SiteName::from("beijing");
        let what = |failure: Failure| match failure_of(&config, &site, &failure) {
            Told::Other { what, .. } => what,
            other => panic!("{other:?}"),
        };
        let place = "db.internal:5433/shop as mover".to_owned();
        let away = Err::<(), _>(ConnectError::TimedOut {
            place: place.clone(),
        });
        let away = away.or_fail(Exit::Unreached, || {
            "shop: cannot reach its database at beijing".to_owned()
        });
        let away = what(away.expect_err("it is away"));
        assert_eq!(
            away,
            "shop: cannot reach its database at beijing: the database there cannot be reached"
        );
        let standby = format!("shop: the server at beijing is a standby ({place})");
        assert_eq!(
            what(Failure::usage(standby)),
            "shop: the server at beijing is a standby (its database)"
        );
        let unset = CONFIG.replace("\"postgres", "{ env = \"NO_SUCH_VARIABLE\" } # ");
        let unset = Config::parse(&unset, Path::new("/etc/domicile/bj.toml")).expect("it is good");
        let unset = unset.services.values().next().expect("one").databases[&site].url();
        let unset = what(Failure::from(unset.expect_err("it is not set")));
        assert_eq!(unset, "its configuration is not in order");
    }
}
