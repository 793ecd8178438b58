//! How a command ends, and how it says that it failed.

use std::fmt;
use std::process::ExitCode;

use crate::config::{ConfigError, scrub};

/// The exit code of every command. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: finished, with users set aside, findings, mismatches or batches in doubt.
    Unfinished,
    /// 2: wrong use or configuration, or a move is already running.
    Usage,
    /// 3: a store or peer was not reached, or refused us.
    Unreached,
    /// 4: stopped by a limit (WAL, disk, time); can be resumed.
    Limit,
}

impl Exit {
    /// Every one, by its number.
    pub const ALL: [Self; 5] = [
        Self::Done,
        Self::Unfinished,
        Self::Usage,
        Self::Unreached,
        Self::Limit,
    ];

    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Unfinished => 1,
            Self::Usage => 2,
            Self::Unreached => 3,
            Self::Limit => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A command that failed: what happened, what to do, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, with its causes.
    pub error: anyhow::Error,
    /// What to do about it, where that is known.
    pub mend: Option<String>,
}

/// What commands return.
pub type Outcome<T = Exit> = Result<T, Failure>;

impl Failure {
    /// A failure with that exit code.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
            mend: None,
        }
    }

    /// Wrong use, in one sentence.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, anyhow::Error::msg(what.to_string()))
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

impl fmt::Display for Failure {
    /// `error: ...`, a line `caused by: ...` for each source, and `mend: ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("error: {}", self.error);
        for cause in self.error.chain().skip(1) {
            text.push_str(&format!("\n  caused by: {cause}"));
        }
        f.write_str(&scrub(&text))?;
        // The mend is our own words, and may show what a URL looks like.
        match &self.mend {
            Some(mend) => write!(f, "\nmend: {mend}"),
            None => Ok(()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let mend = match &error {
            ConfigError::Unreadable { source, .. }
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Some("write one with `domicile init`, or name it with --config FILE".to_owned())
            }
            ConfigError::Secret { .. } => Some(
                "set it to the URL of that home database, or correct the configuration".to_owned(),
            ),
            ConfigError::Unreadable { .. }
            | ConfigError::Wrong { .. }
            | ConfigError::Key { .. }
            | ConfigError::NoService { .. } => None,
        };
        Self {
            mend,
            ..Self::new(Exit::Usage, error)
        }
    }
}

/// Gives an error its exit code where it crosses into the commands.
pub trait OrFail<T> {
    /// The error ends the command with `exit`; `doing` says what was being done.
    fn or_fail(self, exit: Exit, doing: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, exit: Exit, doing: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure::new(exit, error.into().context(doing())))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_numbers_are_those_of_the_contract() {
        let all = [
            Exit::Done,
            Exit::Unfinished,
            Exit::Usage,
            Exit::Unreached,
            Exit::Limit,
        ];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_failure_prints_its_chain_and_the_mend() {
        let refused = std::io::Error::other("connection refused");
        let failure = Err::<(), _>(refused)
            .or_fail(Exit::Unreached, || "cannot reach site beijing".into())
            .unwrap_err()
            .mend("start it");
        assert_eq!(
            failure.to_string(),
            "error: cannot reach site beijing\n  caused by: connection refused\nmend: start it"
        );
    }

    #[test]
    fn a_missing_configuration_says_how_to_get_one() {
        let failure = Failure::from(Config::load(Path::new("/nowhere/d.toml")).unwrap_err());
        assert_eq!(failure.exit, Exit::Usage);
        let text = failure.to_string();
        assert!(
            text.starts_with("error: cannot read the configuration /nowhere/d.toml\n  caused by: ")
        );
        assert!(text.ends_with("or name it with --config FILE"));
    }
}
