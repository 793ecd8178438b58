//! Everybody has exactly one home.

use model::{SiteName, UserKey};
use mover::audit::{Ask, Said, Stands};

use super::sites::{Sites, pages};
use super::{Mismatch, Verified, mismatch, misplaced};
use crate::exit::Outcome;

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
    /// His home may be where nobody answered.
    Unsaid,
    /// Something is wrong, at these sites.
    Wrong(Vec<SiteName>, &'static str),
}

/// What one site's record says of a user.
#[derive(Clone, Copy, Debug)]
enum Word<'a> {
    /// The site did not answer, or may not.
    Unsaid,
    /// It has this record, or none.
    Said(Option<&'a Stands>),
}

/// Looks at every user who has a row in some site's user table, or at those of `only` who have one.
pub(super) async fn verify(
    sites: &mut Sites<'_>,
    only: Option<&[UserKey]>,
    verified: &mut Verified,
) -> Outcome<()> {
    for at in 0..sites.len() {
        let mut listed = only.map(pages);
        let mut after = None;
        loop {
            let ask = match &mut listed {
                Some(listed) => match listed.next() {
                    Some(users) => Ask::Standing(users.to_vec()),
                    None => break,
                },
                None => Ask::Users(after.take()),
            };
            let Some(Said::Users(mut page)) = sites.ask(at, ask).await? else {
                break;
            };
            if page.is_empty() && only.is_none() {
                break;
            }
            after = page.last().cloned();
            // Those who have a row at a site before were looked at there.
            for before in 0..at {
                let ask = Ask::Standing(page.clone());
                if let Some(Said::Users(seen)) = sites.ask(before, ask).await? {
                    page.retain(|user| seen.binary_search(user).is_err());
                }
            }
            if !page.is_empty() {
                // Of its own a site looks at all rows at once.
                for peer in sites.peers() {
                    misplaced(sites, peer, Some(&page), verified).await?;
                }
                look(sites, page, verified).await?;
            }
        }
    }
    Ok(())
}

async fn look(sites: &mut Sites<'_>, users: Vec<UserKey>, verified: &mut Verified) -> Outcome<()> {
    verified.users += users.len() as u64;
    let names = sites.names();
    let mut left = users;
    for round in 1..=LOOKS {
        if left.is_empty() {
            break;
        }
        let mut said: Vec<Option<Vec<Option<Stands>>>> = Vec::new();
        for at in 0..sites.len() {
            let lives_here = |n: usize| {
                let own = said.iter().take(sites.peers().start);
                own.flatten()
                    .any(|own| own[n].as_ref().is_some_and(Stands::is_home))
            };
            let claims = left.iter().enumerate();
            let claims = claims.map(|(n, user)| (user.clone(), lives_here(n)));
            let ask = Ask::Records(claims.collect());
            said.push(match sites.ask(at, ask).await? {
                Some(Said::Records(records)) => Some(records),
                _ => None,
            });
        }
        let mut again = Vec::new();
        for (n, user) in left.into_iter().enumerate() {
            let recorded = said.iter().flatten().any(|records| records[n].is_some());
            let words = said.iter().enumerate().map(|(at, records)| match records {
                // A peer does not tell who never left it. Whoever has rows here, and no record, has misplaced rows: that is said of these.
                Some(_) if !recorded && sites.peers().contains(&at) => Word::Unsaid,
                Some(records) => Word::Said(records[n].as_ref()),
                None => Word::Unsaid,
            });
            let all: Vec<(&SiteName, Word<'_>)> = names.iter().zip(words).collect();
            match verdict(&all) {
                Verdict::AtHome | Verdict::Unsaid => {}
                Verdict::InTransit => verified.in_transit += 1,
                Verdict::Wrong(..) if round < LOOKS => again.push(user),
                Verdict::Wrong(mut wrong, what) => {
                    // Whichever of them was asked first.
                    wrong.sort_by_key(|site| (site != sites.origin, site.clone()));
                    let wrong: Vec<&str> = wrong.iter().map(SiteName::as_str).collect();
                    verified.wrong(Mismatch {
                        site: wrong.join(", "),
                        user: Some(user.to_string()),
                        ..mismatch(sites.name, all[0].0, what)
                    });
                }
            }
        }
        left = again;
    }
    Ok(())
}

fn verdict(said: &[(&SiteName, Word<'_>)]) -> Verdict {
    let records = || {
        said.iter().filter_map(|(site, word)| match word {
            Word::Said(Some(stands)) => Some((*site, *stands)),
            Word::Said(None) | Word::Unsaid => None,
        })
    };
    let sites = |which: fn(&Stands) -> bool| -> Vec<SiteName> {
        let found = records().filter(|(_, stands)| which(stands));
        found.map(|(site, _)| site.clone()).collect()
    };
    let lost = sites(|stands| matches!(stands, Stands::Lost));
    if !lost.is_empty() {
        return Verdict::Wrong(lost, "lost: a peer knows more of him than this site");
    }
    let homes = sites(Stands::is_home);
    // Offered and accepted, and the source has not heard the answer yet: the only way to be home twice.
    let handed_over = records().any(|(_, stands)| {
        matches!(stands, Stands::Offered { to, epoch }
            if records().any(|(site, other)| site == to
                && matches!(other, Stands::Settled { epoch: at } if at == epoch)))
    });
    match homes.len() {
        0 if said.iter().any(|(_, word)| matches!(word, Word::Unsaid)) => Verdict::Unsaid,
        0 => {
            let all = said.iter().map(|(site, _)| (*site).clone()).collect();
            Verdict::Wrong(all, "no site is his home")
        }
        1 => {
            let moving =
                sites(|stands| !matches!(stands, Stands::Settled { .. } | Stands::Departed));
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
    use handoff::record::State;
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
        let stands = [a, b, None].map(|state| state.as_ref().map(Stands::from));
        let words = stands.iter().map(|stands| Word::Said(stands.as_ref()));
        let said: Vec<_> = sites.iter().zip(words).collect();
        verdict(&said)
    }

    /// As [`of`], where nobody at b answers.
    fn alone(a: Option<State>) -> Verdict {
        let a = a.as_ref().map(Stands::from);
        let said = [
            (&"a".into(), Word::Said(a.as_ref())),
            (&"b".into(), Word::Unsaid),
        ];
        verdict(&said)
    }

    #[test]
    fn of_whoever_may_live_where_nobody_answers_nothing_is_said() {
        assert_eq!(alone(settled(1)), Verdict::AtHome);
        assert_eq!(alone(offered()), Verdict::InTransit);
        for a in [None, departed(), arriving()] {
            assert_eq!(alone(a), Verdict::Unsaid);
        }
        let lost = Some(State::Lost { epoch: Epoch(3) });
        assert!(matches!(alone(lost), Verdict::Wrong(..)));
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
