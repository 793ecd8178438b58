//! A head: size and root of a log, signed by its site and countersigned by peers.
//!
//! The text is a checkpoint (<https://c2sp.org/tlog-checkpoint>): the log's origin, its size, the base64 of its root. The site
//! signs it under the origin's name; a peer under its own, with the time, as `cosignature/v1` of
//! <https://c2sp.org/tlog-cosignature>.

use std::fmt;

use crate::key::{PublicKey, SiteKey};
use crate::note::{Algorithm, NotANote, Note, Signature, key_id};
use crate::tree::{Hash, SIZE_MAX};

/// Size and root of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which log: see [`origin`].
    pub origin: String,
    /// How many entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

/// The name of the log of `service` at `site`, and of the key that signs its heads.
pub fn origin(service: &str, site: &str) -> String {
    format!("domicile/{service}/{site}")
}

/// The name under which `site` countersigns others' heads, and signs statements.
pub fn signer(site: &str) -> String {
    format!("domicile/{site}")
}

// === impl Head ===

impl fmt::Display for Head {
    /// The text that is signed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root)
    }
}

impl Head {
    /// Reads the text of a head, without extension lines.
    pub fn parse(text: &str) -> Result<Self, NotANote> {
        let mut lines = text.strip_suffix('\n').ok_or(NotANote)?.split('\n');
        let mut line = || lines.next().ok_or(NotANote);
        let head = Self {
            origin: line()?.to_owned(),
            size: line()?.parse().map_err(|_| NotANote)?,
            root: Hash::parse(line()?).ok_or(NotANote)?,
        };
        let good = head.size <= SIZE_MAX && head.to_string() == text;
        good.then_some(head).ok_or(NotANote)
    }

    /// The site's own signature.
    pub fn sign(&self, key: &SiteKey) -> Signature {
        sign(&self.origin, key, &self.to_string())
    }

    /// The countersignature of the peer `site`, at `time` (seconds since 1970).
    pub fn countersign(&self, site: &str, key: &SiteKey, time: u64) -> Signature {
        let name = signer(site);
        let signed = key.sign(countersigned(&self.to_string(), time).as_bytes());
        Signature {
            id: key_id(&name, Algorithm::CosignatureV1, &key.public()),
            bytes: [&time.to_be_bytes()[..], &signed].concat(),
            name,
        }
    }
}

/// A signature of `text` under `name`.
pub(crate) fn sign(name: &str, key: &SiteKey, text: &str) -> Signature {
    Signature {
        name: name.to_owned(),
        id: key_id(name, Algorithm::Ed25519, &key.public()),
        bytes: key.sign(text.as_bytes()).to_vec(),
    }
}

/// Whether `signature` is meant to be one by `key` under `name`; and if so, whether it holds for the text of `note`.
pub(crate) fn signed(
    note: &Note,
    signature: &Signature,
    name: &str,
    key: &PublicKey,
) -> Option<bool> {
    let meant = signature.name == name && signature.id == key_id(name, Algorithm::Ed25519, key);
    meant.then(|| key.verifies(note.text().as_bytes(), &signature.bytes))
}

/// As [`signed`], of a countersignature: its time, or `None` where it does not hold.
pub(crate) fn countersignature(
    note: &Note,
    signature: &Signature,
    name: &str,
    key: &PublicKey,
) -> Option<Option<u64>> {
    let id = key_id(name, Algorithm::CosignatureV1, key);
    if signature.name != name || signature.id != id {
        return None;
    }
    let Some((time, signed)) = signature.bytes.split_first_chunk::<8>() else {
        return Some(None);
    };
    let time = u64::from_be_bytes(*time);
    let holds = key.verifies(countersigned(note.text(), time).as_bytes(), signed);
    Some(holds.then_some(time))
}

fn countersigned(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            origin: origin("shop", "beijing"),
            size: 20_852_163,
            root: Hash([7; 32]),
        }
    }

    #[test]
    fn a_head_is_three_lines() {
        let text = head().to_string();
        let root = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        assert_eq!(text, format!("domicile/shop/beijing\n20852163\n{root}\n"));
        assert_eq!(Head::parse(&text).unwrap(), head());
        for other in [
            text.replace("2085", "02085"),
            text.replace("2085", "+2085"),
            text.replace("20852163", "-1"),
            text.replace("20852163", "18446744073709551615"),
            format!("{text}more\n"),
            text.replace("wc=", "wd="),
            text.trim_end().to_owned(),
        ] {
            assert!(Head::parse(&other).is_err(), "{other}");
        }
    }

    #[test]
    fn signatures_hold_for_one_text_one_name_one_key_and_one_time() {
        let (site, peer) = (SiteKey::from_seed(&[1; 32]), SiteKey::from_seed(&[2; 32]));
        let (own, counter) = (
            head().sign(&site),
            head().countersign("singapore", &peer, 9),
        );
        let note = Note::new(head().to_string(), vec![own.clone(), counter.clone()]);
        let name = signer("singapore");
        assert_eq!(
            signed(&note, &own, &head().origin, &site.public()),
            Some(true)
        );
        assert_eq!(signed(&note, &own, &head().origin, &peer.public()), None);
        assert_eq!(
            countersignature(&note, &counter, &name, &peer.public()),
            Some(Some(9))
        );
        assert_eq!(
            countersignature(&note, &counter, &name, &site.public()),
            None
        );
        // A signature of one kind is none of the other.
        assert_eq!(signed(&note, &counter, &name, &peer.public()), None);
        let longer = Head { size: 1, ..head() };
        let other = Note::new(longer.to_string(), Vec::new());
        assert_eq!(
            signed(&other, &own, &head().origin, &site.public()),
            Some(false)
        );
        let mut later = counter;
        later.bytes[7] += 1;
        assert_eq!(
            countersignature(&note, &later, &name, &peer.public()),
            Some(None)
        );
    }
}
