//! From a count of who lives where, and the policy, to a plan. Pure.

use std::collections::{BTreeMap, BTreeSet};

use model::plan::{Drift, Plan, PlannedMove, Stay};
use model::policy::{Policy, Rule};
use model::{Market, ServiceName, SiteName};

/// Rows per second for the estimate: a cautious figure for two cores at each end. A guess before the first
/// row is copied; `apply` shows the rate that it reaches.
const ROWS_PER_SECOND: u64 = 50_000;

/// The users of one market who live at one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The service.
    pub service: ServiceName,
    /// Where they live.
    pub site: SiteName,
    /// Their market.
    pub market: Market,
    /// How many.
    pub users: u64,
    /// How many rows are theirs.
    pub rows: u64,
    /// The size of those rows as stored, in bytes.
    pub bytes: u64,
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Who lives where, over all services and sites.
    pub census: &'a [Count],
    /// Where they should live.
    pub policy: &'a Policy,
    /// The services, with their origins. What is counted of other services is left out.
    pub origins: &'a BTreeMap<ServiceName, SiteName>,
    /// The phases of which some move has been started: what they say holds for everybody who appears later.
    pub begun: &'a BTreeSet<String>,
}

/// The plan of phase number `phase`; with `None` that of the first phase with users to move, or, where
/// every phase is complete, one without moves.
///
/// A user belongs where the phases begun so far and the planned one say. He is moved if it is the planned
/// phase that says so; if he lives elsewhere for another reason (a phase begun before, a pin, the origin)
/// he is drift. So a phase never takes users back whom a later one has taken further.
///
/// `phase` must be below the number of phases.
pub fn plan_from(situation: &Situation<'_>, phase: Option<usize>) -> Plan {
    let phases = situation.policy.phases.len();
    if let Some(n) = phase {
        return sort(situation, Some(n), |m| m == n);
    }
    let mut candidates = (0..phases).map(|n| sort(situation, Some(n), move |m| m <= n));
    candidates
        .find(|plan| !plan.moves.is_empty())
        .unwrap_or_else(|| sort(situation, None, |_| true))
}

/// The phases that must have begun, as users live where only they put them: at a site that is neither the
/// origin nor where the phases before say. A phase that takes users back to the origin leaves no such
/// trace; it has begun where a move of it is recorded.
pub fn begun_by_census(
    census: &[Count],
    policy: &Policy,
    origins: &BTreeMap<ServiceName, SiteName>,
) -> BTreeSet<String> {
    let mut begun = BTreeSet::new();
    for (n, phase) in policy.phases.iter().enumerate() {
        let put_there = |count: &&Count| {
            let Some(origin) = origins
                .get(&count.service)
                .filter(|origin| **origin != count.site)
            else {
                return false;
            };
            let home = |upto| policy.home(&count.service, &count.market, upto, origin).0;
            count.users > 0 && home(Some(n)) == count.site && home(n.checked_sub(1)) != count.site
        };
        if census.iter().any(|count| put_there(&count)) {
            begun.insert(phase.name.clone());
        }
    }
    begun
}

/// The policy with those of its phases alone that `holds` (number, name) says hold.
pub fn in_force(policy: &Policy, holds: impl Fn(usize, &str) -> bool) -> Policy {
    Policy {
        pinned: policy.pinned.clone(),
        phases: policy
            .phases
            .iter()
            .enumerate()
            .filter(|(n, phase)| holds(*n, &phase.name))
            .map(|(_, phase)| phase.clone())
            .collect(),
    }
}

/// Sorts every count into moves, stays and drift, under the phases that have begun and those that `holds`.
fn sort(situation: &Situation<'_>, planned: Option<usize>, holds: impl Fn(usize) -> bool) -> Plan {
    let policy = situation.policy;
    let effective = in_force(policy, |n, name| holds(n) || situation.begun.contains(name));
    let name = planned.map(|n| policy.phases[n].name.clone());
    let last = effective.phases.len().checked_sub(1);
    let mut plan = Plan {
        phase: name,
        moves: Vec::new(),
        stay: Vec::new(),
        drift: Vec::new(),
        estimated: false,
        estimate_s: 0,
    };
    for count in situation.census.iter().filter(|count| count.users > 0) {
        if let Some(origin) = situation.origins.get(&count.service) {
            let (home, rule) = effective.home(&count.service, &count.market, last, origin);
            place(&mut plan, count, home, &rule);
        }
    }
    plan.moves.sort_by(|a, b| {
        (&a.service, &a.from, &a.to, &a.market).cmp(&(&b.service, &b.from, &b.to, &b.market))
    });
    plan.stay
        .sort_by(|a, b| (&a.service, &a.site, &a.market).cmp(&(&b.service, &b.site, &b.market)));
    plan.drift
        .sort_by(|a, b| (&a.service, &a.site, &a.market).cmp(&(&b.service, &b.site, &b.market)));
    plan.estimate_s = match plan.moves.is_empty() {
        true => 0,
        false => plan
            .moves
            .iter()
            .map(|m| m.rows)
            .sum::<u64>()
            .div_ceil(ROWS_PER_SECOND)
            .max(1),
    };
    plan
}

fn place(plan: &mut Plan, count: &Count, home: SiteName, rule: &Rule) {
    let of_planned = match rule {
        Rule::Phase(name) | Rule::Others(name) => plan.phase.as_ref() == Some(name),
        Rule::Pinned | Rule::Origin => false,
    };
    let (service, market, site) = (
        count.service.clone(),
        count.market.clone(),
        count.site.clone(),
    );
    let users = count.users;
    if home == site {
        plan.stay.push(Stay {
            service,
            market,
            site,
            users,
            rule: rule.to_string(),
        });
    } else if of_planned {
        plan.moves.push(PlannedMove {
            service,
            market,
            from: site,
            to: home,
            users,
            rows: count.rows,
            bytes: count.bytes,
        });
    } else {
        plan.drift.push(Drift {
            service,
            market,
            site,
            home,
            users,
        });
    }
}

#[cfg(test)]
mod tests {
    use model::policy::Phase;

    use super::*;

    fn policy() -> Policy {
        let phase =
            |name: &str, services: &[&str], home: &[(&str, &str)], others: Option<&str>| Phase {
                name: name.into(),
                services: services.iter().map(|s| (*s).into()).collect(),
                home: home
                    .iter()
                    .map(|(m, s)| ((*m).into(), (*s).into()))
                    .collect(),
                others: others.map(Into::into),
                basis: None,
            };
        Policy {
            pinned: BTreeMap::from([("CN".into(), "beijing".into())]),
            phases: vec![
                phase("one", &["shop"], &[("US", "california")], Some("singapore")),
                phase("two", &["cloud"], &[], Some("singapore")),
                phase("three", &["shop", "cloud"], &[("IN", "mumbai")], None),
            ],
        }
    }

    fn count(service: &str, site: &str, market: &str, users: u64) -> Count {
        Count {
            service: service.into(),
            site: site.into(),
            market: market.into(),
            users,
            rows: users * 10,
            bytes: users * 1000,
        }
    }

    /// The plan as words: "phase | moves | stays | drift".
    fn plan(census: &[Count], begun: &[&str], phase: Option<usize>) -> String {
        let origins =
            BTreeMap::from(["shop", "cloud"].map(|s| (s.into(), SiteName::from("beijing"))));
        let begun = begun.iter().map(|name| (*name).to_owned()).collect();
        let policy = policy();
        let situation = Situation {
            census,
            policy: &policy,
            origins: &origins,
            begun: &begun,
        };
        let plan = plan_from(&situation, phase);
        let join = |words: Vec<String>| words.join(", ");
        let moves = plan
            .moves
            .iter()
            .map(|m| format!("{} {}:{}>{} {}", m.service, m.market, m.from, m.to, m.users));
        let stay = plan
            .stay
            .iter()
            .map(|s| format!("{}@{} {}", s.market, s.site, s.rule));
        let drift = plan
            .drift
            .iter()
            .map(|d| format!("{}@{} not {}", d.market, d.site, d.home));
        format!(
            "{} | {} | {} | {}",
            plan.phase.as_deref().unwrap_or("-"),
            join(moves.collect()),
            join(stay.collect()),
            join(drift.collect())
        )
    }

    fn at_beijing() -> Vec<Count> {
        vec![
            count("shop", "beijing", "CN", 90),
            count("shop", "beijing", "IN", 5),
            count("shop", "beijing", "US", 3),
        ]
    }

    #[test]
    fn the_first_phase_with_users_to_move_is_planned() {
        assert_eq!(
            plan(&at_beijing(), &[], None),
            "one | shop US:beijing>california 3, shop IN:beijing>singapore 5 | CN@beijing pinned | "
        );
    }

    #[test]
    fn after_the_first_phase_comes_the_next_that_has_users() {
        let census = [
            count("shop", "beijing", "CN", 90),
            count("shop", "singapore", "IN", 5),
            count("shop", "california", "US", 3),
        ];
        assert_eq!(
            plan(&census, &["one"], None),
            "three | shop IN:singapore>mumbai 5 | CN@beijing pinned, US@california phase one | "
        );
    }

    #[test]
    fn when_all_is_done_nothing_is_planned() {
        let census = [
            count("shop", "beijing", "CN", 90),
            count("shop", "mumbai", "IN", 5),
        ];
        assert_eq!(
            plan(&census, &["one", "three"], None),
            "- |  | CN@beijing pinned, IN@mumbai phase three | "
        );
    }

    #[test]
    fn a_phase_never_takes_back_whom_a_later_one_took_further() {
        let census = [
            count("shop", "mumbai", "IN", 5),
            count("shop", "beijing", "DE", 1),
        ];
        assert_eq!(
            plan(&census, &["one", "three"], Some(0)),
            "one | shop DE:beijing>singapore 1 | IN@mumbai phase three | "
        );
    }

    #[test]
    fn a_phase_that_brings_users_back_to_the_origin_does_not_hide_the_one_before() {
        let mut back = policy();
        back.phases[2].home = BTreeMap::from([("IN".into(), "beijing".into())]);
        let census = [count("shop", "beijing", "IN", 5)];
        let origins = BTreeMap::from([("shop".into(), SiteName::from("beijing"))]);
        let begun = BTreeSet::new();
        let situation = Situation {
            census: &census,
            policy: &back,
            origins: &origins,
            begun: &begun,
        };
        assert_eq!(plan_from(&situation, None).phase.as_deref(), Some("one"));
    }

    #[test]
    fn a_user_who_appears_at_the_origin_goes_straight_to_his_last_home() {
        let census = [
            count("shop", "beijing", "IN", 1),
            count("shop", "mumbai", "IN", 5),
        ];
        assert_eq!(
            plan(&census, &["one", "three"], None),
            "three | shop IN:beijing>mumbai 1 | IN@mumbai phase three | "
        );
    }

    #[test]
    fn a_phase_asked_for_out_of_turn_moves_its_own_markets_only() {
        assert_eq!(
            plan(&at_beijing(), &[], Some(2)),
            "three | shop IN:beijing>mumbai 5 | CN@beijing pinned, US@beijing origin | "
        );
    }

    #[test]
    fn who_lives_where_nobody_expects_him_is_drift() {
        let census = [
            count("shop", "singapore", "CN", 1),
            count("cloud", "singapore", "DE", 2),
            count("shop", "beijing", "US", 3),
        ];
        assert_eq!(
            plan(&census, &[], Some(0)),
            "one | shop US:beijing>california 3 |  | DE@singapore not beijing, CN@singapore not beijing"
        );
        assert_eq!(
            plan(&at_beijing(), &["one"], Some(2)),
            "three | shop IN:beijing>mumbai 5 | CN@beijing pinned | US@beijing not california"
        );
    }

    #[test]
    fn a_phase_has_begun_when_users_live_where_only_it_puts_them() {
        let origins =
            BTreeMap::from(["shop", "cloud"].map(|s| (s.into(), SiteName::from("beijing"))));
        let begun = |census: &[Count]| -> Vec<String> {
            begun_by_census(census, &policy(), &origins)
                .into_iter()
                .collect()
        };
        assert!(begun(&at_beijing()).is_empty());
        assert_eq!(begun(&[count("shop", "singapore", "IN", 1)]), ["one"]);
        assert_eq!(begun(&[count("shop", "mumbai", "IN", 1)]), ["three"]);
        assert!(begun(&[count("shop", "mumbai", "DE", 1)]).is_empty());
        assert!(begun(&[count("shop", "mumbai", "IN", 0)]).is_empty());
    }

    #[test]
    fn the_estimate_is_whole_seconds_and_zero_only_without_moves() {
        let policy = policy();
        let origins = BTreeMap::from([("shop".into(), SiteName::from("beijing"))]);
        let begun = BTreeSet::new();
        let estimate = |census: &[Count]| {
            let situation = Situation {
                census,
                policy: &policy,
                origins: &origins,
                begun: &begun,
            };
            plan_from(&situation, None).estimate_s
        };
        assert_eq!(estimate(&at_beijing()), 1);
        assert_eq!(estimate(&[count("shop", "beijing", "US", 10_001)]), 3);
        assert_eq!(estimate(&[count("shop", "beijing", "CN", 10_001)]), 0);
        assert_eq!(estimate(&[count("forum", "beijing", "US", 10_001)]), 0);
    }
}
