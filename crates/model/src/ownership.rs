//! What belongs to a user: the classification that the configuration declares per table.

use std::fmt;

use thiserror::Error;

/// How the rows of one table are classified.
///
/// DESIGN's further forms (against the arrow, one of several columns, by a (type, id) pair) become
/// variants of this enum; everything that turns a classification into SQL matches it exhaustively.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// `"user_id"`: the column holds the user's key.
    Column(String),
    /// `"order_id -> orders"`, `"(a, b) -> t"`: owned by the row of `parent` that it points at.
    Path {
        /// The columns that point, in the order of the parent's key.
        columns: Vec<String>,
        /// The table that they point at, as written.
        parent: String,
    },
    /// `"reference"`: catalogue data, the same at all sites, not moved.
    Reference,
    /// `"ignore"`: neither moved nor guarded.
    Ignore,
    /// `"?"`: nobody has decided yet; stops a move.
    Undecided,
}

/// Why a classification could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OwnershipError {
    /// A form that this version cannot move.
    #[error(
        "the form {0:?} is not supported yet; use a column, \"column -> table\", \"reference\" or \"ignore\""
    )]
    Unsupported(String),
    /// Not a form at all.
    #[error(
        "{0:?} is no classification; write a column, \"column -> table\", \"reference\", \"ignore\" or \"?\""
    )]
    Malformed(String),
}

impl Ownership {
    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, OwnershipError> {
        let malformed = || OwnershipError::Malformed(text.to_owned());
        let trimmed = text.trim();
        match trimmed {
            "" => return Err(malformed()),
            "reference" => return Ok(Self::Reference),
            "ignore" => return Ok(Self::Ignore),
            "?" => return Ok(Self::Undecided),
            _ => {}
        }
        if trimmed.starts_with("<-") {
            return Err(OwnershipError::Unsupported(text.to_owned()));
        }
        let Some((left, right)) = trimmed.split_once("->") else {
            if trimmed.contains(['(', ')', ',', '<', '>']) {
                return Err(malformed());
            }
            return Ok(Self::Column(trimmed.to_owned()));
        };
        let (left, parent) = (left.trim(), right.trim());
        let inner = match left.strip_prefix('(') {
            Some(rest) => rest.strip_suffix(')').ok_or_else(malformed)?,
            None => left,
        };
        let columns: Vec<String> = inner.split(',').map(|c| c.trim().to_owned()).collect();
        if parent.is_empty() || columns.iter().any(String::is_empty) {
            return Err(malformed());
        }
        Ok(Self::Path {
            columns,
            parent: parent.to_owned(),
        })
    }
}

impl fmt::Display for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column(column) => f.write_str(column),
            Self::Path { columns, parent } if columns.len() == 1 => {
                write!(f, "{} -> {parent}", columns[0])
            }
            Self::Path { columns, parent } => write!(f, "({}) -> {parent}", columns.join(", ")),
            Self::Reference => f.write_str("reference"),
            Self::Ignore => f.write_str("ignore"),
            Self::Undecided => f.write_str("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_form_reads_and_prints_the_same() {
        for text in [
            "customer_id",
            "invoice_id -> invoice",
            "(a, b) -> t",
            "reference",
            "ignore",
            "?",
        ] {
            assert_eq!(Ownership::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_form_of_a_later_version_is_named_as_unsupported() {
        assert!(matches!(
            Ownership::parse("<- orders.address_id"),
            Err(OwnershipError::Unsupported(_))
        ));
    }

    #[test]
    fn nonsense_is_malformed() {
        for text in ["", "->", "a ->", "-> t", "(a, -> t", "(a,) -> t", "a, b"] {
            assert!(
                matches!(Ownership::parse(text), Err(OwnershipError::Malformed(_))),
                "{text}"
            );
        }
    }
}
