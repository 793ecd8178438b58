//! Names of header fields, and the spellings behind which they hide. Applications see `X-User`, `x_user` and, behind some old
//! servers, `x.user` as one variable; a gateway that knows one spelling alone lets the others through (CVE-2025-64484).

/// How a field's name stands to a known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// It is the name; case says nothing.
    Same,
    /// An application may take it for the name.
    Twin,
}

/// How `name` stands to `known`, which is lower-case; `None` where they are two names. Allocates nothing.
pub(crate) fn spelling(name: &str, known: &str) -> Option<Spelling> {
    if name.len() != known.len() {
        return None;
    }
    if name.eq_ignore_ascii_case(known) {
        return Some(Spelling::Same);
    }
    let same = name.bytes().map(fold).eq(known.bytes().map(fold));
    same.then_some(Spelling::Twin)
}

/// Letters in lower case; whatever is neither letter nor digit is a hyphen.
pub(crate) fn fold(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' | b'0'..=b'9' => byte,
        b'A'..=b'Z' => byte | 0x20,
        _ => b'-',
    }
}

/// Some names, looked for together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    names: Vec<String>,
    /// Their [lengths](length), which turn most fields away.
    lengths: u64,
}

// === impl Names ===

impl Names {
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut kept = Self::default();
        for name in names {
            let name = name.to_ascii_lowercase();
            if !kept.names.contains(&name) {
                kept.lengths |= length(&name);
                kept.names.push(name);
            }
        }
        kept
    }

    /// How `name` stands to the first of them that it is or resembles.
    pub fn find(&self, name: &str) -> Option<Spelling> {
        if self.lengths & length(name) == 0 {
            return None;
        }
        let mut names = self.names.iter();
        names.find_map(|known| spelling(name, known))
    }
}

/// Bit n for a name of n bytes; bit 63 for 63 and more.
pub(crate) const fn length(name: &str) -> u64 {
    match name.len() {
        63.. => 1 << 63,
        short => 1 << short,
    }
}
