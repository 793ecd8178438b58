//! A user at his home.

use handoff::record::State;
use model::{ServiceName, UserKey};
use mover::erase::{Forgotten, forget};
use residency::records;

use super::super::confirm::confirmed;
use super::super::homes::Home;
use super::super::routes::end;
use super::super::{apply, users};
use super::{Opened, hold};
use crate::config::Service;
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::erase::{Erased, Frozen};

/// Whether to go on: refuses while he is between two sites anywhere, and asks where he lives at all.
pub(super) async fn agreed(opened: &[Opened<'_>], user: &UserKey, yes: bool) -> Outcome<bool> {
    let mut lives = Vec::new();
    for (name, _, homes) in opened {
        for home in homes {
            let site = &home.site;
            match state(name, home, user).await? {
                None | Some(State::Departed { .. }) => {}
                Some(State::Settled { .. }) => lives.push(format!("{name} at {site}")),
                Some(between) => {
                    let what = format!("{user} is {} at {site} in {name}", between.name());
                    return Err(Failure::new(Exit::Unfinished, anyhow::anyhow!(what)).mend(
                        "wait until the move has ended (`domicile status`), or end it with `domicile abort MOVE`; then run erase again",
                    ));
                }
            }
        }
    }
    if lives.is_empty() {
        return Ok(true);
    }
    let question = format!(
        "Erase user {user} for ever, at his home in {}, and whatever he left elsewhere?",
        lives.join(", ")
    );
    confirmed(yes, &question)
}

async fn state(name: &ServiceName, home: &Home, user: &UserKey) -> Outcome<Option<State>> {
    let kind = home.schema()?.users.kind;
    // A key may be of one service's form and not of another's.
    let Some(user) = users::canonical(kind, user) else {
        return Ok(None);
    };
    let records = records::look(&*home.session, kind, &[user])
        .await
        .or_fail(Exit::Unreached, || {
            format!("{name}: cannot look a user up at {}", home.site)
        })?;
    Ok(records
        .into_iter()
        .next()
        .flatten()
        .map(|record| record.state))
}

/// Erases him where he lives in one service.
pub(super) async fn at_home(
    (name, service): (&ServiceName, &Service),
    homes: &mut [Home],
    user: &UserKey,
    erased: &mut Erased,
) -> Outcome<()> {
    for home in homes {
        let Some(State::Settled { .. }) = state(name, home, user).await? else {
            continue;
        };
        let Some(user) = users::canonical(home.schema()?.users.kind, user) else {
            continue;
        };
        let held = hold::among((name, service), home, std::slice::from_ref(&user)).await?;
        if !held.is_empty() {
            erased.held.extend(held);
            continue;
        }
        let source = end(service, home)?;
        let done = forget(&source, &mut home.session, &user).await;
        let done = done.map_err(|error| {
            apply::failure(error, format!("{name}: erasing at {}", source.site))
        })?;
        let mut frozen = |reason: String| {
            erased.frozen.push(Frozen {
                user: user.to_string(),
                site: source.site.to_string(),
                reason,
            });
        };
        match done {
            Forgotten::Rows(rows) => {
                erased.users += 1;
                erased.rows += rows;
            }
            Forgotten::Nothing => {}
            Forgotten::NotSettled(state) => frozen(format!("he is {state} there by now")),
            Forgotten::Kept(reason) => frozen(reason),
        }
    }
    Ok(())
}
