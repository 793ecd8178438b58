//! What can be wrong with a configuration, with the place in the file.

use std::path::PathBuf;

use model::ServiceName;
use thiserror::Error;

/// Why a configuration cannot be used. Never carries a secret.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in the file is wrong.
    #[error("{}:{line}: {what}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, naming the key.
        what: String,
    },
    /// A service is asked for that the file does not have.
    #[error("{}: there is no service {name}; there are: {known}", file.display())]
    NoService {
        /// The file.
        file: PathBuf,
        /// The service asked for.
        name: ServiceName,
        /// Those that there are, joined.
        known: String,
    },
    /// A secret that the file points at cannot be had.
    #[error("{}:{line}: {what}", file.display())]
    Secret {
        /// The configuration file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Which secret, and where it was looked for.
        what: String,
        /// Why, where the system says so.
        source: Option<std::io::Error>,
    },
    /// The key of an issuer of tokens cannot be had, or is none.
    #[error("{}:{line}: {what}", file.display())]
    Key {
        /// The configuration file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Which key, where it was looked for, what is wrong and what to do.
        what: String,
        /// Why, where the system says so.
        source: Option<std::io::Error>,
    },
}
