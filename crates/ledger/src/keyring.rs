//! Whose signatures stand on a head, as far as pins and the keys that came along tell.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::{Finding, Kind};
use crate::head::{self, Head};
use crate::key::{Pins, PublicKey};
use crate::note::{NotANote, Note};

/// The public keys that came with a bundle or a proof, by site.
pub type Keys = BTreeMap<String, Vec<PublicKey>>;

/// Keys, told apart by the pins.
#[derive(Debug)]
pub struct Keyring<'a> {
    keys: &'a Keys,
    pins: &'a Pins,
}

/// How far a signature can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// It holds, by a key that no pin names: one that was replaced, or anybody's. It proves nothing by itself.
    Unpinned,
    /// It holds, by a key that a pin names.
    Pinned,
}

/// A head whose signatures were looked at.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What it says.
    pub head: Head,
    /// Whether its site signed it.
    pub signed: Option<Trust>,
    /// Who countersigned it, and when (seconds since 1970): by keys that pins name.
    pub witnesses: BTreeMap<String, u64>,
    /// Who else did, by keys that no pin names.
    pub unpinned: BTreeSet<String>,
    /// What is wrong with its signatures.
    pub faults: Vec<String>,
}

impl<'a> Keyring<'a> {
    /// The keys `keys` under `pins`.
    pub fn new(keys: &'a Keys, pins: &'a Pins) -> Self {
        Self { keys, pins }
    }

    /// Findings about the keys themselves: a site none of whose keys is pinned.
    pub fn findings(&self) -> Vec<Finding> {
        let strange = self.keys.iter().filter(|(site, keys)| {
            let pinned = |key: &PublicKey| self.trust(site, key) == Trust::Pinned;
            !keys.iter().any(pinned)
        });
        let what = |site: &String| match self.pins.get(site) {
            Some(_) => "none of its keys is one that its pins name",
            None => "no pin of its key is known",
        };
        strange
            .map(|(site, _)| Finding::new(Kind::Key, ("", site), what(site)))
            .collect()
    }

    fn trust(&self, site: &str, key: &PublicKey) -> Trust {
        match self.pins.get(site) {
            Some(pins) if pins.contains(&key.pin()) => Trust::Pinned,
            _ => Trust::Unpinned,
        }
    }

    /// Reads a head of the log of `service` at `site`, and judges its signatures. Each must hold and be somebody's.
    pub fn open(&self, note: &str, (service, site): (&str, &str)) -> Result<Opened, NotANote> {
        let note = Note::parse(note)?;
        let head = Head::parse(note.text())?;
        let origin = head::origin(service, site);
        let mut opened = Opened {
            signed: None,
            witnesses: BTreeMap::new(),
            unpinned: BTreeSet::new(),
            faults: Vec::new(),
            head,
        };
        if opened.head.origin != origin {
            let what = format!("it is one of the log {}", opened.head.origin);
            opened.faults.push(what);
        }
        let own = self.keys.get(site).map_or(&[][..], Vec::as_slice);
        for signature in note.signatures() {
            let by_site = own.iter().find_map(|key| {
                let holds = head::signed(&note, signature, &origin, key)?;
                Some((holds, self.trust(site, key)))
            });
            match by_site {
                Some((true, trust)) => {
                    opened.signed = opened.signed.max(Some(trust));
                    continue;
                }
                Some((false, _)) => {
                    opened
                        .faults
                        .push("its site's signature does not hold".to_owned());
                    continue;
                }
                None => {}
            }
            match self.witness(&note, signature) {
                Some((peer, Some(time), Trust::Pinned)) => {
                    opened.witnesses.insert(peer.to_owned(), time);
                }
                Some((peer, Some(_), Trust::Unpinned)) => {
                    opened.unpinned.insert(peer.to_owned());
                }
                Some((peer, None, _)) => {
                    let what = format!("the countersignature of {peer} does not hold");
                    opened.faults.push(what);
                }
                None => {
                    let what = format!("a signature by {:?} is of no known key", signature.name);
                    opened.faults.push(what);
                }
            }
        }
        Ok(opened)
    }

    fn witness(
        &self,
        note: &Note,
        signature: &crate::note::Signature,
    ) -> Option<(&str, Option<u64>, Trust)> {
        let mut all = self
            .keys
            .iter()
            .flat_map(|(site, keys)| keys.iter().map(move |key| (site.as_str(), key)));
        all.find_map(|(site, key)| {
            let time = head::countersignature(note, signature, &head::signer(site), key)?;
            Some((site, time, self.trust(site, key)))
        })
    }

    /// The trust in the best signature of `site` under its own name that `note` carries.
    pub fn statement(&self, note: &Note, site: &str) -> Option<Trust> {
        let name = head::signer(site);
        let keys = self.keys.get(site).map_or(&[][..], Vec::as_slice);
        let mut best = None;
        for signature in note.signatures() {
            let found = keys.iter().find_map(|key| {
                let holds = head::signed(note, signature, &name, key)?;
                holds.then(|| self.trust(site, key))
            });
            // One that is nobody's, or does not hold, spoils the rest.
            best = best.max(Some(found?));
        }
        best
    }
}
