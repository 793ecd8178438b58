//! Throwaway PostgreSQL clusters for tests, benchmarks and the demo, and a path between programs that can be cut.
//!
//! [`Cluster::start`] makes a cluster in a fresh temporary directory, listening on a free port of
//! 127.0.0.1; dropping it ends the server and removes the directory. Works as root too: the server
//! then runs under another account. Where the server programs are missing,
//! [`ensure_postgres_installed`] installs them or says in one line how to.
//!
//! The superuser `postgres` needs no password from 127.0.0.1, so anyone with an account on this
//! machine can connect while a cluster runs: never put real data in one.

mod account;
mod cluster;
mod install;
#[cfg(feature = "long-path")]
mod long_path;
mod programs;
mod relay;
mod settings;
mod template;
mod wait;

pub use cluster::{Backup, Cluster, ClusterOptions};
pub use install::{ensure_flask_installed, ensure_postgres_installed};
#[cfg(feature = "long-path")]
pub use long_path::{LongPath, Shore};
pub use programs::find_bindir;
pub use relay::Relay;
pub use wait::wait_until;
