//! Reading and changing residency records, under lock, by the protocol's own step function.

use handoff::record::{Event, Kept, Resident, State, step};
use model::fault::{Bug, planted};
use model::{Attempt, BatchId, Epoch, KeyKind, SiteName, UserKey};
use serde_json::{Value, json};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

use crate::error::Doing;
use crate::kept::Asks;
use crate::{Error, Result};

const COLUMNS: &str =
    "k, state, epoch, seen, peer, batch, attempt, attempt_seen, kept, erased_at IS NOT NULL";

/// The records of `users`, in their order, locked until the transaction ends.
///
/// Someone without a record who has lived here since before Domicile was installed reads as
/// [`Resident::adopted`]; `None` means that the user does not live here.
pub async fn lock(
    tx: &impl Asks,
    kind: KeyKind,
    users: &[UserKey],
) -> Result<Vec<Option<Resident>>> {
    read(tx, kind, users, " ORDER BY user_key FOR UPDATE OF r").await
}

/// Like [`lock`], without a lock: for showing only.
pub async fn look(
    tx: &impl Asks,
    kind: KeyKind,
    users: &[UserKey],
) -> Result<Vec<Option<Resident>>> {
    read(tx, kind, users, "").await
}

async fn read(
    tx: &impl Asks,
    kind: KeyKind,
    users: &[UserKey],
    suffix: &str,
) -> Result<Vec<Option<Resident>>> {
    let doing = "reading residency records";
    let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
    let key_type = kind.sql_type();
    let rows = tx
        .ask(
            &format!(
                // Under the key as it was given: a uuid in capitals is the same user.
                "SELECT {COLUMNS} FROM unnest($1::text[]) AS k \
                 JOIN domicile.resident AS r ON r.user_key = k::{key_type}{suffix}"
            ),
            &[(&keys, Type::TEXT_ARRAY)],
        )
        .await
        .doing(doing)?;
    let mut found = std::collections::HashMap::with_capacity(rows.len());
    for row in &rows {
        let (user, resident) = resident(row)?;
        found.insert(user, resident);
    }
    let missing: Vec<&str> = keys
        .iter()
        .filter(|k| !found.contains_key(&UserKey::from(**k)))
        .copied()
        .collect();
    if !missing.is_empty() {
        let adopted = tx
            .ask(
                &format!(
                    "SELECT k FROM unnest($1::text[]) AS k WHERE domicile.known(k::{key_type})"
                ),
                &[(&missing, Type::TEXT_ARRAY)],
            )
            .await
            .doing(doing)?;
        for row in adopted {
            found.insert(UserKey::new(row.get::<_, String>(0)), Resident::adopted());
        }
    }
    Ok(users.iter().map(|user| found.get(user).cloned()).collect())
}

fn resident(row: &Row) -> Result<(UserKey, Resident)> {
    let user = UserKey::new(row.get::<_, String>(0));
    let damaged = |what: &str| Error::Damaged {
        user: user.clone(),
        what: what.to_owned(),
    };
    let state: String = row.get(1);
    let epoch = Epoch(row.get(2));
    let peer = || {
        row.get::<_, Option<String>>(4)
            .map(SiteName::new)
            .ok_or_else(|| damaged("no peer"))
    };
    let batch = || {
        row.get::<_, Option<String>>(5)
            .map(BatchId::new)
            .ok_or_else(|| damaged("no batch"))
    };
    let attempt = || {
        row.get::<_, Option<i64>>(6)
            .map(Attempt)
            .ok_or_else(|| damaged("no attempt"))
    };
    let kept = || match row.get::<_, Option<Value>>(8) {
        None => Ok(None),
        Some(value) => match (value["to"].as_str(), value["epoch"].as_i64()) {
            (Some(to), Some(epoch)) => Ok(Some(Kept {
                to: to.into(),
                epoch: Epoch(epoch),
            })),
            _ => Err(damaged("unreadable kept record")),
        },
    };
    let state = match state.as_str() {
        "settled" => State::Settled { epoch },
        "moving" => State::Moving {
            epoch,
            to: peer()?,
            attempt: attempt()?,
        },
        "fenced" => State::Fenced {
            epoch,
            to: peer()?,
            batch: batch()?,
            attempt: attempt()?,
        },
        "offered" => State::Offered {
            epoch,
            to: peer()?,
            batch: batch()?,
            attempt: attempt()?,
        },
        "departed" => State::Departed {
            to: peer()?,
            epoch,
            erased: row.get(9),
        },
        "arriving" => State::Arriving {
            from: peer()?,
            attempt: attempt()?,
            kept: kept()?,
        },
        "clearing" => State::Clearing {
            from: peer()?,
            attempt: attempt()?,
            kept: kept()?,
        },
        "lost" => State::Lost { epoch },
        other => return Err(damaged(&format!("unknown state {other:?}"))),
    };
    let seen = Epoch(row.get(3));
    let attempt_seen = Attempt(row.get(7));
    Ok((
        user,
        Resident {
            state,
            seen,
            attempt_seen,
        },
    ))
}

/// One step of one user.
#[derive(Clone, Debug)]
pub struct Change {
    /// The user.
    pub user: UserKey,
    /// The step.
    pub event: Event,
}

/// Takes every step of `changes`, all or none: locks the records, asks the protocol, writes what it says.
/// `stripes`, one for each, are kept with users who begin to move; without them those that stand are kept.
///
/// # Errors
/// [`Error::Illegal`] names the first user whose record does not allow the step; the transaction must then
/// be rolled back.
pub async fn change(
    tx: &impl Asks,
    kind: KeyKind,
    changes: &[Change],
    stripes: Option<&[i32]>,
) -> Result<Vec<Resident>> {
    let users: Vec<UserKey> = changes.iter().map(|change| change.user.clone()).collect();
    adopt(tx, kind, changes).await?;
    let records = lock(tx, kind, &users).await?;
    let next = steps(changes, &records)?;
    if planted(Bug::DeleteRecordOnRefusal)
        && changes
            .iter()
            .any(|change| matches!(change.event, Event::Cleared { .. }))
    {
        return forget(tx, kind, &users, next).await;
    }
    let new: Vec<usize> = (0..records.len())
        .filter(|n| records[*n].is_none())
        .collect();
    if new.is_empty() {
        write(tx, kind, &users, &next, stripes).await?;
        return Ok(next);
    }
    let of = |there: bool| -> (Vec<UserKey>, Vec<Resident>, Option<Vec<i32>>) {
        let chosen = (0..users.len()).filter(|n| records[*n].is_some() == there);
        let chosen: Vec<usize> = chosen.collect();
        let (keys, residents) = chosen
            .iter()
            .map(|n| (users[*n].clone(), next[*n].clone()))
            .unzip();
        let stripes = stripes.map(|stripes| chosen.iter().map(|n| stripes[*n]).collect());
        (keys, residents, stripes)
    };
    let (keys, residents, of_these) = of(true);
    write(tx, kind, &keys, &residents, of_these.as_deref()).await?;
    // A record that is not there cannot be locked: whoever wrote one since has the first word.
    let (keys, residents, of_these) = of(false);
    let of_these = of_these.as_deref();
    if put(tx, kind, &keys, &residents, of_these, Over::None).await? < keys.len() {
        let found = look(tx, kind, &keys).await?;
        for ((n, found), ours) in new.iter().zip(found).zip(&residents) {
            if found.as_ref() != Some(ours) {
                step(found.as_ref(), &changes[*n].event).map_err(|source| Error::Illegal {
                    user: users[*n].clone(),
                    source,
                })?;
            }
        }
        return Err(Error::Refused(
            "a residency record was written by somebody else at the same moment; try again"
                .to_owned(),
        ));
    }
    Ok(next)
}

/// What the protocol makes of `records`, one for each of `changes`: for a caller that holds them under [`lock`], and
/// writes what this returns with [`write()`].
///
/// # Errors
/// [`Error::Illegal`] names the first user whose record does not allow the step.
pub fn steps(changes: &[Change], records: &[Option<Resident>]) -> Result<Vec<Resident>> {
    let next = |(change, record): (&Change, &Option<Resident>)| {
        step(record.as_ref(), &change.event).map_err(|source| Error::Illegal {
            user: change.user.clone(),
            source,
        })
    };
    changes.iter().zip(records).map(next).collect()
}

/// Gives a record to those who are to be enrolled, erased at home, or closed by a peer's word, and lived here without one: a row that is not there cannot be
/// locked, and somebody who deletes or renames such a user writes one at the same moment.
async fn adopt(tx: &impl Asks, kind: KeyKind, changes: &[Change]) -> Result<()> {
    let enrolled = changes
        .iter()
        .filter(|change| {
            matches!(
                change.event,
                Event::Enrol { .. }
                    | Event::Forgotten { .. }
                    | Event::Overtaken { .. }
                    | Event::Miss { .. }
            )
        })
        .map(|change| change.user.as_str());
    let enrolled: Vec<&str> = enrolled.collect();
    if enrolled.is_empty() {
        return Ok(());
    }
    tx.tell(
        &format!(
            "INSERT INTO domicile.resident (user_key, state, epoch, seen) \
             SELECT k, 'settled', 0, 0 FROM unnest($1::text[]::{}[]) AS k \
             WHERE NOT EXISTS (SELECT 1 FROM domicile.resident AS r WHERE r.user_key = k) AND domicile.known(k) \
             ON CONFLICT (user_key) DO NOTHING",
            kind.sql_type()
        ),
        &[(&enrolled, Type::TEXT_ARRAY)],
    )
    .await
    .doing("recording users who lived here without a record")?;
    Ok(())
}

/// The planted bug: what a site without the rule "never deleted" would do.
async fn forget(
    tx: &impl Asks,
    kind: KeyKind,
    users: &[UserKey],
    next: Vec<Resident>,
) -> Result<Vec<Resident>> {
    let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
    tx.tell(
        &format!(
            "DELETE FROM domicile.resident WHERE user_key = ANY ($1::text[]::{}[])",
            kind.sql_type()
        ),
        &[(&keys, Type::TEXT_ARRAY)],
    )
    .await
    .doing("deleting residency records")?;
    Ok(next)
}

/// Writes records that the caller holds under [`lock`] and has taken through the protocol.
pub async fn write(
    tx: &impl Asks,
    kind: KeyKind,
    users: &[UserKey],
    records: &[Resident],
    stripes: Option<&[i32]>,
) -> Result<()> {
    let written = put(tx, kind, users, records, stripes, Over::Locked).await?;
    assert_eq!(written, users.len(), "every record is written once");
    Ok(())
}

/// Whether a record may be written over one that stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Over the one that the caller holds locked.
    Locked,
    /// Over none.
    None,
}

/// Writes records; returns how many.
async fn put(
    tx: &impl Asks,
    kind: KeyKind,
    users: &[UserKey],
    records: &[Resident],
    stripes: Option<&[i32]>,
    over: Over,
) -> Result<usize> {
    let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
    let mut state = Vec::new();
    let mut epoch = Vec::new();
    let mut seen = Vec::new();
    let mut peer: Vec<Option<&str>> = Vec::new();
    let mut batch: Vec<Option<&str>> = Vec::new();
    let mut attempt: Vec<Option<i64>> = Vec::new();
    let mut attempt_seen = Vec::new();
    let mut kept: Vec<Option<Value>> = Vec::new();
    let mut erased = Vec::new();
    let stripes: Vec<Option<i32>> = match stripes {
        Some(stripes) => stripes.iter().copied().map(Some).collect(),
        None => vec![None; records.len()],
    };
    for record in records {
        let stored = Stored::of(record);
        state.push(record.state.name());
        epoch.push(stored.epoch.0);
        seen.push(record.seen.0);
        peer.push(stored.peer.map(SiteName::as_str));
        batch.push(stored.batch.map(BatchId::as_str));
        attempt.push(stored.attempt.map(|a| a.0));
        attempt_seen.push(record.attempt_seen.0);
        kept.push(stored.kept.map(|k| json!({"to": k.to, "epoch": k.epoch})));
        erased.push(stored.erased);
    }
    let given = format!(
        "(SELECT k::{}, s, e, n, p, b, a, an, kp, er, st \
          FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], \
                      $7::bigint[], $8::bigint[], $9::jsonb[], $10::boolean[], $11::integer[]) \
               AS u(k, s, e, n, p, b, a, an, kp, er, st)) AS v(k, s, e, n, p, b, a, an, kp, er, st)",
        kind.sql_type()
    );
    let sql = match over {
        Over::None => format!(
            "INSERT INTO domicile.resident AS r \
               (user_key, state, epoch, seen, peer, batch, attempt, attempt_seen, kept, erased_at, stripe, told) \
             SELECT k, s, e, n, p, b, a, an, kp, CASE WHEN er THEN now() END, coalesce(st, 0), \
                    CASE s WHEN 'lost' THEN -1 ELSE 0 END FROM {given} \
             ON CONFLICT (user_key) DO NOTHING"
        ),
        // No INSERT ... ON CONFLICT: that writes each row twice. Whoever changed home is to be told of (see `tidings`).
        Over::Locked => format!(
            "UPDATE domicile.resident AS r SET \
               state = v.s, epoch = v.e, seen = v.n, peer = v.p, batch = v.b, attempt = v.a, attempt_seen = v.an, \
               kept = v.kp, erased_at = CASE WHEN v.er THEN coalesce(r.erased_at, now()) END, \
               stripe = coalesce(v.st, r.stripe), changed_at = now(), told = CASE \
                 WHEN v.s = 'departed' AND r.state NOT IN ('departed', 'clearing') OR v.s = 'lost' \
                   OR v.s = 'settled' AND r.state IN ('arriving', 'lost', 'offered') \
                   OR v.s = 'moving' AND r.state = 'offered' THEN -1 ELSE r.told END \
             FROM {given} WHERE r.user_key = v.k"
        ),
    };
    let written = tx
        .tell(
            &sql,
            &[
                (&keys, Type::TEXT_ARRAY),
                (&state, Type::TEXT_ARRAY),
                (&epoch, Type::INT8_ARRAY),
                (&seen, Type::INT8_ARRAY),
                (&peer, Type::TEXT_ARRAY),
                (&batch, Type::TEXT_ARRAY),
                (&attempt, Type::INT8_ARRAY),
                (&attempt_seen, Type::INT8_ARRAY),
                (&kept, Type::JSONB_ARRAY),
                (&erased, Type::BOOL_ARRAY),
                (&stripes, Type::INT4_ARRAY),
            ],
        )
        .await
        .doing("writing residency records")?;
    Ok(written as usize)
}

struct Stored<'a> {
    epoch: Epoch,
    peer: Option<&'a SiteName>,
    batch: Option<&'a BatchId>,
    attempt: Option<Attempt>,
    kept: Option<&'a Kept>,
    erased: bool,
}

impl<'a> Stored<'a> {
    fn of(record: &'a Resident) -> Self {
        let mut stored = Self {
            epoch: record.seen,
            peer: None,
            batch: None,
            attempt: None,
            kept: None,
            erased: false,
        };
        match &record.state {
            State::Settled { epoch } | State::Lost { epoch } => stored.epoch = *epoch,
            State::Moving { epoch, to, attempt } => {
                stored.epoch = *epoch;
                stored.peer = Some(to);
                stored.attempt = Some(*attempt);
            }
            State::Fenced {
                epoch,
                to,
                batch,
                attempt,
            }
            | State::Offered {
                epoch,
                to,
                batch,
                attempt,
            } => {
                stored.epoch = *epoch;
                stored.peer = Some(to);
                stored.batch = Some(batch);
                stored.attempt = Some(*attempt);
            }
            State::Departed { to, epoch, erased } => {
                stored.epoch = *epoch;
                stored.peer = Some(to);
                stored.erased = *erased;
            }
            State::Arriving {
                from,
                attempt,
                kept,
            }
            | State::Clearing {
                from,
                attempt,
                kept,
            } => {
                stored.peer = Some(from);
                stored.attempt = Some(*attempt);
                stored.kept = kept.as_ref();
            }
        }
        stored
    }
}

/// Locks the records of `users` `FOR SHARE` and finds all of them in `state` of `attempt`; else the caller
/// rolls back. Every transaction that writes users' rows outside the application begins with this.
pub async fn hold(
    tx: &impl Asks,
    kind: KeyKind,
    users: &[UserKey],
    state: &str,
    attempt: Attempt,
) -> Result<bool> {
    Ok(hold_those(tx, kind, users, state, attempt).await?.len() == users.len())
}

/// Locks, `FOR SHARE`, the records of those of `users` who are in `state` of `attempt`, and says who they are.
pub async fn hold_those(
    tx: &impl Asks,
    kind: KeyKind,
    users: &[UserKey],
    state: &str,
    attempt: Attempt,
) -> Result<Vec<UserKey>> {
    let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
    let held = tx
        .ask(
            &format!(
                "SELECT user_key::text FROM domicile.resident \
                 WHERE user_key = ANY ($1::text[]::{}[]) AND state = $2 AND attempt = $3 \
                 ORDER BY user_key FOR SHARE",
                kind.sql_type()
            ),
            &[
                (&keys, Type::TEXT_ARRAY),
                (&state, Type::TEXT),
                (&attempt.0, Type::INT8),
            ],
        )
        .await
        .doing("holding residency records")?;
    Ok(held
        .iter()
        .map(|row| UserKey::new(row.get::<_, String>(0)))
        .collect())
}

/// The users of an attempt who are in one of `states`, in key order.
pub async fn of_attempt(
    tx: &impl GenericClient,
    attempt: Attempt,
    states: &[&str],
    peer: &SiteName,
) -> Result<Vec<UserKey>> {
    let rows = tx
        .query(
            "SELECT user_key::text FROM domicile.resident \
             WHERE attempt = $1 AND state = ANY ($2) AND peer = $3 ORDER BY user_key",
            &[&attempt.0, &states, &peer.as_str()],
        )
        .await
        .doing("listing the users of an attempt")?;
    Ok(rows
        .iter()
        .map(|row| UserKey::new(row.get::<_, String>(0)))
        .collect())
}
