//! What the gateway tells of itself in metrics: by service, home and market, which policy names; nothing of a user.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::gateway::site::Gateway;
use ::gateway::tally::{BOUNDS_MS, Counts, Kind};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The gateway, as metrics show it.
pub struct Measured(pub(super) Arc<Gateway>);

/// A count, and what it is.
type Count = (&'static str, &'static str, fn(&Counts) -> &AtomicU64);

const COUNTS: [Count; 4] = [
    ("gateway_requests", "Requests of clients", |counts| {
        &counts.requests
    }),
    (
        "gateway_failures",
        "Those answered 5xx, by the gateway or an application",
        |counts| &counts.failures,
    ),
    (
        "gateway_parked",
        "Those that waited while their user changed home",
        |counts| &counts.parked,
    ),
    (
        "gateway_redirected",
        "Those that were sent on because a first site was not the home",
        |counts| &counts.redirected,
    ),
];

impl fmt::Debug for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Measured")
    }
}

// === impl Measured ===

impl Measured {
    fn labels(&self, kind: &Kind) -> [(&'static str, String); 4] {
        let gateway = &*self.0;
        let service = gateway.services.get(usize::from(kind.service));
        [
            ("site", gateway.name(gateway.here).to_owned()),
            (
                "service",
                service.map_or_else(String::new, |service| service.name.to_string()),
            ),
            (
                "home",
                kind.home
                    .map_or_else(String::new, |home| gateway.name(home).to_owned()),
            ),
            ("market", kind.market.to_string()),
        ]
    }
}

impl Collector for Measured {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.0.tally.all();
        for (name, help, count) in COUNTS {
            let mut described = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (kind, counts) in &all {
                let labels = self.labels(kind);
                let value = ConstCounter::new(count(counts).load(Ordering::Relaxed));
                value.encode(described.encode_family(&labels)?)?;
            }
        }
        let help = "How long they took, from the end of the request's head to that of the answer";
        let name = "gateway_seconds";
        let mut described = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (kind, counts) in &all {
            let labels = self.labels(kind);
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let within: Vec<u64> = counts.within.iter().map(read).collect();
            let bounds = BOUNDS_MS.iter().map(|bound| *bound as f64 / 1e3);
            let buckets: Vec<(f64, u64)> = bounds
                .chain([f64::MAX])
                .zip(within.iter().copied())
                .collect();
            let sum = read(&counts.total_us) as f64 / 1e6;
            let mut family = described.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(sum, within.iter().sum(), &buckets, None)?;
        }
        let gauges: [(&str, &str, f64); 1] = [(
            "gateway_waiting",
            "Requests that wait now",
            self.0.doors.parked() as f64,
        )];
        let site = [("site", self.0.name(self.0.here).to_owned())];
        for (name, help, value) in gauges {
            let mut described = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(described.encode_family(&site)?)?;
        }
        let users = ("gateway_users", "Users whose home is in memory");
        let leased = (
            "gateway_leased",
            "Whether the gateway may serve the users of this site",
        );
        for (at, (name, help)) in [users, leased].into_iter().enumerate() {
            let mut described = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for service in &self.0.services {
                let labels = [
                    ("site", self.0.name(self.0.here).to_owned()),
                    ("service", service.name.to_string()),
                ];
                let value = match at {
                    0 => service.homes.len() as f64,
                    _ => f64::from(service.lease.stands()),
                };
                ConstGauge::new(value).encode(described.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
