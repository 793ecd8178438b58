//! Tokens: JSON Web Tokens (RFC 7519) that an issuer signed (RFC 7515), judged by RFC 8725. Nothing in a token chooses how it is
//! judged: algorithm, key, issuer, audience and type are what the configuration says.

mod key;
mod unique;

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

pub use key::{Algorithm, BadKey, Key};
use unique::{Object, Value};

/// The longest token that is looked at, in bytes: more does not fit into the header fields that servers take.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// How far the clocks of issuer and gateway may be apart, where nothing is configured.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// The most that may be configured for it: beyond, an expired token would be good for as long as a fresh one.
pub const LEEWAY_MAX: Duration = Duration::from_secs(300);

/// Members of a header that name a key, another form of token, or rules that this reader does not know. Their presence alone is
/// a refusal: a reader that followed them would take a stranger's key.
const REFUSED_MEMBERS: [&str; 8] = ["jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"];

/// What one issuer's tokens must be.
#[derive(Debug)]
pub struct Verifier {
    /// The key that signed them, and its one algorithm.
    pub key: Key,
    /// The key's name, which `kid` must be; `None`: `kid` says nothing.
    pub key_id: Option<String>,
    /// What `typ` must be, as in `at+jwt`; `None`: `JWT`, or absent.
    pub kind: Option<String>,
    /// What `iss` must be; `None`: whoever has the key is believed.
    pub issuer: Option<String>,
    /// What `aud` must be or contain; `None`: `aud` says nothing.
    pub audience: Option<String>,
    /// How far clocks may be apart, whole seconds; taken for [`LEEWAY_MAX`] where it is more.
    pub leeway: Duration,
    /// How old a token may be since its `iat`, which it then must have; `None`: as old as its `exp` lets it be.
    pub max_age: Option<Duration>,
}

/// What a token says that was found good. Keep it no longer than it [holds](Self::holds_at). `Debug` shows no claim.
pub struct Verified {
    claims: Object,
    /// The first second, since 1970, in which it is good.
    from: i64,
    /// The first in which it is no longer.
    until: i64,
}

/// Why a token is refused. For logs: outsiders are told one sentence for all of them, as a difference would help to forge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not three parts in base64url, or longer than [`TOKEN_BYTES_MAX`].
    #[error("not the form of a signed token")]
    Form,
    /// Header or claims are no JSON object, or a name stands twice.
    #[error("a part is no JSON object, or has a name twice")]
    Json,
    /// `alg` is not the key's.
    #[error("another algorithm than the configured one")]
    Algorithm,
    /// The header names a key or rules of its own.
    #[error("a header that brings a key or rules of its own")]
    Header,
    /// `typ` is another.
    #[error("another type than the configured one")]
    Kind,
    /// `kid` is another.
    #[error("another key than the configured one")]
    KeyId,
    /// The key did not sign it.
    #[error("a signature that is not the key's")]
    Signature,
    /// A claim that is looked at has a form that it must not have, or is missing.
    #[error("a claim of another form, or missing")]
    Claim,
    /// It is over.
    #[error("expired, or too old")]
    Expired,
    /// It is not yet good.
    #[error("not good yet")]
    Early,
    /// `iss` is another.
    #[error("another issuer than the configured one")]
    Issuer,
    /// `aud` is another.
    #[error("another audience than the configured one")]
    Audience,
}

// === impl Verifier ===

impl Verifier {
    /// A verifier by `key` alone, with the usual leeway.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            key_id: None,
            kind: None,
            issuer: None,
            audience: None,
            leeway: LEEWAY,
            max_age: None,
        }
    }

    /// What `token` says, if it is good at `now`. Costs one check of a signature; a cache of what this returns can stand in
    /// front of it if it asks [`Verified::holds_at`] each time.
    ///
    /// # Errors
    /// Every token that is not wholly what is configured. The first reason found is named; the claims are not read before the
    /// signature is known to be good.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Verified, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Form);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Form)?;
        // The engine refuses padding, other alphabets and bits left over: a token has one spelling.
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Form);
        let (header, claims_json, signature) = (part(header)?, part(claims)?, part(signature)?);
        self.check_header(&unique::object(&header).ok_or(TokenError::Json)?)?;
        if !self.key.signed(signed.as_bytes(), &signature) {
            return Err(TokenError::Signature);
        }
        let claims = unique::object(&claims_json).ok_or(TokenError::Json)?;
        let verified = self.check_claims(claims)?;
        verified.holds_at(now)?;
        Ok(verified)
    }

    fn check_header(&self, header: &Object) -> Result<(), TokenError> {
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(TokenError::Header),
        };
        if text("alg")? != Some(self.key.algorithm().name()) {
            return Err(TokenError::Algorithm);
        }
        if REFUSED_MEMBERS
            .iter()
            .any(|name| header.contains_key(*name))
        {
            return Err(TokenError::Header);
        }
        let kind_fits = match (text("typ")?, self.kind.as_deref()) {
            (None, wanted) => wanted.is_none(),
            (Some(kind), wanted) => same_type(kind, wanted.unwrap_or("JWT")),
        };
        if !kind_fits {
            return Err(TokenError::Kind);
        }
        match (&self.key_id, text("kid")?) {
            (Some(wanted), kid) if kid != Some(wanted.as_str()) => Err(TokenError::KeyId),
            _ => Ok(()),
        }
    }

    fn check_claims(&self, claims: Object) -> Result<Verified, TokenError> {
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(Value::Integer(time)) => Ok(Some(*time)),
            Some(_) => Err(TokenError::Claim),
        };
        let expires = time("exp")?.ok_or(TokenError::Claim)?;
        let (not_before, issued) = (time("nbf")?, time("iat")?);
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let leeway = seconds(self.leeway.min(LEEWAY_MAX));
        let mut until = expires.saturating_add(leeway);
        if let Some(max_age) = self.max_age {
            let oldest = issued.ok_or(TokenError::Claim)?;
            let oldest = oldest.saturating_add(seconds(max_age));
            until = until.min(oldest.saturating_add(leeway));
        }
        let from = not_before.max(issued).unwrap_or(i64::MIN);
        if let Some(wanted) = &self.issuer
            && !matches!(claims.get("iss"), Some(Value::Text(issuer)) if issuer == wanted)
        {
            return Err(TokenError::Issuer);
        }
        if let Some(wanted) = &self.audience
            && !meant_for(claims.get("aud"), wanted)
        {
            return Err(TokenError::Audience);
        }
        Ok(Verified {
            claims,
            from: from.saturating_sub(leeway),
            until,
        })
    }
}

/// Whether two media types are one: case and a leading `application/` say nothing (RFC 7515, 4.1.9).
fn same_type(one: &str, other: &str) -> bool {
    let short = |kind: &str| {
        let lower = kind.to_ascii_lowercase();
        let short = lower.strip_prefix("application/").unwrap_or(&lower);
        short.to_owned()
    };
    short(one) == short(other)
}

/// Whether the claim `aud` is `wanted`, or a list of strings alone with it among them.
fn meant_for(audience: Option<&Value>, wanted: &str) -> bool {
    match audience {
        Some(Value::Text(one)) => one == wanted,
        Some(Value::List(many)) => {
            let texts = many.iter().all(|one| matches!(one, Value::Text(_)));
            let among = |one: &Value| matches!(one, Value::Text(one) if one == wanted);
            texts && many.iter().any(among)
        }
        _ => false,
    }
}

// === impl Verified ===

impl Verified {
    /// Whether it is good at `now`.
    ///
    /// # Errors
    /// Before its `nbf` or `iat` and from its `exp` or greatest age on, each with the leeway.
    pub fn holds_at(&self, now: SystemTime) -> Result<(), TokenError> {
        // A clock before 1970 is wrong: then nothing is good.
        let now = now.duration_since(UNIX_EPOCH);
        let now = now.map_err(|_| TokenError::Early)?.as_secs();
        match i64::try_from(now).unwrap_or(i64::MAX) {
            now if now >= self.until => Err(TokenError::Expired),
            now if now < self.from => Err(TokenError::Early),
            _ => Ok(()),
        }
    }

    /// The claim `name` as a text; `None` where there is none.
    ///
    /// # Errors
    /// Where it is neither a string nor a whole number: `7.0`, `true`, a list and an object have no one spelling.
    pub fn claim(&self, name: &str) -> Result<Option<Cow<'_, str>>, TokenError> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(Cow::Borrowed(text))),
            Some(Value::Integer(number)) => Ok(Some(Cow::Owned(number.to_string()))),
            Some(_) => Err(TokenError::Claim),
        }
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verified({}..{})", self.from, self.until)
    }
}
