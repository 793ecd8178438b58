//! The ledgers of all sites that are reached, as one bundle, with what only their tables can tell.

use std::collections::BTreeMap;

use ::ledger::bundle::{Bundle, FORMAT, Leaf, Log, Refused, Witnessed};
use ::ledger::key::PublicKey;
use ::ledger::keyring::Keys;
use ::ledger::tree::{Frontier, Hash, Nodes};
use ::ledger::{Finding, Kind};
use residency::{log, witness};

use super::super::homes;
use super::super::running::{Place, reach, steer_failed};
use crate::config::Config;
use crate::exit::{Failure, Outcome};

/// Rows read at once: a bound for what the driver holds beside the bundle.
const PAGE: u32 = 5_000;

/// What was read.
pub(super) struct Collected {
    pub(super) bundle: Bundle,
    /// What the tables contradict in themselves.
    pub(super) findings: Vec<Finding>,
    /// How many entries of each service and site are in no log yet.
    pub(super) waiting: BTreeMap<(String, String), u64>,
    /// Why a site was not reached.
    pub(super) unreached: Option<Failure>,
}

/// Reads everything. In an order in which what refers to something is read before it: others may write meanwhile, and nothing
/// is ever taken back.
pub(super) async fn collect(config: &Config) -> Outcome<Collected> {
    homes::say_elsewhere(config)?;
    let reached = reach(config, "ledger").await?;
    let elsewhere = config.elsewhere();
    let here = config.sites.keys().filter(|site| !elsewhere.contains(site));
    let mut bundle = Bundle {
        of: (!elsewhere.is_empty()).then(|| here.map(ToString::to_string).collect()),
        format: FORMAT.to_owned(),
        keys: Keys::new(),
        logs: Vec::new(),
        witnessed: Vec::new(),
        refused: Vec::new(),
    };
    let (mut findings, mut waiting) = (Vec::new(), BTreeMap::new());
    for place in &reached.places {
        let heads = heads(place, &mut bundle.keys).await.map_err(of(place))?;
        bundle.logs.push(Log {
            service: place.service.to_string(),
            site: place.site.to_string(),
            leaves: Vec::new(),
            heads,
        });
    }
    for place in &reached.places {
        witnessed(place, &mut bundle).await.map_err(of(place))?;
    }
    for (place, log) in reached.places.iter().zip(&mut bundle.logs) {
        log.leaves = leaves(place, &mut findings).await.map_err(of(place))?;
        let at = (log.service.clone(), log.site.clone());
        let left = log::waiting(&*place.session).await.map_err(of(place))?;
        waiting.insert(at, left);
    }
    Ok(Collected {
        bundle,
        findings,
        waiting,
        unreached: reached.unreached,
    })
}

fn of(place: &Place) -> impl Fn(residency::Error) -> Failure {
    let doing = format!(
        "{}: cannot read the ledger of {}",
        place.service, place.site
    );
    move |error| steer_failed(error, doing.clone())
}

fn know(keys: &mut Keys, site: &str, key: PublicKey) {
    let known = keys.entry(site.to_owned()).or_default();
    if !known.contains(&key) {
        known.push(key);
    }
}

/// The heads with the countersignatures that the site holds.
async fn heads(place: &Place, keys: &mut Keys) -> residency::Result<Vec<String>> {
    let session = &*place.session;
    let cosigned = log::cosigned(session, None).await?;
    let mut notes = Vec::new();
    for head in log::heads(session, false).await? {
        know(keys, place.site.as_str(), head.key);
        let mut note = head.note;
        for line in cosigned.get(&head.size).into_iter().flatten() {
            know(keys, &line.peer, line.key);
            note.push_str(&line.line);
            note.push('\n');
        }
        notes.push(note);
    }
    Ok(notes)
}

async fn witnessed(place: &Place, bundle: &mut Bundle) -> residency::Result<()> {
    let session = &*place.session;
    let (by, service) = (place.site.as_str(), place.service.as_str());
    for witnessed in witness::witnessed(session, None, false).await? {
        know(&mut bundle.keys, &witnessed.of, witnessed.key);
        know(&mut bundle.keys, by, witnessed.own_key);
        bundle.witnessed.push(Witnessed {
            by: by.to_owned(),
            service: service.to_owned(),
            of: witnessed.of,
            note: witnessed.note,
        });
    }
    for refused in witness::refused(session).await? {
        for key in refused.keys {
            know(&mut bundle.keys, &refused.of, key);
        }
        bundle.refused.push(Refused {
            by: by.to_owned(),
            service: service.to_owned(),
            of: refused.of,
            held: refused.held,
            shown: refused.shown,
            reason: refused.reason,
        });
    }
    Ok(())
}

/// The entries, as they stand there now, in the order in which they were taken.
async fn leaves(place: &Place, findings: &mut Vec<Finding>) -> residency::Result<Vec<Leaf>> {
    let session = &*place.session;
    let about = (place.service.as_str(), place.site.as_str());
    let mut leaves: Vec<Leaf> = Vec::new();
    let (mut frontier, mut nodes) = (Frontier::default(), Nodes::new());
    loop {
        let rows = log::rows(session, leaves.len() as u64, PAGE).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            while (leaves.len() as u64) < row.position {
                let what = format!("position {} of the log is empty", leaves.len());
                findings.push(Finding::new(Kind::Entry, about, what));
                leaves.push(Leaf {
                    hash: Hash([0; 32]),
                    entry: None,
                });
                nodes.extend(frontier.push(Hash([0; 32])));
            }
            // An entry that has no canonical text any more is none that was logged.
            let entry = row.entry.map(|entry| {
                entry
                    .text()
                    .unwrap_or_else(|why| format!("entry {}: {why}", entry.n))
            });
            leaves.push(Leaf {
                hash: row.hash,
                entry,
            });
            nodes.extend(frontier.push(row.hash));
        }
    }
    let stored = log::all_nodes(session).await?;
    let wrong = nodes
        .iter()
        .filter(|(node, hash)| stored.get(node) != Some(*hash));
    let wrong = wrong.count();
    if wrong > 0 {
        let what = format!("{wrong} hashes of its tree are not those of its entries");
        findings.push(Finding::new(Kind::Root, about, what));
    }
    Ok(leaves)
}
