//! Users who cannot part go together, or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use model::UserKey;
use postgres::{census, sharing, ties};

use crate::copier::Wanted;
use crate::desk::Desk;
use crate::error::{At, Result};
use crate::prepare::Aside;
use crate::route::Route;

/// Who belongs to which company of users that cannot part. Users on their own are not in it.
pub(crate) type Bonds = HashMap<UserKey, u32>;

/// Users who do not come along; of those who were to, with the reason.
type Staying = BTreeMap<UserKey, String>;

/// A page of users with their companies, each company's members beside each other.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    pub(crate) users: Vec<(UserKey, u64)>,
    pub(crate) bonds: Bonds,
    /// Those who are tied to somebody who does not come along.
    pub(crate) aside: Aside,
}

/// Finds the companies of `page`, and fetches the members who are wanted too but stand on another page: they are added
/// to `fetched`, and left out when their own page comes.
pub(crate) async fn bind(
    route: &Route,
    desk: &mut Desk,
    wanted: &Wanted,
    page: Vec<(UserKey, u64)>,
    fetched: &mut HashSet<UserKey>,
) -> Result<Bound> {
    let page = page.into_iter().filter(|(user, _)| !fetched.contains(user));
    let order: Vec<(UserKey, u64)> = page.collect();
    let schema = &route.source.schema;
    if !ties::possible(schema) && !sharing::possible(schema) {
        return Ok(Bound {
            users: order,
            ..Bound::default()
        });
    }
    let mut known: BTreeMap<UserKey, u64> = order.iter().cloned().collect();
    let mut found: Vec<ties::Tie> = Vec::new();
    let mut staying: Staying = Staying::new();
    let mut frontier: Vec<UserKey> = known.keys().cloned().collect();
    while !frontier.is_empty() {
        let doing = "looking who cannot part";
        let new = ties::of(&*desk.source, schema, &frontier)
            .await
            .at(&route.source.site, doing)?;
        for (user, table) in sharing::shared(&*desk.source, schema, &frontier)
            .await
            .at(&route.source.site, doing)?
        {
            let reason = format!("a row of {table} belongs to another user too");
            staying.insert(user, reason);
        }
        let others: BTreeSet<&UserKey> = new.iter().map(|tie| &tie.other).collect();
        let strangers = others
            .into_iter()
            .filter(|user| !known.contains_key(*user) && !staying.contains_key(*user));
        let strangers: Vec<UserKey> = strangers.cloned().collect();
        let coming = coming(route, desk, wanted, &strangers).await?;
        let there = there(desk, &strangers).await?;
        frontier = coming.iter().map(|(user, _)| user.clone()).collect();
        fetched.extend(frontier.iter().cloned());
        known.extend(coming);
        let stay = |user: &UserKey| !known.contains_key(user) && !there.contains(user);
        let stays = strangers.into_iter().filter(stay);
        staying.extend(stays.map(|user| (user, String::new())));
        found.extend(new);
    }
    Ok(arrange(
        &order,
        &known,
        &found,
        &staying,
        route.bounds.batch_users,
    ))
}

/// The companies among users who are on their way already: for an attempt of an earlier run.
pub(crate) async fn among(route: &Route, desk: &Desk, users: &[(UserKey, u64)]) -> Result<Bonds> {
    if !ties::possible(&route.source.schema) {
        return Ok(Bonds::new());
    }
    let keys: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
    let found = ties::of(&*desk.source, &route.source.schema, &keys)
        .await
        .at(&route.source.site, "looking who cannot part")?;
    let known: BTreeMap<UserKey, u64> = users.iter().cloned().collect();
    let bound = arrange(users, &known, &found, &Staying::new(), usize::MAX);
    Ok(bound.bonds)
}

/// Those of `users` who are to move too, with their rows.
async fn coming(
    route: &Route,
    desk: &mut Desk,
    wanted: &Wanted,
    users: &[UserKey],
) -> Result<Vec<(UserKey, u64)>> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let (source, doing) = (&route.source, "looking who is to move too");
    let wanted: Vec<UserKey> = match wanted {
        Wanted::Users(listed) => {
            let listed: HashSet<&UserKey> = listed.iter().collect();
            users
                .iter()
                .filter(|user| listed.contains(user))
                .cloned()
                .collect()
        }
        Wanted::Markets(markets) => {
            let found = census::users_exist(&mut desk.source, &source.schema, false, users)
                .await
                .at(&source.site, doing)?;
            let moves = |(_, presence): &(UserKey, census::Presence)| {
                presence.here && markets.contains(&presence.market)
            };
            found
                .into_iter()
                .filter(moves)
                .map(|(user, _)| user)
                .collect()
        }
    };
    census::users_listed(&mut desk.source, &source.schema, &wanted)
        .await
        .at(&source.site, doing)
}

/// Those of `users` who live at the target already.
async fn there(desk: &Desk, users: &[UserKey]) -> Result<HashSet<UserKey>> {
    if users.is_empty() {
        return Ok(HashSet::new());
    }
    Ok(desk
        .target
        .living(users.to_vec())
        .await?
        .into_iter()
        .collect())
}

/// Companies from ties. A company with a member who stays, or is tied to one who does, or of more than `members_max`, is
/// set aside whole.
fn arrange(
    order: &[(UserKey, u64)],
    known: &BTreeMap<UserKey, u64>,
    ties: &[ties::Tie],
    staying: &Staying,
    members_max: usize,
) -> Bound {
    let mut near: HashMap<&UserKey, Vec<&ties::Tie>> = HashMap::new();
    for tie in ties {
        near.entry(&tie.user).or_default().push(tie);
    }
    let mut bound = Bound::default();
    let mut seen: HashSet<&UserKey> = HashSet::new();
    let mut companies = 0;
    for (first, _) in order {
        let Some((first, _)) = known.get_key_value(first) else {
            continue;
        };
        if !seen.insert(first) {
            continue;
        }
        let mut company = vec![first];
        let mut obstacle = None;
        let mut at = 0;
        while let Some(user) = company.get(at).copied() {
            at += 1;
            if let Some(reason) = staying.get(user) {
                obstacle.get_or_insert(reason.clone());
            }
            for tie in near.get(user).into_iter().flatten() {
                if staying.contains_key(&tie.other) {
                    obstacle.get_or_insert(format!(
                        "tied by {} to a user who does not move along",
                        tie.by
                    ));
                }
                if let Some((other, _)) = known.get_key_value(&tie.other)
                    && seen.insert(other)
                {
                    company.push(other);
                }
            }
        }
        if obstacle.is_none() && company.len() > members_max {
            let by = &near[first][0].by;
            obstacle = Some(format!(
                "one of {} users tied by {by} and the like, more than a batch holds ({members_max}); raise batch.users",
                company.len()
            ));
        }
        if let Some(reason) = obstacle {
            let aside = company
                .into_iter()
                .map(|user| (user.clone(), reason.clone()));
            bound.aside.extend(aside);
            continue;
        }
        if company.len() > 1 {
            companies += 1;
            let members = company.iter().map(|user| ((*user).clone(), companies));
            bound.bonds.extend(members);
        }
        let members = company.into_iter().map(|user| (user.clone(), known[user]));
        bound.users.extend(members);
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> UserKey {
        UserKey::new(n.to_string())
    }

    fn tie(a: u32, b: u32) -> [ties::Tie; 2] {
        let one = |user, other| ties::Tie {
            user: key(user),
            other: key(other),
            by: "foreign key f of t".into(),
        };
        [one(a, b), one(b, a)]
    }

    fn arranged(users: &[u32], ties: &[ties::Tie], staying: &[u32]) -> Bound {
        let order: Vec<_> = users.iter().map(|n| (key(*n), 1)).collect();
        let known = order.iter().cloned().collect();
        let staying = staying.iter().map(|n| (key(*n), "shares a row".to_owned()));
        arrange(&order, &known, ties, &staying.collect(), 3)
    }

    #[test]
    fn members_of_a_company_stand_together() {
        let bound = arranged(&[1, 2, 3, 4], &[tie(1, 4), tie(4, 3)].concat(), &[]);
        let order: Vec<&str> = bound.users.iter().map(|(user, _)| user.as_str()).collect();
        assert_eq!(order, ["1", "4", "3", "2"]);
        assert_eq!(bound.bonds.len(), 3);
        assert!(bound.aside.is_empty());
    }

    #[test]
    fn whoever_is_tied_to_one_who_stays_stays_with_all_his_company() {
        let bound = arranged(&[1, 2, 3], &[tie(1, 2), tie(2, 9)].concat(), &[9]);
        let aside: Vec<&str> = bound.aside.iter().map(|(user, _)| user.as_str()).collect();
        assert_eq!(aside, ["1", "2"]);
        assert!(bound.aside[0].1.contains("foreign key f of t"));
        assert_eq!(bound.users, [(key(3), 1)]);
    }

    #[test]
    fn who_shares_a_row_stays_and_so_does_his_company() {
        let bound = arranged(&[1, 2, 3], &tie(1, 2), &[2]);
        assert_eq!(bound.aside.len(), 2);
        assert_eq!(bound.users, [(key(3), 1)]);
        let alone = arranged(&[1, 2], &[], &[2]);
        assert_eq!(alone.aside, [(key(2), "shares a row".to_owned())]);
    }

    #[test]
    fn a_company_bigger_than_a_batch_is_set_aside() {
        let ties = [tie(1, 2), tie(2, 3), tie(3, 4)].concat();
        let bound = arranged(&[1, 2, 3, 4], &ties, &[]);
        assert!(bound.users.is_empty());
        assert!(
            bound.aside[0].1.contains("one of 4 users"),
            "{:?}",
            bound.aside
        );
    }
}
