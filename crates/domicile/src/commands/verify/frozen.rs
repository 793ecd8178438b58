//! What departed users left behind is still what both sides agreed on before the switch.

use std::collections::BTreeSet;

use model::{BatchId, UserKey};
use mover::audit::{Ask, Frozen, Key, Said};

use super::sites::{Sites, pages};
use super::{Mismatch, Verified, mismatch};
use crate::exit::Outcome;

/// Looks at every batch of every site's journal, or at those in which one of `only` went. A peer tells of those that left for here.
pub(super) async fn verify(
    sites: &mut Sites<'_>,
    only: Option<&[UserKey]>,
    key: &Key,
    verified: &mut Verified,
) -> Outcome<()> {
    for at in 0..sites.len() {
        let asked: Vec<Option<Vec<UserKey>>> = match only {
            Some(only) => pages(only).map(|users| Some(users.to_vec())).collect(),
            None => vec![None],
        };
        let mut seen = BTreeSet::new();
        for users in asked {
            let mut from = 0;
            loop {
                let ask = Ask::Batches(from, users.clone());
                let Some(Said::Batches(batches)) = sites.ask(at, ask).await? else {
                    break;
                };
                if batches.is_empty() {
                    break;
                }
                from += u32::try_from(batches.len()).unwrap_or(u32::MAX);
                for (batch, target) in batches {
                    if seen.insert(batch.clone()) {
                        let target = sites.find(&target);
                        one(sites, (at, target), &batch, key, verified).await?;
                    }
                }
            }
        }
    }
    Ok(())
}

async fn one(
    sites: &mut Sites<'_>,
    (source, target): (usize, Option<usize>),
    batch: &BatchId,
    key: &Key,
    verified: &mut Verified,
) -> Outcome<()> {
    let Some(mut frozen) = ask_frozen(sites, source, Ask::Frozen(batch.clone(), None)).await?
    else {
        return Ok(());
    };
    // An earlier process verified it and was gone before it wrote it down: the target's decision has it.
    if let (Frozen::Undigested, Some(target)) = (&frozen, target) {
        let Some(Said::Decided(decided)) = sites.ask(target, Ask::Decided(batch.clone())).await?
        else {
            return Ok(());
        };
        if decided.is_some() {
            let ask = Ask::Frozen(batch.clone(), decided);
            let Some(again) = ask_frozen(sites, source, ask).await? else {
                return Ok(());
            };
            frozen = again;
        }
    }
    let site = sites.site(source).clone();
    let mut wrong = |table: Option<String>, what: String| {
        verified.wrong(Mismatch {
            table,
            ..mismatch(sites.name, &site, what)
        });
    };
    match frozen {
        Frozen::Past => {
            verified.frozen.past += 1;
            return Ok(());
        }
        Frozen::Undigested => wrong(
            None,
            format!("batch {batch}: no digest stands in either site's records"),
        ),
        Frozen::Compared {
            differing,
            named,
            more,
        } => {
            for table in &differing {
                let what = format!(
                    "the frozen rows of batch {batch} ({}) are not those that both sides agreed on before the switch",
                    span(&named, more)
                );
                wrong(Some(table.clone()), what);
            }
            if differing.is_empty() {
                verified.frozen.batches += 1;
            }
        }
    }
    match target {
        Some(target) => count(sites, (source, target), batch, key, verified).await,
        None => Ok(()),
    }
}

async fn ask_frozen(sites: &mut Sites<'_>, source: usize, ask: Ask) -> Outcome<Option<Frozen>> {
    Ok(match sites.ask(source, ask).await? {
        Some(Said::Frozen(frozen)) => Some(frozen),
        _ => None,
    })
}

/// For whom the rows at the home are still those that he left behind. It is the home that compares: it had them all once, and says no more than how many.
async fn count(
    sites: &mut Sites<'_>,
    (source, target): (usize, usize),
    batch: &BatchId,
    key: &Key,
    verified: &mut Verified,
) -> Outcome<()> {
    let mut from = Some(0);
    while let Some(first) = from {
        let ask = Ask::Each(batch.clone(), *key, first);
        let Some(Said::Each(each, next)) = sites.ask(source, ask).await? else {
            return Ok(());
        };
        from = next;
        if each.is_empty() {
            continue;
        }
        let ask = Ask::Unchanged(batch.clone(), *key, each);
        let Some(Said::Compared { unchanged, changed }) = sites.ask(target, ask).await? else {
            return Ok(());
        };
        verified.frozen.unchanged += unchanged;
        verified.frozen.changed += changed;
    }
    Ok(())
}

/// Whose batch it is.
fn span(named: &[UserKey], more: u64) -> String {
    let named: Vec<&str> = named.iter().map(UserKey::as_str).collect();
    match more {
        0 => format!("users {}", named.join(", ")),
        more => format!("users {} and {more} more", named.join(", ")),
    }
}
