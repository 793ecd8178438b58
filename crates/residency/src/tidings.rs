//! What sites tell each other of changes of home, from their records and in order; and what a site learns by it of itself.
//!
//! A record whose user came to live here, or left, is numbered in the order in which this site's process finds it: that is
//! its *position*. Whoever asks gets the records above the position that he came to, each as it stands now, so that what is told is never more
//! than one line per user. With every run of numbers goes a random *mark*: a database that goes back in time and numbers
//! on from there has other marks, and whoever came further begins anew.
//!
//! How far a site came with a peer stands in its own database, in the transaction that took what the peer told. So it goes back in time with it, and
//! what the site does not know any more is exactly what it is told again.

use std::collections::BTreeMap;

use handoff::record::Event;
use handoff::tidings::{Tiding, hear as judge};
use model::{Epoch, KeyKind, SiteName, UserKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_postgres::{Client, GenericClient};

use crate::error::Doing;
use crate::records::{self, Change};
use crate::{Result, door, entries};

/// The most users that one run of numbers has, and one [`Page`] for a peer.
const RUN_MAX: i64 = 400;

/// A place in what a site tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The highest position.
    pub position: i64,
    /// The mark of its run.
    pub mark: String,
}

/// A part of what a site tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page {
    /// Where it begins; `None` at the beginning, also where the place that was asked for is not known here.
    pub from: Option<Place>,
    /// Where it ends; `None` where nothing was ever told.
    pub to: Option<Place>,
    /// Who lives where, in order.
    pub users: Vec<(UserKey, SiteName, Epoch)>,
    /// Whether there is more already.
    pub more: bool,
    /// Whether this site has heard all its peers since its server started.
    pub heard: bool,
}

/// Whom a peer's word closed here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// How many users it was about.
    pub users: u64,
    /// Who was taken for an own user, and lives elsewhere.
    pub overtaken: u64,
    /// Who lives here, and is not known as such.
    pub lost: u64,
}

// === impl Heard ===

impl Heard {
    /// Counts `more`, too.
    pub fn add(&mut self, more: Self) {
        self.users += more.users;
        self.overtaken += more.overtaken;
        self.lost += more.lost;
    }
}

/// What this site tells a peer above `after`. What was not numbered yet is, first: everything that is committed is told, with the pages that follow.
pub async fn tell(session: &mut Client, after: Option<&Place>) -> Result<Page> {
    tell_pages(session, after, RUN_MAX).await
}

/// As [`tell`], in pages of at most `most` users (but never less than a run of 400): for a gateway of this site, which reads all that ever changed home
/// here when it starts. A page costs as much as it has users, and no more than as many are numbered for it.
///
/// Who was born at a site and never moved is in none: where he lives a [`look`](crate::gateways::look) tells.
pub async fn tell_pages(session: &mut Client, after: Option<&Place>, most: i64) -> Result<Page> {
    let most = most.max(RUN_MAX);
    let (mut numbered, mut left) = (0, true);
    while left && numbered < most {
        let run = number(session).await?;
        numbered += run;
        left = run == RUN_MAX;
    }
    let doing = "reading what is to be told of changes of home";
    // One moment for the place and the records.
    let tx = session
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .doing(doing)?;
    let heard = door::has_heard(&tx).await?;
    let after = after.map(|place| (place.position, place.mark.as_str()));
    let row = tx
        .query_one(
            "WITH known AS (SELECT t.position, t.mark::text AS mark FROM domicile.telling AS t \
                  WHERE t.position = $1 AND t.mark::text = $2) \
             SELECT k.position, k.mark, n.position, n.mark::text, \
                    EXISTS (SELECT FROM domicile.telling AS t WHERE t.position > n.position) \
               FROM (SELECT) AS one LEFT JOIN known AS k ON true LEFT JOIN LATERAL ( \
                 SELECT * FROM domicile.telling AS t WHERE t.position > coalesce(k.position, 0) \
                    AND t.position <= greatest(coalesce(k.position, 0) + $3, (SELECT min(u.position) \
                        FROM domicile.telling AS u WHERE u.position > coalesce(k.position, 0))) \
                  ORDER BY t.position DESC LIMIT 1) AS n ON true",
            &[&after.map(|a| a.0), &after.map(|a| a.1), &most],
        )
        .await
        .doing(doing)?;
    let place = |n: usize| {
        let (position, mark): (Option<i64>, Option<String>) = (row.get(n), row.get(n + 1));
        position
            .zip(mark)
            .map(|(position, mark)| Place { position, mark })
    };
    let from = place(0);
    let (Some(to), more) = (place(2), left || row.get(4)) else {
        return Ok(Page {
            to: from.clone(),
            from,
            users: Vec::new(),
            more: false,
            heard,
        });
    };
    let first = from.as_ref().map_or(0, |place| place.position);
    // Who is on his way back here, or was, lives where he went before; who is lost came here, as far as anybody knows. The epoch of one who is closed
    // is the target's, if he comes there.
    let rows = tx
        .query(
            "SELECT r.user_key::text, \
                    CASE WHEN r.state IN ('settled', 'moving', 'fenced', 'offered', 'lost') THEN h.site \
                         WHEN r.state = 'departed' THEN r.peer ELSE r.kept ->> 'to' END AS home, \
                    CASE WHEN r.state IN ('arriving', 'clearing') THEN (r.kept ->> 'epoch')::bigint \
                         WHEN r.state IN ('fenced', 'offered') THEN r.epoch - 1 ELSE r.epoch END \
               FROM domicile.resident AS r, domicile.home AS h \
              WHERE r.told <> 0 AND r.told > $1 AND r.told <= $2 \
                AND (r.state NOT IN ('arriving', 'clearing') OR r.kept IS NOT NULL) ORDER BY r.told",
            &[&first, &to.position],
        )
        .await
        .doing(doing)?;
    tx.commit().await.doing(doing)?;
    let users = rows.iter().map(|row| {
        let home: String = row.get(1);
        (
            UserKey::new(row.get::<_, String>(0)),
            SiteName::new(home),
            Epoch(row.get(2)),
        )
    });
    Ok(Page {
        from,
        to: Some(to),
        users: users.collect(),
        more,
        heard,
    })
}

/// Numbers records that have none yet; returns how many.
async fn number(session: &mut Client) -> Result<i64> {
    let doing = "numbering changes of home";
    let none: bool = session
        .query_one(
            "SELECT NOT EXISTS (SELECT FROM domicile.resident AS r WHERE r.told = -1)",
            &[],
        )
        .await
        .doing(doing)?
        .get(0);
    if none {
        return Ok(0);
    }
    let tx = session.transaction().await.doing(doing)?;
    // One at a time numbers.
    tx.batch_execute("LOCK TABLE domicile.telling IN SHARE ROW EXCLUSIVE MODE")
        .await
        .doing(doing)?;
    // Locked in the order of the keys, as everybody locks them.
    let row = tx
        .query_one(
            "WITH fresh AS MATERIALIZED ( \
               SELECT r.user_key FROM domicile.resident AS r WHERE r.told = -1 ORDER BY r.user_key LIMIT $1 FOR UPDATE), \
             numbered AS ( \
               SELECT f.user_key, coalesce((SELECT max(t.position) FROM domicile.telling AS t), 0) \
                      + row_number() OVER (ORDER BY f.user_key) AS position FROM fresh AS f), \
             put AS ( \
               UPDATE domicile.resident AS r SET told = n.position FROM numbered AS n \
                WHERE r.user_key = n.user_key RETURNING n.position), \
             said AS ( \
               INSERT INTO domicile.telling (position) SELECT max(position) FROM put HAVING count(*) > 0) \
             SELECT count(*) FROM put",
            &[&RUN_MAX],
        )
        .await
        .doing(doing)?;
    tx.commit().await.doing(doing)?;
    Ok(row.get(0))
}

/// How far this site came with what `peer` tells; `None` too where it is to be heard from the beginning.
pub async fn place(session: &impl GenericClient, peer: &SiteName) -> Result<Option<Place>> {
    let row = session
        .query_opt(
            "SELECT position, mark FROM domicile.heard WHERE peer = $1 AND position IS NOT NULL AND NOT again",
            &[&peer.as_str()],
        )
        .await
        .doing("reading how far a peer was heard")?;
    Ok(row.map(|row| Place {
        position: row.get(0),
        mark: row.get(1),
    }))
}

/// Takes what `peer` told: closes here who does not live here, or is not known here as he should be, with an entry for
/// the ledger; keeps, while this site is not open, what is said of all others; and keeps how far it came; all in one transaction. `None`, and nothing done, where the page follows another place than the
/// one that this site came to: somebody else heard it meanwhile.
pub async fn hear(
    session: &mut Client,
    kind: KeyKind,
    here: &SiteName,
    peer: &SiteName,
    page: &Page,
) -> Result<Option<Heard>> {
    let doing = "taking what a peer tells";
    let tx = session.transaction().await.doing(doing)?;
    tx.execute(
        "INSERT INTO domicile.heard (peer) VALUES ($1) ON CONFLICT (peer) DO NOTHING",
        &[&peer.as_str()],
    )
    .await
    .doing(doing)?;
    tx.query_one(
        "SELECT FROM domicile.heard WHERE peer = $1 FOR UPDATE",
        &[&peer.as_str()],
    )
    .await
    .doing(doing)?;
    let stands = place(&tx, peer).await?;
    if page.from.is_some() && page.from != stands {
        return Ok(None);
    }
    let keys: Vec<UserKey> = page.users.iter().map(|(user, ..)| user.clone()).collect();
    let found = records::look(&tx, kind, &keys).await?;
    let open = door::is_open(&tx).await?;
    let mut learnt = Vec::new();
    let mut heard = Heard {
        users: page.users.len() as u64,
        ..Heard::default()
    };
    let mut closed: BTreeMap<&SiteName, Vec<Change>> = BTreeMap::new();
    for ((user, home, epoch), record) in page.users.iter().zip(&found) {
        let tiding = Tiding {
            home: home.clone(),
            epoch: *epoch,
        };
        let user = user.clone();
        match judge(record.as_ref(), here, open, &tiding) {
            None => {}
            // Nobody is closed by it: nothing for the ledger.
            Some(event @ Event::Learn { .. }) => learnt.push(Change { user, event }),
            Some(event) => closed.entry(home).or_default().push(Change { user, event }),
        }
    }
    records::change(&tx, kind, &learnt, None).await?;
    for (home, changes) in closed {
        records::change(&tx, kind, &changes, None).await?;
        let (what, count) = match home == here {
            true => ("lost", &mut heard.lost),
            false => ("overtaken", &mut heard.overtaken),
        };
        *count += changes.len() as u64;
        let users: Vec<UserKey> = changes.into_iter().map(|change| change.user).collect();
        let body = json!({"by": peer, "home": home});
        entries::append(&tx, what, body, &users).await?;
    }
    tx.execute(
        "UPDATE domicile.heard SET position = $2, mark = $3, again = false, at = now() WHERE peer = $1",
        &[
            &peer.as_str(),
            &page.to.as_ref().map(|place| place.position),
            &page.to.as_ref().map(|place| place.mark.as_str()),
        ],
    )
    .await
    .doing(doing)?;
    if heard.lost > 0 {
        // What peers said of a user who was not here was let pass: now it counts.
        tx.execute("UPDATE domicile.heard SET again = true", &[])
            .await
            .doing(doing)?;
    }
    tx.commit().await.doing(doing)?;
    Ok(Some(heard))
}

/// Whether some peer is to be heard from the beginning.
pub async fn again(session: &impl GenericClient) -> Result<bool> {
    let row = session
        .query_one(
            "SELECT EXISTS (SELECT FROM domicile.heard WHERE again)",
            &[],
        )
        .await
        .doing("looking who is to be heard again")?;
    Ok(row.get(0))
}

/// Who is lost here, with the epoch that a peer names. Reads all records.
pub async fn lost(session: &impl GenericClient) -> Result<Vec<(UserKey, Epoch)>> {
    let rows = session
        .query(
            "SELECT user_key::text, epoch FROM domicile.resident WHERE state = 'lost' ORDER BY user_key",
            &[],
        )
        .await
        .doing("looking for lost users")?;
    Ok(rows
        .iter()
        .map(|row| (UserKey::new(row.get::<_, String>(0)), Epoch(row.get(1))))
        .collect())
}
