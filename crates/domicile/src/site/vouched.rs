//! How far this site's ledgers are countersigned, and what contradicts: for operators. Nothing is decided by it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ::daemon::View;
use model::{ServiceName, SiteName};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

/// The field of `GET /status`, in each service.
const PART: &str = "ledger";

/// What to do about heads that contradict each other.
const MEND: &str = "two histories of one ledger were shown, and the evidence is kept: run `domicile ledger verify` at both sites, \
                    keep what `domicile ledger export` writes, and find out who changed that site's tables";

/// What is known of all services' ledgers.
pub(super) struct Vouched {
    view: View,
    known: Mutex<BTreeMap<ServiceName, Known>>,
}

/// What is known of one service's.
#[derive(Debug, Default)]
struct Known {
    /// Of the last head that is signed.
    entries: u64,
    /// What keeps the site from signing.
    fault: Option<String>,
    peers: BTreeMap<SiteName, Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    /// Up to here it countersigned this site's log.
    countersigned: u64,
    /// Since when it lacks something.
    behind: Option<Instant>,
    /// Why it refused this site's last head.
    refuses: Option<String>,
    /// Why this site refused a head of its.
    refused: Option<String>,
    /// How often it refused one of this site's, and this site one of its.
    times: [u64; 2],
}

#[derive(Debug, Serialize)]
struct Report {
    entries: u64,
    peers: Vec<Countersigned>,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Countersigned {
    peer: SiteName,
    entries: u64,
}

#[derive(Debug, Serialize)]
struct Finding {
    /// Whose ledger it is about.
    site: SiteName,
    what: String,
    mend: &'static str,
}

// === impl Vouched ===

impl Vouched {
    pub(super) fn new(view: View) -> Self {
        Self {
            view,
            known: Mutex::default(),
        }
    }

    /// A term begins, or ends: nothing is known.
    pub(super) fn begin(&self, service: &ServiceName) {
        self.change(service, |known| *known = Known::default());
    }

    /// The site's log is signed up to `entries`.
    pub(super) fn signed(&self, service: &ServiceName, entries: u64) {
        self.change(service, |known| {
            (known.entries, known.fault) = (entries, None);
        });
    }

    /// Nothing can be signed.
    pub(super) fn fails(&self, service: &ServiceName, why: String) {
        self.change(service, |known| known.fault = Some(why));
    }

    /// `peer` is asked to countersign.
    pub(super) fn knows(&self, service: &ServiceName, peer: &SiteName) {
        self.change(service, |known| {
            known.peers.entry(peer.clone()).or_default();
        });
    }

    /// `peer` vouches for `entries` of this site's log.
    pub(super) fn vouches(&self, service: &ServiceName, peer: &SiteName, entries: u64) {
        self.change(service, |known| {
            let peer = known.peers.entry(peer.clone()).or_default();
            peer.countersigned = peer.countersigned.max(entries);
            peer.refuses = None;
        });
    }

    /// `peer` refused a head of this site's.
    pub(super) fn is_refused(&self, service: &ServiceName, peer: &SiteName, why: String) {
        self.change(service, |known| {
            let peer = known.peers.entry(peer.clone()).or_default();
            // It is shown again and again: it counts once.
            peer.times[0] += u64::from(peer.refuses.is_none());
            peer.refuses = Some(why);
        });
    }

    /// This site refused a head of `peer`'s, now or, as its tables say, before.
    pub(super) fn refuses(&self, service: &ServiceName, peer: &SiteName, why: String) {
        self.change(service, |known| {
            let peer = known.peers.entry(peer.clone()).or_default();
            peer.times[1] += u64::from(peer.refused.is_none());
            peer.refused = Some(why);
        });
    }

    fn change(&self, service: &ServiceName, change: impl FnOnce(&mut Known)) {
        let mut all = self.lock();
        let known = all.entry(service.clone()).or_default();
        change(known);
        for peer in known.peers.values_mut() {
            peer.behind = match peer.countersigned < known.entries {
                true => peer.behind.or_else(|| Some(Instant::now())),
                false => None,
            };
        }
        let report = known.report(self.view.site());
        drop(all);
        let report = serde_json::to_value(report).unwrap_or_default();
        self.view.report(service, PART, report);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Vouched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vouched").finish_non_exhaustive()
    }
}

// === impl Known ===

impl Known {
    fn report(&self, own: &SiteName) -> Report {
        let mut findings = Vec::new();
        let mut found = |site: &SiteName, what: String, mend| {
            let site = site.clone();
            findings.push(Finding { site, what, mend });
        };
        if let Some(fault) = &self.fault {
            let mend = "run `domicile ledger verify`, which says what is wrong and where";
            found(own, format!("the ledger is not signed: {fault}"), mend);
        }
        for (name, peer) in &self.peers {
            if let Some(why) = &peer.refuses {
                let what = format!("equivocation: {name} refused the ledger of {own}: {why}");
                found(own, what, MEND);
            }
            if let Some(why) = &peer.refused {
                let what = format!("equivocation: {own} refused the ledger of {name}: {why}");
                found(name, what, MEND);
            }
        }
        let peers = self.peers.iter().map(|(name, peer)| Countersigned {
            peer: name.clone(),
            entries: peer.countersigned,
        });
        Report {
            entries: self.entries,
            peers: peers.collect(),
            findings,
        }
    }
}

/// Tells of it in metrics.
#[derive(Debug)]
pub(super) struct Measured(pub(super) std::sync::Arc<Vouched>);

type Labels = Vec<(&'static str, String)>;

// === impl Measured ===

impl Measured {
    fn labels(&self, service: &ServiceName, peer: Option<&SiteName>) -> Labels {
        let mut labels = vec![
            ("site", self.0.view.site().to_string()),
            ("service", service.to_string()),
        ];
        labels.extend(peer.map(|peer| ("peer", peer.to_string())));
        labels
    }

    /// One sample for each service.
    fn each(&self, value: impl Fn(&ServiceName, &Known) -> f64) -> Vec<(Labels, f64)> {
        let all = self.0.lock();
        let all = all.iter();
        all.map(|(name, known)| (self.labels(name, None), value(name, known)))
            .collect()
    }

    /// One sample for each service and peer.
    fn each_peer<T>(&self, value: impl Fn(&Peer) -> T) -> Vec<(Labels, T)> {
        let all = self.0.lock();
        let peers = all.iter().flat_map(|(name, known)| {
            let peers = known.peers.iter();
            peers.map(move |(site, peer)| (name, site, peer))
        });
        peers
            .map(|(name, site, peer)| (self.labels(name, Some(site)), value(peer)))
            .collect()
    }
}

impl Collector for Measured {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let site = self.0.view.site().clone();
        let gauges = [
            (
                "ledger_entries",
                "Entries of the site's ledger that are signed",
                self.each(|_, known| known.entries as f64),
            ),
            (
                "ledger_findings",
                "Contradictions in the ledger, as GET /status lists them",
                self.each(|_, known| known.report(&site).findings.len() as f64),
            ),
            (
                "ledger_countersigned_entries",
                "Entries of the site's ledger that the peer countersigned",
                self.each_peer(|peer| peer.countersigned as f64),
            ),
            (
                "ledger_unwitnessed_seconds",
                "How long entries have been signed that the peer has not countersigned",
                self.each_peer(|peer| {
                    let since = peer.behind.map(|since| since.elapsed().as_secs_f64());
                    since.unwrap_or_default()
                }),
            ),
        ];
        for (name, help, samples) in gauges {
            let mut described = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in samples {
                ConstGauge::new(value).encode(described.encode_family(&labels)?)?;
            }
        }
        let counters = [
            (
                "ledger_refused_by_peer",
                "How often the peer began to refuse this site's ledger",
                self.each_peer(|peer| peer.times[0]),
            ),
            (
                "ledger_refused_of_peer",
                "How often this site found the peer's ledger to contradict what it countersigned",
                self.each_peer(|peer| peer.times[1]),
            ),
        ];
        for (name, help, samples) in counters {
            let mut described = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, value) in samples {
                ConstCounter::new(value).encode(described.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
