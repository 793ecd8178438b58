//! The two ends of a move, and its bounds.

use std::sync::Arc;
use std::time::Duration;

use model::table::HomeSchema;
use model::{KeyKind, ServiceName, SiteName};
use postgres::connect::{Session, connect};
use residency::office::Office;
use tokio::sync::watch;

use crate::error::{At, Result};
use crate::far::{Far, Seat, Visited};
use crate::ports::{Door, Manifests};

/// One end: a home database.
#[derive(Clone)]
pub struct End {
    /// The site.
    pub site: SiteName,
    /// How to reach its database.
    pub url: String,
    /// Its classified tables, as read there.
    pub schema: Arc<HomeSchema>,
}

impl std::fmt::Debug for End {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("End")
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

impl End {
    /// Opens a session.
    pub async fn session(&self, purpose: &str) -> Result<Session> {
        connect(&self.url, purpose)
            .await
            .at(&self.site, "connecting")
    }

    /// The type family of user keys.
    pub fn kind(&self) -> KeyKind {
        self.schema.users.kind
    }
}

/// From where to where, and how.
#[derive(Clone)]
pub struct Route {
    /// The service.
    pub service: ServiceName,
    /// Where the users live.
    pub source: End,
    /// Where they go.
    pub target: Target,
    /// The phase of the policy under which they go. `None` on the way back, which is that of the move it takes back.
    pub phase: Option<String>,
    /// The bounds.
    pub bounds: Bounds,
    /// The gateways' door.
    pub door: Arc<dyn Door>,
    /// What users have besides rows.
    pub manifests: Arc<dyn Manifests>,
    /// When this run is to end.
    pub stop: Stop,
}

/// Whether a run is to come to a safe point and end there, with the move to go on another time.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

// === impl Stop ===

impl Stop {
    /// As soon as `told` says so.
    pub fn when(told: watch::Receiver<bool>) -> Self {
        Self(told)
    }

    /// Only with the process.
    pub fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// Waits until it is.
    pub(crate) async fn told(mut self) {
        if self.0.wait_for(|told| *told).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Where users go: another site, and how it is reached.
#[derive(Clone)]
pub struct Target {
    /// The site.
    pub site: SiteName,
    /// Who does there what is asked.
    pub far: Arc<dyn Far>,
}

// === impl Route ===

impl Route {
    /// The service, and from where to where.
    pub fn way(&self) -> (&ServiceName, &SiteName, &SiteName) {
        (&self.service, &self.source.site, &self.target.site)
    }
}

/// How long an office may still be held by somebody who has just let it go.
pub(crate) const OFFICE_PATIENCE: Duration = Duration::from_secs(2);

/// The offices that this process holds at both ends.
#[derive(Clone)]
pub struct Offices {
    /// Of departures from the source.
    pub departures: Office,
    /// Of arrivals at the target.
    pub arrivals: Arc<dyn Visited>,
}

// === impl Offices ===

impl Offices {
    /// Opens a session at the target.
    pub async fn seat(&self, purpose: &'static str) -> Result<Seat> {
        Seat::open(&*self.arrivals, purpose).await
    }
}

/// The bounds of a move.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Users in a batch.
    pub batch_users: usize,
    /// Rows in a batch; a bigger user goes alone.
    pub batch_rows: u64,
    /// Users in a chunk: bounds its enrolment.
    pub chunk_users: usize,
    /// Rows in a chunk: bounds how long its snapshot is held.
    pub chunk_rows: u64,
    /// Chunks enrolled under one barrier.
    pub chunks_together: usize,
    /// Batches handed off side by side.
    pub batches_together: usize,
    /// How long a batch may stay fenced while the stream catches up; then it goes back to moving.
    pub pause_max: Duration,
    /// How long a fence waits in the queue of writers before it lets others pass.
    pub fence_patience: Duration,
    /// How often a fence is tried before its users are set aside.
    pub fence_attempts: u32,
    /// How long the enrolment barrier waits for open transactions.
    pub barrier_patience: Duration,
    /// How long the change stream may stay too far behind for any fence before the move stops.
    pub behind_patience: Duration,
    /// WAL that may be kept back at the source, in bytes.
    pub wal_max: Option<u64>,
    /// Bytes copied a second, at most.
    pub rate: Option<u64>,
    /// The largest row that is carried, in bytes as COPY writes it; a user with a larger one is set aside.
    pub row_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            batch_users: 64,
            batch_rows: 20_000,
            // A chunk of 50,000 users or a million rows is copied in some seconds: wide enough that reading whole tables
            // pays, short enough that its snapshot hinders no vacuum.
            chunk_users: 50_000,
            chunk_rows: 1_000_000,
            chunks_together: 2,
            // While one waits for the other end's answer, the next is read.
            batches_together: 2,
            pause_max: Duration::from_secs(1),
            fence_patience: Duration::from_millis(200),
            fence_attempts: 20,
            barrier_patience: Duration::from_secs(60),
            behind_patience: Duration::from_secs(300),
            wal_max: Some(10 << 30),
            rate: None,
            row_max: 64 << 20,
        }
    }
}
