//! What people and scripts see. Each file turns one kind of result into text; nothing here asks anything.

pub mod check;
pub mod demo;
pub mod destroyed;
pub mod erase;
pub mod export;
mod grid;
pub mod guard;
pub mod install;
pub mod keys;
pub mod ledger;
mod numbers;
pub mod plan;
pub mod progress;
pub mod prove;
pub mod receipt;
pub mod report;
pub mod status;
pub mod steer;
pub mod suggest;
pub mod summary;
pub mod tally;
pub mod verify;
pub mod whereabouts;

use std::io::{IsTerminal, Write};

pub use grid::Grid;
pub use numbers::{bytes, count, milliseconds, seconds};
pub use tally::Tally;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON: one document, or one event a line.
    Json,
    /// Tables with lines and moving bars, for people.
    Terminal,
    /// Plain lines, for logs and pipes.
    Plain,
}

impl Form {
    /// The form for standard output: JSON where asked, tables on a terminal, plain lines elsewhere.
    pub fn of_stdout(json: bool) -> Self {
        match (json, std::io::stdout().is_terminal()) {
            (true, _) => Self::Json,
            (false, true) => Self::Terminal,
            (false, false) => Self::Plain,
        }
    }
}

/// `value` as one line of JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    // Our own types have string keys and finite numbers: writing them cannot fail.
    serde_json::to_string(value).expect("a result can be written as JSON")
}

/// Writes `text` and an end of line to standard output. A reader who has gone (`| head`) is no error.
pub fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
