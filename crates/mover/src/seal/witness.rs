//! The peer's half: countersigns what continues, by its own records, what it countersigned before, and keeps what it refuses.

use ledger::head::{Head, origin, signer};
use ledger::key::{Pin, Pins, PublicKey, SiteKey};
use ledger::keyring::{Keyring, Keys, Trust};
use ledger::note::Note;
use ledger::witness::{Judgement, judge};
use model::{ServiceName, SiteName};
use postgres::connect::Session;
use residency::witness::{self, Refused, Witnessed};
use tokio_postgres::Transaction;

use super::words::{Said, Shown};
use crate::error::{At, Result};

const DOING: &str = "countersigning the head of a ledger";

/// A note is three lines and one signature; whatever is longer than this is none.
const NOTE_MAX: usize = 4 << 10;

/// A consistency proof has at most two hashes for each bit of a size.
const PROOF_MAX: usize = 128;

/// A site as a witness.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// The site.
    pub site: &'a SiteName,
    /// Its key.
    pub key: &'a SiteKey,
}

/// Judges what the site `of` shows of its log of `service`, and writes down what comes of it in one transaction of `session`
/// before it is told. `pins` are those of `of`; `now` is in seconds since 1970.
pub async fn countersign(
    service: &ServiceName,
    session: &mut Session,
    own: Own<'_>,
    (of, pins): (&SiteName, &[Pin]),
    shown: &Shown,
    now: u64,
) -> Result<Said> {
    let by = own.site;
    let Some(head) = signed_head((service, of), pins, shown) else {
        return Ok(Said::Unsigned);
    };
    let tx = session
        .transaction()
        .await
        .map_err(|error| postgres::Error::from_server(DOING, error))
        .at(by, DOING)?;
    witness::hold(&tx, of.as_str()).await.at(by, DOING)?;
    let held = witness::witnessed(&tx, Some(of.as_str()), true)
        .await
        .at(by, DOING)?
        .pop();
    let known = held.as_ref().map(|held| Head {
        origin: origin(service.as_str(), of.as_str()),
        size: held.size,
        root: held.root,
    });
    // Two heads of one size speak for themselves; any other pair wants the proof of just these two.
    if let Some(known) = &known
        && known.size != head.size
        && known.size != shown.held
    {
        return Ok(Said::Holds(known.size));
    }
    let said = match (judge(known.as_ref(), &head, &shown.proof), held) {
        (Ok(Judgement::Known), Some(held))
            if (held.key, held.own_key) == (shown.key, own.key.public()) =>
        {
            match line_of(&held, by) {
                Some(line) => said(line, own.key.public()),
                None => add(&tx, own, of, (shown, &head), now).await?,
            }
        }
        (Ok(Judgement::Countersign | Judgement::Known), _) => {
            add(&tx, own, of, (shown, &head), now).await?
        }
        (Ok(Judgement::Late), _) => Said::Late,
        (Err(refusal), held) => {
            if let Some(held) = held {
                let evidence = Refused {
                    of: of.to_string(),
                    held: held.note,
                    shown: shown.note.clone(),
                    keys: [held.key, shown.key],
                    reason: refusal,
                };
                witness::add_refused(&tx, &evidence).await.at(by, DOING)?;
            }
            Said::Refused(refusal)
        }
    };
    tx.commit()
        .await
        .map_err(|error| postgres::Error::from_server(DOING, error))
        .at(by, DOING)?;
    Ok(said)
}

/// Countersigns, and keeps that.
async fn add(
    tx: &Transaction<'_>,
    own: Own<'_>,
    of: &SiteName,
    (shown, head): (&Shown, &Head),
    now: u64,
) -> Result<Said> {
    let line = head
        .countersign(own.site.as_str(), own.key, now)
        .to_string();
    let kept = Witnessed {
        of: of.to_string(),
        size: head.size,
        root: head.root,
        key: shown.key,
        own_key: own.key.public(),
        note: format!("{}{line}\n", shown.note),
    };
    witness::add(tx, &kept).await.at(own.site, DOING)?;
    Ok(said(line, own.key.public()))
}

fn said(line: String, key: PublicKey) -> Said {
    Said::Countersigned {
        line,
        key: Box::new(key),
    }
}

/// The head, where a key that `pins` name signed it as one of this log, and nothing else stands there.
pub(super) fn signed_head(
    (service, of): (&ServiceName, &SiteName),
    pins: &[Pin],
    shown: &Shown,
) -> Option<Head> {
    if shown.note.len() > NOTE_MAX || shown.proof.len() > PROOF_MAX {
        return None;
    }
    let site = of.as_str();
    let keys = Keys::from([(site.to_owned(), vec![shown.key])]);
    let pins = Pins::from([(site.to_owned(), pins.to_vec())]);
    let opened = Keyring::new(&keys, &pins)
        .open(&shown.note, (service.as_str(), site))
        .ok()?;
    let alone = Note::parse(&shown.note).ok()?.signatures().len() == 1;
    let good = alone && opened.signed == Some(Trust::Pinned) && opened.faults.is_empty();
    good.then_some(opened.head)
}

/// The line with which `by` countersigned what it holds.
fn line_of(held: &Witnessed, by: &SiteName) -> Option<String> {
    let note = Note::parse(&held.note).ok()?;
    let name = signer(by.as_str());
    let mut lines = note.signatures().iter();
    lines
        .find(|signature| signature.name == name)
        .map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use ledger::tree::Hash;

    use super::*;

    fn site() -> (ServiceName, SiteName) {
        ("shop".into(), "beijing".into())
    }

    fn shown(key: &SiteKey, origin_of: &str) -> Shown {
        let head = Head {
            origin: origin("shop", origin_of),
            size: 3,
            root: Hash([7; 32]),
        };
        Shown {
            note: Note::new(head.to_string(), vec![head.sign(key)]).to_string(),
            key: key.public(),
            held: 0,
            proof: Vec::new(),
        }
    }

    #[test]
    fn a_head_is_believed_by_a_pinned_key_for_its_own_log_alone() {
        let (service, of) = site();
        let (key, other) = (SiteKey::from_seed(&[1; 32]), SiteKey::from_seed(&[2; 32]));
        let pins = [key.public().pin()];
        let opens = |shown: &Shown| signed_head((&service, &of), &pins, shown).is_some();
        let good = shown(&key, "beijing");
        assert!(opens(&good));
        // Another key, also where it says that it is the pinned one; another site's log.
        assert!(!opens(&shown(&other, "beijing")));
        let lying = Shown {
            key: key.public(),
            ..shown(&other, "beijing")
        };
        assert!(!opens(&lying));
        assert!(!opens(&shown(&key, "singapore")));
        // More than one signature, more text, too long a proof.
        let twice = good.note.lines().last().expect("a signature").to_owned();
        for (note, proof) in [
            (format!("{}{twice}\n", good.note), 0),
            (format!("{}{}", good.note, "— a AAAAAAAA\n".repeat(2)), 0),
            (format!("more\n{}", good.note), 0),
            (good.note.clone(), PROOF_MAX + 1),
            (String::new(), 0),
        ] {
            let proof = vec![Hash([0; 32]); proof];
            let held = 0;
            let key = key.public();
            assert!(!opens(&Shown {
                note,
                key,
                held,
                proof
            }));
        }
    }
}
