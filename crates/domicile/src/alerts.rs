//! What an operator is woken for: a pure judgement of how a home is.

use std::time::Duration;

use postgres::standbys::Standbys;
use residency::vitals::{Vitals, Waiting};
use serde::Serialize;

use crate::config::Alerts as Bounds;

const IN_DOUBT: &str = "in_doubt";
const ARRIVING: &str = "arriving_too_long";
const REFUSED: &str = "writes_refused";
const NOT_OPEN: &str = "not_open";
const UNGUARDED: &str = "guard_missing";
const WAL: &str = "wal_kept";
const STANDBY: &str = "standby_not_synchronous";
const LOST: &str = "lost_users";

/// Every alert there is, as metrics and rules call it.
pub const NAMES: [&str; 8] = [
    IN_DOUBT, ARRIVING, REFUSED, NOT_OPEN, UNGUARDED, WAL, STANDBY, LOST,
];

/// Something that stands still or is open that should not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// One of [`NAMES`].
    pub alert: &'static str,
    /// What is so, with its measure.
    pub what: String,
    /// What to do.
    pub mend: &'static str,
}

/// How a home is, with what its server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The home.
    pub vitals: Vitals,
    /// Who follows its server.
    pub standbys: Standbys,
    /// WAL that the service's slot keeps back, and the most that it may, in bytes; none without a slot.
    pub wal: Option<(u64, u64)>,
    /// Users who came here and whom the database has forgotten.
    pub lost: u64,
}

/// What of it is beyond `bounds`, in the order of [`NAMES`].
pub fn judge(seen: &Seen, bounds: &Bounds) -> Vec<Alert> {
    let Vitals {
        in_doubt,
        arriving,
        door,
        unguarded,
    } = &seen.vitals;
    let mut found = Vec::new();
    let mut say = |alert, what, mend| found.push(Alert { alert, what, mend });
    if beyond(in_doubt, bounds.in_doubt) {
        say(
            IN_DOUBT,
            format!(
                "{} have waited for their target's answer, the first for {}",
                users(in_doubt.users),
                time(in_doubt.longest)
            ),
            "bring the target's daemon, its database and the link back: it is asked by itself; docs/restores.md where the \
             site is gone for good",
        );
    }
    if beyond(arriving, bounds.arriving) {
        say(
            ARRIVING,
            format!(
                "{} are on their way here, the first for {}",
                users(arriving.users),
                time(arriving.longest)
            ),
            "`domicile status` at the source says where the move stands: let it go on, or `domicile abort` it",
        );
    }
    if !door.open {
        let (alert, so) = match door.closes {
            true => (REFUSED, "the guard refuses every write"),
            false => (NOT_OPEN, "nobody moves from here or to here"),
        };
        let shut = door.shut.as_deref();
        let why = shut.unwrap_or("not compared with all peers since the server started");
        say(
            alert,
            format!("{so}: {why}"),
            "bring the peers back: it opens by itself; `domicile guard status`, and, as a last way, `domicile guard open`",
        );
    }
    if !unguarded.is_empty() {
        say(
            UNGUARDED,
            format!(
                "writes can pass the guard on {}: its triggers are missing, changed or disabled",
                unguarded.join(", ")
            ),
            "run `domicile install`, and find out who changed them",
        );
    }
    if let Some((kept, cap)) = seen.wal
        && u128::from(kept) * 100 > u128::from(cap) * u128::from(bounds.wal_percent)
    {
        say(
            WAL,
            format!(
                "the slot keeps back {} MiB of WAL, of {} MiB at which its moves are given up",
                kept >> 20,
                cap >> 20
            ),
            "`domicile status` says what holds the move up; resume it, raise limits.wal, or `domicile abort` it",
        );
    }
    found.extend(standbys(&seen.standbys, bounds));
    if seen.lost > 0 {
        found.push(Alert {
            alert: LOST,
            what: format!(
                "{} came here, and this database has forgotten it: closed",
                users(seen.lost)
            ),
            mend: "`domicile guard status` names them, `domicile resolve --lost` opens them again: docs/restores.md",
        });
    }
    found
}

/// Whether a change of home may be missing where a standby is promoted, or commits hang as there is none.
pub fn standbys(standbys: &Standbys, bounds: &Bounds) -> Option<Alert> {
    let asynchronous = standbys
        .following
        .iter()
        .filter(|standby| !standby.synchronous && !bounds.never_promoted.contains(&standby.name));
    let asynchronous: Vec<&str> = asynchronous.map(|one| one.name.as_str()).collect();
    let (what, mend) = if !asynchronous.is_empty() {
        (
            format!(
                "commits do not wait for the standby {}: promoted, it may lack the last changes of home",
                asynchronous.join(", ")
            ),
            "name it in synchronous_standby_names, or in alerts.never_promoted where nobody promotes it",
        )
    } else if standbys.wanted && !standbys.following.iter().any(|one| one.synchronous) {
        (
            "no synchronous standby follows: every commit waits for one".to_owned(),
            "bring the standby back, or change synchronous_standby_names",
        )
    } else {
        return None;
    };
    Some(Alert {
        alert: STANDBY,
        what,
        mend,
    })
}

fn beyond(waiting: &Waiting, bound: Duration) -> bool {
    waiting.users > 0 && waiting.longest > bound
}

fn users(count: u64) -> String {
    match count {
        1 => "1 user".to_owned(),
        _ => format!("{count} users"),
    }
}

fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..600 => format!("{seconds} s"),
        seconds @ ..36_000 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use postgres::standbys::Standby;
    use residency::door::Door;

    use super::*;

    fn well() -> Seen {
        Seen {
            vitals: Vitals {
                in_doubt: Waiting::default(),
                arriving: Waiting::default(),
                door: Door {
                    closes: true,
                    open: true,
                    since: None,
                    shut: None,
                },
                unguarded: Vec::new(),
            },
            standbys: Standbys::default(),
            wal: None,
            lost: 0,
        }
    }

    fn names(seen: &Seen) -> Vec<&'static str> {
        let found = judge(seen, &Bounds::default());
        found.iter().map(|alert| alert.alert).collect()
    }

    fn with(change: impl FnOnce(&mut Seen)) -> Vec<&'static str> {
        let mut seen = well();
        change(&mut seen);
        names(&seen)
    }

    fn waiting(seconds: u64) -> Waiting {
        Waiting {
            users: 3,
            longest: Duration::from_secs(seconds),
        }
    }

    fn standby(name: &str, synchronous: bool) -> Standby {
        Standby {
            name: name.to_owned(),
            synchronous,
        }
    }

    #[test]
    fn each_says_so_beyond_its_bound_and_not_before() {
        assert!(names(&well()).is_empty());
        assert!(with(|seen| seen.vitals.in_doubt = waiting(60)).is_empty());
        assert_eq!(
            with(|seen| seen.vitals.in_doubt = waiting(61)),
            ["in_doubt"]
        );
        assert!(with(|seen| seen.vitals.arriving = waiting(86_400)).is_empty());
        assert_eq!(
            with(|seen| seen.vitals.arriving = waiting(86_401)),
            ["arriving_too_long"]
        );
        assert!(with(|seen| seen.wal = Some((5 << 30, 10 << 30))).is_empty());
        assert_eq!(
            with(|seen| seen.wal = Some(((5 << 30) + 1, 10 << 30))),
            ["wal_kept"]
        );
        assert_eq!(with(|seen| seen.lost = 1), ["lost_users"]);
        assert_eq!(
            with(|seen| seen.vitals.unguarded.push("invoice".to_owned())),
            ["guard_missing"]
        );
    }

    #[test]
    fn a_site_that_is_not_open_refuses_writes_only_where_it_is_configured_to() {
        assert_eq!(
            with(|seen| seen.vitals.door.open = false),
            ["writes_refused"]
        );
        let moves = with(|seen| (seen.vitals.door.open, seen.vitals.door.closes) = (false, false));
        assert_eq!(moves, ["not_open"]);
    }

    #[test]
    fn standbys_that_may_be_promoted_must_be_waited_for() {
        let followed = |standbys: &[Standby], wanted| {
            with(|seen| {
                seen.standbys = Standbys {
                    following: standbys.to_vec(),
                    wanted,
                }
            })
        };
        let late = ["standby_not_synchronous"];
        assert_eq!(followed(&[standby("b", false)], false), late);
        assert_eq!(
            followed(&[standby("a", true), standby("b", false)], true),
            late
        );
        assert!(followed(&[standby("a", true)], true).is_empty());
        // Every commit hangs.
        assert_eq!(followed(&[], true), late);
        assert!(followed(&[], false).is_empty());
        let mut seen = well();
        seen.standbys.following = vec![standby("reports", false)];
        let bounds = Bounds {
            never_promoted: ["reports".to_owned()].into(),
            ..Bounds::default()
        };
        assert!(judge(&seen, &bounds).is_empty());
    }

    #[test]
    fn the_rules_for_prometheus_know_every_alert() {
        let rules = include_str!("../../../packaging/alerts.yml");
        for name in NAMES {
            assert!(rules.contains(&format!("alert=\"{name}\"")), "{name}");
        }
    }
}
