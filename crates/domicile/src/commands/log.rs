//! Logs go to standard error.

use std::io::IsTerminal as _;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use crate::cli::Serve;
use crate::exit::{Exit, Failure, Outcome};

/// Of a command: `DOMICILE_LOG` says how much, `warn` by default.
pub(super) fn of_command() {
    let filter = EnvFilter::try_from_env("DOMICILE_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(filter_fn(discreet));
    // Only the first call of a process sets it; tests call more than once.
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .try_init();
}

/// Of a daemon: one JSON document a line, and text where somebody looks at a terminal.
pub(super) fn of_daemon(args: &Serve) -> Outcome<()> {
    let filter = match &args.log {
        Some(wanted) => EnvFilter::try_new(wanted).map_err(|why| {
            // What was written is not repeated by us: whoever mistook the flag may have put anything there.
            Failure::new(Exit::Usage, why)
                .mend("--log takes a level, as in `--log info,link=debug`")
        })?,
        None => EnvFilter::try_from_default_env()
            .or_else(|_| EnvFilter::try_from_env("DOMICILE_LOG"))
            .unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let (text, json) = match std::io::stderr().is_terminal() {
        true => (Some(fmt::layer().with_writer(std::io::stderr)), None),
        false => {
            let lines = fmt::layer().json().flatten_event(true);
            (None, Some(lines.with_writer(std::io::stderr)))
        }
    };
    let _ = tracing_subscriber::registry()
        .with(text.map(|lines| lines.with_filter(filter_fn(discreet))))
        .with(json.map(|lines| lines.with_filter(filter_fn(discreet))))
        .with(filter)
        .try_init();
    // What a panic says may hold what was being worked on: where it happened is enough to find the mistake.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panicked");
    }));
    Ok(())
}

/// The drivers write statements with their parameters: rows, users, passwords. No setting lets them.
fn discreet(about: &Metadata<'_>) -> bool {
    let driver = ["tokio_postgres", "pgwire_replication"];
    *about.level() <= Level::WARN || !driver.iter().any(|name| about.target().starts_with(name))
}
