//! `status`: moves, batches in doubt, users set aside, slots and their WAL, phases.

pub mod slow;

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Form, Grid, bytes, count, json};
use crate::exit::Exit;

/// One move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MoveStatus {
    /// The move.
    pub r#move: String,
    /// Its state: running, pausing, paused, aborting, interrupted (no process carries it now), done or aborted.
    pub state: String,
    /// Users moved.
    pub moved: u64,
    /// Users left to move.
    pub left: u64,
    /// The service.
    pub service: String,
    /// Where from.
    pub from: String,
    /// Where to.
    pub to: String,
    /// Its phase, if it was for one.
    pub phase: Option<String>,
    /// Whether some process carries it now.
    pub carried: bool,
    /// What that process is at, in a few words.
    pub doing: Option<String>,
    /// Bytes copied a second, over the last ten seconds or so.
    pub bytes_per_second: u64,
    /// The throttle in force, in bytes a second.
    pub rate: Option<u64>,
    /// Bytes of the source's log that are not applied at the target; what concerns no user who moves counts too.
    pub lag_bytes: Option<u64>,
    /// What is slow, and why: a sentence each.
    pub slow: Vec<String>,
}

/// A batch that was offered and has no answer yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InDoubt {
    /// The batch.
    pub batch: String,
    /// The service.
    pub service: String,
    /// Where from.
    pub from: String,
    /// Where to.
    pub to: String,
    /// Users in it.
    pub users: u64,
}

/// A user who stays where he is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Aside {
    /// The move that set him aside.
    pub r#move: String,
    /// His key.
    pub user: String,
    /// Why.
    pub reason: String,
}

/// How many users stay for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The reason.
    pub reason: String,
    /// Users.
    pub users: u64,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// The WAL that it keeps back.
    pub wal_bytes: u64,
    /// Where it stands.
    pub site: String,
    /// The most that it may keep back: then the moves that need it are given up.
    pub cap_bytes: u64,
}

/// How far a phase is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PhaseStatus {
    /// The phase.
    pub name: String,
    /// Users who are yet to move.
    pub left: u64,
    /// Whether any of it has begun.
    pub state: PhaseState,
}

/// Whether a phase has begun, or has nobody left to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseState {
    /// No move of it so far.
    Open,
    /// Some users are yet to move.
    Begun,
    /// Nobody is left to move.
    Done,
}

/// A home database that could not be read: what is shown leaves it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotRead {
    /// The service.
    pub service: String,
    /// Where.
    pub site: String,
    /// Why.
    pub why: String,
}

/// Everything that `status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The moves, service by service and site by site, the latest of each site last.
    pub moves: Vec<MoveStatus>,
    /// The batches in doubt.
    pub in_doubt: Vec<InDoubt>,
    /// The users whom the latest move on their way set aside, and who still live where they did.
    pub set_aside: Vec<Aside>,
    /// The same, counted by reason, the most frequent first.
    pub set_aside_reasons: Vec<Reason>,
    /// The slot that keeps most WAL back, of `slots`.
    pub slot: Option<Slot>,
    /// All slots.
    pub slots: Vec<Slot>,
    /// The phases, in their order.
    pub phases: Vec<PhaseStatus>,
    /// The home databases that could not be read.
    pub not_read: Vec<NotRead>,
}

impl Status {
    /// Takes the users set aside, and counts the reasons.
    pub fn add_set_aside(&mut self, set_aside: Vec<Aside>) {
        self.set_aside.extend(set_aside);
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for aside in &self.set_aside {
            *counts.entry(&aside.reason).or_default() += 1;
        }
        self.set_aside_reasons = counts
            .into_iter()
            .map(|(reason, users)| Reason {
                reason: reason.to_owned(),
                users,
            })
            .collect();
        self.set_aside_reasons
            .sort_by_key(|reason| std::cmp::Reverse(reason.users));
    }

    /// Takes the slots, and names the one that keeps most WAL back.
    #[must_use]
    pub fn with_slots(mut self, slots: Vec<Slot>) -> Self {
        self.slot = slots.iter().max_by_key(|slot| slot.wal_bytes).cloned();
        self.slots = slots;
        self
    }

    /// 1 where something waits for somebody, 3 where a database could not be read.
    pub fn exit(&self) -> Exit {
        if !self.not_read.is_empty() {
            return Exit::Unreached;
        }
        match self.in_doubt.is_empty() && self.set_aside.is_empty() {
            true => Exit::Done,
            false => Exit::Unfinished,
        }
    }
}

/// More users set aside than this are counted, not named.
const NAMED_MAX: usize = 50;

/// The status as text.
pub fn render(status: &Status, form: Form) -> String {
    if form == Form::Json {
        return json(status);
    }
    let mut out = String::new();
    let mut section = |title: &str, grid: &Grid| {
        if !grid.is_empty() {
            let gap = if out.is_empty() { "" } else { "\n" };
            out.push_str(&format!("{gap}{title}\n{}", grid.show(form)));
        }
    };
    section("Moves", &moves(status));
    section("Running", &running(status));
    section("In doubt: offered, no answer yet", &in_doubt(status));
    if status.set_aside.len() <= NAMED_MAX {
        section("Set aside", &set_aside(status));
    } else {
        section("Set aside (`status --json` names them)", &reasons(status));
    }
    section("Slots", &slots(status));
    section("Phases", &phases(status));
    if out.is_empty() {
        out.push_str("No move so far.\n");
    }
    for m in &status.moves {
        for why in &m.slow {
            out.push_str(&format!("{}: {why}\n", m.r#move));
        }
    }
    if !status.set_aside.is_empty() {
        out.push_str(
            "Users set aside are tried again by `domicile apply`, once the reasons are mended.\n",
        );
    }
    for n in &status.not_read {
        out.push_str(&format!(
            "Not read: {} at {}: {}\n",
            n.service, n.site, n.why
        ));
    }
    out
}

fn moves(status: &Status) -> Grid {
    let mut grid = Grid::new(&[
        "move", "service", "phase", "from", "to", "state", ">moved", ">left",
    ]);
    for m in &status.moves {
        grid.row([
            m.r#move.clone(),
            m.service.clone(),
            m.phase.clone().unwrap_or_default(),
            m.from.clone(),
            m.to.clone(),
            m.state.clone(),
            count(m.moved),
            count(m.left),
        ]);
    }
    grid
}

fn running(status: &Status) -> Grid {
    let mut grid = Grid::new(&["move", "doing", ">copies", ">at most", ">behind"]);
    for m in status.moves.iter().filter(|m| m.carried) {
        let per_second = |rate| format!("{}/s", bytes(rate));
        grid.row([
            m.r#move.clone(),
            m.doing.clone().unwrap_or_default(),
            per_second(m.bytes_per_second),
            m.rate.map_or_else(|| "unlimited".to_owned(), per_second),
            m.lag_bytes.map(bytes).unwrap_or_default(),
        ]);
    }
    grid
}

fn reasons(status: &Status) -> Grid {
    let mut grid = Grid::new(&[">users", "reason"]);
    for r in &status.set_aside_reasons {
        grid.row([count(r.users), r.reason.clone()]);
    }
    grid
}

fn in_doubt(status: &Status) -> Grid {
    let mut grid = Grid::new(&["batch", "service", "from", "to", ">users"]);
    for b in &status.in_doubt {
        grid.row([
            b.batch.clone(),
            b.service.clone(),
            b.from.clone(),
            b.to.clone(),
            count(b.users),
        ]);
    }
    grid
}

fn set_aside(status: &Status) -> Grid {
    let mut grid = Grid::new(&["move", "user", "reason"]);
    for a in &status.set_aside {
        grid.row([a.r#move.clone(), a.user.clone(), a.reason.clone()]);
    }
    grid
}

fn slots(status: &Status) -> Grid {
    let mut grid = Grid::new(&["site", "slot", ">WAL kept back", ">at most"]);
    for s in &status.slots {
        grid.row([
            s.site.clone(),
            s.name.clone(),
            bytes(s.wal_bytes),
            bytes(s.cap_bytes),
        ]);
    }
    grid
}

fn phases(status: &Status) -> Grid {
    let mut grid = Grid::new(&["phase", "state", ">users left"]);
    for p in &status.phases {
        let state = match p.state {
            PhaseState::Open => "open",
            PhaseState::Begun => "begun",
            PhaseState::Done => "done",
        };
        grid.row([p.name.clone(), state.to_owned(), count(p.left)]);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let slot = |site: &str, wal_bytes| Slot {
            name: "domicile_shop".into(),
            wal_bytes,
            site: site.into(),
            cap_bytes: 8192,
        };
        Status {
            moves: vec![MoveStatus {
                r#move: "m1".into(),
                state: "running".into(),
                moved: 40,
                left: 2,
                service: "shop".into(),
                from: "beijing".into(),
                to: "singapore".into(),
                phase: Some("one".into()),
                carried: true,
                doing: Some("copying".into()),
                bytes_per_second: 2048,
                slow: vec!["copying is throttled".into()],
                ..MoveStatus::default()
            }],
            set_aside: vec![Aside {
                r#move: "m1".into(),
                user: "7".into(),
                reason: "unique value taken".into(),
            }],
            phases: vec![PhaseStatus {
                name: "one".into(),
                left: 2,
                state: PhaseState::Begun,
            }],
            ..Status::default()
        }
        .with_slots(vec![slot("beijing", 1024), slot("singapore", 4096)])
    }

    #[test]
    fn people_see_what_there_is() {
        let shown = render(&status(), Form::Plain);
        assert!(shown.starts_with(
            "Moves\nmove  service  phase  from     to         state    moved  left\nm1    shop "
        ));
        assert!(
            shown.contains("\nSet aside\n")
                && shown.contains("\nSlots\n")
                && shown.contains("4.0 KiB")
        );
        assert!(shown.contains("begun") && !shown.contains("In doubt"));
        assert!(shown.contains("2.0 KiB/s") && shown.contains("\nm1: copying is throttled\n"));
        assert_eq!(render(&Status::default(), Form::Plain), "No move so far.\n");
    }

    #[test]
    fn scripts_see_the_fixed_fields() {
        let value: serde_json::Value =
            serde_json::from_str(&render(&status(), Form::Json)).unwrap();
        assert_eq!(value["moves"][0]["move"], "m1");
        assert_eq!(value["moves"][0]["left"], 2);
        assert_eq!(value["slot"]["name"], "domicile_shop");
        assert_eq!(value["slot"]["wal_bytes"], 4096);
        assert_eq!(value["in_doubt"], serde_json::json!([]));
    }

    #[test]
    fn many_users_set_aside_are_counted_by_reason() {
        let aside = |n: usize| Aside {
            r#move: "m1".into(),
            user: n.to_string(),
            reason: if n < 10 { "taken" } else { "tied" }.into(),
        };
        let mut status = Status::default();
        status.add_set_aside((0..60).map(aside).collect());
        let shown = render(&status, Form::Plain);
        assert!(shown.contains("   50  tied\n   10  taken\n"), "{shown}");
        assert!(!shown.contains("59"), "{shown}");
    }

    #[test]
    fn users_set_aside_and_batches_in_doubt_show_in_the_exit_code() {
        assert_eq!(status().exit(), Exit::Unfinished);
        assert_eq!(Status::default().exit(), Exit::Done);
        let unread = Status {
            not_read: vec![NotRead {
                service: "shop".into(),
                site: "mumbai".into(),
                why: "connection refused".into(),
            }],
            ..status()
        };
        assert_eq!(unread.exit(), Exit::Unreached);
        assert!(
            render(&unread, Form::Plain)
                .ends_with("Not read: shop at mumbai: connection refused\n")
        );
    }
}
