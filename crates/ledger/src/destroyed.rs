//! What two operators state of a site that is destroyed for good, so that a batch which was offered to it can be taken back.
//!
//! A [`Statement`] is canonical JSON on one line, the text of a [`note`](crate::note) that each operator signs under a name of his own. Its
//! field `format` tells it from everything else that is signed here: a head begins with the name of a log, and a
//! receipt's statement has another format. Whose signatures count is the reader's to say ([`Operators`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::head;
use crate::key::{PublicKey, SiteKey};
use crate::note::{NotANote, Note};
use crate::statement;

/// What the field `format` says.
pub const FORMAT: &str = "domicile destroyed 1";

/// How many operators have to sign.
pub const WANTED: usize = 2;

/// The operators who may sign, each with his key.
pub type Operators = BTreeMap<String, PublicKey>;

/// That a site is destroyed, and that a batch is to be taken back from it. Names no user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// [`FORMAT`].
    pub format: String,
    /// The service.
    pub service: String,
    /// The batch.
    pub batch: String,
    /// The site that offered it, and takes it back.
    pub source: String,
    /// The site that is destroyed.
    pub destroyed: String,
    /// How often the destroyed site had come to the source to be told or to bring users (the term of that office), when this was made: once
    /// it comes again it is not destroyed, and this is void.
    pub came: i64,
    /// Why, in an operator's words; recorded for good.
    pub reason: String,
    /// When it was made, by the clock of the source's database: RFC 3339 in UTC with six digits of the second.
    pub at: String,
}

/// A statement with the signatures that stand under it, none of them verified.
#[derive(Clone, Debug)]
pub struct Signed {
    statement: Statement,
    note: Note,
}

/// Why the signatures under a statement are not enough. Repeats names alone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Doubt {
    /// A signature is of nobody who may sign.
    #[error("it is signed by {0}, with a key that is no operator's")]
    Stranger(String),
    /// A signature is of somebody who may sign, and not of this text.
    #[error("the signature of {0} is not of this text: it was changed after it was signed")]
    Changed(String),
    /// There are too few.
    #[error("{} different operators have to sign it; signed by: {}", WANTED, .0.join(", "))]
    TooFew(Vec<String>),
}

/// The name under which an operator signs.
fn signer(operator: &str) -> String {
    head::signer(&format!("operator/{operator}"))
}

/// The operator in the name of a signature, for messages: the name itself where it is another's.
fn operator_of(name: &str) -> String {
    let own = signer("");
    name.strip_prefix(&own).unwrap_or(name).to_owned()
}

// === impl Statement ===

impl Statement {
    /// With the first signature.
    ///
    /// # Errors
    /// Where it cannot be written as JSON.
    pub fn sign(self, operator: &str, key: &SiteKey) -> Result<Signed, serde_json::Error> {
        let text = statement::text(&self)?;
        let signature = head::sign(&signer(operator), key, &text);
        Ok(Signed {
            statement: self,
            note: Note::new(text, vec![signature]),
        })
    }
}

// === impl Signed ===

impl Signed {
    /// Reads what [`Display`](std::fmt::Display) writes.
    ///
    /// # Errors
    /// Where it is anything else.
    pub fn parse(text: &str) -> Result<Self, NotANote> {
        let note = Note::parse(text)?;
        let statement: Statement = statement::parse(note.text()).ok_or(NotANote)?;
        match statement.format == FORMAT {
            true => Ok(Self { statement, note }),
            false => Err(NotANote),
        }
    }

    /// What is stated.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// Adds the signature of `operator`; one that stands already is not added again.
    pub fn add(&mut self, operator: &str, key: &SiteKey) {
        let signature = head::sign(&signer(operator), key, self.note.text());
        self.note.add(signature);
    }

    /// The operators whose signatures stand under it. Every signature must be of one of `known`, and hold.
    ///
    /// # Errors
    /// [`Doubt::Stranger`] and [`Doubt::Changed`].
    pub fn signers(&self, known: &Operators) -> Result<BTreeSet<String>, Doubt> {
        let mut signers = BTreeSet::new();
        for signature in self.note.signatures() {
            let of = known.iter().find_map(|(operator, key)| {
                let holds = head::signed(&self.note, signature, &signer(operator), key)?;
                Some((operator, holds))
            });
            match of {
                Some((operator, true)) => signers.insert(operator.clone()),
                Some((operator, false)) => return Err(Doubt::Changed(operator.clone())),
                None => return Err(Doubt::Stranger(operator_of(&signature.name))),
            };
        }
        Ok(signers)
    }

    /// As [`signers`](Self::signers), where they are enough: [`WANTED`] operators with as many keys.
    ///
    /// # Errors
    /// A [`Doubt`].
    pub fn enough(&self, known: &Operators) -> Result<BTreeSet<String>, Doubt> {
        let signers = self.signers(known)?;
        let keys: BTreeSet<&[u8; 32]> = signers
            .iter()
            .map(|operator| known[operator].as_bytes())
            .collect();
        match keys.len() >= WANTED {
            true => Ok(signers),
            false => Err(Doubt::TooFew(signers.into_iter().collect())),
        }
    }

    /// SHA-256 of what is stated, in hexadecimal.
    pub fn digest(&self) -> String {
        let hash = Sha256::digest(self.note.text());
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::fmt::Display for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.note.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            format: FORMAT.to_owned(),
            service: "shop".to_owned(),
            batch: "shop-beijing-singapore-1/2-0a1b2c3d".to_owned(),
            source: "beijing".to_owned(),
            destroyed: "singapore".to_owned(),
            came: 3,
            reason: "burnt down\n\n— domicile/operator/bob AAAA".to_owned(),
            at: "2026-11-23T06:00:00.000001Z".to_owned(),
        }
    }

    fn key(n: u8) -> SiteKey {
        SiteKey::from_seed(&[n; 32])
    }

    fn known() -> Operators {
        let operators = [("alice", 1), ("bob", 2)];
        let operators = operators.map(|(name, n)| (name.to_owned(), key(n).public()));
        operators.into()
    }

    #[test]
    fn two_operators_are_enough_and_one_is_not_however_often_he_signs() {
        let mut signed = statement().sign("alice", &key(1)).unwrap();
        signed.add("alice", &key(1));
        let alone = Doubt::TooFew(vec!["alice".to_owned()]);
        assert_eq!(signed.enough(&known()), Err(alone.clone()));
        // One key under two names is one operator.
        let mut same = known();
        same.insert("bob".to_owned(), key(1).public());
        let mut twice = signed.clone();
        twice.add("bob", &key(1));
        assert!(matches!(twice.enough(&same), Err(Doubt::TooFew(_))));
        signed.add("bob", &key(2));
        let read = Signed::parse(&signed.to_string()).unwrap();
        assert_eq!(read.statement(), &statement());
        assert_eq!(read.enough(&known()).unwrap().len(), 2);
        assert_eq!(read.digest(), signed.digest());
    }

    #[test]
    fn a_strangers_signature_and_one_under_anothers_name_spoil_it() {
        let mut signed = statement().sign("alice", &key(1)).unwrap();
        let mut by_a_stranger = signed.clone();
        by_a_stranger.add("mallory", &key(3));
        let stranger = |name: &str| Err(Doubt::Stranger(name.to_owned()));
        assert_eq!(by_a_stranger.enough(&known()), stranger("mallory"));
        signed.add("bob", &key(3));
        assert_eq!(signed.enough(&known()), stranger("bob"));
    }

    #[test]
    fn no_word_of_it_can_be_changed() {
        let mut signed = statement().sign("alice", &key(1)).unwrap();
        signed.add("bob", &key(2));
        let text = signed.to_string();
        for (old, new) in [
            ("burnt", "drowned"),
            ("-1/2-", "-1/3-"),
            ("\"singapore\"", "\"mumbai\""),
            ("\"beijing\"", "\"mumbai\""),
            ("\"shop\"", "\"accounts\""),
            ("06:00", "07:00"),
            ("\"came\":3", "\"came\":4"),
        ] {
            let changed = text.replacen(old, new, 1);
            assert_ne!(changed, text);
            let doubt = Signed::parse(&changed).unwrap().enough(&known());
            assert_eq!(doubt, Err(Doubt::Changed("alice".to_owned())), "{new}");
        }
        for other in [
            text.replacen("destroyed 1", "erasure 1", 1),
            text.replacen("\"at\":", "\"at\": ", 1),
            text.replacen("{\"at\"", "{\"a\":1,\"at\"", 1),
        ] {
            assert!(Signed::parse(&other).is_err(), "{other}");
        }
    }
}
