//! Why a request goes nowhere, and what its sender is told.

use thiserror::Error;

use super::token::TokenError;

/// Why a request is refused. `Display` is for logs and names nothing of the request; [`reason`](Self::reason) is for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// No route has its host and path.
    #[error("no route has the host and path")]
    NoRoute,
    /// Its path can be read in two ways: a dot segment, a broken escape, an empty or divided segment where the user stands.
    #[error("the path can be read in two ways")]
    Path,
    /// `Connection` names a field that is not of the connection.
    #[error("Connection names a field that is not of the connection")]
    Connection,
    /// A header that only a trusted front may set, from somebody else.
    #[error("a header that a trusted front alone may set")]
    Spoofed,
    /// A name that says who it is stands there twice, or in another spelling.
    #[error("the user or market is named twice, or by another spelling of the name")]
    Ambiguous,
    /// What should name the user or market is empty, or has a form with more than one reading.
    #[error("the user or market is named in a form that has more than one reading")]
    Malformed,
    /// What names the user is no key of the service's users.
    #[error("the user named is no key of the service")]
    NotAKey,
    /// A token is not good.
    #[error("the token is refused: {0}")]
    Token(TokenError),
    /// The route serves nobody without a user.
    #[error("the route wants a user")]
    UserWanted,
    /// It is not known yet of which kind the service's keys are.
    #[error("the kind of the service's keys is not known yet")]
    NotReady,
}

// === impl Refused ===

impl Refused {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::NoRoute => 404,
            Self::Token(_) | Self::UserWanted => 401,
            Self::NotReady => 503,
            Self::Path
            | Self::Connection
            | Self::Spoofed
            | Self::Ambiguous
            | Self::Malformed
            | Self::NotAKey => 400,
        }
    }

    /// A sentence for whoever sent the request: no value of it, nothing of the configuration, and of tokens not what is wrong.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoRoute => "nothing is served here",
            Self::Path => "the path is ambiguous",
            Self::Connection => "the Connection header names other headers",
            Self::Spoofed => "a header is reserved",
            Self::Ambiguous => "the request names its user ambiguously",
            Self::Malformed | Self::NotAKey => "the request names its user wrongly",
            Self::Token(_) => "the token is not accepted",
            Self::UserWanted => "sign in first",
            Self::NotReady => "not ready yet",
        }
    }
}

impl From<TokenError> for Refused {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}
