//! What claims tell of themselves in metrics: by service, kind and what was answered; nothing of a user or a name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use model::ServiceName;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Claims;

/// The claims, as metrics show them.
pub struct Measured(pub(super) Arc<Claims>);

/// What was done, by the service and one or two words that are few.
#[derive(Debug, Default)]
pub(super) struct Tally {
    requests: Counts<(ServiceName, &'static str, u16)>,
    settled: Counts<(ServiceName, &'static str)>,
    conflicts: Counts<(ServiceName, String)>,
}

#[derive(Debug)]
struct Counts<K>(Mutex<BTreeMap<K, u64>>);

// === impl Tally ===

impl Tally {
    /// A request of an application was answered so.
    pub fn answered(&self, service: &ServiceName, verb: &'static str, status: u16) {
        self.requests
            .change((service.clone(), verb, status), |count| count + 1);
    }

    /// A claim was found held, or free.
    pub fn settled(&self, service: &ServiceName, what: &'static str) {
        self.settled
            .change((service.clone(), what), |count| count + 1);
    }

    /// So many names of this site's users are others' in the registry, at the last look.
    pub fn conflicts(&self, service: &ServiceName, kind: &str, now: u64) {
        self.conflicts
            .change((service.clone(), kind.to_owned()), |_| now);
    }
}

// === impl Counts ===

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Clone> Counts<K> {
    fn change(&self, of: K, to: impl FnOnce(u64) -> u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(of).or_default();
        *count = to(*count);
    }

    fn all(&self) -> Vec<(K, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts
            .iter()
            .map(|(of, count)| (of.clone(), *count))
            .collect()
    }
}

// === impl Measured ===

impl fmt::Debug for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Measured")
    }
}

impl Collector for Measured {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (site, tally) = (self.0.here.to_string(), &self.0.tally);
        let labels = |service: &ServiceName, name: &'static str, value: String| {
            [
                ("site", site.clone()),
                ("service", service.to_string()),
                (name, value),
            ]
        };
        let help = "Requests of applications about claims";
        let name = "claims_requests";
        let mut described = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for ((service, verb, status), count) in tally.requests.all() {
            let [site, service, verb] = labels(&service, "verb", verb.to_owned());
            let labels = [site, service, verb, ("status", status.to_string())];
            ConstCounter::new(count).encode(described.encode_family(&labels)?)?;
        }
        let help = "Claims that the homes confirmed (held), and names that they do not hold (free)";
        let name = "claims_settled";
        let mut described = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for ((service, what), count) in tally.settled.all() {
            let labels = labels(&service, "found", what.to_owned());
            ConstCounter::new(count).encode(described.encode_family(&labels)?)?;
        }
        let help = "Names of users who live here that are other users' in the registry";
        let name = "claims_conflicts";
        let mut described = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for ((service, kind), now) in tally.conflicts.all() {
            let labels = labels(&service, "kind", kind);
            ConstGauge::new(now as f64).encode(described.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
