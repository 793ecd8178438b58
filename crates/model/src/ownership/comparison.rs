//! Conditions on a row: comparisons of its columns with constants, nothing that would need a planner or could lie.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::table::{literal, quote};

/// How a column is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparator {
    /// `=`
    Equal,
    /// `<>`
    Differs,
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `IN (…)`
    In,
    /// `IS NULL`
    Null,
    /// `IS NOT NULL`
    NotNull,
}

/// What a column is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Constant {
    /// A text, or anything that the server reads from one: `'order'`.
    Text(String),
    /// A number as written: `5`, `-1.5`.
    Number(String),
    /// `true` or `false`.
    Bool(bool),
}

/// One comparison of a column with constants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The column.
    pub column: String,
    /// How.
    pub comparator: Comparator,
    /// With what: one, or for `IN` one or more, or for the tests for NULL none.
    pub constants: Vec<Constant>,
}

impl Comparison {
    /// As SQL, for a row under that alias.
    pub fn sql(&self, row: &str) -> String {
        self.written(&format!("{row}.{}", quote(&self.column)), &Constant::sql)
    }

    fn written(&self, column: &str, constant: &dyn Fn(&Constant) -> String) -> String {
        let constants: Vec<String> = self.constants.iter().map(constant).collect();
        let sign = match self.comparator {
            Comparator::Equal => "=",
            Comparator::Differs => "<>",
            Comparator::Below => "<",
            Comparator::AtMost => "<=",
            Comparator::Above => ">",
            Comparator::AtLeast => ">=",
            Comparator::In => return format!("{column} IN ({})", constants.join(", ")),
            Comparator::Null => return format!("{column} IS NULL"),
            Comparator::NotNull => return format!("{column} IS NOT NULL"),
        };
        format!("{column} {sign} {}", constants.join(", "))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(&self.column, &ToString::to_string))
    }
}

impl Constant {
    fn sql(&self) -> String {
        match self {
            Self::Text(text) => literal(text),
            Self::Number(number) => number.clone(),
            Self::Bool(value) => value.to_string(),
        }
    }
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            Self::Number(number) => f.write_str(number),
            Self::Bool(value) => write!(f, "{value}"),
        }
    }
}

/// Comparisons joined by AND; `None` if it is anything else.
pub(super) fn parse(text: &str) -> Option<Vec<Comparison>> {
    let mut words = Words { rest: text };
    let mut found = vec![words.comparison()?];
    while !words.at_end() {
        words.keyword("AND")?;
        found.push(words.comparison()?);
    }
    Some(found)
}

/// The text that is not read yet.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn at_end(&mut self) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.is_empty()
    }

    /// A bare word: a name, a keyword, a number.
    fn word(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn keyword(&mut self, keyword: &str) -> Option<()> {
        self.word()?.eq_ignore_ascii_case(keyword).then_some(())
    }

    fn sign(&mut self, sign: &str) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(sign)?;
        Some(())
    }

    /// Text between `mark`s, doubled inside.
    fn quoted(&mut self, mark: char) -> Option<String> {
        let mut text = String::new();
        let mut rest = self.rest.trim_start().strip_prefix(mark)?;
        loop {
            let end = rest.find(mark)?;
            text.push_str(&rest[..end]);
            rest = &rest[end + mark.len_utf8()..];
            match rest.strip_prefix(mark) {
                Some(after) => {
                    text.push(mark);
                    rest = after;
                }
                None => break,
            }
        }
        self.rest = rest;
        Some(text)
    }

    fn column(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        if self.rest.starts_with('"') {
            return self.quoted('"');
        }
        let word = self.word()?;
        let named =
            word.starts_with(|c: char| c.is_alphabetic() || c == '_') && !word.contains('.');
        named.then(|| word.to_owned())
    }

    fn constant(&mut self) -> Option<Constant> {
        self.rest = self.rest.trim_start();
        if self.rest.starts_with('\'') {
            return self.quoted('\'').map(Constant::Text);
        }
        let minus = if self.sign("-").is_some() { "-" } else { "" };
        let word = self.word()?;
        let number = word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_digit() || c == '.')
            && word.matches('.').count() <= 1
            && !word.ends_with('.');
        if number {
            return Some(Constant::Number(format!("{minus}{word}")));
        }
        match word.to_ascii_lowercase().as_str() {
            "true" if minus.is_empty() => Some(Constant::Bool(true)),
            "false" if minus.is_empty() => Some(Constant::Bool(false)),
            _ => None,
        }
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let column = self.column()?;
        let signs = [
            ("<>", Comparator::Differs),
            ("!=", Comparator::Differs),
            ("<=", Comparator::AtMost),
            (">=", Comparator::AtLeast),
            ("=", Comparator::Equal),
            ("<", Comparator::Below),
            (">", Comparator::Above),
        ];
        for (sign, comparator) in signs {
            if self.sign(sign).is_some() {
                let constants = vec![self.constant()?];
                return Some(Comparison {
                    column,
                    comparator,
                    constants,
                });
            }
        }
        let word = self.word()?;
        if word.eq_ignore_ascii_case("in") {
            self.sign("(")?;
            let mut constants = vec![self.constant()?];
            while self.sign(",").is_some() {
                constants.push(self.constant()?);
            }
            self.sign(")")?;
            return Some(Comparison {
                column,
                comparator: Comparator::In,
                constants,
            });
        }
        if !word.eq_ignore_ascii_case("is") {
            return None;
        }
        let mut word = self.word()?;
        let mut comparator = Comparator::Null;
        if word.eq_ignore_ascii_case("not") {
            comparator = Comparator::NotNull;
            word = self.word()?;
        }
        word.eq_ignore_ascii_case("null").then_some(Comparison {
            column,
            comparator,
            constants: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_read_and_print_the_same() {
        for text in [
            "kind = 'order'",
            "kind = 'it''s' AND n >= -1.5",
            "kind IN ('a', 'b') AND deleted IS NULL",
            "live = true",
            "a <> 1 AND b IS NOT NULL AND c < 2 AND d > 3 AND e <= 4",
        ] {
            let read: Vec<String> = parse(text)
                .expect(text)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(read.join(" AND "), text);
        }
        assert_eq!(parse("a != 1").unwrap()[0].to_string(), "a <> 1");
        assert_eq!(
            parse("\"odd name\"='x'").unwrap()[0].sql("t"),
            "t.\"odd name\" = 'x'"
        );
    }

    #[test]
    fn whatever_else_is_refused() {
        for text in [
            "",
            "kind",
            "kind =",
            "= 1",
            "1 = 1",
            "kind = other",
            "f(x) = 1",
            "a = 1 OR b = 2",
            "a = 1;",
            "a = 'x",
            "a = 1 AND",
            "a IN ()",
            "a IN (1",
            "a LIKE 'x'",
            "t.a = 1",
            "a = 1.2.3",
            "a = -true",
            "a IS 1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
