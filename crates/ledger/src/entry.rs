//! An entry and its canonical text, and how it names users.
//!
//! The text is JSON in the form of RFC 8785 (JSON Canonicalization Scheme) of an object with the fields `at`, `body`, `kind`,
//! `n` and `v`. JSON, because an auditor can read it without a program of ours, and needs none to hash it: a leaf is the text,
//! byte by byte. Numbers are whole and within ±(2^53 − 1), as RFC 8785 writes all numbers as doubles: two entries never share
//! a text.
//!
//! Users stand in an entry as commitments, [`commitment`], each under an opening of its own. Whoever has the opening of one
//! can check that it is a user's; it says nothing of another user, nor of the same user in another entry.

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::tree::Hash;

/// The version of the form; a field of every text.
const VERSION: u8 = 1;

/// The largest whole number that a double holds without a gap below it.
const WHOLE_MAX: u64 = (1 << 53) - 1;

/// What happened, as `domicile.entry` keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When: RFC 3339 in UTC with six digits of the second, by the clock of the site's database.
    pub at: String,
    /// The rest of what is said of it; users under `users`, as commitments.
    pub body: Value,
    /// What happened: `arrived`, `departed`, `refused`, `aborted`, `erased`, `slot_dropped`.
    pub kind: String,
    /// Its number in the site's table; not its position in the log.
    pub n: i64,
    /// The version of the form.
    pub v: u8,
}

/// Why something is no entry in canonical form.
#[derive(Debug, Error)]
pub enum NotCanonical {
    /// A number is not whole, or too large to be one beyond doubt.
    #[error("a number is not a whole one within 2^53")]
    Number,
    /// It is no JSON, or no entry.
    #[error("it is no entry")]
    Json(#[from] serde_json::Error),
    /// It is an entry, written in another way than the canonical one.
    #[error("it is not written in the canonical form")]
    Form,
}

impl Entry {
    /// An entry of the current version.
    pub fn new(n: i64, at: String, kind: String, body: Value) -> Self {
        Self {
            at,
            body,
            kind,
            n,
            v: VERSION,
        }
    }

    /// Its text, the leaf of the tree.
    pub fn text(&self) -> Result<String, NotCanonical> {
        whole(&self.body)?;
        if self.n.unsigned_abs() > WHOLE_MAX {
            return Err(NotCanonical::Number);
        }
        Ok(serde_json_canonicalizer::to_string(self)?)
    }

    /// Reads a text, which must be canonical.
    pub fn parse(text: &str) -> Result<Self, NotCanonical> {
        let entry: Self = serde_json::from_str(text)?;
        match entry.v == VERSION && entry.text()? == text {
            true => Ok(entry),
            false => Err(NotCanonical::Form),
        }
    }

    /// A text of the body's field `field`.
    pub fn said(&self, field: &str) -> Option<&str> {
        self.body.get(field)?.as_str()
    }

    /// Whether one of its commitments opens to the user whose key is `user`.
    pub fn names(&self, user: &str, opening: &Hash) -> bool {
        let commitment = commitment(opening, user);
        let users = self.body.get("users").and_then(Value::as_array);
        users.is_some_and(|users| users.iter().any(|c| c.as_str() == Some(&commitment)))
    }
}

/// SHA-256 of the opening (32 bytes) and the user's key in PostgreSQL's text form, in hexadecimal. The opening is
/// SHA-256 of the user's salt and the entry's nonce, 32 bytes each and random: the salt stays at its site.
pub fn commitment(opening: &Hash, user: &str) -> String {
    let hash = Sha256::new()
        .chain_update(opening.0)
        .chain_update(user)
        .finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn whole(value: &Value) -> Result<(), NotCanonical> {
    let fits = |number: &Number| match (number.as_u64(), number.as_i64()) {
        (Some(n), _) => n <= WHOLE_MAX,
        (None, Some(n)) => n.unsigned_abs() <= WHOLE_MAX,
        (None, None) => false,
    };
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Number(number) => fits(number).then_some(()).ok_or(NotCanonical::Number),
        Value::Array(values) => values.iter().try_for_each(whole),
        Value::Object(fields) => fields.values().try_for_each(whole),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(body: Value) -> Entry {
        let at = "2026-11-23T06:00:00.000001Z".to_owned();
        Entry::new(7, at, "arrived".to_owned(), body)
    }

    #[test]
    fn the_text_is_that_of_rfc_8785() {
        let text = entry(json!({"to": "b", "é": "\u{8}€", "a": [1, -2, true, null]}))
            .text()
            .unwrap();
        assert_eq!(
            text,
            "{\"at\":\"2026-11-23T06:00:00.000001Z\",\"body\":{\"a\":[1,-2,true,null],\"to\":\"b\",\"é\":\"\\b€\"},\
             \"kind\":\"arrived\",\"n\":7,\"v\":1}"
        );
        assert_eq!(Entry::parse(&text).unwrap().text().unwrap(), text);
    }

    #[test]
    fn another_spelling_is_refused() {
        let text = entry(json!({"a": 1})).text().unwrap();
        for other in [
            text.replace("\"a\":1", "\"a\": 1"),
            text.replace("\"a\":1", "\"a\":1.0"),
            text.replace("\"a\":1", "\"a\":1,\"a\":1"),
            text.replace("\"v\":1", "\"v\":2"),
            text.replace("\"v\":1", "\"v\":1,\"w\":1"),
            format!("{text} "),
        ] {
            assert!(Entry::parse(&other).is_err(), "{other}");
        }
    }

    #[test]
    fn numbers_that_could_be_two_are_refused() {
        for body in [
            json!({"a": 1.5}),
            json!([[9_007_199_254_740_992_u64]]),
            json!(-9_007_199_254_740_992_i64),
            json!(1e300),
        ] {
            assert!(matches!(entry(body).text(), Err(NotCanonical::Number)));
        }
        assert!(entry(json!(9_007_199_254_740_991_u64)).text().is_ok());
    }

    #[test]
    fn a_commitment_opens_to_one_user() {
        let opening = Hash([3; 32]);
        let entry = entry(json!({"users": [commitment(&opening, "17")]}));
        assert!(entry.names("17", &opening));
        assert!(!entry.names("18", &opening) && !entry.names("17", &Hash([4; 32])));
    }
}
