//! `plan`: who moves where, who stays and why, who lives where nobody expects him.

use std::time::Duration;

use model::plan::Plan;
use model::{Market, ServiceName, SiteName};
use postgres::preflight::Finding;
use serde::{Deserialize, Serialize};

use super::{Form, Grid, bytes, count, json, seconds};
use crate::exit::Exit;

/// Users of one market who come here from another site, as that says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrivals {
    /// The service.
    pub service: ServiceName,
    /// The market.
    pub market: Market,
    /// The phase in which they come.
    pub phase: Option<String>,
    /// Where they live.
    pub from: SiteName,
    /// How many.
    pub users: u64,
}

/// A site that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotLooked {
    /// The service.
    pub service: ServiceName,
    /// Where.
    pub site: SiteName,
    /// Why.
    pub why: String,
}

/// What other sites' daemons say to a plan of one site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Between {
    /// What would stop `apply`, at either end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// Who comes here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coming: Vec<Arrivals>,
    /// Who did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_read: Vec<NotLooked>,
}

// === impl Between ===

impl Between {
    /// 3 where a site did not answer, 1 where something would stop a move.
    pub fn exit(&self) -> Exit {
        match (self.not_read.is_empty(), self.findings.is_empty()) {
            (false, _) => Exit::Unreached,
            (true, false) => Exit::Unfinished,
            (true, true) => Exit::Done,
        }
    }
}

/// The plan of one site as text, with what the others say to it.
pub fn render_between(plan: &Plan, between: &Between, form: Form) -> String {
    #[derive(Serialize)]
    struct Both<'a> {
        #[serde(flatten)]
        plan: &'a Plan,
        #[serde(flatten)]
        between: &'a Between,
    }
    if form == Form::Json {
        return json(&Both { plan, between });
    }
    let mut out = render(plan, form);
    let mut grid = Grid::new(&["service", "market", "from", "phase", ">users"]);
    for coming in &between.coming {
        grid.row([
            coming.service.to_string(),
            coming.market.to_string(),
            coming.from.to_string(),
            coming.phase.clone().unwrap_or_default(),
            count(coming.users),
        ]);
    }
    if !grid.is_empty() {
        out.push_str(&format!("\nCome here\n{}", grid.show(form)));
    }
    let mut grid = Grid::new(&["at", "in the way", "mend"]);
    for finding in &between.findings {
        let site = finding.site.to_string();
        grid.row([site, finding.what.clone(), finding.mend.clone()]);
    }
    if !grid.is_empty() {
        out.push_str(&format!("\nIn the way of a move\n{}", grid.show(form)));
    }
    for not in &between.not_read {
        out.push_str(&format!(
            "not looked at: {} at {}: {}\n",
            not.service, not.site, not.why
        ));
    }
    out
}

/// The plan as text.
pub fn render(plan: &Plan, form: Form) -> String {
    if form == Form::Json {
        return json(plan);
    }
    let mut out = String::new();
    match &plan.phase {
        Some(phase) => out.push_str(&format!("Phase: {phase}\n")),
        None => out.push_str("Every phase is complete.\n"),
    }
    moves(plan, form, &mut out);
    stays(plan, form, &mut out);
    drift(plan, form, &mut out);
    out
}

fn moves(plan: &Plan, form: Form, out: &mut String) {
    if plan.moves.is_empty() {
        out.push_str("Nobody moves.\n");
        return;
    }
    let mut grid = Grid::new(&[
        "service", "market", "from", "to", ">users", ">rows", ">size",
    ]);
    for planned in &plan.moves {
        grid.row([
            planned.service.to_string(),
            planned.market.to_string(),
            planned.from.to_string(),
            planned.to.to_string(),
            count(planned.users),
            count(planned.rows),
            bytes(planned.bytes),
        ]);
    }
    let sum = |of: fn(&model::plan::PlannedMove) -> u64| plan.moves.iter().map(of).sum::<u64>();
    out.push_str(&format!("\nMoves\n{}", grid.show(form)));
    out.push_str(&format!(
        "{} users, {}{} rows, {}; about {} (an estimate from the number of rows)\n",
        count(sum(|m| m.users)),
        if plan.estimated { "about " } else { "" },
        count(sum(|m| m.rows)),
        bytes(sum(|m| m.bytes)),
        seconds(Duration::from_secs(plan.estimate_s))
    ));
}

fn stays(plan: &Plan, form: Form, out: &mut String) {
    let mut grid = Grid::new(&["service", "market", "at", ">users", "because of"]);
    for stay in &plan.stay {
        grid.row([
            stay.service.to_string(),
            stay.market.to_string(),
            stay.site.to_string(),
            count(stay.users),
            stay.rule.clone(),
        ]);
    }
    if !grid.is_empty() {
        out.push_str(&format!("\nStay\n{}", grid.show(form)));
    }
}

fn drift(plan: &Plan, form: Form, out: &mut String) {
    let mut grid = Grid::new(&["service", "market", "at", "belong at", ">users"]);
    for drift in &plan.drift {
        grid.row([
            drift.service.to_string(),
            drift.market.to_string(),
            drift.site.to_string(),
            drift.home.to_string(),
            count(drift.users),
        ]);
    }
    if !grid.is_empty() {
        out.push_str(&format!(
            "\nDrift: not moved by this phase\n{}",
            grid.show(form)
        ));
    }
}

#[cfg(test)]
mod tests {
    use model::plan::{Drift, PlannedMove, Stay};

    use super::*;

    fn plan() -> Plan {
        Plan {
            phase: Some("e-commerce".into()),
            moves: vec![PlannedMove {
                service: "shop".into(),
                market: "Brazil".into(),
                from: "beijing".into(),
                to: "sao-paulo".into(),
                users: 1_200,
                rows: 52_000,
                bytes: 5 << 20,
            }],
            stay: vec![Stay {
                service: "shop".into(),
                market: "CN".into(),
                site: "beijing".into(),
                users: 9,
                rule: "pinned".into(),
            }],
            drift: vec![Drift {
                service: "shop".into(),
                market: "DE".into(),
                site: "beijing".into(),
                home: "singapore".into(),
                users: 2,
            }],
            estimated: false,
            estimate_s: 2,
        }
    }

    #[test]
    fn people_see_moves_stays_and_drift() {
        let expected = "\
Phase: e-commerce

Moves
service  market  from     to         users    rows     size
shop     Brazil  beijing  sao-paulo  1,200  52,000  5.0 MiB
1,200 users, 52,000 rows, 5.0 MiB; about 2.0 s (an estimate from the number of rows)

Stay
service  market  at       users  because of
shop     CN      beijing      9  pinned

Drift: not moved by this phase
service  market  at       belong at  users
shop     DE      beijing  singapore      2
";
        assert_eq!(render(&plan(), Form::Plain), expected);
        assert!(render(&plan(), Form::Terminal).contains("┆ Brazil"));
    }

    #[test]
    fn scripts_see_the_fixed_fields() {
        let value: serde_json::Value = serde_json::from_str(&render(&plan(), Form::Json)).unwrap();
        assert_eq!(value["phase"], "e-commerce");
        for key in ["service", "market", "from", "to", "users", "rows", "bytes"] {
            assert!(!value["moves"][0][key].is_null(), "{key}");
        }
        assert_eq!(value["stay"][0]["rule"], "pinned");
        assert_eq!(value["drift"][0]["users"], 2);
        assert_eq!(value["estimate_s"], 2);
    }

    #[test]
    fn a_finished_programme_says_so() {
        let done = Plan {
            phase: None,
            moves: vec![],
            stay: vec![],
            drift: vec![],
            estimated: false,
            estimate_s: 0,
        };
        assert_eq!(
            render(&done, Form::Plain),
            "Every phase is complete.\nNobody moves.\n"
        );
    }
}
