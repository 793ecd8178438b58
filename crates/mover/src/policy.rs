//! The policy, asked at both ends: each by its own copy, before anything is read at the one or let in at the other.

use model::{ServiceName, SiteName, UserKey};
use postgres::barred::{Terms, barred};
use postgres::connect::Session;
use residency::entries;
use residency::policy::{self, Refusal, Standing};
use serde_json::{Map, Value, json};

use crate::ask::Call;
use crate::desk::Desk;
use crate::error::{At, Error, Result};
use crate::prepare::{Aside, Counted};
use crate::route::{End, Route};

/// A service, and from where to where.
type Way<'a> = (&'a ServiceName, &'a SiteName, &'a SiteName);

/// Makes sure that both ends have the same policy, and that its basis for the phase holds at both.
///
/// # Errors
/// [`Error::Forbidden`]; the refusal is in the ledger of the end that refuses.
pub(crate) async fn permit(route: &Route, desk: &Desk) -> Result<()> {
    let Some(phase) = &route.phase else {
        return Ok(()); // taken back under the basis under which it went: docs/decisions/0010
    };
    let end = &route.source;
    let standing = standing(end, &desk.source, phase).await?;
    match standing.and_then(|standing| standing.permit(phase).map(|_| standing.version.clone())) {
        Ok(version) => desk.target.permit(version).await,
        Err(refusal) => Err(refuse(route.way(), end, &desk.source, phase, refusal).await?),
    }
}

/// The target's part: its own copy permits the move, and is of the `version` that the caller says his is.
///
/// # Errors
/// As [`permit`].
pub(crate) async fn permit_arrivals(
    call: &Call,
    end: &End,
    session: &Session,
    version: &str,
) -> Result<()> {
    let Some(phase) = &call.phase else {
        return Ok(());
    };
    let standing = standing(end, session, phase).await?;
    let permitted = standing.and_then(|standing| {
        standing.same(call.from.as_str(), version)?;
        standing.permit(phase).map(drop)
    });
    match permitted {
        Ok(()) => Ok(()),
        Err(refusal) => {
            let way = (&call.service, &call.from, &end.site);
            Err(refuse(way, end, session, phase, refusal).await?)
        }
    }
}

/// What the copy of `end` says of `phase`.
async fn standing(
    end: &End,
    session: &Session,
    phase: &str,
) -> Result<std::result::Result<Standing, Refusal>> {
    let standing = policy::standing(&**session, phase)
        .await
        .at(&end.site, "reading the policy")?;
    Ok(standing.ok_or(Refusal::None))
}

/// What an entry says of what permits a transfer, by the copy of `end`.
pub(crate) async fn transfer(
    (service, from, to): Way<'_>,
    phase: Option<&str>,
    end: &End,
    tx: &tokio_postgres::Transaction<'_>,
) -> Result<Map<String, Value>> {
    let standing = match phase {
        Some(phase) => policy::standing(tx, phase)
            .await
            .at(&end.site, "reading the policy")?,
        None => None,
    };
    let said = json!({
        "service": service, "from": from, "to": to, "phase": phase,
        "basis": standing.and_then(|standing| standing.basis),
    });
    match said {
        Value::Object(said) => Ok(said),
        _ => unreachable!("it is written as an object"),
    }
}

async fn refuse(
    (service, from, to): Way<'_>,
    end: &End,
    session: &Session,
    phase: &str,
    refusal: Refusal,
) -> Result<Error> {
    let body = json!({
        "service": service, "from": from, "to": to, "phase": phase, "why": refusal.to_string(),
    });
    entries::append(&**session, "policy_refused", body, &[])
        .await
        .at(&end.site, "writing a refusal into the ledger")?;
    Ok(Error::Forbidden {
        site: end.site.clone(),
        source: refusal,
    })
}

/// Leaves out, before anything of theirs is read, users whom the source's own copy of the policy does not let go.
pub(crate) async fn without_barred(
    route: &Route,
    desk: &Desk,
    mut users: Counted,
    aside: &mut Aside,
) -> Result<Counted> {
    let source = &route.source;
    let doing = "reading the policy";
    let keys: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
    let towards = (&route.service, &route.target.site);
    let terms = match route.phase {
        Some(_) => Terms::Phase,
        None => Terms::Back,
    };
    let kept = desk.source.kept();
    let barred = barred(&*desk.source, &kept, &source.schema, &keys, towards, terms);
    let barred = barred.await.at(&source.site, doing)?;
    if barred.is_empty() {
        return Ok(users);
    }
    let barred: Aside = barred
        .into_iter()
        .map(|(user, why)| (user, why.to_string()))
        .collect();
    let out: std::collections::HashSet<&UserKey> = barred.iter().map(|(user, _)| user).collect();
    users.retain(|(user, _)| !out.contains(user));
    let keys: Vec<UserKey> = barred.iter().map(|(user, _)| user.clone()).collect();
    let body = json!({
        "service": route.service, "from": source.site, "to": route.target.site, "phase": route.phase,
        "why": "the policy does not let these users go there",
    });
    entries::append(&*desk.source, "policy_refused", body, &keys)
        .await
        .at(&source.site, doing)?;
    aside.extend(barred);
    Ok(users)
}
