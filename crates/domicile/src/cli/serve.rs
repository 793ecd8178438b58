//! `serve` on the command line.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `serve`
#[derive(Debug, Args)]
#[command(after_help = "\
Needs the site's own databases and key alone. Several daemons may run for a site: for each service one leads, and another \
takes over where it dies. SIGTERM or SIGINT ends it within ten seconds, a second one at once. It answers GET /healthz, \
/readyz, /metrics and /status on its admin socket.")]
pub struct Serve {
    /// The site
    #[arg(long, value_name = "SITE")]
    pub site: String,
    /// Which part of the site's work
    #[arg(long, value_name = "ROLE", default_value = "all")]
    pub role: Role,
    /// The admin socket, in place of the configuration's; each daemon of a machine needs its own
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How much to log, as `info` or `info,link=debug`; without it RUST_LOG, then `info`
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
}

/// A part of a site's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Sends each request to its user's home; any number may run
    Gateway,
    /// Leads, and moves users
    Mover,
    /// Both; the gateway where the configuration has one
    All,
}
