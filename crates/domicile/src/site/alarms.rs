//! Looks at the homes that this daemon leads, and raises alerts: in the log when one begins and ends, in `GET /status`, in metrics.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::daemon::{Leading, Soon, View, Work, WorkError};
use model::table::HomeSchema;
use model::{ServiceName, SiteName};
use postgres::connect::Session;
use postgres::{slot, standbys};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use residency::{install, tidings, vitals};
use serde::Serialize;
use tokio::time::Instant;

use crate::alerts::{self, Alert, Seen};
use crate::commands::homes::Home;
use crate::config::Config;
use crate::exit::Outcome;

/// How often a home is looked at.
const EVERY: Duration = Duration::from_secs(5);

/// How often all its records are read for users whom it lost; and as long as there are some, or may be.
const LOST_EVERY: Duration = Duration::from_secs(600);
const LOST_SOON: Duration = Duration::from_secs(60);

/// The field of `GET /status`, in each service.
const PART: &str = "alerts";

/// The work of whoever leads a service.
pub(super) struct Alarms {
    config: Arc<Config>,
    site: SiteName,
    raised: Arc<Raised>,
}

/// What was seen of all services, and what is raised.
pub(super) struct Raised {
    view: View,
    known: Mutex<BTreeMap<ServiceName, Known>>,
}

#[derive(Debug)]
struct Known {
    seen: Seen,
    alerts: Vec<Standing>,
}

/// An alert that stands.
#[derive(Clone, Debug, Serialize)]
struct Standing {
    #[serde(flatten)]
    alert: Alert,
    /// Since when, in seconds since 1970.
    since: u64,
}

// === impl Alarms ===

impl Alarms {
    pub(super) fn new(config: Arc<Config>, site: SiteName, raised: Arc<Raised>) -> Self {
        Self {
            config,
            site,
            raised,
        }
    }

    async fn home(&self, name: &ServiceName) -> Outcome<(Session, HomeSchema)> {
        let service = self.config.service(name)?;
        let home = Home::open_installed(name, service, &self.site, "alerts").await?;
        let schema = home.schema()?.clone();
        Ok((home.session, schema))
    }

    async fn work(&self, name: &ServiceName) -> Result<(), WorkError> {
        let (session, schema) = self.home(name).await.map_err(|f| super::told(&f))?;
        let service = self.config.service(name)?;
        let slot = install::stream_name(name);
        let (mut lost, mut counted) = (0, None::<Instant>);
        loop {
            let vitals = vitals::look(&*session, &schema).await?;
            let every = match vitals.door.open && lost == 0 {
                true => LOST_EVERY,
                false => LOST_SOON,
            };
            if counted.is_none_or(|at| at.elapsed() > every) {
                lost = tidings::lost(&*session).await?.len() as u64;
                counted = Some(Instant::now());
            }
            let kept = slot::wal_bytes(&session, &slot).await?;
            let seen = Seen {
                vitals,
                standbys: standbys::look(&*session).await?,
                wal: kept.map(|kept| (kept, service.limits.wal)),
                lost,
            };
            let alerts = alerts::judge(&seen, &self.config.alerts);
            self.raised.know(name, seen, alerts);
            tokio::time::sleep(EVERY).await;
        }
    }
}

impl Work for Alarms {
    fn name(&self) -> &'static str {
        "alerts"
    }

    fn lead(&self, leading: Leading) -> Soon<'_, Result<(), WorkError>> {
        Box::pin(async move {
            let ended = tokio::select! {
                done = self.work(&leading.service) => done,
                () = leading.stop.cancelled() => Ok(()),
            };
            if leading.stop.is_cancelled() {
                // Whoever leads next looks for himself.
                self.raised.forget(&leading.service);
            }
            ended
        })
    }
}

// === impl Raised ===

impl Raised {
    pub(super) fn new(view: View) -> Self {
        Self {
            view,
            known: Mutex::default(),
        }
    }

    /// Takes what was seen, and says which alerts began and ended by it.
    fn know(&self, service: &ServiceName, seen: Seen, alerts: Vec<Alert>) {
        let mut known = self.lock();
        let before = known.remove(service).map(|known| known.alerts);
        let before = before.unwrap_or_default();
        let since = |alert: &Alert| {
            let stood = before.iter().find(|one| one.alert.alert == alert.alert);
            stood.map(|one| one.since)
        };
        let stand = |alert: Alert| {
            Standing {
            since: since(&alert).unwrap_or_else(|| {
                tracing::warn!(%service, alert = alert.alert, what = alert.what, mend = alert.mend, "alert");
                now()
            }),
            alert,
        }
        };
        let alerts: Vec<Standing> = alerts.into_iter().map(stand).collect();
        for one in &before {
            if alerts.iter().all(|now| now.alert.alert != one.alert.alert) {
                tracing::info!(%service, alert = one.alert.alert, "the alert is over");
            }
        }
        self.report(service, &alerts);
        known.insert(service.clone(), Known { seen, alerts });
    }

    fn forget(&self, service: &ServiceName) {
        self.lock().remove(service);
        self.report(service, &[]);
    }

    fn report(&self, service: &ServiceName, alerts: &[Standing]) {
        let alerts = serde_json::to_value(alerts).unwrap_or_default();
        self.view.report(service, PART, alerts);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raised").finish_non_exhaustive()
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Tells of it in metrics.
#[derive(Debug)]
pub(super) struct Measured(pub(super) Arc<Raised>);

/// What is told of a home, and how it is read from what was seen; `None` where there is nothing to tell.
type Gauge = (&'static str, &'static str, fn(&Seen) -> Option<f64>);

const GAUGES: [Gauge; 8] = [
    (
        "in_doubt_users",
        "Users who were offered to another site that has not answered",
        |seen| Some(seen.vitals.in_doubt.users as f64),
    ),
    (
        "in_doubt_seconds",
        "How long the first of them has been",
        |seen| Some(seen.vitals.in_doubt.longest.as_secs_f64()),
    ),
    (
        "arriving_users",
        "Users who are on their way here",
        |seen| Some(seen.vitals.arriving.users as f64),
    ),
    (
        "arriving_seconds",
        "How long the first of them has been",
        |seen| Some(seen.vitals.arriving.longest.as_secs_f64()),
    ),
    (
        "open",
        "Whether the site was compared with all peers since its server started",
        |seen| Some(f64::from(seen.vitals.door.open)),
    ),
    (
        "lost_users",
        "Users who came here and whom the database has forgotten",
        |seen| Some(seen.lost as f64),
    ),
    (
        "slot_wal_bytes",
        "WAL that the service's slot keeps back",
        |seen| seen.wal.map(|(kept, _)| kept as f64),
    ),
    (
        "slot_wal_cap_bytes",
        "WAL at which moves are given up",
        |seen| seen.wal.map(|(_, cap)| cap as f64),
    ),
];

// === impl Measured ===

impl Collector for Measured {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let site = self.0.view.site().to_string();
        let known = self.0.lock();
        for (name, help, value) in GAUGES {
            let mut described = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (service, known) in &*known {
                if let Some(value) = value(&known.seen) {
                    let labels = [("site", site.clone()), ("service", service.to_string())];
                    ConstGauge::new(value).encode(described.encode_family(&labels)?)?;
                }
            }
        }
        let help = "Whether the alert is raised";
        let mut described = encoder.encode_descriptor("alert", help, None, MetricType::Gauge)?;
        for (service, known) in &*known {
            for alert in alerts::NAMES {
                let raised = known.alerts.iter().any(|one| one.alert.alert == alert);
                let labels = [
                    ("site", site.clone()),
                    ("service", service.to_string()),
                    ("alert", alert.to_owned()),
                ];
                ConstGauge::new(f64::from(raised)).encode(described.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
