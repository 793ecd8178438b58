//! A cluster's port and configuration.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::BuildHasher as _;
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Result, bail};

use crate::cluster::ClusterOptions;

/// Below the range from which Linux takes ports for outgoing connections (32768 and up), so that
/// nobody's connection sits on our port while the cluster is stopped.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A port that nobody listens on now; the server may still find it taken.
pub(crate) fn free_port() -> Result<u16> {
    for attempt in 0..1_000_u32 {
        let random = RandomState::new().hash_one(attempt);
        let offset = u16::try_from(random % u64::from(PORTS.end - PORTS.start))?;
        let port = PORTS.start + offset;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", PORTS.start, PORTS.end)
}

/// The lines that follow the template's own in `postgresql.conf`.
pub(crate) fn settings(options: &ClusterOptions, port: u16, dir: &Path) -> String {
    let on_or_off = |on: bool| if on { "on" } else { "off" };
    // A socket's path has room for 107 bytes; without one, 127.0.0.1 is enough.
    let socket_dir = dir.to_str().filter(|path| path.len() < 80).unwrap_or("");
    let ours = [
        ("listen_addresses", "127.0.0.1"),
        ("port", &port.to_string()),
        ("unix_socket_directories", socket_dir),
        ("wal_level", "logical"),
        ("max_prepared_transactions", "20"),
        ("max_replication_slots", "20"),
        ("max_wal_senders", "20"),
        ("max_connections", "200"),
        ("shared_buffers", "64MB"),
        ("fsync", on_or_off(options.fsync)),
        ("full_page_writes", on_or_off(options.fsync)),
        ("autovacuum", "on"),
        ("logging_collector", "off"),
        ("log_line_prefix", "%m [%p] %q%u@%d "),
    ];
    let theirs = options
        .settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let mut text = "\n# throwaway cluster\n".to_owned();
    for (name, value) in ours.into_iter().chain(theirs) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
    }
    text
}
