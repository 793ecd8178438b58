//! Everybody has exactly one home.

use handoff::record::{Resident, State};
use model::{ServiceName, SiteName, UserKey};
use postgres::{audit, census};
use residency::records;

use super::{Home, Mismatch, PAGE, Service, Verified, mismatch};
use crate::exit::{Exit, OrFail, Outcome};

/// How often somebody is asked for again whose records do not fit together: they are not read at one moment, and a
/// handoff may have come between.
const LOOKS: usize = 3;

/// What the records of all sites together say of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// He has one home.
    AtHome,
    /// He has one home and is on his way to another, or the handoff has not been heard of everywhere yet.
    InTransit,
    /// Something is wrong, at these sites.
    Wrong(Vec<SiteName>, &'static str),
}

/// Looks at every user who has a row in some site's user table, or at those of `only` who have one.
pub(super) async fn verify(
    name: &ServiceName,
    service: &Service,
    homes: &mut [Home],
    only: Option<&[UserKey]>,
    verified: &mut Verified,
) -> Outcome<()> {
    for at in 0..homes.len() {
        let mut listed = only.unwrap_or_default().chunks(PAGE as usize);
        let mut after = None;
        loop {
            let mut page = match only {
                Some(_) => match listed.next() {
                    Some(keys) => standing(name, service, &mut homes[at], keys).await?,
                    None => break,
                },
                None => {
                    let home = &homes[at];
                    let page =
                        audit::keys_page(&home.session, home.schema()?, after.as_ref(), PAGE)
                            .await
                            .or_fail(Exit::Unreached, || {
                                format!("{name}: cannot list the users at {}", home.site)
                            })?;
                    if page.is_empty() {
                        break;
                    }
                    after = page.last().cloned();
                    page
                }
            };
            // Those who have a row at a site before were looked at there.
            for home in &mut homes[..at] {
                let seen = standing(name, service, home, &page).await?;
                page.retain(|user| seen.binary_search(user).is_err());
            }
            look(name, homes, page, verified).await?;
        }
    }
    Ok(())
}

/// Those of `keys` who have a row in the user table there, sorted.
async fn standing(
    name: &ServiceName,
    service: &Service,
    home: &mut Home,
    keys: &[UserKey],
) -> Outcome<Vec<UserKey>> {
    let schema = home.schema()?.clone();
    let origin = home.site == service.origin;
    let found = census::users_exist(&mut home.session, &schema, origin, keys)
        .await
        .or_fail(Exit::Unreached, || {
            format!("{name}: cannot look up users at {}", home.site)
        })?;
    Ok(found.into_keys().collect())
}

async fn look(
    name: &ServiceName,
    homes: &[Home],
    users: Vec<UserKey>,
    verified: &mut Verified,
) -> Outcome<()> {
    verified.users += users.len() as u64;
    let mut left = users;
    for round in 1..=LOOKS {
        if left.is_empty() {
            break;
        }
        let mut said = Vec::new();
        for home in homes {
            let records = records::look(&*home.session, home.schema()?.users.kind, &left)
                .await
                .or_fail(Exit::Unreached, || {
                    format!("{name}: cannot read the records at {}", home.site)
                })?;
            said.push(records);
        }
        let mut again = Vec::new();
        for (n, user) in left.into_iter().enumerate() {
            let all: Vec<(&SiteName, Option<&State>)> = homes
                .iter()
                .zip(&said)
                .map(|(home, records)| (&home.site, state(&records[n])))
                .collect();
            match verdict(&all) {
                Verdict::AtHome => {}
                Verdict::InTransit => verified.in_transit += 1,
                Verdict::Wrong(..) if round < LOOKS => again.push(user),
                Verdict::Wrong(sites, what) => {
                    let sites: Vec<&str> = sites.iter().map(SiteName::as_str).collect();
                    verified.wrong(Mismatch {
                        site: sites.join(", "),
                        user: Some(user.to_string()),
                        ..mismatch(name, all[0].0, what)
                    });
                }
            }
        }
        left = again;
    }
    Ok(())
}

fn state(record: &Option<Resident>) -> Option<&State> {
    record.as_ref().map(|resident| &resident.state)
}

fn verdict(said: &[(&SiteName, Option<&State>)]) -> Verdict {
    let sites = |which: fn(&State) -> bool| -> Vec<SiteName> {
        let found = said.iter().filter(|(_, state)| state.is_some_and(which));
        found.map(|(site, _)| (*site).clone()).collect()
    };
    let lost = sites(|state| matches!(state, State::Lost { .. }));
    if !lost.is_empty() {
        return Verdict::Wrong(lost, "lost: a peer knows more of him than this site");
    }
    let homes = sites(State::is_home);
    // Offered and accepted, and the source has not heard the answer yet: the only way to be home twice.
    let handed_over = said.iter().any(|(_, state)| {
        matches!(state, Some(State::Offered { to, epoch, .. })
            if said.iter().any(|(site, other)| *site == to
                && matches!(other, Some(State::Settled { epoch: at }) if at == epoch)))
    });
    match homes.len() {
        0 => {
            let all = said.iter().map(|(site, _)| (*site).clone()).collect();
            Verdict::Wrong(all, "no site is his home")
        }
        1 => {
            let moving =
                sites(|state| !matches!(state, State::Settled { .. } | State::Departed { .. }));
            match moving.is_empty() {
                true => Verdict::AtHome,
                false => Verdict::InTransit,
            }
        }
        2 if handed_over => Verdict::InTransit,
        _ => Verdict::Wrong(homes, "more than one site is his home"),
    }
}

#[cfg(test)]
mod tests {
    use model::{Attempt, Epoch};

    use super::*;

    fn settled(epoch: i64) -> Option<State> {
        Some(State::Settled {
            epoch: Epoch(epoch),
        })
    }

    fn departed() -> Option<State> {
        Some(State::Departed {
            to: "b".into(),
            epoch: Epoch(2),
            erased: false,
        })
    }

    fn offered() -> Option<State> {
        Some(State::Offered {
            epoch: Epoch(2),
            to: "b".into(),
            batch: "x".into(),
            attempt: Attempt(1),
        })
    }

    fn arriving() -> Option<State> {
        Some(State::Arriving {
            from: "a".into(),
            attempt: Attempt(1),
            kept: None,
        })
    }

    fn of(a: Option<State>, b: Option<State>) -> Verdict {
        let sites: [SiteName; 3] = ["a".into(), "b".into(), "c".into()];
        let states = [a, b, None];
        let said: Vec<_> = sites
            .iter()
            .zip(states.iter().map(Option::as_ref))
            .collect();
        verdict(&said)
    }

    #[test]
    fn one_home_is_right_whoever_else_remembers_him() {
        assert_eq!(of(settled(1), None), Verdict::AtHome);
        assert_eq!(of(departed(), settled(2)), Verdict::AtHome);
    }

    #[test]
    fn somebody_on_his_way_has_one_home_or_has_just_been_accepted() {
        assert_eq!(of(settled(1), arriving()), Verdict::InTransit);
        assert_eq!(of(offered(), arriving()), Verdict::InTransit);
        assert_eq!(of(offered(), settled(2)), Verdict::InTransit);
    }

    #[test]
    fn two_homes_or_none_are_wrong() {
        let two = Verdict::Wrong(
            vec!["a".into(), "b".into()],
            "more than one site is his home",
        );
        assert_eq!(of(settled(1), settled(2)), two);
        assert_eq!(of(offered(), settled(1)), two);
        for (a, b) in [(None, None), (departed(), None), (departed(), arriving())] {
            assert!(matches!(of(a, b), Verdict::Wrong(_, "no site is his home")));
        }
        let lost = Some(State::Lost { epoch: Epoch(3) });
        assert!(matches!(of(departed(), lost), Verdict::Wrong(sites, _) if sites == ["b".into()]));
    }
}
