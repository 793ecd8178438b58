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
}
