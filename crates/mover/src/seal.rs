//! Seals the ledgers: entries are taken into each site's log, the site signs the head, and the other sites countersign it.
//!
//! Every step is a transaction of its own and may run again; a process that is killed between two leaves entries that are taken
//! and not signed, or a head that is signed and not countersigned, and the next run goes on. A site signs nothing that does
//! not continue the last head that it signed; a peer countersigns nothing that does not continue what it countersigned before,
//! by its own records, and keeps what it refuses as evidence.

use ledger::head::{Head, origin};
use ledger::key::{Pin, Pins, SiteKey};
use ledger::keyring::{Keyring, Keys, Trust};
use ledger::note::Note;
use ledger::tree::{self, Frontier, Node, Span};
use ledger::witness::{Judgement, Refusal, judge};
use model::fault::point;
use model::{ServiceName, SiteName};
use postgres::connect::Session;
use residency::log::{self, Cosigned, HeadRow, NewLeaf};
use residency::witness::{self, Refused, Witnessed};
use tokio_postgres::GenericClient;

use crate::error::{At, Error, Result};

/// Entries taken in one transaction: a bound for memory, and for how long the first waits for the last.
const TAKEN_TOGETHER: u32 = 5_000;

/// A site with its home database.
#[derive(Debug)]
pub struct Party<'a> {
    /// The site.
    pub site: SiteName,
    /// A session there.
    pub session: &'a mut Session,
    /// Its key; without one it neither signs nor countersigns.
    pub key: Option<&'a SiteKey>,
    /// The pins by which the other sites know its key.
    pub pins: &'a [Pin],
}

/// What sealing came to at one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The site.
    pub site: SiteName,
    /// Entries in its log.
    pub entries: u64,
    /// How many of them were taken now.
    pub taken: u64,
    /// The peers that vouch for all of them.
    pub countersigned: Vec<SiteName>,
    /// The peers that refused, and why.
    pub refused: Vec<(SiteName, Refusal)>,
}

/// Seals the log of `service` at each of `parties` that has a key. `now` is in seconds since 1970. What is wrong at one site
/// keeps no other from being sealed.
///
/// # Errors
/// [`Error::Ledger`] where a site's own tables contradict each other: nothing is signed there then.
pub async fn seal(
    service: &ServiceName,
    parties: &mut [Party<'_>],
    now: u64,
) -> Vec<Result<Sealed>> {
    let mut all = Vec::new();
    for n in 0..parties.len() {
        let (before, rest) = parties.split_at_mut(n);
        let Some((party, after)) = rest.split_first_mut() else {
            break;
        };
        let Some(key) = party.key else { continue };
        let peers = before.iter_mut().chain(after);
        all.push(seal_one(service, (party, key), peers, now).await);
    }
    all
}

async fn seal_one<'p, 'a: 'p>(
    service: &ServiceName,
    (party, key): (&mut Party<'_>, &SiteKey),
    peers: impl Iterator<Item = &'p mut Party<'a>>,
    now: u64,
) -> Result<Sealed> {
    log::lock(party.session)
        .await
        .at(&party.site, "waiting for the ledger")?;
    let taken = take(party).await?;
    point("after-take");
    let head = sign(service, party, key).await?;
    point("after-head");
    let mut sealed = Sealed {
        site: party.site.clone(),
        entries: head.size,
        taken,
        countersigned: Vec::new(),
        refused: Vec::new(),
    };
    for peer in peers {
        let Some(peer_key) = peer.key else { continue };
        match countersign(service, party, &head, (peer, peer_key), now).await? {
            Ok(()) => sealed.countersigned.push(peer.site.clone()),
            Err(refusal) => sealed.refused.push((peer.site.clone(), refusal)),
        }
    }
    log::unlock(party.session)
        .await
        .at(&party.site, "leaving the ledger")?;
    Ok(sealed)
}

/// Takes what is visible and not in the log yet. Returns how much that was.
async fn take(party: &mut Party<'_>) -> Result<u64> {
    let (site, doing) = (&party.site, "taking entries into the ledger");
    let mut taken = 0;
    loop {
        let tx = party
            .session
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
            let text = entry.text().map_err(|why| Error::Ledger {
                site: site.clone(),
                what: format!("entry {} cannot be taken: {why}", entry.n),
            })?;
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
async fn sign(service: &ServiceName, party: &Party<'_>, key: &SiteKey) -> Result<HeadRow> {
    let (site, doing) = (&party.site, "signing the head of the ledger");
    let session = &**party.session;
    let frontier = frontier(session, site).await?;
    let (size, root) = (frontier.size(), frontier.root());
    let last = log::heads(session, true).await.at(site, doing)?.pop();
    if let Some(last) = last {
        let path = path(session, last.size, size).await.at(site, doing)?;
        tree::verify_consistency((last.size, &last.root), (size, &root), &path).map_err(|_| {
            Error::Ledger {
                site: site.clone(),
                what: format!(
                    "its {size} entries do not continue the head of {} that was signed last; `domicile ledger \
                     verify` says what differs",
                    last.size
                ),
            }
        })?;
        if last.size == size && last.key == key.public() {
            return Ok(last);
        }
    }
    let head = head(service, site, size, root);
    let note = Note::new(head.to_string(), vec![head.sign(key)]);
    let row = HeadRow {
        size,
        root,
        key: key.public(),
        note: note.to_string(),
    };
    log::add_head(session, &row).await.at(site, doing)?;
    Ok(row)
}

/// Shows the head of `party`'s log to `peer`, which keeps it before it countersigns.
async fn countersign(
    service: &ServiceName,
    party: &Party<'_>,
    row: &HeadRow,
    (peer, key): (&mut Party<'_>, &SiteKey),
    now: u64,
) -> Result<Result<(), Refusal>> {
    let doing = "countersigning the head of a ledger";
    let (of, by) = (party.site.as_str(), peer.site.clone());
    let shown = head(service, &party.site, row.size, row.root);
    signed_by_site(service, party, row, &shown)?;
    let tx = peer
        .session
        .transaction()
        .await
        .map_err(|error| postgres::Error::from_server(doing, error))
        .at(&by, doing)?;
    witness::hold(&tx, of).await.at(&by, doing)?;
    let held = witness::witnessed(&tx, Some(of), true)
        .await
        .at(&by, doing)?
        .pop();
    let known = held
        .as_ref()
        .map(|held| head(service, &party.site, held.size, held.root));
    let proof = match &known {
        Some(known) => {
            let (old, new) = (known.size.min(shown.size), known.size.max(shown.size));
            path(&**party.session, old, new)
                .await
                .at(&party.site, doing)?
        }
        None => Vec::new(),
    };
    let line = match (judge(known.as_ref(), &shown, &proof), held) {
        (Ok(Judgement::Known), Some(held))
            if (held.key, held.own_key) == (row.key, key.public()) =>
        {
            line_of(&held, &by)
        }
        (Ok(Judgement::Countersign | Judgement::Known), _) => {
            let signature = shown.countersign(by.as_str(), key, now);
            let line = signature.to_string();
            let note = format!("{}{line}\n", row.note);
            let kept = Witnessed {
                of: of.to_owned(),
                size: row.size,
                root: row.root,
                key: row.key,
                own_key: key.public(),
                note,
            };
            witness::add(&tx, &kept).await.at(&by, doing)?;
            Some(line)
        }
        (Ok(Judgement::Late), _) => None,
        (Err(refusal), held) => {
            if let Some(held) = held {
                let evidence = Refused {
                    of: of.to_owned(),
                    held: held.note,
                    shown: row.note.clone(),
                    keys: [held.key, row.key],
                    reason: refusal,
                };
                witness::add_refused(&tx, &evidence).await.at(&by, doing)?;
            }
            commit(tx, &by, doing).await?;
            return Ok(Err(refusal));
        }
    };
    commit(tx, &by, doing).await?;
    point("after-witness");
    if let Some(line) = line {
        let cosigned = Cosigned {
            size: row.size,
            peer: by.to_string(),
            key: key.public(),
            line,
        };
        log::add_cosigned(&**party.session, &cosigned)
            .await
            .at(&party.site, doing)?;
    }
    Ok(Ok(()))
}

/// Finds that a key that the pins name signed `shown`, and nothing else, in the note of `row`.
fn signed_by_site(
    service: &ServiceName,
    party: &Party<'_>,
    row: &HeadRow,
    shown: &Head,
) -> Result<()> {
    let site = party.site.as_str();
    let wrong = |what: &str| Error::Ledger {
        site: party.site.clone(),
        what: what.to_owned(),
    };
    if !party.pins.contains(&row.key.pin()) {
        return Err(wrong("its key is none of those that its pins name"));
    }
    let keys = Keys::from([(site.to_owned(), vec![row.key])]);
    let pins = Pins::from([(site.to_owned(), party.pins.to_vec())]);
    let opened = Keyring::new(&keys, &pins).open(&row.note, (service.as_str(), site));
    match opened {
        Ok(opened)
            if opened.head == *shown
                && opened.signed == Some(Trust::Pinned)
                && opened.faults.is_empty() =>
        {
            Ok(())
        }
        _ => Err(wrong(
            "its last head is not signed by its key; `domicile ledger verify` says more",
        )),
    }
}

fn head(service: &ServiceName, site: &SiteName, size: u64, root: tree::Hash) -> Head {
    Head {
        origin: origin(service.as_str(), site.as_str()),
        size,
        root,
    }
}

/// The line with which `by` countersigned what it holds.
fn line_of(held: &Witnessed, by: &SiteName) -> Option<String> {
    let note = Note::parse(&held.note).ok()?;
    let name = ledger::head::signer(by.as_str());
    let mut lines = note.signatures().iter();
    lines
        .find(|signature| signature.name == name)
        .map(ToString::to_string)
}

async fn frontier(session: &impl GenericClient, site: &SiteName) -> Result<Frontier> {
    let doing = "reading the right edge of the ledger";
    let size = log::size(session).await.at(site, doing)?;
    let nodes = log::nodes(session, &Span::whole(size).parts())
        .await
        .at(site, doing)?;
    Frontier::at(size, &nodes).ok_or_else(|| Error::Ledger {
        site: site.clone(),
        what: "hashes of its tree are missing".to_owned(),
    })
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

async fn commit(
    tx: tokio_postgres::Transaction<'_>,
    site: &SiteName,
    doing: &'static str,
) -> Result<()> {
    tx.commit()
        .await
        .map_err(|error| postgres::Error::from_server(doing, error))
        .at(site, doing)
}
