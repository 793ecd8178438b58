//! The target's side of a handoff: one transaction, whose commit is the change of home.

use handoff::decision::{Decision, Outcome};
use handoff::judge::{Findings, Handoff, Judgement, answer, judge};
use handoff::record::{Event, State};
use model::fault::{Bug, planted, point};
use model::{BatchId, UserKey};
use postgres::connect::Session;
use postgres::digest::{BatchDigest, DigestKey};
use postgres::shape::Shape;
use postgres::{census, foreign_keys, plans, verify};
use residency::records::{self, Change};
use residency::{decisions, entries, inbound};
use serde_json::{Map, Value, json};

use crate::desk::{commit, transaction};
use crate::error::{At, Error, Result};
use crate::route::{Offices, Route};
use crate::shapes::unchanged;

/// What the source says of a batch.
#[derive(Debug)]
pub struct Offer {
    /// The batch.
    pub handoff: Handoff,
    /// The source's digest, read after the fence.
    pub digest: BatchDigest,
    /// The digests of the other stores, read after the fence.
    pub manifests: Map<String, Value>,
}

impl Offer {
    fn users(&self) -> Vec<UserKey> {
        self.handoff
            .users
            .iter()
            .map(|(user, _)| user.clone())
            .collect()
    }

    /// The digest as it is stored with the decision.
    pub fn stored(&self) -> Value {
        let mut stored = self.manifests.clone();
        stored.insert("rows".to_owned(), json!(self.digest));
        Value::Object(stored)
    }
}

/// Looks, judges, and commits or refuses. The answer is durable when this returns.
///
/// # Errors
/// Any error leaves the outcome open: [`ask`] finds it. [`Error::SchemaChanged`] where the tables are not what `shape`
/// says.
pub async fn accept(
    route: &Route,
    offices: &Offices,
    session: &mut Session,
    offer: &Offer,
    key: &DigestKey,
    shape: &Shape,
) -> Result<Decision> {
    let (source, target) = (&route.source.site, &route.target);
    let doing = "accepting a batch";
    let users = offer.users();
    let theirs = route.manifests.digest(&target.site, &users).await?;
    let tx = transaction(session, target, doing).await?;
    // Sent together; the server takes them in this order, so the records are locked before anything is read of them.
    let (office, prepared, records, standing, chunk, spoilt) = tokio::join!(
        biased;
        offices.arrivals.hold(&tx),
        plans::by_index(&tx, &target.schema),
        records::lock(&tx, target.kind(), &users),
        decisions::standing(&tx, &route.service, &offer.handoff.batch),
        inbound::lock(&tx, source, offer.handoff.attempt),
        inbound::spoilt(&tx, source, offer.handoff.attempt),
    );
    office.at(&target.site, doing)?;
    prepared.at(&target.site, doing)?;
    let records = records.at(&target.site, doing)?;
    let standing = standing.at(&target.site, doing)?;
    let chunk = chunk.at(&target.site, doing)?;
    let spoilt = spoilt
        .at(&target.site, doing)?
        .into_iter()
        .filter(|(user, _)| users.contains(user));
    let mut findings = Findings {
        complete: chunk.is_some_and(|chunk| chunk.state == "streaming"),
        against: spoilt.collect(),
    };
    if findings.complete && findings.against.is_empty() && standing.is_none() {
        let (mine, dangling, pinned, now) = tokio::join!(
            biased;
            verify::digest(&tx, &target.schema, &users, key),
            foreign_keys::check(&tx, &target.schema, &users),
            census::pinned_elsewhere(&tx, &target.schema, &users, &target.site),
            // Last: once their rows were read, the tables cannot change before the transaction ends.
            Shape::read(&tx, &target.schema),
        );
        unchanged(target, shape.changed(&now.at(&target.site, doing)?))?;
        let mine = mine.at(&target.site, doing)?;
        let dangling = dangling.at(&target.site, doing)?;
        let pinned = pinned.at(&target.site, doing)?;
        findings.against.extend(pinned);
        let reason = |d: foreign_keys::Dangling| {
            (
                d.user,
                format!("{} does not hold at {}", d.constraint, target.site),
            )
        };
        findings.against.extend(dangling.into_iter().map(reason));
        let unverified = planted(Bug::AcceptUnverified) || planted(Bug::LoseRow);
        if (mine != offer.digest || theirs != offer.manifests) && !unverified {
            findings
                .against
                .extend(differing(route, &tx, offer, &users, key, &mine).await?);
        }
    }
    match judge(&offer.handoff, &records, standing.as_ref(), &findings) {
        Judgement::Repeat(standing) => Ok(standing),
        Judgement::Accept(accepted) => {
            let (users, next): (Vec<_>, Vec<_>) = accepted.into_iter().unzip();
            let stored = offer.stored();
            let body = json!({
                "service": route.service, "batch": offer.handoff.batch, "from": source, "to": target.site,
                "rows": offer.digest.rows(), "digest": stored,
            });
            let (written, outcome, entered) = tokio::join!(
                biased;
                records::write(&tx, target.kind(), &users, &next, None),
                decisions::decide(
                    &tx,
                    &route.service,
                    &offer.handoff.batch,
                    source,
                    Decision::Accepted,
                    Some(&stored),
                ),
                entries::append(&tx, "arrived", body, &users),
            );
            written.at(&target.site, doing)?;
            entered.at(&target.site, doing)?;
            if let Outcome::Standing(standing) = outcome.at(&target.site, doing)? {
                return Ok(standing);
            }
            point("before-accept");
            commit(tx, target, doing).await?;
            point("after-accept");
            make_durable(session, target).await?;
            Ok(Decision::Accepted)
        }
        Judgement::Refuse(decision) => {
            tx.rollback()
                .await
                .map_err(|e| postgres::Error::from_server(doing, e))
                .at(&target.site, doing)?;
            refuse(
                route,
                offices,
                session,
                &offer.handoff.batch,
                &users,
                Some(offer),
                decision,
            )
            .await
        }
    }
}

/// Users whose rows differ from the source's, by a digest of each.
async fn differing(
    route: &Route,
    tx: &tokio_postgres::Transaction<'_>,
    offer: &Offer,
    users: &[UserKey],
    key: &DigestKey,
    mine: &BatchDigest,
) -> Result<Vec<(UserKey, String)>> {
    let (source, target) = (&route.source, &route.target);
    let doing = "finding the rows that differ";
    let here = verify::digest_each(tx, &target.schema, users, key)
        .await
        .at(&target.site, doing)?;
    let mut session = source.session("verify").await?;
    let there_tx = transaction(&mut session, source, doing).await?;
    let there = verify::digest_each(&there_tx, &source.schema, users, key)
        .await
        .at(&source.site, doing)?;
    let mut named = Vec::new();
    for user in users {
        let tables = here[user].differing_tables(&there[user]);
        if !tables.is_empty() {
            named.push((
                user.clone(),
                format!("verification: rows of {} differ", tables.join(", ")),
            ));
        }
    }
    if named.is_empty() {
        // The whole differs and no part does: nobody of the batch may go.
        let tables = mine.differing_tables(&offer.digest).join(", ");
        let reason = format!("verification: the batch differs ({tables})");
        named.extend(users.iter().map(|user| (user.clone(), reason.clone())));
    }
    Ok(named)
}

/// Inserts a refusal, unless a decision stands; named users go to `clearing` in the same transaction.
async fn refuse(
    route: &Route,
    offices: &Offices,
    session: &mut Session,
    batch: &BatchId,
    users: &[UserKey],
    offer: Option<&Offer>,
    wish: Decision,
) -> Result<Decision> {
    let (source, target) = (&route.source.site, &route.target);
    let doing = "refusing a batch";
    let tx = transaction(session, target, doing).await?;
    offices.arrivals.hold(&tx).await.at(&target.site, doing)?;
    let records = records::lock(&tx, target.kind(), users)
        .await
        .at(&target.site, doing)?;
    let outcome = decisions::decide(&tx, &route.service, batch, source, wish, None)
        .await
        .at(&target.site, doing)?;
    if let (Outcome::Decided(Decision::Refused { named, .. }), Some(offer)) = (&outcome, offer) {
        let mut changes = Vec::new();
        for ((user, epoch), record) in offer.handoff.users.iter().zip(&records) {
            let arrives = matches!(record.as_ref().map(|r| &r.state),
                Some(State::Arriving { attempt, .. }) if *attempt == offer.handoff.attempt);
            if arrives && named.iter().any(|(name, _)| name == user) {
                let event = Event::Clear {
                    attempt: offer.handoff.attempt,
                    epoch: Some(*epoch),
                };
                changes.push(Change {
                    user: user.clone(),
                    event,
                });
            }
        }
        records::change(&tx, target.kind(), &changes, None)
            .await
            .at(&target.site, doing)?;
        let body =
            json!({"service": route.service, "batch": batch, "from": source, "to": target.site});
        entries::append(&tx, "refused", body, users)
            .await
            .at(&target.site, doing)?;
    }
    let word = outcome.word().clone();
    point("before-refuse");
    commit(tx, target, doing).await?;
    point("after-refuse");
    make_durable(session, target).await?;
    Ok(word)
}

/// Asks what became of a batch: the standing decision, or a refusal that is inserted as the answer.
pub async fn ask(
    route: &Route,
    offices: &Offices,
    session: &mut Session,
    batch: &BatchId,
    users: &[UserKey],
) -> Result<Decision> {
    let target = &route.target;
    let doing = "asking about a batch";
    let standing = decisions::standing(&**session, &route.service, batch)
        .await
        .at(&target.site, doing)?;
    let records = records::look(&**session, target.kind(), users)
        .await
        .at(&target.site, doing)?;
    let wish = answer(standing.as_ref(), &records);
    if standing.is_some() || planted(Bug::AnswerFromState) && wish == Decision::Accepted {
        return Ok(wish);
    }
    refuse(route, offices, session, batch, users, None, wish).await
}

/// A COMMIT whose wait for a standby was cancelled reports success with a warning: then another one is waited for,
/// whose success says that the first is on the standbys too.
pub(crate) async fn make_durable(session: &Session, end: &crate::route::End) -> Result<()> {
    let mut before = session.unconfirmed_commits();
    if before == 0 {
        return Ok(());
    }
    let doing = "waiting until a commit is on the standbys";
    loop {
        residency::journal::beat(&**session)
            .await
            .at(&end.site, doing)?;
        let now = session.unconfirmed_commits();
        if now == before {
            return Ok(());
        }
        before = now;
    }
}

/// The error of a batch whose answer could not be had.
pub(crate) fn in_doubt(route: &Route, batch: &BatchId, source: Error) -> Error {
    Error::InDoubt {
        batch: batch.clone(),
        site: route.target.site.clone(),
        source: Box::new(source),
    }
}
