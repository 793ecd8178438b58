//! Paths: which route's they are, and the segment that names a user. A path is read as the strictest of the servers behind might
//! read it; one that two of them read in two ways is refused.

use std::borrow::Cow;

use super::Refused;

/// The beginning of the paths of a route, in whole segments: `/api` is that of `/api` and `/api/x`, never of `/apix`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix(Vec<String>);

// === impl Prefix ===

impl Prefix {
    /// Reads `/`, or `/` and plain segments; a `/` at the end says nothing. `None` where it is no such path: without `/` at the
    /// beginning, with an empty or a dot segment, or with one of `%`, `;`, `?`, `#`, `\`, blanks and control characters.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "/" {
            return Some(Self::default());
        }
        let text = text.strip_prefix('/')?;
        let text = text.strip_suffix('/').unwrap_or(text);
        let plain = |c: char| !(c.is_control() || c.is_whitespace() || "%;?#\\".contains(c));
        let mut segments = Vec::new();
        for segment in text.split('/') {
            if segment.is_empty() || is_dots(segment) || !segment.chars().all(plain) {
                return None;
            }
            segments.push(segment.to_owned());
        }
        Some(Self(segments))
    }

    /// Whether every path of `other` is one of its own.
    pub fn includes(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// Whether `path`, which is [sound](check), begins with it. Escapes are undone and a segment's `;parameters` left out before
    /// segments are compared, and empty segments are passed over: servers do one or the other, and the route that names a user
    /// is to be met in each case. An escaped `/` divides nothing.
    pub(super) fn covers(&self, path: &str) -> bool {
        let mut segments = segments(path).filter(|segment| !segment.is_empty());
        self.0.iter().all(|wanted| {
            let segment = segments.next().map(bare);
            segment.is_some_and(|segment| match decode(segment) {
                Some(bytes) => *bytes == *wanted.as_bytes(),
                None => false,
            })
        })
    }
}

/// Refuses a path with a broken escape, a `\`, or a dot segment in any disguise (`..`, `%2e%2e`, `..;x`, `..%2f`): whoever
/// resolves these serves another path than the one that was routed. Clients resolve them before they ask.
pub(super) fn check(path: &str) -> Result<(), Refused> {
    if path.contains('\\') {
        return Err(Refused::Path);
    }
    for segment in segments(path) {
        let bytes = decode(segment).ok_or(Refused::Path)?;
        let mut pieces = bytes.split(|byte| matches!(byte, b'/' | b'\\'));
        let dots = |piece: &[u8]| {
            let end = piece.iter().position(|byte| *byte == b';');
            matches!(&piece[..end.unwrap_or(piece.len())], b"." | b"..")
        };
        if pieces.any(dots) {
            return Err(Refused::Path);
        }
    }
    Ok(())
}

/// Segment `number`, from 1, decoded; `None` where the path ends before it.
pub(super) fn segment(path: &str, number: usize) -> Result<Option<Cow<'_, str>>, Refused> {
    let mut left = segments(path).peekable();
    for at in 1.. {
        match left.next() {
            None => return Ok(None),
            // The path ends in a `/`.
            Some("") if left.peek().is_none() => return Ok(None),
            // Some servers count it, some do not.
            Some("") => return Err(Refused::Path),
            Some(segment) if at == number => {
                if segment.contains(';') {
                    return Err(Refused::Path);
                }
                let text = decode_text(segment).ok_or(Refused::Malformed)?;
                // Some servers would divide the segment here.
                return match text.contains(['/', '\\']) {
                    true => Err(Refused::Path),
                    false => Ok(Some(text)),
                };
            }
            Some(_) => {}
        }
    }
    Ok(None)
}

/// What stands between the slashes, as it was written. `*` and whatever does not begin with a `/` has no segments.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/')
        .into_iter()
        .flat_map(|rest| rest.split('/'))
}

/// A segment without its parameters.
fn bare(segment: &str) -> &str {
    segment.split(';').next().unwrap_or(segment)
}

fn is_dots(segment: &str) -> bool {
    segment == "." || segment == ".."
}

/// `text` with every `%XX` undone; `None` where a `%` is not followed by two hexadecimal digits, or stands for NUL.
pub(super) fn decode(text: &str) -> Option<Cow<'_, [u8]>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low)
                    .ok()
                    .filter(|byte| *byte != 0)?
            }
            other => other,
        };
        decoded.push(byte);
    }
    Some(Cow::Owned(decoded))
}

/// As [`decode`], where UTF-8 comes of it.
pub(super) fn decode_text(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let bytes = decode(text)?.into_owned();
    String::from_utf8(bytes).ok().map(Cow::Owned)
}
