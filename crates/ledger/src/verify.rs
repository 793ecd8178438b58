//! The checks of a bundle.

use std::collections::{BTreeMap, BTreeSet};

use crate::bundle::{Bundle, FORMAT, Log, LogReport, Refused, Report, Vouched, Witnessed};
use crate::entry::Entry;
use crate::finding::{Finding, Kind};
use crate::head::Head;
use crate::key::Pins;
use crate::keyring::{Keyring, Opened, Trust};
use crate::tree::{Frontier, Hash, leaf_hash};

/// A log and what was read of it.
struct Read<'a> {
    log: &'a Log,
    heads: Vec<Opened>,
    /// The roots of the entries at the sizes of all heads, as far as there are entries.
    roots: BTreeMap<u64, Hash>,
}

pub(crate) fn bundle(bundle: &Bundle, pins: &Pins) -> Report {
    let ring = Keyring::new(&bundle.keys, pins);
    let mut findings = ring.findings();
    if bundle.format != FORMAT {
        let what = format!("the format is {:?}, not {FORMAT:?}", bundle.format);
        findings.push(Finding::new(Kind::Format, ("", ""), what));
    }
    let witnessed = witnessed(bundle, &ring, &mut findings);
    let mut reports = Vec::new();
    let mut seen = BTreeSet::new();
    for log in &bundle.logs {
        let about = (log.service.as_str(), log.site.as_str());
        if !seen.insert(about) {
            findings.push(Finding::new(
                Kind::Format,
                about,
                "the log stands there twice",
            ));
        }
        let mut found = Vec::new();
        leaves(log, &mut found);
        let theirs: Vec<&(&Witnessed, Opened)> = witnessed
            .iter()
            .filter(|(of, _)| (of.service.as_str(), of.of.as_str()) == about)
            .collect();
        let read = read(log, &ring, &theirs, &mut found);
        reports.push(judge(&read, &theirs, bundle, &mut found));
        findings.extend(found);
    }
    let held = |site: &String| bundle.of.as_ref().is_none_or(|of| of.contains(site));
    let mut elsewhere: BTreeMap<(&str, &str), Vec<&Opened>> = BTreeMap::new();
    for (of, opened) in &witnessed {
        let about = (of.service.as_str(), of.of.as_str());
        if seen.contains(&about) {
            continue;
        }
        elsewhere.entry(about).or_default().push(opened);
        if held(&of.of) {
            let what = format!(
                "the log is not there, and {} countersigned {} entries of it",
                of.by, opened.head.size
            );
            findings.push(Finding::new(Kind::Truncated, (&of.service, &of.of), what));
        }
    }
    // Of a log that is elsewhere the heads themselves can still contradict each other.
    for (about, heads) in elsewhere {
        two_histories(about, heads.into_iter(), &mut findings);
    }
    for refused in &bundle.refused {
        findings.push(refusal(refused, &ring));
    }
    findings.sort();
    findings.dedup();
    Report {
        of: bundle.of.clone(),
        logs: reports,
        findings,
    }
}

/// What sites say that they countersigned, with the signatures of both held to be good.
fn witnessed<'a>(
    bundle: &'a Bundle,
    ring: &Keyring<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<(&'a Witnessed, Opened)> {
    let mut good = Vec::new();
    for witnessed in &bundle.witnessed {
        let about = (witnessed.service.as_str(), witnessed.of.as_str());
        let by = &witnessed.by;
        let Ok(opened) = ring.open(&witnessed.note, about) else {
            let what = format!("what {by} countersigned is no head");
            findings.push(Finding::new(Kind::Format, about, what));
            continue;
        };
        for fault in &opened.faults {
            let what = format!("in what {by} countersigned: {fault}");
            findings.push(Finding::new(Kind::Signature, about, what));
        }
        if opened.signed.is_none() {
            let what = format!("its site did not sign what {by} countersigned");
            findings.push(Finding::new(Kind::Signature, about, what));
        }
        if !opened.witnesses.contains_key(by) && !opened.unpinned.contains(by) {
            let what = format!("{by} did not countersign what it is said to have");
            findings.push(Finding::new(Kind::Signature, about, what));
        }
        good.push((witnessed, opened));
    }
    good
}

/// Every entry is there, in its form, and what its hash says.
fn leaves(log: &Log, findings: &mut Vec<Finding>) {
    let about = (log.service.as_str(), log.site.as_str());
    for (position, leaf) in log.leaves.iter().enumerate() {
        let wrong = match &leaf.entry {
            None => Some("is gone".to_owned()),
            Some(text) if leaf_hash(text.as_bytes()) != leaf.hash => {
                Some("is not what was logged".to_owned())
            }
            Some(text) => Entry::parse(text)
                .err()
                .map(|why| format!("is not in the form of one: {why}")),
        };
        if let Some(wrong) = wrong {
            let what = format!("the entry at position {position} {wrong}");
            findings.push(Finding::new(Kind::Entry, about, what));
        }
    }
}

fn read<'a>(
    log: &'a Log,
    ring: &Keyring<'_>,
    theirs: &[&(&Witnessed, Opened)],
    findings: &mut Vec<Finding>,
) -> Read<'a> {
    let about = (log.service.as_str(), log.site.as_str());
    let mut heads = Vec::new();
    for note in &log.heads {
        let Ok(opened) = ring.open(note, about) else {
            findings.push(Finding::new(
                Kind::Format,
                about,
                "a head is not in the form of one",
            ));
            continue;
        };
        let size = opened.head.size;
        for fault in &opened.faults {
            let what = format!("the head of {size} entries: {fault}");
            findings.push(Finding::new(Kind::Signature, about, what));
        }
        if opened.signed.is_none() {
            let what = format!("its site did not sign the head of {size} entries");
            findings.push(Finding::new(Kind::Signature, about, what));
        }
        heads.push(opened);
    }
    let sizes = heads.iter().map(|opened| opened.head.size);
    let wanted: BTreeSet<u64> = sizes
        .chain(theirs.iter().map(|(_, opened)| opened.head.size))
        .collect();
    let mut roots = BTreeMap::new();
    let mut frontier = Frontier::default();
    let hashes = log.leaves.iter().map(|leaf| Some(leaf.hash));
    for next in hashes.chain([None]) {
        if wanted.contains(&frontier.size()) {
            roots.insert(frontier.size(), frontier.root());
        }
        if let Some(hash) = next {
            frontier.push(hash);
        }
    }
    Read { log, heads, roots }
}

/// Holds the heads against the entries and against each other.
fn judge(
    read: &Read<'_>,
    theirs: &[&(&Witnessed, Opened)],
    bundle: &Bundle,
    findings: &mut Vec<Finding>,
) -> LogReport {
    let log = read.log;
    let about = (log.service.as_str(), log.site.as_str());
    let mut report = LogReport {
        service: log.service.clone(),
        site: log.site.clone(),
        entries: log.leaves.len() as u64,
        signed: 0,
        witnessed: 0,
        by: Vec::new(),
    };
    for opened in &read.heads {
        match fits(read, &opened.head) {
            Err((kind, what)) => {
                findings.push(Finding::new(kind, about, format!("the head of {what}")))
            }
            Ok(()) if opened.signed == Some(Trust::Pinned) => {
                report.signed = report.signed.max(opened.head.size);
            }
            Ok(()) => {}
        }
        for by in opened
            .witnesses
            .keys()
            .filter(|by| exported(bundle, &log.service, by))
        {
            let known = theirs
                .iter()
                .any(|(witnessed, its)| witnessed.by == **by && its.head == opened.head);
            if !known {
                let what = format!(
                    "{by} does not know the head of {} entries that it countersigned",
                    opened.head.size
                );
                findings.push(Finding::new(Kind::Witness, about, what));
            }
        }
    }
    for (witnessed, opened) in theirs {
        if let Err((kind, what)) = fits(read, &opened.head) {
            let what = format!("{} countersigned a head of {what}", witnessed.by);
            findings.push(Finding::new(kind, about, what));
        }
    }
    let all = || {
        read.heads
            .iter()
            .chain(theirs.iter().map(|(_, opened)| opened))
    };
    two_histories(about, all(), findings);
    let newest = read.heads.iter().map(|opened| opened.head.size).max();
    if newest.is_some_and(|newest| newest > report.signed) && findings.is_empty() {
        let what = "no pinned key signed its newest head";
        findings.push(Finding::new(Kind::Key, about, what));
    }
    for opened in all().filter(|opened| fits(read, &opened.head).is_ok()) {
        for (by, time) in &opened.witnesses {
            if *by == log.site || opened.head.size < report.witnessed {
                continue;
            }
            if opened.head.size > report.witnessed {
                report.witnessed = opened.head.size;
                report.by.clear();
            }
            report.by.retain(|other| other.site != *by);
            report.by.push(Vouched {
                site: by.clone(),
                time: *time,
            });
        }
    }
    report
}

/// Whether the entries make up `head`.
fn fits(read: &Read<'_>, head: &Head) -> Result<(), (Kind, String)> {
    let there = read.log.leaves.len();
    match read.roots.get(&head.size) {
        None => Err((
            Kind::Truncated,
            format!("{} entries, and there are {there}", head.size),
        )),
        Some(root) if *root != head.root => Err((
            Kind::Root,
            format!("{} entries that are not these", head.size),
        )),
        Some(_) => Ok(()),
    }
}

/// Two heads of one size with different roots, both signed by the site.
fn two_histories<'a>(
    about: (&str, &str),
    heads: impl Iterator<Item = &'a Opened>,
    findings: &mut Vec<Finding>,
) {
    let mut by_size: BTreeMap<u64, Hash> = BTreeMap::new();
    for Opened { head, signed, .. } in heads {
        if signed.is_some() && *by_size.entry(head.size).or_insert(head.root) != head.root {
            let what = format!("it signed two different heads of {} entries", head.size);
            findings.push(Finding::new(Kind::Equivocation, about, what));
        }
    }
}

/// Whether the bundle has what `site` knows: then what it countersigned must be there.
fn exported(bundle: &Bundle, service: &str, site: &str) -> bool {
    let mut logs = bundle.logs.iter();
    logs.any(|log| log.service == service && log.site == site)
}

fn refusal(refused: &Refused, ring: &Keyring<'_>) -> Finding {
    let about = (refused.service.as_str(), refused.of.as_str());
    let (by, reason) = (&refused.by, refused.reason);
    let heads = [&refused.held, &refused.shown].map(|note| ring.open(note, about).ok());
    let [Some(held), Some(shown)] = heads else {
        let what = format!("what {by} refused to countersign is no head");
        return Finding::new(Kind::Format, about, what);
    };
    let signed = held.signed.is_some() && shown.signed.is_some();
    let word = match signed {
        true => "",
        false => ", but the evidence is not signed by the site",
    };
    let what = format!(
        "{by} refused to countersign its head of {} entries after one of {}: {reason}{word}",
        shown.head.size, held.head.size
    );
    Finding::new(Kind::Equivocation, about, what)
}
