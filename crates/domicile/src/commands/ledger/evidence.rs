//! What shows that entries are in a site's log: its last head, with the countersignatures, and inclusion proofs.

use ::ledger::entry::Entry;
use ::ledger::key::PublicKey;
use ::ledger::tree::{self, Hash, inclusion};
use residency::log::{self, HeadRow};
use tokio_postgres::GenericClient;

/// The last head that a site signed.
pub(in crate::commands) struct LastHead {
    /// How many entries.
    pub(in crate::commands) size: u64,
    /// The root over them.
    pub(in crate::commands) root: Hash,
    /// The note, with all signatures.
    pub(in crate::commands) note: String,
    /// Whose keys signed it.
    pub(in crate::commands) keys: Vec<(String, PublicKey)>,
}

/// An entry with its inclusion proof.
pub(in crate::commands) struct Included {
    /// Its text; empty where it is missing or not in its form.
    pub(in crate::commands) text: String,
    /// The proof.
    pub(in crate::commands) path: Vec<Hash>,
    /// The entry.
    pub(in crate::commands) entry: Option<Entry>,
}

/// `None` where nothing is signed there.
pub(in crate::commands) async fn last_head(
    session: &impl GenericClient,
    site: &str,
) -> residency::Result<Option<LastHead>> {
    let Some(HeadRow {
        size,
        root,
        key,
        mut note,
    }) = log::heads(session, true).await?.pop()
    else {
        return Ok(None);
    };
    let mut keys = vec![(site.to_owned(), key)];
    for cosigned in log::cosigned(session, Some(size))
        .await?
        .remove(&size)
        .unwrap_or_default()
    {
        note.push_str(&cosigned.line);
        note.push('\n');
        keys.push((cosigned.peer, cosigned.key));
    }
    Ok(Some(LastHead {
        size,
        root,
        note,
        keys,
    }))
}

/// The entry at `position` in the log of `size` entries. What is missing or not in its form makes a proof that does not hold: the
/// check of it says where.
pub(in crate::commands) async fn included(
    session: &impl GenericClient,
    position: u64,
    size: u64,
) -> residency::Result<Included> {
    let row = log::rows(session, position, 1).await?.pop();
    let spans = inclusion(position, size);
    let nodes = log::nodes(session, &tree::parts(&spans)).await?;
    let found = row
        .and_then(|row| row.entry)
        .and_then(|entry| Some((entry.text().ok()?, entry)));
    let path = tree::path(&spans, &nodes);
    let (text, path) = match (&found, path) {
        (Some((text, _)), Some(path)) => (text.clone(), path),
        _ => (String::new(), Vec::new()),
    };
    Ok(Included {
        text,
        path,
        entry: found.map(|(_, entry)| entry),
    })
}
