//! What the target decides about a handoff, from what it found. Pure: the caller did the reading.

use model::fault::{Bug, planted};
use model::{Attempt, BatchId, Epoch, SiteName, UserKey};
use serde::{Deserialize, Serialize};

use crate::decision::Decision;
use crate::record::{Event, Resident, State, step};

/// A batch offered by its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handoff {
    /// The batch.
    pub batch: BatchId,
    /// Where its users live.
    pub from: SiteName,
    /// The copying attempt of all of them.
    pub attempt: Attempt,
    /// The users, each with the epoch that he will have.
    pub users: Vec<(UserKey, Epoch)>,
}

/// What the target found when it looked, after the last change was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Whether the attempt's copy is complete and its stream has been applied up to the fence.
    pub complete: bool,
    /// Users whom a finding speaks against, with the reason: a digest that differs, a foreign key that does
    /// not hold, a change that could not be applied.
    pub against: Vec<(UserKey, String)>,
}

/// What to do about a handoff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Write these records and the decision `accepted`, in one transaction.
    Accept(Vec<(UserKey, Resident)>),
    /// Roll back; then insert this refusal and let the users it names be cleared.
    Refuse(Decision),
    /// A decision stands: repeat it.
    Repeat(Decision),
}

/// Judges `handoff`, where `records` are this site's records of its users, in their order, read under lock.
pub fn judge(
    handoff: &Handoff,
    records: &[Option<Resident>],
    standing: Option<&Decision>,
    findings: &Findings,
) -> Judgement {
    assert_eq!(
        handoff.users.len(),
        records.len(),
        "one record for each user of the batch"
    );
    if let Some(standing) = standing
        && !planted(Bug::SecondDecision)
    {
        return Judgement::Repeat(standing.clone());
    }
    let mut named = findings.against.clone();
    let mut accepted = Vec::with_capacity(records.len());
    let mut highest = Epoch(0);
    for ((user, epoch), record) in handoff.users.iter().zip(records) {
        highest = highest.max(record.as_ref().map_or(Epoch(0), |r| r.seen));
        let event = Event::Accept {
            from: handoff.from.clone(),
            attempt: handoff.attempt,
            epoch: *epoch,
        };
        match step(record.as_ref(), &event) {
            Ok(next) => accepted.push((user.clone(), next)),
            // An epoch that is too low is no fault of the user: he goes again above `highest`.
            Err(_) if arrives(record.as_ref(), handoff) => {}
            Err(illegal) => named.push((user.clone(), illegal.to_string())),
        }
    }
    let whole = accepted.len() == handoff.users.len();
    if whole && named.is_empty() && findings.complete {
        Judgement::Accept(accepted)
    } else {
        Judgement::Refuse(Decision::Refused { named, highest })
    }
}

/// The answer to a source that asks about a batch: the decision, or what is to be inserted as one.
///
/// Never given from the users' present states: they may have moved on.
pub fn answer(standing: Option<&Decision>, records: &[Option<Resident>]) -> Decision {
    if planted(Bug::AnswerFromState) {
        let here = |r: &Option<Resident>| r.as_ref().is_some_and(|r| r.state.is_home());
        if records.iter().all(here) {
            return Decision::Accepted;
        }
    } else if let Some(standing) = standing {
        return standing.clone();
    }
    let highest = records
        .iter()
        .flatten()
        .map(|r| r.seen)
        .max()
        .unwrap_or_default();
    Decision::Refused {
        named: Vec::new(),
        highest,
    }
}

fn arrives(record: Option<&Resident>, handoff: &Handoff) -> bool {
    matches!(
        record.map(|r| &r.state),
        Some(State::Arriving { from, attempt, .. }) if *from == handoff.from && *attempt == handoff.attempt
    )
}

#[cfg(test)]
mod tests;
