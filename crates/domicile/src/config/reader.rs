//! Walks a parsed TOML document and remembers the line of everything that it hands out.
//!
//! Written by hand and not derived, for three reasons: every message names key, file and line; keys of
//! free choice (sites, tables, markets) stand beside fixed ones; and no message may quote a value that
//! could be a secret, which derived "invalid type" messages do.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// The text that is read, for turning positions into lines.
pub(super) struct Source<'a> {
    pub file: &'a Path,
    pub text: &'a str,
}

impl Source<'_> {
    /// The line, from 1, of a byte position.
    pub fn line(&self, position: usize) -> usize {
        let upto = &self.text.as_bytes()[..position.min(self.text.len())];
        upto.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    pub fn error(&self, line: usize, what: impl Into<String>) -> ConfigError {
        ConfigError::Wrong {
            file: self.file.to_owned(),
            line,
            what: what.into(),
        }
    }
}

/// A value with the path of keys that leads to it and the line of its key.
#[derive(Clone)]
pub(super) struct Node<'a> {
    source: &'a Source<'a>,
    pub path: String,
    pub line: usize,
    value: &'a DeValue<'a>,
}

/// A table whose keys are taken one by one; what is left at the end is unknown.
pub(super) struct Table<'a> {
    source: &'a Source<'a>,
    path: String,
    line: usize,
    left: BTreeMap<String, Node<'a>>,
    known: Vec<&'static str>,
}

// === impl Node ===

impl<'a> Node<'a> {
    pub fn error(&self, what: impl std::fmt::Display) -> ConfigError {
        self.source
            .error(self.line, format!("{}: {what}", self.path))
    }

    pub fn file(&self) -> &'a Path {
        self.source.file
    }

    fn expected(&self, what: &str) -> ConfigError {
        // The kind only: the value itself may be a secret in the wrong place.
        self.error(format_args!(
            "expected {what}, found a value of type {}",
            self.value.type_str()
        ))
    }

    pub fn string(&self) -> Result<&'a str, ConfigError> {
        self.value.as_str().ok_or_else(|| self.expected("a string"))
    }

    pub fn as_string(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// A whole number from 1 up.
    pub fn positive(&self) -> Result<u64, ConfigError> {
        let number = self.value.as_integer().and_then(|integer| {
            let digits = integer.as_str().replace('_', "");
            u64::from_str_radix(&digits, integer.radix()).ok()
        });
        number
            .filter(|number| *number > 0)
            .ok_or_else(|| self.expected("a whole number from 1 up"))
    }

    pub fn nodes(&self) -> Result<Vec<Node<'a>>, ConfigError> {
        let array = self
            .value
            .as_array()
            .ok_or_else(|| self.expected("a list"))?;
        let nodes = array.iter().enumerate().map(|(n, item)| Node {
            source: self.source,
            path: format!("{}[{n}]", self.path),
            line: self.source.line(item.span().start),
            value: item.get_ref(),
        });
        Ok(nodes.collect())
    }

    pub fn table(&self) -> Result<Table<'a>, ConfigError> {
        let table = self
            .value
            .as_table()
            .ok_or_else(|| self.expected("a table"))?;
        Ok(Table::over(self.source, &self.path, self.line, table))
    }

    /// The string, read by `read`; `form` says what it should look like.
    pub fn read<T>(
        &self,
        form: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let text = self.string()?;
        read(text).ok_or_else(|| self.error(format_args!("{text:?} is not {form}")))
    }
}

// === impl Table ===

impl<'a> Table<'a> {
    pub fn document(source: &'a Source<'a>, document: &'a DeTable<'a>) -> Self {
        Self::over(source, "", 1, document)
    }

    fn over(source: &'a Source<'a>, path: &str, line: usize, table: &'a DeTable<'a>) -> Self {
        let left = table.iter().map(|(key, value)| {
            let name = key.get_ref().to_string();
            let path = match path {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            let line = source.line(key.span().start);
            let value = value.get_ref();
            (
                name,
                Node {
                    source,
                    path,
                    line,
                    value,
                },
            )
        });
        Self {
            source,
            path: path.to_owned(),
            line,
            left: left.collect(),
            known: Vec::new(),
        }
    }

    /// The value of `key`, if it is there; `key` is known from now on.
    pub fn take(&mut self, key: &'static str) -> Option<Node<'a>> {
        self.known.push(key);
        self.left.remove(key)
    }

    /// The value of `key`, which must be there.
    pub fn need(&mut self, key: &'static str) -> Result<Node<'a>, ConfigError> {
        let missing = match self.path.as_str() {
            "" => format!("the key `{key}` is missing"),
            path => format!("{path}: the key `{key}` is missing"),
        };
        self.take(key)
            .ok_or_else(|| self.source.error(self.line, missing))
    }

    /// The string of `key`, if it is there.
    pub fn string(&mut self, key: &'static str) -> Result<Option<String>, ConfigError> {
        self.take(key)
            .map(|node| node.string().map(str::to_owned))
            .transpose()
    }

    /// All that is left, in the order of the file: for tables whose keys are names of free choice.
    pub fn rest(&mut self) -> Vec<(String, Node<'a>)> {
        let mut rest: Vec<_> = std::mem::take(&mut self.left).into_iter().collect();
        rest.sort_by_key(|(_, node)| node.line);
        rest
    }

    /// Ends the reading: a key that nobody took is unknown.
    pub fn finish(mut self) -> Result<(), ConfigError> {
        let Some((key, node)) = self.rest().into_iter().next() else {
            return Ok(());
        };
        let place = match self.path.as_str() {
            "" => "at the top of the file".to_owned(),
            path => format!("in {path}"),
        };
        let hint = match nearest(&key, &self.known) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("known here: {}", self.known.join(", ")),
        };
        let what = format!("unknown key `{key}` {place}; {hint}");
        Err(self.source.error(node.line, what))
    }
}

/// The known key that `key` was probably meant to be: at most two letters away.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance = |known: &&&str| edits(key, known);
    known
        .iter()
        .min_by_key(distance)
        .filter(|known| edits(key, known) <= 2)
        .copied()
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
