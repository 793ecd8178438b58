//! Names and numbers that identify things.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps the text as it stands.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    };
}

name!(
    /// A place with its own stores: `beijing`.
    SiteName
);
name!(
    /// One application whose data is homed: `shop`.
    ServiceName
);
name!(
    /// The value of a user that policy looks at, as a rule the country. Literal: `USA` and `US` differ.
    Market
);
name!(
    /// The key of a user in PostgreSQL's text form, whatever its type.
    UserKey
);
name!(
    /// One run that carries users of one service from a source to a target.
    MoveId
);
name!(
    /// The users that are fenced and handed off together; unique for ever within a service.
    BatchId
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl $name {
            /// The next number.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Grows by at least one at every fence of a user; the fencing token of every message and write.
    Epoch
);
number!(
    /// One copying attempt of a chunk. Attempts grow; none is ever used twice.
    Attempt
);

/// The type family of a service's user keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// `smallint`, `integer` or `bigint`; kept as `bigint`.
    Integer,
    /// `uuid`.
    Uuid,
    /// `text`, `varchar` or `char`; kept as `text`.
    Text,
}

impl KeyKind {
    /// The PostgreSQL type in which Domicile's own tables keep such a key.
    pub fn sql_type(self) -> &'static str {
        match self {
            Self::Integer => "bigint",
            Self::Uuid => "uuid",
            Self::Text => "text",
        }
    }

    /// Whether `key` can be a key of this kind, so that a mistyped one is refused before it reaches SQL.
    pub fn accepts(self, key: &str) -> bool {
        match self {
            Self::Integer => key.parse::<i64>().is_ok(),
            Self::Uuid => {
                let hex: String = key.chars().filter(|c| *c != '-').collect();
                hex.len() == 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
            }
            Self::Text => !key.contains('\0'),
        }
    }

    /// The one spelling of the key `raw` that PostgreSQL itself would print; `None` where `raw` is no such spelling and cannot be
    /// turned into it. For keys that come from outside: two spellings of one user would be two users to whoever compares texts.
    ///
    /// - integers: exactly as printed, so `7` and `-7`, and neither `007`, `+7`, `-0` nor ` 7`;
    /// - UUIDs: 32 hexadecimal digits of either case, whole or in the groups 8-4-4-4-12, turned into the lower-case grouped form;
    /// - texts: as they stand, 1 to [`KEY_BYTES_MAX`] bytes, without control characters. Nothing is folded: to PostgreSQL `Ann` and
    ///   `ann` are two texts, and so are two normal forms of one letter.
    pub fn canonical(self, raw: &str) -> Option<UserKey> {
        match self {
            Self::Integer => {
                let number: i64 = raw.parse().ok()?;
                let printed = number.to_string();
                (printed == raw).then(|| UserKey::new(printed))
            }
            Self::Uuid => canonical_uuid(raw).map(UserKey::new),
            Self::Text => {
                let bounded = !raw.is_empty() && raw.len() <= KEY_BYTES_MAX;
                (bounded && !raw.chars().any(char::is_control)).then(|| UserKey::new(raw))
            }
        }
    }
}

/// The longest text that is taken for a user's key from outside, in bytes: names and addresses are shorter, and a longer one would
/// be kept wherever the user is.
pub const KEY_BYTES_MAX: usize = 512;

fn canonical_uuid(raw: &str) -> Option<String> {
    let grouped = raw.len() == 36;
    if !grouped && raw.len() != 32 {
        return None;
    }
    let mut printed = String::with_capacity(36);
    for (at, byte) in raw.bytes().enumerate() {
        let dash = grouped && matches!(at, 8 | 13 | 18 | 23);
        if dash != (byte == b'-') || !(dash || byte.is_ascii_hexdigit()) {
            return None;
        }
        if !dash && matches!(printed.len(), 8 | 13 | 18 | 23) {
            printed.push('-');
        }
        if !dash {
            printed.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    Some(printed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUPED: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    #[test]
    fn a_user_has_one_spelling() {
        let canonical = |kind: KeyKind, raw: &str| kind.canonical(raw).map(|key| key.to_string());
        for good in [
            "0",
            "7",
            "-7",
            "9223372036854775807",
            "-9223372036854775808",
        ] {
            assert_eq!(canonical(KeyKind::Integer, good).as_deref(), Some(good));
        }
        for bad in [
            "",
            " 7",
            "7 ",
            "+7",
            "007",
            "-0",
            "0x7",
            "7.0",
            "7e0",
            "7\0",
            "\u{667}",
            "1_000",
            "9223372036854775808",
        ] {
            assert_eq!(canonical(KeyKind::Integer, bad), None, "{bad:?}");
        }
        for good in [
            GROUPED,
            "0F8FAD5B-D9CB-469F-A165-70867728950E",
            "0f8fad5bd9cb469fa16570867728950e",
            "0F8fad5bd9cb469fa16570867728950E",
        ] {
            assert_eq!(canonical(KeyKind::Uuid, good).as_deref(), Some(GROUPED));
        }
        for bad in [
            "",
            "{0f8fad5b-d9cb-469f-a165-70867728950e}",
            "0f8f-ad5bd9cb-469f-a165-70867728950e",
            "0f8fad5b-d9cb-469f-a165-70867728950",
            "0f8fad5b-d9cb-469f-a165-70867728950g",
            "0f8fad5b-d9cb-469f-a165-7086772895-e",
            "0f8fad5bd9cb469fa16570867728950-",
            "--------------------------------",
            "------------------------------------",
            "0f8fad5bd9cb-469fa16570867728950e",
            "urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e",
        ] {
            assert_eq!(canonical(KeyKind::Uuid, bad), None, "{bad:?}");
        }
        for good in ["Ann", "ann", " ann", "\u{e9}", "e\u{301}"] {
            assert_eq!(canonical(KeyKind::Text, good).as_deref(), Some(good));
        }
        for bad in [
            "",
            "a\0",
            "a\nb",
            "a\u{7f}",
            "\u{85}",
            &"a".repeat(KEY_BYTES_MAX + 1),
        ] {
            assert_eq!(canonical(KeyKind::Text, bad), None, "{bad:?}");
        }
    }

    proptest! {
        /// What is accepted is accepted again as itself, and PostgreSQL's own spelling always is.
        #[test]
        fn canonical_keys_stay_what_they_are(number: i64, uuid: u128, raw in ".{0,40}", noise in "[0-9a-fA-F+ -]{0,40}") {
            let printed = number.to_string();
            prop_assert_eq!(KeyKind::Integer.canonical(&printed), Some(UserKey::new(printed)));
            let plain = format!("{uuid:032x}");
            let grouped = format!(
                "{}-{}-{}-{}-{}", &plain[..8], &plain[8..12], &plain[12..16], &plain[16..20], &plain[20..]
            );
            for spelling in [&plain, &grouped, &plain.to_uppercase(), &grouped.to_uppercase()] {
                prop_assert_eq!(KeyKind::Uuid.canonical(spelling), Some(UserKey::new(grouped.clone())));
            }
            for kind in [KeyKind::Integer, KeyKind::Uuid, KeyKind::Text] {
                for text in [&raw, &noise] {
                    if let Some(key) = kind.canonical(text) {
                        prop_assert_eq!(kind.canonical(key.as_str()), Some(key.clone()));
                        prop_assert!(kind.accepts(key.as_str()));
                    }
                }
            }
        }

        /// Two integers that are accepted and equal are one text.
        #[test]
        fn equal_numbers_are_one_key(number in -1000i64..1000, zeros in 0usize..3, sign in "[+-]?") {
            let spelled = format!("{sign}{}{}", "0".repeat(zeros), number.abs());
            if let Some(key) = KeyKind::Integer.canonical(&spelled) {
                let value: i64 = spelled.parse().unwrap();
                prop_assert_eq!(key.as_str(), value.to_string());
            }
        }
    }
}
