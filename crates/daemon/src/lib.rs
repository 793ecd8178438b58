//! A site's process: who leads, what it says of itself, how it ends.
//!
//! A site may have several daemons; for each service one of them **leads**, by an office in the service's home database.
//! The one that leads listens and dials, and does the [`Work`]; the others stand by. What moves users is not here: it is
//! plugged in as [`Work`] (what a leader does), [`Hears`] (what peers may ask), routes of the admin API, and metrics.
//! `docs/daemon.md` is for operators.
//!
//! Reading order: `election` (the rule, pure), `post` (one office), `daemon` (the driver), `leading` and `linked` (what a
//! leader runs), `dispatch` (what peers say), `view` (what is known), `admin` and `metrics` (who is told).

mod acquaintance;
mod admin;
mod admin_socket;
mod daemon;
mod dispatch;
mod election;
mod ending;
mod error;
mod leading;
mod linked;
mod metrics;
mod post;
mod settings;
mod view;
mod work;

/// A boxed future, so that parts can be plugged in at run time.
pub type Soon<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub use daemon::{Daemon, Moment};
pub use dispatch::{AskError, Hears, Topic, Unheard, ask, notify};
pub use ending::Ending;
pub use error::DaemonError;
pub use post::OFFICE;
pub use settings::{Admin, DatabaseUrl, Link, Service, Settings};
pub use view::View;
pub use work::{Leading, Work, WorkError};

pub use axum::Router;
pub use prometheus_client::registry::Registry;
