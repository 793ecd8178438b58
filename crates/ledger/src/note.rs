//! Signed notes, as <https://c2sp.org/signed-note> describes them: a text, an empty line, and lines with signatures.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::key::PublicKey;

/// The form allows a reader to refuse notes with more signatures; nobody of ours has so many peers.
const SIGNATURES_MAX: usize = 100;

/// The bytes of a note, at most: a bound for what comes from outside.
const BYTES_MAX: usize = 1 << 20;

/// A text with signatures, none of them verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

/// A line with a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The name of the key.
    pub name: String,
    /// Which key of that name, and of what algorithm.
    pub id: [u8; 4],
    /// What is signed, by the algorithm's own rules.
    pub bytes: Vec<u8>,
}

/// What a key signs, told from each other by the key's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 over the text.
    Ed25519 = 0x01,
    /// Ed25519 over the text and a time: <https://c2sp.org/tlog-cosignature>, `cosignature/v1`.
    CosignatureV1 = 0x04,
}

/// Something is no signed note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a signed note")]
pub struct NotANote;

// === impl Note ===

impl Note {
    /// A note of `text`, which ends with an end of line and has no empty line at its end.
    pub fn new(text: impl Into<String>, signatures: Vec<Signature>) -> Self {
        Self {
            text: text.into(),
            signatures,
        }
    }

    /// Reads a note, which must be written in the one way in which [`Display`](fmt::Display) writes it.
    pub fn parse(whole: &str) -> Result<Self, NotANote> {
        if whole.len() > BYTES_MAX {
            return Err(NotANote);
        }
        let (text, lines) = whole.rsplit_once("\n\n").ok_or(NotANote)?;
        let lines = lines.strip_suffix('\n').unwrap_or(lines);
        let lines = lines.split('\n').filter(|line| !line.is_empty());
        let signatures: Vec<Signature> = lines
            .take(SIGNATURES_MAX + 1)
            .map(Signature::parse)
            .collect::<Result<_, _>>()?;
        let note = Self::new(format!("{text}\n"), signatures);
        let good = (1..=SIGNATURES_MAX).contains(&note.signatures.len());
        let good = good && note.to_string() == whole;
        good.then_some(note).ok_or(NotANote)
    }

    /// The text, with its last end of line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Adds a signature, unless it is there.
    pub fn add(&mut self, signature: Signature) {
        if !self.signatures.contains(&signature) {
            self.signatures.push(signature);
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for signature in &self.signatures {
            writeln!(f, "{signature}")?;
        }
        Ok(())
    }
}

// === impl Signature ===

impl Signature {
    /// Reads a line, without its end.
    pub fn parse(line: &str) -> Result<Self, NotANote> {
        let rest = line.strip_prefix("— ").ok_or(NotANote)?;
        let (name, base64) = rest.split_once(' ').ok_or(NotANote)?;
        let bytes = STANDARD.decode(base64).map_err(|_| NotANote)?;
        let (id, bytes) = bytes.split_first_chunk::<4>().ok_or(NotANote)?;
        let good = is_name(name) && !bytes.is_empty();
        good.then(|| Self {
            name: name.to_owned(),
            id: *id,
            bytes: bytes.to_vec(),
        })
        .ok_or(NotANote)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id[..], &self.bytes].concat();
        write!(f, "— {} {}", self.name, STANDARD.encode(bytes))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+' || c.is_control())
}

/// The number of a key in signature lines: the first 4 bytes of SHA-256 of the name, an end of line, the algorithm and the key.
pub fn key_id(name: &str, algorithm: Algorithm, key: &PublicKey) -> [u8; 4] {
    let hash = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', algorithm as u8])
        .chain_update(key.as_bytes())
        .finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the documentation of Go's golang.org/x/mod/sumdb/note, which C2SP's page describes.
    const KEY: &str = "530d903a";
    const NOTE: &str = "This is an example message.\n\n— example.com/foo \
        Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    #[test]
    fn the_example_of_the_reference_implementation_verifies() {
        let key = STANDARD
            .decode("AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
            .unwrap();
        let key = PublicKey::from_slice(&key[1..]).unwrap();
        let note = Note::parse(NOTE).unwrap();
        let [signature] = note.signatures() else {
            panic!("one signature")
        };
        let id = key_id("example.com/foo", Algorithm::Ed25519, &key);
        assert_eq!(id, signature.id);
        assert_eq!(format!("{:08x}", u32::from_be_bytes(id)), KEY);
        assert!(key.verifies(note.text().as_bytes(), &signature.bytes));
        assert_eq!(note.to_string(), NOTE);
    }

    #[test]
    fn what_is_written_another_way_is_no_note() {
        for other in [
            NOTE.trim_end().to_owned(),
            format!("{NOTE}\n"),
            NOTE.replace("— ", "-- "),
            NOTE.replace("QM=", "QN="),
            NOTE.replace("example.com/foo", "exa+mple"),
            NOTE.replace("\n\n", "\n"),
            "x".repeat(BYTES_MAX + 1),
            format!("a\n\n{}", "— n AAAAAAA=\n".repeat(101)),
            String::new(),
        ] {
            assert!(Note::parse(&other).is_err(), "{other:.80}");
        }
    }
}
