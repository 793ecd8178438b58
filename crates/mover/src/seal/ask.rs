//! The site's half: takes entries into its log, signs the head, shows it to a peer, and keeps the countersignature.

use ledger::head::{Head, origin};
use ledger::key::{Pin, Pins, PublicKey, SiteKey};
use ledger::keyring::{Keyring, Keys};
use ledger::note::Note;
use ledger::tree::{self, Frontier, Node, Span};
use ledger::witness::Refusal;
use model::fault::point;
use model::{ServiceName, SiteName};
use postgres::connect::Session;
use residency::log::{self, Cosigned, HeadRow, NewLeaf};
use tokio_postgres::GenericClient;

use super::witness::signed_head;
use super::words::{Said, Shown, Witness};
use crate::error::{At, Error, Result};

/// Entries taken in one transaction: a bound for memory, and for how long the first waits for the last.
const TAKEN_TOGETHER: u32 = 5_000;

/// How often a peer is shown a head anew because others showed it one meanwhile.
const SHOWN_MAX: usize = 4;

/// A site that seals its log of a service.
#[derive(Clone, Copy, Debug)]
pub struct Log<'a> {
    /// The service.
    pub service: &'a ServiceName,
    /// The site.
    pub site: &'a SiteName,
    /// Its key.
    pub key: &'a SiteKey,
    /// The pins by which the other sites know it.
    pub pins: &'a [Pin],
}

/// Takes everything visible into the log and signs the head, while nobody else does. Returns the head and how many entries
/// were taken.
///
/// # Errors
/// [`Error::Ledger`] where the site's own tables contradict each other: nothing is signed then. `session` is not to be used for
/// this again after any error, as it may keep other takers away.
pub async fn seal_own(log: Log<'_>, session: &mut Session) -> Result<(HeadRow, u64)> {
    log::lock(session)
        .await
        .at(log.site, "waiting for the ledger")?;
    let taken = take(log.site, session).await?;
    point("after-take");
    let head = sign(log, session).await?;
    point("after-head");
    log::unlock(session)
        .await
        .at(log.site, "leaving the ledger")?;
    Ok((head, taken))
}

/// Shows a head to a peer, and keeps its countersignature, once that is found to hold by a key that `pins`, the peer's, name.
/// `held` is the size of the last head that it is known to have countersigned; 0 where nobody knows.
///
/// # Errors
/// What the peer says; [`Error::Ledger`] where the head, or what the peer answers, is signed by none of the pinned keys.
pub async fn show(
    log: Log<'_>,
    session: &impl GenericClient,
    row: &HeadRow,
    (witness, pins): (&mut dyn Witness, &[Pin]),
    mut held: u64,
) -> Result<Result<(), Refusal>> {
    let doing = "countersigning the head of a ledger";
    for _ in 0..SHOWN_MAX {
        let (old, new) = (held.min(row.size), held.max(row.size));
        let shown = Shown {
            note: row.note.clone(),
            key: row.key,
            held,
            proof: path(session, old, new).await.at(log.site, doing)?,
        };
        signed_by_site(log, row, &shown)?;
        match witness.show(shown).await? {
            Said::Countersigned { line, key } => {
                holds(log, row, (witness.site(), pins), (&line, *key))?;
                point("after-witness");
                let cosigned = Cosigned {
                    size: row.size,
                    peer: witness.site().to_string(),
                    key: *key,
                    line,
                };
                log::add_cosigned(session, &cosigned)
                    .await
                    .at(log.site, doing)?;
                return Ok(Ok(()));
            }
            Said::Late => return Ok(Ok(())),
            Said::Refused(refusal) => return Ok(Err(refusal)),
            Said::Holds(size) => held = size,
            Said::Unsigned => {
                let peer = witness.site();
                let what = format!("{peer} knows this site by other keys than that of its head");
                return Err(wrong(log.site, what));
            }
        }
    }
    let site = witness.site().clone();
    Err(Error::Disorder { site })
}

fn wrong(site: &SiteName, what: impl Into<String>) -> Error {
    Error::Ledger {
        site: site.clone(),
        what: what.into(),
    }
}

/// Takes what is visible and not in the log yet. Returns how much that was.
async fn take(site: &SiteName, session: &mut Session) -> Result<u64> {
    let doing = "taking entries into the ledger";
    let mut taken = 0;
    loop {
        let tx = session
            .transaction()
            .await
            .map_err(|error| postgres::Error::from_server(doing, error))
            .at(site, doing)?;
        let entries = log::untaken(&tx, TAKEN_TOGETHER).await.at(site, doing)?;
        if entries.is_empty() {
            return Ok(taken);
        }
        let mut frontier = frontier(&tx, site).await?;
        let (mut leaves, mut perfect) = (Vec::new(), Vec::new());
        for entry in &entries {
            let text = entry
                .text()
                .map_err(|why| wrong(site, format!("entry {} cannot be taken: {why}", entry.n)))?;
            let leaf = NewLeaf {
                position: frontier.size(),
                n: entry.n,
                hash: tree::leaf_hash(text.as_bytes()),
            };
            perfect.extend(frontier.push(leaf.hash));
            leaves.push(leaf);
        }
        log::append(&tx, &leaves, &perfect).await.at(site, doing)?;
        tx.commit()
            .await
            .map_err(|error| postgres::Error::from_server(doing, error))
            .at(site, doing)?;
        taken += leaves.len() as u64;
    }
}

/// The head over the whole log, signed now or before.
async fn sign(log: Log<'_>, session: &Session) -> Result<HeadRow> {
    let (site, doing) = (log.site, "signing the head of the ledger");
    let session = &**session;
    let frontier = frontier(session, site).await?;
    let (size, root) = (frontier.size(), frontier.root());
    let last = log::heads(session, true).await.at(site, doing)?.pop();
    if let Some(last) = last {
        let path = path(session, last.size, size).await.at(site, doing)?;
        tree::verify_consistency((last.size, &last.root), (size, &root), &path).map_err(|_| {
            let what = format!(
                "its {size} entries do not continue the head of {} that was signed last; `domicile ledger \
                 verify` says what differs",
                last.size
            );
            wrong(site, what)
        })?;
        if last.size == size && last.key == log.key.public() {
            return Ok(last);
        }
    }
    let head = Head {
        origin: origin(log.service.as_str(), site.as_str()),
        size,
        root,
    };
    let note = Note::new(head.to_string(), vec![head.sign(log.key)]);
    let row = HeadRow {
        size,
        root,
        key: log.key.public(),
        note: note.to_string(),
    };
    log::add_head(session, &row).await.at(site, doing)?;
    Ok(row)
}

/// Finds that a key that the pins name signed the head of `row`, and nothing else, in its note.
fn signed_by_site(log: Log<'_>, row: &HeadRow, shown: &Shown) -> Result<()> {
    if !log.pins.contains(&row.key.pin()) {
        return Err(wrong(
            log.site,
            "its key is none of those that its pins name",
        ));
    }
    match signed_head((log.service, log.site), log.pins, shown) {
        Some(head) if (head.size, head.root) == (row.size, row.root) => Ok(()),
        _ => Err(wrong(
            log.site,
            "its last head is not signed by its key; `domicile ledger verify` says more",
        )),
    }
}

/// Finds that `line` is a countersignature of the head of `row` by `key`, which is a pinned one of the peer's.
fn holds(
    log: Log<'_>,
    row: &HeadRow,
    (peer, pins): (&SiteName, &[Pin]),
    (line, key): (&str, PublicKey),
) -> Result<()> {
    let (site, by) = (log.site.as_str(), peer.as_str());
    if !pins.contains(&key.pin()) {
        let what =
            format!("the key with which {by} countersigns is none of those that its pins name");
        return Err(wrong(log.site, what));
    }
    let keys = Keys::from([(site.to_owned(), vec![row.key]), (by.to_owned(), vec![key])]);
    let pins = Pins::from([
        (site.to_owned(), log.pins.to_vec()),
        (by.to_owned(), pins.to_vec()),
    ]);
    let note = format!("{}{line}\n", row.note);
    let opened = Keyring::new(&keys, &pins).open(&note, (log.service.as_str(), site));
    let good =
        opened.is_ok_and(|opened| opened.faults.is_empty() && opened.witnesses.keys().eq([by]));
    let what = || format!("what {by} answers is no countersignature of its head");
    good.then_some(()).ok_or_else(|| wrong(log.site, what()))
}

async fn frontier(session: &impl GenericClient, site: &SiteName) -> Result<Frontier> {
    let doing = "reading the right edge of the ledger";
    let size = log::size(session).await.at(site, doing)?;
    let nodes = log::nodes(session, &Span::whole(size).parts())
        .await
        .at(site, doing)?;
    Frontier::at(size, &nodes).ok_or_else(|| wrong(site, "hashes of its tree are missing"))
}

/// The consistency proof from `old` to `size` entries; an empty one, which proves nothing, where hashes are missing.
async fn path(
    session: &impl GenericClient,
    old: u64,
    size: u64,
) -> residency::Result<Vec<tree::Hash>> {
    let spans = tree::consistency(old, size);
    let wanted: Vec<Node> = tree::parts(&spans);
    let nodes = log::nodes(session, &wanted).await?;
    Ok(tree::path(&spans, &nodes).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_countersignature_is_believed_by_a_pinned_key_of_its_peer_for_this_head_alone() {
        let [own, peer, other] = [1, 2, 3].map(|seed| SiteKey::from_seed(&[seed; 32]));
        let (service, site): (ServiceName, SiteName) = ("shop".into(), "beijing".into());
        let by: SiteName = "singapore".into();
        let head = Head {
            origin: origin("shop", "beijing"),
            size: 3,
            root: tree::Hash([7; 32]),
        };
        let row = HeadRow {
            size: 3,
            root: head.root,
            key: own.public(),
            note: Note::new(head.to_string(), vec![head.sign(&own)]).to_string(),
        };
        let pins = [own.public().pin()];
        let log = Log {
            service: &service,
            site: &site,
            key: &own,
            pins: &pins,
        };
        let theirs = [peer.public().pin()];
        let good = |line: String, key: &SiteKey| {
            holds(log, &row, (&by, &theirs), (&line, key.public())).is_ok()
        };
        let line = |head: &Head, name: &str, key| head.countersign(name, key, 9).to_string();
        assert!(good(line(&head, "singapore", &peer), &peer));
        assert!(!good(line(&head, "singapore", &other), &other));
        assert!(!good(line(&head, "singapore", &peer), &other));
        assert!(!good(line(&head, "beijing", &peer), &peer));
        let longer = Head {
            size: 4,
            ..head.clone()
        };
        assert!(!good(line(&longer, "singapore", &peer), &peer));
        // The site's own signature again, several lines, nothing.
        assert!(!good(head.sign(&own).to_string(), &peer));
        let one = line(&head, "singapore", &peer);
        assert!(!good(format!("{one}\n— x AAAAAAAA"), &peer));
        assert!(!good(String::new(), &peer));
    }
}
