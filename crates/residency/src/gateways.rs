//! The gateways' side of the door: how one registers, hears which users' doors are closed, and finds out where users live.
//!
//! # What a gateway keeps to
//!
//! For users of the site whose database this is. *Forwarding* means sending a request of such a user to this site's application, reads too.
//!
//! - It forwards only while its registration stands. Its lease counts, by its own steady clock, from the moment *before* it sent the
//!   [`register`] or [`renew`] that was answered; when that time is over, or the session is lost, it holds everything back and registers anew: a database that
//!   crashed, or a standby that was promoted, need not know it any more.
//! - Once registered it first reads [`all_closings`], who is [`fenced`], and then all changes of home that it has not read
//!   ([`tidings::tell_pages`](crate::tidings::tell_pages)); only then it forwards. Where [`register`] says that it was not known, it forgets whatever it knew of users.
//! - A user is closed as long as any closing that is not opened names him, whatever another one says.
//! - It [`acknowledge`]s a closing when it holds back new requests of those users, and none that it forwarded before is under way; those that do not end
//!   in time it counts.
//! - Where a closing's time is over it may [`reopen`] it, and then [`look`]s. Nothing else opens one. A closing that it knew and that is gone was lost in a crash:
//!   it looks, too.
//! - Whom a look finds [`Stand::Closed`], or who is [`fenced`], it goes on holding back, and looks again until he is not.
//! - It never waits for a notification alone.

use std::time::Duration;

use model::{BatchId, Epoch, KeyKind, SiteName, UserKey};
use tokio_postgres::types::Type;

use crate::closings::{GATE, TO_GATEWAYS, TO_MOVERS};
use crate::error::Doing;
use crate::kept::Asks;
use crate::{Error, LOCK_CLASS, Result};

/// The longest lease: so long a gateway that died holds up every fence.
pub const LEASE_MAX: Duration = Duration::from_secs(60);

/// What this home database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The service.
    pub service: String,
    /// This site.
    pub site: SiteName,
    /// The service's origin.
    pub origin: SiteName,
    /// The type family of user keys.
    pub kind: KeyKind,
    /// The highest integer key at the origin at adoption: users up to it without a record live at the origin. `None` where users are known by
    /// their rows.
    pub mark: Option<i64>,
    /// See [`nonce`].
    pub nonce: String,
}

/// A closing, as a gateway reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The batch.
    pub batch: BatchId,
    /// Whose door it closes.
    pub users: Vec<UserKey>,
    /// How much of its time is left, by the database's clock; zero where it is over.
    pub left: Duration,
    /// Whether, and how, it was opened.
    pub opened: Option<Opened>,
}

/// What was said when a door was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The users live there.
    At {
        /// Their home.
        home: SiteName,
        /// The epoch of each, in the order of [`Closing::users`].
        epochs: Vec<Epoch>,
    },
    /// Nothing: the records tell.
    Look,
}

/// How a user stands with this site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stand {
    /// He lives here; perhaps he is moving.
    Here {
        /// His epoch; 0 where he has lived here since before Domicile was installed.
        epoch: Epoch,
    },
    /// He lives here and is fenced, or offered: nobody writes.
    Closed {
        /// The epoch of the fence.
        epoch: Epoch,
        /// Where he goes.
        to: SiteName,
    },
    /// He left.
    Elsewhere {
        /// Where to.
        home: SiteName,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// He is being copied here, or his copy is being cleaned up: he does not live here yet.
    Arriving {
        /// Where from: as a rule he lives there.
        from: SiteName,
        /// The highest epoch seen of him.
        epoch: Epoch,
    },
    /// A restore lost what he was: an operator must resolve it.
    Lost {
        /// The epoch at which a peer says that he lives here.
        epoch: Epoch,
    },
    /// No record, and not one of those who lived here before: the origin may know, at the origin nobody does.
    Unknown {
        /// The service's origin.
        origin: SiteName,
    },
}

/// Registers the gateway `name` for `lease`, or again. Returns whether it was known: where not, whatever it remembers of users may be outdated,
/// see [the module](self). Waits for fences that are being raised where no gateway stands.
///
/// # Errors
/// [`Error::Refused`] for a lease longer than [`LEASE_MAX`].
pub async fn register(session: &impl Asks, name: &str, lease: Duration) -> Result<bool> {
    if lease > LEASE_MAX {
        return Err(Error::Refused(format!(
            "a gateway's lease of {} s is longer than {} s",
            lease.as_secs(),
            LEASE_MAX.as_secs()
        )));
    }
    let rows = session
        .ask(
            &format!(
                "WITH alone AS MATERIALIZED (SELECT pg_advisory_xact_lock({LOCK_CLASS}, {GATE})::text AS held) \
                 INSERT INTO domicile.gateway AS g (name, lease_until) \
                 SELECT $1, clock_timestamp() + make_interval(secs => $2) FROM alone WHERE held IS NOT NULL \
                 ON CONFLICT (name) DO UPDATE SET lease_until = excluded.lease_until, renewed_at = excluded.renewed_at, passed_at = NULL \
                 RETURNING xmax <> 0"
            ),
            &[(&name, Type::TEXT), (&lease.as_secs_f64(), Type::FLOAT8)],
        )
        .await
        .doing("registering a gateway")?;
    Ok(rows.iter().any(|row| row.get(0)))
}

/// Renews the registration for `lease` from now. False where it does not stand any more: a fence may have gone past this gateway, which must
/// [`register`] anew before it forwards anything.
pub async fn renew(session: &impl Asks, name: &str, lease: Duration) -> Result<bool> {
    let renewed = session
        .tell(
            "UPDATE domicile.gateway \
                SET lease_until = greatest(lease_until, clock_timestamp() + make_interval(secs => $2)), \
                    renewed_at = clock_timestamp() \
              WHERE name = $1 AND passed_at IS NULL",
            &[
                (&name, Type::TEXT),
                (&lease.min(LEASE_MAX).as_secs_f64(), Type::FLOAT8),
            ],
        )
        .await
        .doing("renewing a gateway's lease")?;
    Ok(renewed == 1)
}

/// Takes the gateway out: it forwards nothing any more, and nothing that it forwarded is under way.
pub async fn leave(session: &impl Asks, name: &str) -> Result<()> {
    session
        .ask(
            &format!(
                "WITH gone AS (DELETE FROM domicile.gateway WHERE name = $1 RETURNING name) \
                 SELECT pg_notify('{TO_MOVERS}', '') FROM gone"
            ),
            &[(&name, Type::TEXT)],
        )
        .await
        .doing("taking a gateway out")?;
    Ok(())
}

/// Every closing there is, those of the last ten minutes too, and older ones of users who are still fenced: for a gateway that has just registered.
pub async fn all_closings(session: &impl Asks) -> Result<Vec<Closing>> {
    read(session, true, &[]).await
}

/// All closings that are not opened, and those of `known`, however they stand.
pub async fn closings(session: &impl Asks, known: &[BatchId]) -> Result<Vec<Closing>> {
    read(session, false, known).await
}

async fn read(session: &impl Asks, all: bool, known: &[BatchId]) -> Result<Vec<Closing>> {
    let known: Vec<&str> = known.iter().map(BatchId::as_str).collect();
    let rows = session
        .ask(
            "SELECT batch, users::text[], \
                    greatest(0, extract(epoch FROM until - clock_timestamp()))::double precision, \
                    opened_at IS NOT NULL, home, epochs FROM domicile.closing \
              WHERE $1 OR opened_at IS NULL OR batch = ANY ($2)",
            &[(&all, Type::BOOL), (&known, Type::TEXT_ARRAY)],
        )
        .await
        .doing("reading whose door is closed")?;
    let closing = |row: &tokio_postgres::Row| Closing {
        batch: BatchId::new(row.get::<_, String>(0)),
        users: row
            .get::<_, Vec<String>>(1)
            .into_iter()
            .map(UserKey::new)
            .collect(),
        left: Duration::try_from_secs_f64(row.get(2)).unwrap_or_default(),
        opened: row.get::<_, bool>(3).then(|| {
            let home = row.get::<_, Option<String>>(4);
            match home.zip(row.get::<_, Option<Vec<i64>>>(5)) {
                Some((home, epochs)) => Opened::At {
                    home: SiteName::new(home),
                    epochs: epochs.into_iter().map(Epoch).collect(),
                },
                None => Opened::Look,
            }
        }),
    };
    Ok(rows.iter().map(closing).collect())
}

/// Whom a fence closes at this moment, whether or not a closing names him: it was raised where no gateway stood, or a crash took its closing. For a
/// gateway that has just registered; looks through all who move.
pub async fn fenced(session: &impl Asks) -> Result<Vec<UserKey>> {
    let rows = session
        .ask(
            "SELECT user_key::text FROM domicile.resident \
              WHERE attempt IS NOT NULL AND state IN ('fenced', 'offered')",
            &[],
        )
        .await
        .doing("reading who is fenced")?;
    Ok(rows
        .iter()
        .map(|row| UserKey::new(row.get::<_, String>(0)))
        .collect())
}

/// Says, for the gateway `name`, that its door is closed for the users of `batch`, and tells the mover. `undrained` requests had not ended by then. A second
/// time changes nothing; nor is it anything where the door was opened meanwhile.
pub async fn acknowledge(
    session: &impl Asks,
    name: &str,
    batch: &BatchId,
    undrained: u32,
) -> Result<()> {
    session
        .ask(
            &format!(
                "WITH said AS (INSERT INTO domicile.closed (batch, gateway, undrained) \
                   SELECT c.batch, $2, $3 FROM domicile.closing AS c WHERE c.batch = $1 AND c.opened_at IS NULL \
                   ON CONFLICT (batch, gateway) DO NOTHING RETURNING batch) \
                 SELECT pg_notify('{TO_MOVERS}', batch) FROM said"
            ),
            &[
                (&batch.as_str(), Type::TEXT),
                (&name, Type::TEXT),
                (&i64::from(undrained), Type::INT8),
            ],
        )
        .await
        .doing("saying that a gateway's door is closed")?;
    Ok(())
}

/// Opens a closing whose time is over, for all gateways; says whether it stands open now. Waits for a fence of it that is just being
/// raised, and is followed by a [`look`]: that is then found.
pub async fn reopen(session: &impl Asks, batch: &BatchId) -> Result<bool> {
    session
        .ask(
            &format!(
                "WITH opened AS (UPDATE domicile.closing SET opened_at = clock_timestamp() \
                   WHERE batch = $1 AND opened_at IS NULL AND until <= clock_timestamp() RETURNING batch) \
                 SELECT pg_notify('{TO_GATEWAYS}', batch) FROM opened"
            ),
            &[(&batch.as_str(), Type::TEXT)],
        )
        .await
        .doing("opening a door that nobody opened")?;
    let shut = session
        .ask(
            "SELECT FROM domicile.closing WHERE batch = $1 AND opened_at IS NULL",
            &[(&batch.as_str(), Type::TEXT)],
        )
        .await
        .doing("looking whether a door is open")?;
    Ok(shut.is_empty())
}

/// How `users` stand with this site, in their order, in one query. A key that can be nobody's is unknown.
pub async fn look(
    session: &impl Asks,
    kind: KeyKind,
    users: &[UserKey],
) -> Result<Vec<(UserKey, Stand)>> {
    let keys: Vec<Option<&str>> = users
        .iter()
        .map(|user| Some(user.as_str()).filter(|key| kind.accepts(key)))
        .collect();
    let rows = session
        .ask(
            &format!(
                // One snapshot for the record and for what makes him known: a row that was copied here has a record before it.
                "SELECT u.n, r.state, r.epoch, r.peer, h.origin, r.state IS NULL AND domicile.known(u.k::{0}) \
                   FROM domicile.home AS h, unnest($1::text[]) WITH ORDINALITY AS u(k, n) \
                   LEFT JOIN domicile.resident AS r ON r.user_key = u.k::{0} ORDER BY u.n",
                kind.sql_type()
            ),
            &[(&keys, Type::TEXT_ARRAY)],
        )
        .await
        .doing("looking where users live")?;
    let stand = |(user, row): (&UserKey, &tokio_postgres::Row)| {
        let peer = || {
            let peer: Option<String> = row.get(3);
            peer.map(SiteName::new).ok_or_else(|| Error::Damaged {
                user: user.clone(),
                what: "no peer".to_owned(),
            })
        };
        let epoch = Epoch(row.get::<_, Option<i64>>(2).unwrap_or_default());
        let stand = match row.get::<_, Option<&str>>(1) {
            Some("settled" | "moving") => Stand::Here { epoch },
            Some("fenced" | "offered") => Stand::Closed { epoch, to: peer()? },
            Some("departed") => Stand::Elsewhere {
                home: peer()?,
                epoch,
            },
            Some("arriving" | "clearing") => Stand::Arriving {
                from: peer()?,
                epoch,
            },
            Some("lost") => Stand::Lost { epoch },
            Some(other) => {
                return Err(Error::Damaged {
                    user: user.clone(),
                    what: format!("unknown state {other:?}"),
                });
            }
            None if row.get::<_, Option<bool>>(5) == Some(true) => Stand::Here { epoch },
            None => Stand::Unknown {
                origin: SiteName::new(row.get::<_, String>(4)),
            },
        };
        Ok((user.clone(), stand))
    };
    users.iter().zip(&rows).map(stand).collect()
}

/// Who of those told of between two positions ([`tidings`](crate::tidings)) is lost: a page names this site as their home, and nobody may serve them.
pub async fn lost(session: &impl Asks, after: i64, to: i64) -> Result<Vec<(UserKey, Epoch)>> {
    let rows = session
        .ask(
            "SELECT user_key::text, epoch FROM domicile.resident \
              WHERE told > $1 AND told <= $2 AND state = 'lost'",
            &[(&after, Type::INT8), (&to, Type::INT8)],
        )
        .await
        .doing("reading who is lost")?;
    Ok(rows
        .iter()
        .map(|row| (UserKey::new(row.get::<_, String>(0)), Epoch(row.get(1))))
        .collect())
}

/// What this home database is.
///
/// # Errors
/// [`Error::Refused`] where nothing is installed in it.
pub async fn facts(session: &impl Asks) -> Result<Facts> {
    let rows = session
        .ask(
            "SELECT service, site, origin, key_kind, mark, nonce FROM domicile.home",
            &[],
        )
        .await
        .doing("reading what this database is")?;
    let row = rows
        .first()
        .ok_or_else(|| Error::Refused("this database is not installed".to_owned()))?;
    let text = |n: usize| row.get::<_, String>(n);
    Ok(Facts {
        service: text(0),
        site: SiteName::new(text(1)),
        origin: SiteName::new(text(2)),
        kind: match text(3).as_str() {
            "integer" => KeyKind::Integer,
            "uuid" => KeyKind::Uuid,
            _ => KeyKind::Text,
        },
        mark: row.get(4),
        nonce: text(5),
    })
}

/// The site's nonce: 32 hexadecimal digits, made once. An application that repeats it was refused by the guard of this site; no client can know it,
/// as gateways take the answer's header away.
pub async fn nonce(session: &impl Asks) -> Result<String> {
    Ok(facts(session).await?.nonce)
}
