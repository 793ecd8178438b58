//! The places of a request, beside its path, where a user's name can stand: header fields, cookies, the query, a bearer token.
//!
//! One rule holds for all: a name that decides where a request goes stands there once, in one spelling and with a value that has
//! one reading, or the request is refused. Two readers of a request must not find two users in it.

use std::borrow::Cow;

use super::Refused;
use super::path::decode_text;
use super::spelling::{Spelling, spelling};
use crate::asked::Asked;

/// The value of the field `name`, which is lower-case, that a trusted front sets; `None` where it is absent.
///
/// A comma is refused: whoever passed the field on may have joined two by it (RFC 9110, 5.3).
pub(super) fn header<'a>(
    asked: &Asked<'a>,
    name: &str,
    trusted: bool,
) -> Result<Option<&'a str>, Refused> {
    let mut found = None;
    for field in asked.headers {
        match spelling(field.name, name) {
            None => continue,
            Some(_) if !trusted => return Err(Refused::Spoofed),
            Some(Spelling::Twin) => return Err(Refused::Ambiguous),
            Some(Spelling::Same) if found.is_some() => return Err(Refused::Ambiguous),
            Some(Spelling::Same) => {
                let text = std::str::from_utf8(field.value).map_err(|_| Refused::Malformed)?;
                let text = text.trim_matches([' ', '\t']);
                if text.is_empty() || text.contains(',') {
                    return Err(Refused::Malformed);
                }
                found = Some(text);
            }
        }
    }
    Ok(found)
}

/// The token after `Authorization: Bearer` (RFC 6750, 2.1); `None` where the field is absent or speaks of another scheme.
pub(super) fn bearer<'a>(asked: &Asked<'a>) -> Result<Option<&'a str>, Refused> {
    let mut found = None;
    for field in asked.headers {
        if field.name.eq_ignore_ascii_case("authorization") && found.replace(field.value).is_some()
        {
            return Err(Refused::Ambiguous);
        }
    }
    let Some(value) = found else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value).map_err(|_| Refused::Malformed)?;
    let text = text.trim_matches([' ', '\t']);
    let end = text.find(|c: char| !c.is_ascii_alphanumeric());
    let (scheme, token) = text.split_at(end.unwrap_or(text.len()));
    // `Bearer` alone, and `Bearer` with something glued to it, are tokens that nothing can accept.
    let bearer = scheme.eq_ignore_ascii_case("bearer");
    Ok(bearer.then(|| token.trim_start_matches(' ')))
}

/// The cookie `name` (RFC 6265, 5.4); `None` where it is absent or empty.
///
/// A value must be made of cookie octets without `%`: quotes, blanks and escapes are undone by some applications and kept by
/// others. The name must stand there once, and in no other case.
pub(super) fn cookie<'a>(asked: &Asked<'a>, name: &str) -> Result<Option<&'a str>, Refused> {
    let mut found = None;
    for field in asked.headers {
        if !field.name.eq_ignore_ascii_case("cookie") {
            continue;
        }
        for pair in field.value.split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let end = pair.iter().position(|byte| *byte == b'=');
            let (written, value) = pair.split_at(end.unwrap_or(pair.len()));
            if !written.trim_ascii().eq_ignore_ascii_case(name.as_bytes()) {
                continue;
            }
            if written != name.as_bytes() || found.is_some() {
                return Err(Refused::Ambiguous);
            }
            let value = value.strip_prefix(b"=").unwrap_or(value);
            let plain = |byte: &u8| byte.is_ascii_graphic() && !b"\",\\%".contains(byte);
            match std::str::from_utf8(value) {
                Ok(text) if value.iter().all(plain) => found = Some(text),
                _ => return Err(Refused::Malformed),
            }
        }
    }
    Ok(found.filter(|value| !value.is_empty()))
}

/// The parameter `name` of the query; `None` where it is absent or empty.
///
/// `+` is refused in its value: to some readers it is a blank. A second one that only some readers see is refused as well: behind
/// a `;`, in another case, with an escape in its name, or as a list (`user[]=`).
pub(super) fn query<'a>(asked: &Asked<'a>, name: &str) -> Result<Option<Cow<'a, str>>, Refused> {
    let mut found = None;
    for parameter in asked.query.unwrap_or_default().split('&') {
        let mut pieces = parameter.split(';').map(|piece| {
            let (written, value) = piece.split_once('=').unwrap_or((piece, ""));
            (named(written, name), value)
        });
        let divided = parameter.contains(';');
        let mut seen = None;
        for (naming, value) in pieces.by_ref() {
            match naming {
                Naming::No => {}
                Naming::Twin => return Err(Refused::Ambiguous),
                Naming::Same if divided || seen.replace(value).is_some() => {
                    return Err(Refused::Ambiguous);
                }
                Naming::Same => {}
            }
        }
        if let Some(value) = seen
            && found.replace(value).is_some()
        {
            return Err(Refused::Ambiguous);
        }
    }
    match found.filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) if value.contains('+') => Err(Refused::Malformed),
        Some(value) => decode_text(value).map(Some).ok_or(Refused::Malformed),
    }
}

enum Naming {
    No,
    Same,
    Twin,
}

/// Whether a parameter's name, as it was written, is `name`, or is taken for it by some readers.
fn named(written: &str, name: &str) -> Naming {
    if written == name {
        return Naming::Same;
    }
    // Of a name with a broken escape, what stands before it is still read by somebody: none is ours to route by.
    let Some(decoded) = decode_text(written) else {
        return Naming::No;
    };
    let decoded = decoded.trim_matches(|c: char| c == ' ' || c == '+' || c.is_control());
    let stem = decoded.split('[').next().unwrap_or(decoded);
    match stem.eq_ignore_ascii_case(name) {
        true => Naming::Twin,
        false => Naming::No,
    }
}
