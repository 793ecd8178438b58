//! `ledger seal`, and the same at the end of whatever writes entries.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::ledger::key::{Pin, SiteKey};
use model::{ServiceName, SiteName};
use mover::seal::{Party, Sealed, seal};
use tokio::time::{Instant, sleep};

use super::super::running::{Place, reach, steer_failed};
use super::super::{apply, homes, show};
use super::{KEY, key_of, pins_of};
use crate::cli::LedgerSeal;
use crate::config::{Config, scrub};
use crate::exit::{Exit, Failure, Outcome};
use crate::render::Form;
use crate::render::ledger::{SealedLog, render_sealed};

/// How long the daemons may take to countersign what this command has sealed.
const DAEMON_PATIENCE: Duration = Duration::from_secs(15);

/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(200);

/// What sealing came to.
struct Done {
    logs: Vec<SealedLog>,
    /// The databases.
    places: Vec<Place>,
    /// Sites without a key here.
    keyless: Vec<SiteName>,
    /// What kept a site from being sealed.
    failed: Option<Failure>,
    /// Why a site was not reached.
    unreached: Option<Failure>,
}

impl Done {
    /// What is to be said of sites without a key.
    fn unsigned(&self) -> Option<String> {
        let names: Vec<&str> = self.keyless.iter().map(SiteName::as_str).collect();
        let what = || format!("the ledger is not signed at {}: no key", names.join(", "));
        (!names.is_empty()).then(what)
    }
}

/// Seals. 1 where a peer refused to countersign, 2 where no site has a key, 3 where a site was not reached.
pub async fn run(config: &Config, args: &LedgerSeal) -> Outcome {
    homes::say_elsewhere(config)?;
    let elsewhere = config.elsewhere();
    let mut done = every(config).await?;
    if let Some(unsigned) = done.unsigned() {
        if done.keyless.len() + elsewhere.len() == config.sites.len() {
            return Err(Failure::usage(unsigned).mend(KEY));
        }
        eprintln!("warning: {unsigned}");
    }
    let missing = countersigned_elsewhere(&elsewhere, &done.places, &mut done.logs).await?;
    if !missing.is_empty() {
        eprintln!(
            "warning: not countersigned yet by {}: its daemon and that of this site do it as soon as they reach each other; \
             `GET /status` of the daemon says why not",
            missing.join(", ")
        );
    }
    show(&render_sealed(&done.logs, Form::of_stdout(args.json.json)))?;
    if let Some(failed) = done.failed {
        return Err(failed);
    }
    let refused = done.logs.iter().any(|log| !log.refused.is_empty());
    Ok(
        match (refused, done.unreached.is_none() && missing.is_empty()) {
            (true, _) => Exit::Unfinished,
            (false, false) => Exit::Unreached,
            (false, true) => Exit::Done,
        },
    )
}

/// Waits until the daemon of this site has had the heads countersigned by the sites whose databases are not known here.
/// Returns who has not in time.
async fn countersigned_elsewhere(
    elsewhere: &[&SiteName],
    places: &[Place],
    logs: &mut [SealedLog],
) -> Outcome<Vec<String>> {
    let until = Instant::now() + DAEMON_PATIENCE;
    let mut missing = BTreeSet::new();
    for log in logs {
        let of_log = |place: &&Place| {
            (place.service.as_str(), place.site.as_str()) == (&*log.service, &*log.site)
        };
        let Some(place) = places.iter().find(of_log) else {
            continue;
        };
        loop {
            let vouch = residency::log::cosigned(&*place.session, Some(log.entries)).await;
            let vouch = vouch.map_err(|error| {
                let doing = format!("{}: cannot read the ledger of {}", log.service, log.site);
                steer_failed(error, doing)
            })?;
            let vouch = vouch.get(&log.entries).map_or(&[][..], Vec::as_slice);
            let lacks = |site: &&&SiteName| !vouch.iter().any(|one| one.peer == site.as_str());
            let lacking: Vec<_> = elsewhere
                .iter()
                .filter(lacks)
                .map(ToString::to_string)
                .collect();
            if lacking.is_empty() || Instant::now() >= until {
                let others = elsewhere.iter().filter(|site| !lacks(site));
                log.countersigned.extend(others.map(ToString::to_string));
                missing.extend(lacking);
                break;
            }
            sleep(LOOK).await;
        }
    }
    Ok(missing.into_iter().collect())
}

/// Seals once something else is done: what is in the way is a warning, and the next time makes up for it.
pub(in crate::commands) async fn after(config: &Config) {
    sealed_after(config).await;
}

/// As [`after`], and gives the daemons of linked sites time to countersign.
pub(in crate::commands) async fn after_and_countersigned(config: &Config) {
    if let Some(mut done) = sealed_after(config).await {
        let elsewhere = config.elsewhere();
        match countersigned_elsewhere(&elsewhere, &done.places, &mut done.logs).await {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => eprintln!(
                "warning: not countersigned yet by {}: write the receipts again later",
                missing.join(", ")
            ),
            Err(failure) => warn(failure),
        }
    }
}

async fn sealed_after(config: &Config) -> Option<Done> {
    let mut done = match every(config).await {
        Ok(done) => done,
        Err(failure) => {
            warn(failure);
            return None;
        }
    };
    if let Some(unsigned) = done.unsigned() {
        eprintln!("warning: {unsigned}\nmend: {KEY}");
    }
    for log in &done.logs {
        for refused in &log.refused {
            eprintln!(
                "warning: equivocation: {} refused the ledger of {} at {}: {}\nmend: run `domicile ledger verify`",
                refused.by, log.service, log.site, refused.reason
            );
        }
    }
    if let Some(failure) = done.failed.take() {
        warn(failure);
    }
    Some(done)
}

fn warn(failure: Failure) {
    let chain: Vec<String> = failure.error.chain().map(ToString::to_string).collect();
    let mend = failure.mend.unwrap_or_default();
    eprintln!(
        "warning: the ledger is not sealed: {}\nmend: {mend}; `domicile ledger seal` makes up for it",
        scrub(&chain.join(": "))
    );
}

async fn every(config: &Config) -> Outcome<Done> {
    let mut keys: BTreeMap<&SiteName, (Option<SiteKey>, Vec<Pin>)> = BTreeMap::new();
    let elsewhere = config.elsewhere();
    for (name, site) in config
        .sites
        .iter()
        .filter(|(name, _)| !elsewhere.contains(name))
    {
        let key = key_of(site)?;
        let pins = match key {
            Some(_) => pins_of(name.as_str(), site)?,
            None => Vec::new(),
        };
        keys.insert(name, (key, pins));
    }
    let without = keys.iter().filter(|(_, (key, _))| key.is_none());
    let keyless: Vec<SiteName> = without.map(|(name, _)| (*name).clone()).collect();
    if keyless.len() == keys.len() {
        return Ok(Done {
            logs: Vec::new(),
            places: Vec::new(),
            keyless,
            failed: None,
            unreached: None,
        });
    }
    let mut reached = reach(config, "ledger").await?;
    let (mut logs, mut failed) = (Vec::new(), None);
    for service in config.services.keys() {
        let of_service = |place: &&mut Place| place.service == *service;
        let mut parties: Vec<Party<'_>> = reached
            .places
            .iter_mut()
            .filter(of_service)
            .map(|place| {
                let (key, pins) = &keys[&place.site];
                Party {
                    site: place.site.clone(),
                    session: &mut place.session,
                    key: key.as_ref(),
                    pins,
                }
            })
            .collect();
        for outcome in seal(service, &mut parties, now()).await {
            match outcome {
                Ok(sealed) => logs.push(shown(service, sealed)),
                Err(error) => {
                    failed.get_or_insert(failure(service, error));
                }
            }
        }
    }
    Ok(Done {
        logs,
        places: reached.places,
        keyless,
        failed,
        unreached: reached.unreached,
    })
}

fn failure(service: &ServiceName, error: mover::Error) -> Failure {
    let old = error
        .sqlstate()
        .is_some_and(|state| state.code() == "42P01");
    let failure = apply::failure(error, format!("{service}: sealing the ledger"));
    match old {
        true => failure.mend("Domicile's tables are of an earlier version: run `domicile install`"),
        false => failure,
    }
}

fn shown(service: &ServiceName, sealed: Sealed) -> SealedLog {
    let refused = sealed.refused.into_iter();
    SealedLog {
        service: service.to_string(),
        site: sealed.site.to_string(),
        entries: sealed.entries,
        taken: sealed.taken,
        countersigned: sealed
            .countersigned
            .iter()
            .map(ToString::to_string)
            .collect(),
        refused: refused
            .map(|(by, reason)| crate::render::ledger::RefusedBy {
                by: by.to_string(),
                reason: reason.to_string(),
            })
            .collect(),
    }
}

/// Seconds since 1970, by this machine's clock.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
