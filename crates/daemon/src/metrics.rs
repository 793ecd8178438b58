//! What is measured. Labels are site, service and peer, never anything of a user's.

use std::fmt;

use link::Traffic;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::view::{LinkState, ServiceState, View};

/// Reads the view whenever it is asked: nothing is counted twice, and nothing is forgotten.
#[derive(Debug)]
struct Reader(View);

/// A sample's labels beside the site, and its value.
type Samples<T> = Vec<(Vec<(&'static str, String)>, T)>;

/// One number of a peer's traffic.
type Reads = fn(&Traffic) -> u64;

/// A registry with what the daemon itself measures; names begin with `domicile_`.
pub(crate) fn registry(view: &View) -> Registry {
    let mut registry = Registry::with_prefix("domicile");
    let build = Info::new(vec![("version", view.version().to_owned())]);
    registry.register("build", "The program", build);
    registry.register_collector(Box::new(Reader(view.clone())));
    registry
}

// === impl Reader ===

impl Collector for Reader {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let started = self.0.started() as f64;
        let one = vec![(vec![], started)];
        self.gauges(
            &mut encoder,
            "start_time",
            "When the daemon began, in seconds since 1970",
            Some(Unit::Seconds),
            one,
        )?;
        self.services(&mut encoder)?;
        self.peers(&mut encoder)?;
        self.traffic(&mut encoder)
    }
}

impl Reader {
    fn services(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let each = |value: fn(&ServiceState) -> f64| -> Samples<f64> {
            let state = self.0.lock();
            let services = state.services.iter();
            services
                .map(|(name, one)| (service(name), value(one)))
                .collect()
        };
        let leads = each(|one| one.leads.is_some().into());
        self.gauges(
            encoder,
            "leader",
            "1 where this daemon leads the service",
            None,
            leads,
        )?;
        let reached = each(|one| one.unreached.is_none().into());
        self.gauges(
            encoder,
            "database_reached",
            "1 where the service's home database at this site answers",
            None,
            reached,
        )?;
        let taken: Samples<u64> = {
            let state = self.0.lock();
            let services = state.services.iter();
            services
                .map(|(name, one)| (service(name), one.taken))
                .collect()
        };
        self.counters(
            encoder,
            "terms",
            "How often this daemon began to lead the service",
            None,
            taken,
        )
    }

    fn peers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (mut connected, mut offset, mut trip, mut same) = (vec![], vec![], vec![], vec![]);
        {
            let state = self.0.lock();
            for (name, known) in &state.peers {
                connected.push((peer(name), known.since.is_some().into()));
                if let Some(said) = &known.said {
                    offset.push((peer(name), said.clock_offset_ms as f64 / 1e3));
                    trip.push((peer(name), said.round_trip_ms as f64 / 1e3));
                }
                for (of, equal) in state.same_policy(known) {
                    let labels = [peer(name), service(&of)].concat();
                    same.push((labels, f64::from(equal)));
                }
            }
        }
        self.gauges(
            encoder,
            "peer_connected",
            "1 where the peer is connected",
            None,
            connected,
        )?;
        let seconds = Some(Unit::Seconds);
        self.gauges(
            encoder,
            "peer_clock_offset",
            "How far the peer's clock is before ours",
            seconds.clone(),
            offset,
        )?;
        self.gauges(
            encoder,
            "peer_round_trip",
            "How long the peer took to answer a small question",
            seconds,
            trip,
        )?;
        self.gauges(
            encoder,
            "peer_same_policy",
            "1 where the same policy is installed at both sites",
            None,
            same,
        )
    }

    fn traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut refused: Samples<u64> = vec![];
        let mut traffic: Vec<(Vec<_>, Traffic)> = vec![];
        if let LinkState::Up {
            peers,
            refused: count,
            ..
        } = &self.0.lock().link
        {
            refused.push((vec![], *count));
            traffic.extend(peers.iter().map(|(name, one)| (peer(name), one.traffic())));
        }
        let each = |value: fn(&Traffic) -> u64| -> Samples<u64> {
            let all = traffic.iter();
            all.map(|(labels, one)| (labels.clone(), value(one)))
                .collect()
        };
        let what = "Callers that the link turned away since it is up: wrong keys, as a rule";
        self.counters(encoder, "link_refused_callers", what, None, refused)?;
        let bytes = Some(Unit::Bytes);
        let all: [(&str, &str, Reads); 4] = [
            (
                "link_raw_sent",
                "Content of transfers sent, before compression",
                |one| one.raw_sent,
            ),
            (
                "link_wire_sent",
                "The same as it went over the wire",
                |one| one.wire_sent,
            ),
            (
                "link_raw_received",
                "Content of transfers received, after decompression",
                |one| one.raw_received,
            ),
            (
                "link_wire_received",
                "The same as it came over the wire",
                |one| one.wire_received,
            ),
        ];
        for (name, help, value) in all {
            self.counters(encoder, name, help, bytes.clone(), each(value))?;
        }
        let what = "Blocks sent again as their connection broke";
        self.counters(
            encoder,
            "link_blocks_again",
            what,
            None,
            each(|one| one.blocks_again),
        )
    }

    fn gauges(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: Samples<f64>,
    ) -> fmt::Result {
        let mut described =
            encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in samples {
            let labels = self.labels(labels);
            ConstGauge::new(value).encode(described.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: Samples<u64>,
    ) -> fmt::Result {
        let mut described =
            encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in samples {
            let labels = self.labels(labels);
            ConstCounter::new(value).encode(described.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn labels(&self, more: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
        let site = vec![("site", self.0.site().to_string())];
        [site, more].concat()
    }
}

fn service(name: &model::ServiceName) -> Vec<(&'static str, String)> {
    vec![("service", name.to_string())]
}

fn peer(name: &model::SiteName) -> Vec<(&'static str, String)> {
    vec![("peer", name.to_string())]
}
