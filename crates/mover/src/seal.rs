//! Seals the ledgers: entries are taken into each site's log, the site signs the head, and the other sites countersign it.
//!
//! Every step is a transaction of its own and may run again; a process that is killed between two leaves entries that are taken
//! and not signed, or a head that is signed and not countersigned, and the next run goes on. A site signs nothing that does
//! not continue the last head that it signed; a peer countersigns nothing that does not continue what it countersigned before,
//! by its own records, and keeps what it refuses as evidence.
//!
//! There are two halves, the site's ([`seal_own`], [`show`]) and the peer's ([`countersign`]), with the port [`Witness`] between them: one
//! process that opens all databases ([`seal`]) joins them here, daemons over the link.

mod ask;
mod witness;
mod words;

use ledger::key::{Pin, SiteKey};
use ledger::witness::Refusal;
use model::{ServiceName, SiteName};
use postgres::connect::Session;

use crate::error::Result;
use crate::ports::Soon;
pub use ask::{Log, seal_own, show};
pub use residency::log::HeadRow;
pub use witness::{Own, countersign};
pub use words::{Said, Shown, Witness};

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
/// [`Error::Ledger`](crate::Error::Ledger) where a site's own tables contradict each other: nothing is signed there then.
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
    let log = Log {
        service,
        site: &party.site,
        key,
        pins: party.pins,
    };
    let (head, taken) = seal_own(log, party.session).await?;
    let mut sealed = Sealed {
        site: party.site.clone(),
        entries: head.size,
        taken,
        countersigned: Vec::new(),
        refused: Vec::new(),
    };
    for peer in peers {
        let Some(key) = peer.key else { continue };
        let mut here = Here {
            log,
            own: Own {
                site: &peer.site,
                key,
            },
            session: peer.session,
            now,
        };
        let shown = show(log, &**party.session, &head, (&mut here, peer.pins), 0).await?;
        match shown {
            Ok(()) => sealed.countersigned.push(peer.site.clone()),
            Err(refusal) => sealed.refused.push((peer.site.clone(), refusal)),
        }
    }
    Ok(sealed)
}

/// A peer whose database is opened by this process, too.
struct Here<'a> {
    log: Log<'a>,
    own: Own<'a>,
    session: &'a mut Session,
    now: u64,
}

// === impl Here ===

impl Witness for Here<'_> {
    fn site(&self) -> &SiteName {
        self.own.site
    }

    fn show(&mut self, shown: Shown) -> Soon<'_, Result<Said>> {
        Box::pin(async move {
            let Log {
                service,
                site,
                pins,
                ..
            } = self.log;
            countersign(
                service,
                self.session,
                self.own,
                (site, pins),
                &shown,
                self.now,
            )
            .await
        })
    }
}
