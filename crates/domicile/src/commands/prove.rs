//! `prove`: what `where` says, stated and signed by the user's home, with the ledger entries that show it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ::ledger::entry::Entry;
use ::ledger::key::{Pins, PublicKey, SiteKey};
use ::ledger::proof::{self, Evidence, Looked, Opening, Proof, STATEMENT, Statement};
use model::{ServiceName, SiteName, UserKey};
use residency::entries;
use residency::log;

use super::ledger::evidence::{LastHead, included, last_head};
use super::ledger::{self, pins_for_file};
use super::running::{Place, reach, steer_failed};
use super::{configuration, homes, show, whereabouts};
use crate::cli::{Cli, Prove};
use crate::config::{Config, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::prove::{Proven, render, render_checked};
use crate::render::whereabouts::Whereabouts;

/// Proves, or checks a proof. 1 where something is not proven, 2 where the key can be nobody's, 3 where a site was not reached.
pub async fn run(cli: &Cli, args: &Prove) -> Outcome {
    let form = Form::of_stdout(args.json.json);
    if let Some(file) = &args.check {
        let pins = pins_for_file(cli, &args.pins)?;
        return check(&pins, ledger::read(file)?, form);
    }
    let config = configuration(cli)?;
    let user = UserKey::from(args.user.as_deref().unwrap_or_default());
    let only = args.service.as_deref().map(ServiceName::from);
    if let Some(name) = &only {
        config.service(name)?;
    }
    let mut pins = ledger::pins(&config)?;
    for (site, pin) in &args.pins.pin {
        pins.entry(site.clone()).or_default().push(*pin);
    }
    homes::say_elsewhere(&config)?;
    let mut places = reach(&config, "prove").await?.places;
    let (mut proven, mut exit, mut refused) = (Vec::new(), Exit::Done, None);
    for (name, service) in &config.services {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        match of_service(&config, (name, service), &mut places, &user, &pins).await {
            Ok((one, unreached)) => {
                exit = match (unreached, one.is_proven()) {
                    (true, _) => Exit::Unreached,
                    (false, false) if exit == Exit::Done => Exit::Unfinished,
                    (false, _) => exit,
                };
                proven.push(one);
            }
            // A key may be of one service's form and not of another's.
            Err(failure) if failure.exit == Exit::Usage => refused = Some(failure),
            Err(failure) => return Err(failure),
        }
    }
    if let Some(failure) = refused.filter(|_| proven.is_empty()) {
        return Err(failure);
    }
    if let Some(file) = &args.out {
        write(file, &proven)?;
    }
    show(&render(&proven, form))?;
    Ok(exit)
}

/// Checks a proof that was read from a file.
pub(super) fn check(pins: &Pins, document: serde_json::Value, form: Form) -> Outcome {
    // What is wrong is said without repeating what stands there.
    let proof: Proof = serde_json::from_value(document).map_err(|_| {
        Failure::new(
            Exit::Unfinished,
            anyhow::anyhow!("this is not in the form of {:?}", proof::FORMAT),
        )
        .mend("it is none that `domicile prove --out` wrote, or was changed")
    })?;
    let report = proof.check(pins);
    show(&render_checked(&report, form))?;
    Ok(match report.findings.is_empty() {
        true => Exit::Done,
        false => Exit::Unfinished,
    })
}

/// Writes the proof, for its owner alone: it names a user.
fn write(file: &Path, proven: &[Proven]) -> Outcome<()> {
    let proofs: Vec<&Proof> = proven.iter().filter_map(|one| one.proof.as_ref()).collect();
    let [proof] = proofs.as_slice() else {
        return Err(match proofs.len() {
            0 => Failure::new(
                Exit::Unfinished,
                anyhow::anyhow!("there is no proof to write"),
            )
            .mend("run `domicile prove` without --out, which says why"),
            _ => Failure::usage("there is a proof of each of several services")
                .mend("say which one with --service"),
        });
    };
    let cannot = || format!("cannot write {}", file.display());
    let mut to = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .or_fail(Exit::Usage, cannot)?;
    to.write_all(crate::render::json(proof).as_bytes())
        .or_fail(Exit::Usage, cannot)
}

/// What is proven of him in one service, and whether a site was not reached.
async fn of_service(
    config: &Config,
    (name, service): (&ServiceName, &Service),
    places: &mut [Place],
    asked: &UserKey,
    pins: &Pins,
) -> Outcome<(Proven, bool)> {
    let (found, unreached) = whereabouts::of_service(config, name, service, asked).await?;
    let unproven = |found: Whereabouts, why: &str| Proven {
        whereabouts: found,
        since: None,
        unsealed: 0,
        proof: None,
        report: None,
        missing: Some(why.to_owned()),
    };
    let Some(home) = found.home.clone() else {
        return Ok((unproven(found, "he lives nowhere that we know"), unreached));
    };
    let mut gathered = Vec::new();
    let mut unsealed = 0;
    let user = UserKey::new(found.user.clone());
    for place in places.iter_mut().filter(|place| place.service == *name) {
        let doing = format!("{name}: cannot read the ledger of {}", place.site);
        let failed = |error| steer_failed(error, doing.clone());
        unsealed += log::waiting(&*place.session).await.map_err(failed)?;
        gathered.extend(gather(place, &user).await.map_err(failed)?);
    }
    // Where his home is a site that is not reached from here, the one that he left for it proves that he left.
    let at_home = |place: &Place| place.service == *name && place.site.as_str() == home;
    let left = |one: &&Gathered| proof::left(&one.evidence.site, &home, &one.entries).is_some();
    let by = match places.iter().any(at_home) {
        true => None,
        false => gathered.iter().find(left),
    };
    let by = SiteName::from(by.map_or(home.as_str(), |one| &one.evidence.site));
    let key = config.sites.get(&by).map(ledger::key_of).transpose()?;
    let Some(key) = key.flatten() else {
        let why = format!("the site {by} has no key here, with which to sign");
        return Ok((unproven(found, &why), unreached));
    };
    if !gathered.iter().any(|one| one.evidence.site == by.as_str()) {
        let why = format!("the ledger of {by} is not sealed: run `domicile ledger seal`");
        return Ok((unproven(found, &why), unreached));
    }
    let (proof, since) = put_together(&found, (&home, by.as_str()), &key, gathered)
        .or_fail(Exit::Unreached, || "cannot write the statement".to_owned())?;
    let report = proof.check(pins);
    let proven = Proven {
        whereabouts: found,
        since,
        unsealed,
        proof: Some(proof),
        report: Some(report),
        missing: None,
    };
    Ok((proven, unreached))
}

/// What one log has of a user.
struct Gathered {
    evidence: Evidence,
    entries: Vec<Entry>,
    looked: Looked,
    keys: Vec<(String, PublicKey)>,
}

/// `None` where nothing is signed there.
async fn gather(place: &mut Place, user: &UserKey) -> residency::Result<Option<Gathered>> {
    let site = place.site.as_str();
    let session = &*place.session;
    let Some(LastHead {
        size,
        root,
        note,
        keys,
    }) = last_head(session, site).await?
    else {
        return Ok(None);
    };
    let (mut openings, mut entries) = (Vec::new(), Vec::new());
    for opened in entries::about(session, user, size).await? {
        let found = included(session, opened.position, size).await?;
        openings.push(Opening {
            position: opened.position,
            entry: found.text,
            path: found.path,
            opening: opened.opening,
        });
        entries.extend(found.entry);
    }
    Ok(Some(Gathered {
        looked: Looked {
            site: site.to_owned(),
            size,
            root,
            entries: openings.len() as u64,
        },
        evidence: Evidence {
            site: site.to_owned(),
            head: note,
            entries: openings,
        },
        entries,
        keys,
    }))
}

/// The proof, and since when he lives there.
fn put_together(
    found: &Whereabouts,
    (home, by): (&str, &str),
    key: &SiteKey,
    gathered: Vec<Gathered>,
) -> Result<(Proof, Option<String>), serde_json::Error> {
    let there = gathered.iter().filter(|one| one.evidence.site == by);
    let entries = there.flat_map(|one| &one.entries);
    let since = match by == home {
        true => proof::since(home, entries),
        false => proof::left(by, home, entries),
    };
    let mut keys = ::ledger::keyring::Keys::new();
    keys.entry(by.to_owned()).or_default().push(key.public());
    let (mut logs, mut looked) = (Vec::new(), Vec::new());
    for one in gathered {
        for (site, key) in one.keys {
            let known = keys.entry(site).or_default();
            if !known.contains(&key) {
                known.push(key);
            }
        }
        looked.push(one.looked);
        logs.push(one.evidence);
    }
    let statement = Statement {
        format: STATEMENT.to_owned(),
        user: found.user.clone(),
        service: found.service.clone(),
        home: home.to_owned(),
        by: (by != home).then(|| by.to_owned()),
        epoch: found.epoch,
        state: found.state.clone(),
        rule: found.rule.clone(),
        since: since.clone(),
        at: ledger::seal::now(),
        logs: looked,
    };
    let proof = Proof {
        format: proof::FORMAT.to_owned(),
        keys,
        statement: statement.sign(key)?,
        logs,
    };
    Ok((proof, since))
}
