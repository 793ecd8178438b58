//! What belongs to a user: the classification that the configuration declares per table.

mod comparison;

use std::fmt;

use thiserror::Error;

pub use comparison::{Comparator, Comparison, Constant};

/// How the rows of one table are classified. Everything that turns a classification into SQL matches it exhaustively.
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
    /// `"<- orders.address_id"`, `"<- orders.(a, b)"`: owned by the rows of `by` that point at it.
    Against {
        /// The table that points here, as written.
        by: String,
        /// Its columns that point.
        columns: Vec<String>,
    },
    /// `["buyer_id", "seller_id"]`: the first that is not null decides. Columns and paths.
    First(Vec<Ownership>),
    /// `{ when = "kind = 'order'", owner = "object_id -> orders" }`, or a list of these: the first that holds decides.
    Cases(Vec<Case>),
    /// `"reference"`: catalogue data, the same at all sites, not moved.
    Reference,
    /// `{ reference = "copy" }`: catalogue data; rows that a target does not have are copied before a move.
    ReferenceCopied,
    /// `"ignore"`: neither moved nor guarded.
    Ignore,
    /// `"?"`: nobody has decided yet; stops a move.
    Undecided,
}

/// One of several ways that a row may be owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What must hold of the row: all of these.
    pub when: Vec<Comparison>,
    /// Whose it is then: a column, a path, or against the arrow.
    pub owner: Ownership,
}

/// Why a classification could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OwnershipError {
    /// Not a form at all.
    #[error(
        "{0:?} is no classification; write a column, \"column -> table\", \"<- table.column\", \"reference\", \"ignore\" or \"?\""
    )]
    Malformed(String),
    /// A condition that is not a comparison of columns with constants.
    #[error(
        "{0:?} is no condition; write comparisons of columns with constants, like \"kind = 'order' AND deleted IS NULL\""
    )]
    Condition(String),
    /// A list, or a case, with something in it that says nothing of an owner.
    #[error(
        "{0:?} cannot be one of several ways to an owner; write a column, or \"column -> table\""
    )]
    NotAWay(String),
    /// A list of nothing.
    #[error("an empty list says nothing; write a column, \"column -> table\", or more of them")]
    Empty,
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
        if let Some(pointing) = trimmed.strip_prefix("<-") {
            return against(pointing.trim()).ok_or_else(malformed);
        }
        let Some((left, right)) = trimmed.split_once("->") else {
            if trimmed.contains(['(', ')', ',', '<', '>']) {
                return Err(malformed());
            }
            return Ok(Self::Column(trimmed.to_owned()));
        };
        let columns = columns(left.trim()).ok_or_else(malformed)?;
        let parent = right.trim();
        if parent.is_empty() {
            return Err(malformed());
        }
        Ok(Self::Path {
            columns,
            parent: parent.to_owned(),
        })
    }

    /// Reads a list of text forms, of which the first that is not null decides.
    pub fn parse_first(texts: &[String]) -> Result<Self, OwnershipError> {
        let one = |text: &String| match Self::parse(text)? {
            way @ (Self::Column(_) | Self::Path { .. }) => Ok(way),
            _ => Err(OwnershipError::NotAWay(text.clone())),
        };
        let mut ways = texts.iter().map(one).collect::<Result<Vec<_>, _>>()?;
        match ways.len() {
            0 => Err(OwnershipError::Empty),
            1 => Ok(ways.remove(0)),
            _ => Ok(Self::First(ways)),
        }
    }

    /// Whether rows of a table so classified belong to users.
    pub fn is_owned(&self) -> bool {
        match self {
            Self::Column(_)
            | Self::Path { .. }
            | Self::Against { .. }
            | Self::First(_)
            | Self::Cases(_) => true,
            Self::Reference | Self::ReferenceCopied | Self::Ignore | Self::Undecided => false,
        }
    }

    /// Whether it is catalogue data.
    pub fn is_reference(&self) -> bool {
        matches!(self, Self::Reference | Self::ReferenceCopied)
    }
}

impl Case {
    /// Reads the two texts of a case.
    pub fn parse(when: &str, owner: &str) -> Result<Self, OwnershipError> {
        let parsed = Ownership::parse(owner)?;
        if !parsed.is_owned() {
            return Err(OwnershipError::NotAWay(owner.to_owned()));
        }
        Ok(Self {
            when: comparison::parse(when)
                .ok_or_else(|| OwnershipError::Condition(when.to_owned()))?,
            owner: parsed,
        })
    }
}

/// `a` or `(a, b)`.
fn columns(text: &str) -> Option<Vec<String>> {
    let inner = match text.strip_prefix('(') {
        Some(rest) => rest.strip_suffix(')')?,
        None => text,
    };
    let columns: Vec<String> = inner.split(',').map(|c| c.trim().to_owned()).collect();
    let plain = |column: &String| !column.is_empty() && !column.contains(['(', ')', '<', '>']);
    columns.iter().all(plain).then_some(columns)
}

/// `orders.address_id`, `shop.orders.(a, b)`.
fn against(text: &str) -> Option<Ownership> {
    let (table, pointing) = match text.split_once(".(") {
        Some((table, rest)) => (table, format!("({rest}")),
        None => {
            let (table, column) = text.rsplit_once('.')?;
            (table, column.to_owned())
        }
    };
    let plain = !table.trim().is_empty() && !table.contains(['(', ')', ',', '<', '>']);
    Some(Ownership::Against {
        by: plain.then(|| table.trim().to_owned())?,
        columns: columns(pointing.trim())?,
    })
}

impl fmt::Display for Ownership {
    /// The text form; of a list its members, joined by `, else `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |columns: &[String]| match columns {
            [one] => one.clone(),
            more => format!("({})", more.join(", ")),
        };
        match self {
            Self::Column(column) => f.write_str(column),
            Self::Path { columns, parent } => write!(f, "{} -> {parent}", listed(columns)),
            Self::Against { by, columns } => write!(f, "<- {by}.{}", listed(columns)),
            Self::First(ways) => {
                let ways: Vec<String> = ways.iter().map(ToString::to_string).collect();
                f.write_str(&ways.join(", else "))
            }
            Self::Cases(cases) => {
                let cases: Vec<String> = cases.iter().map(ToString::to_string).collect();
                f.write_str(&cases.join(", else "))
            }
            Self::Reference | Self::ReferenceCopied => f.write_str("reference"),
            Self::Ignore => f.write_str("ignore"),
            Self::Undecided => f.write_str("?"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when: Vec<String> = self.when.iter().map(ToString::to_string).collect();
        write!(f, "{} when {}", self.owner, when.join(" AND "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_form_reads_and_prints_the_same() {
        for text in [
            "customer_id",
            "invoice_id -> invoice",
            "(a, b) -> t",
            "<- orders.address_id",
            "<- shop.orders.address_id",
            "<- orders.(a, b)",
            "reference",
            "ignore",
            "?",
        ] {
            assert_eq!(Ownership::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_malformed() {
        for text in [
            "",
            "->",
            "a ->",
            "-> t",
            "(a, -> t",
            "(a,) -> t",
            "a, b",
            "<-",
            "<- orders",
            "<- .a",
            "<- t.(a",
            "<- t.",
        ] {
            assert!(
                matches!(Ownership::parse(text), Err(OwnershipError::Malformed(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_list_holds_columns_and_paths_alone() {
        let list = |texts: &[&str]| {
            Ownership::parse_first(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
        };
        assert!(matches!(list(&["a", "b -> t"]), Ok(Ownership::First(ways)) if ways.len() == 2));
        assert_eq!(list(&["a"]), Ok(Ownership::Column("a".into())));
        assert_eq!(list(&[]), Err(OwnershipError::Empty));
        for no in ["reference", "?", "<- t.a"] {
            assert_eq!(list(&["a", no]), Err(OwnershipError::NotAWay(no.into())));
        }
    }

    #[test]
    fn a_case_has_a_condition_and_a_way() {
        let case = Case::parse("kind = 'order'", "object_id -> orders").unwrap();
        assert_eq!(case.to_string(), "object_id -> orders when kind = 'order'");
        assert!(matches!(
            Case::parse("1 = 1", "a"),
            Err(OwnershipError::Condition(_))
        ));
        assert!(matches!(
            Case::parse("a = 1", "ignore"),
            Err(OwnershipError::NotAWay(_))
        ));
    }
}
