//! The deletion: what is there is read and written down in a transaction of its own, then deleted in a second one, if it is
//! still that.

use handoff::erasure::{Event as Step, State as Erasing};
use handoff::record::{Event, Resident, State};
use model::fault::{Bug, planted, point};
use model::{Epoch, UserKey};
use postgres::connect::Session;
use postgres::digest::{BatchDigest, DigestKey};
use postgres::{replica, verify};
use residency::erasures::{self, Begun, Erasure, Scope};
use residency::records::{self, Change};
use residency::{audit, entries};
use serde_json::{Value, json};
use tokio_postgres::Transaction;

use crate::desk::{commit, transaction};
use crate::error::{At, Error, Result};
use crate::route::End;

/// How often what was read may have changed until it is deleted: a user at home is written to.
const TRIES: u32 = 3;

const DOING: &str = "erasing users' rows";

/// What came of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deleted {
    /// The rows are gone; nobody's, where nobody has any here.
    Rows {
        /// Of so many users.
        users: u64,
        /// So many.
        rows: u64,
    },
    /// Nothing was deleted, for this reason.
    Kept(String),
}

/// Deletes the rows of those of `users` whose records still say what the erasure is for. `agreed` is the digest that the
/// sites agreed on, where it is about exactly these.
pub(super) async fn delete(
    source: &End,
    session: &mut Session,
    scope: &Scope,
    users: &[(UserKey, Epoch)],
    agreed: Option<&Value>,
) -> Result<Deleted> {
    for _ in 0..TRIES {
        let Some((erasure, gone)) = begin(source, session, scope, users, agreed).await? else {
            return Ok(Deleted::Rows { users: 0, rows: 0 });
        };
        point("after-deleting");
        match carry_out(source, session, &erasure, &gone).await {
            Ok(Some(rows)) => {
                // The commit stands before this position; should this not be reached, the next step writes a later one.
                erasures::deleted_by_now(&**session, &erasure.id)
                    .await
                    .at(&source.site, DOING)?;
                let users = gone.len() as u64;
                return Ok(Deleted::Rows { users, rows });
            }
            Ok(None) => abandon(source, session, &erasure, &gone, CHANGED).await?,
            Err(error) => {
                let Some(reason) = tied(&error) else {
                    return Err(error);
                };
                abandon(source, session, &erasure, &gone, &reason).await?;
                return Ok(Deleted::Kept(reason));
            }
        }
    }
    Ok(Deleted::Kept(CHANGED.to_owned()))
}

const CHANGED: &str =
    "the rows change while they are being erased: end whoever writes them, and run erase again";

/// Whether the record is what the erasure is for.
fn fits(scope: &Scope, record: Option<&Resident>, epoch: Epoch) -> bool {
    match (scope, record.map(|record| &record.state)) {
        (
            Scope::Batch { .. },
            Some(State::Departed {
                epoch: at,
                erased: false,
                ..
            }),
        ) => *at == epoch,
        (Scope::User, Some(State::Settled { epoch: at })) => *at == epoch,
        _ => false,
    }
}

/// Writes down what is to be deleted. `None`: nothing of nobody.
async fn begin(
    source: &End,
    session: &mut Session,
    scope: &Scope,
    users: &[(UserKey, Epoch)],
    agreed: Option<&Value>,
) -> Result<Option<(Erasure, Vec<(UserKey, Epoch)>)>> {
    let key = audit::digest_key(&**session)
        .await
        .at(&source.site, DOING)?;
    let key = DigestKey::new(key);
    let tx = transaction(session, source, DOING).await?;
    let records = lock(&tx, source, users).await?;
    let there = users.iter().zip(&records).filter(|((_, epoch), record)| {
        fits(scope, record.as_ref(), *epoch) || planted(Bug::EraseUnconditionally)
    });
    let gone: Vec<(UserKey, Epoch)> = there.map(|(user, _)| user.clone()).collect();
    if gone.is_empty() {
        return Ok(None);
    }
    let digest = read(&tx, source, &gone, &key).await?;
    if *scope == Scope::User && digest.rows() == 0 {
        return Ok(None);
    }
    let value = json!(digest);
    forget_cut_off(&tx, source, scope).await?;
    let agreed = agreed.filter(|_| gone.len() == users.len());
    let begun = Begun {
        scope,
        users: &gone,
        rows: digest.rows(),
        digest: &value,
        agreed: agreed.map(|agreed| *agreed == value),
    };
    let id = erasures::begin(&tx, source.kind(), &begun)
        .await
        .at(&source.site, DOING)?;
    let listed = erasures::list(&tx, &["deleting"])
        .await
        .at(&source.site, DOING)?;
    let erasure = listed.into_iter().find(|erasure| erasure.id == id);
    let Some(erasure) = erasure else {
        return Ok(None);
    };
    let mut body = body(source, &erasure, digest.rows(), Erasing::Deleting.name());
    body["digest"] = value;
    body["agreed"] = json!(erasure.agreed);
    note(&tx, source, "erasing", body, &gone).await?;
    commit(tx, source, DOING).await?;
    Ok(Some((erasure, gone)))
}

/// A run that was cut off between writing down and deleting left this behind: it is begun anew.
async fn forget_cut_off(tx: &Transaction<'_>, source: &End, scope: &Scope) -> Result<()> {
    let listed = erasures::list(tx, &["deleting"])
        .await
        .at(&source.site, DOING)?;
    // Of several users at their homes, each has an erasure of his own; one that is carried out at this very moment holds no
    // lock here, and finds when it deletes that it is not the one any more.
    for left in listed.iter().filter(|erasure| erasure.scope == *scope) {
        erasures::advance(tx, left, Step::Abandon)
            .await
            .at(&source.site, DOING)?;
        erasures::set_reason(tx, &left.id, "cut off before anything was deleted")
            .await
            .at(&source.site, DOING)?;
    }
    Ok(())
}

/// Deletes; `None` where the rows, or whose they are, changed since they were read: nothing is deleted then.
async fn carry_out(
    source: &End,
    session: &mut Session,
    erasure: &Erasure,
    gone: &[(UserKey, Epoch)],
) -> Result<Option<u64>> {
    let key = audit::digest_key(&**session)
        .await
        .at(&source.site, DOING)?;
    let key = DigestKey::new(key);
    let tx = transaction(session, source, DOING).await?;
    let records = lock(&tx, source, gone).await?;
    let mut changes = Vec::new();
    for ((user, epoch), record) in gone.iter().zip(&records) {
        let departed = fits(&erasure.scope, record.as_ref(), *epoch);
        if !departed && !planted(Bug::EraseUnconditionally) {
            return Ok(None);
        }
        if departed {
            changes.push(Change {
                user: user.clone(),
                event: match erasure.scope {
                    Scope::Batch { .. } => Event::Erased { epoch: *epoch },
                    Scope::User => Event::Forgotten { epoch: *epoch },
                },
            });
        }
    }
    let digest = read(&tx, source, gone, &key).await?;
    if json!(digest) != erasure.digest {
        return Ok(None);
    }
    erasures::advance(&tx, erasure, Step::Delete)
        .await
        .at(&source.site, DOING)?;
    records::change(&tx, source.kind(), &changes, None)
        .await
        .at(&source.site, DOING)?;
    let users: Vec<UserKey> = gone.iter().map(|(user, _)| user.clone()).collect();
    replica::assume(&tx).await.at(&source.site, DOING)?;
    let rows = postgres::delete::rows(&tx, &source.schema, &users)
        .await
        .at(&source.site, DOING)?;
    if rows != digest.rows() {
        return Ok(None);
    }
    let body = body(source, erasure, rows, Erasing::Deleted.name());
    note(&tx, source, "erased", body, gone).await?;
    point("before-erase");
    commit(tx, source, DOING).await?;
    point("after-erase");
    Ok(Some(rows))
}

async fn abandon(
    source: &End,
    session: &mut Session,
    erasure: &Erasure,
    gone: &[(UserKey, Epoch)],
    reason: &str,
) -> Result<()> {
    let tx = transaction(session, source, DOING).await?;
    erasures::advance(&tx, erasure, Step::Abandon)
        .await
        .at(&source.site, DOING)?;
    erasures::set_reason(&tx, &erasure.id, reason)
        .await
        .at(&source.site, DOING)?;
    let mut body = body(source, erasure, 0, Erasing::Frozen.name());
    body["reason"] = json!(reason);
    note(&tx, source, "erased", body, gone).await?;
    commit(tx, source, DOING).await
}

/// What every entry about an erasure says.
pub(super) fn body(source: &End, erasure: &Erasure, rows: u64, state: &str) -> Value {
    let mut body = json!({
        "erasure": erasure.id, "site": source.site, "rows": rows, "state": state,
    });
    match &erasure.scope {
        Scope::Batch { batch, r#move } => {
            body["batch"] = json!(batch);
            body["move"] = json!(r#move);
        }
        Scope::User => body["of"] = json!("user"),
    }
    body
}

async fn note(
    tx: &Transaction<'_>,
    source: &End,
    kind: &str,
    body: Value,
    users: &[(UserKey, Epoch)],
) -> Result<()> {
    let users: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
    entries::append(tx, kind, body, &users)
        .await
        .at(&source.site, DOING)
}

async fn lock(
    tx: &Transaction<'_>,
    source: &End,
    users: &[(UserKey, Epoch)],
) -> Result<Vec<Option<Resident>>> {
    let keys: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
    records::lock(tx, source.kind(), &keys)
        .await
        .at(&source.site, DOING)
}

/// By the reader that verifies moves, which shares no code with the deletion.
async fn read(
    tx: &Transaction<'_>,
    source: &End,
    users: &[(UserKey, Epoch)],
    key: &DigestKey,
) -> Result<BatchDigest> {
    let users: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
    verify::digest(tx, &source.schema, &users, key)
        .await
        .at(&source.site, "reading what is to be erased")
}

/// What keeps rows of others tied to these, where that is what is wrong: names table and constraint.
fn tied(error: &Error) -> Option<String> {
    match error {
        Error::Postgres {
            source: source @ postgres::Error::Tied { .. },
            ..
        } => Some(source.to_string()),
        _ => None,
    }
}
