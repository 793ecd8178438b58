//! Connection URLs: where they come from, and that they are never printed.

use std::fmt;
use std::path::{Path, PathBuf};

use super::ConfigError;

/// A text that is never printed: `Debug` hides it and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the connection alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// `text` without what could be a password: of a URL all that stands between `://` and the line's last `@`, of
/// `password=…` the word. A URL can stand by mistake where a name should, and messages name what is wrong.
pub fn scrub(text: &str) -> String {
    let lines = text.split('\n').map(|line| {
        let mut line = line.to_owned();
        if let Some(start) = line.find("://").map(|at| at + 3)
            && let Some(end) = line.rfind('@').filter(|end| *end > start)
        {
            line.replace_range(start..end, "(hidden)");
        }
        if let Some(start) = line.find("password=").map(|at| at + "password=".len()) {
            let rest = &line[start..];
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            line.replace_range(start..start + end, "(hidden)");
        }
        line
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Where the URL of a home database stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlFrom {
    /// In the configuration itself.
    Here(Secret),
    /// In an environment variable.
    Env(String),
    /// In a file; a relative path is relative to the configuration.
    File(PathBuf),
}

/// The home database of a service at a site.
#[derive(Clone, Debug)]
pub struct Database {
    /// Where its URL stands.
    pub from: UrlFrom,
    /// What it is called in messages: `service.shop.database.beijing`.
    pub path: String,
    /// The configuration.
    pub file: PathBuf,
    /// The line in it.
    pub line: usize,
}

impl Database {
    /// Where to correct the URL: the configuration's key, and the variable or file that it names.
    pub fn place(&self) -> String {
        let Self {
            path, file, line, ..
        } = self;
        match &self.from {
            UrlFrom::Here(_) => format!("{path} ({}:{line})", file.display()),
            UrlFrom::Env(name) => format!("{path} (the environment variable {name})"),
            UrlFrom::File(name) => format!("{path} (the file {})", name.display()),
        }
    }

    /// The URL. Looks at the environment or the file now, so that a variable of a site that a command
    /// does not touch may be missing.
    pub fn url(&self) -> Result<Secret, ConfigError> {
        self.url_from(|name| std::env::var(name).ok())
    }

    /// As [`url`](Self::url), with the environment given.
    pub(super) fn url_from(
        &self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Secret, ConfigError> {
        let refuse = |what: String, source| ConfigError::Secret {
            file: self.file.clone(),
            line: self.line,
            what: format!("{}: {what}", self.path),
            source,
        };
        let (text, place) = match &self.from {
            UrlFrom::Here(secret) => return Ok(secret.clone()),
            UrlFrom::Env(name) => {
                let place = format!("the environment variable {name}");
                let text = environment(name).filter(|text| !text.is_empty());
                (
                    text.ok_or_else(|| refuse(format!("{place} is not set"), None))?,
                    place,
                )
            }
            UrlFrom::File(file) => {
                let file = self.file.parent().unwrap_or(Path::new(".")).join(file);
                let place = format!("the file {}", file.display());
                let text = std::fs::read_to_string(&file)
                    .map_err(|source| refuse(format!("cannot read {place}"), Some(source)))?;
                (text.trim().to_owned(), place)
            }
        };
        if !is_url(&text) {
            return Err(refuse(format!("{place} holds no postgres:// URL"), None));
        }
        Ok(Secret(text))
    }
}

/// Whether `text` looks like a URL that PostgreSQL's clients take.
pub(super) fn is_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}
