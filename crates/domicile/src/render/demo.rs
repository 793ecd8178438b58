//! `demo`: what the writers' own log says, against both sites.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{Form, Grid, count, json, milliseconds, seconds};
use crate::exit::Exit;
use crate::summary::PauseMs;

/// One phase of the demo.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DemoPhase {
    /// Its name.
    pub name: String,
    /// Its services.
    pub service: Vec<String>,
    /// Users moved.
    pub moved: u64,
    /// How long it took.
    pub seconds: f64,
    /// How long users were paused.
    pub pause_ms: PauseMs,
    /// Writes that were acknowledged to the writers while the phase ran.
    pub writes_acknowledged: u64,
    /// Of these, such as stand nowhere.
    pub writes_lost: u64,
    /// Such as stand more than once.
    pub writes_duplicated: u64,
    /// Such as stand at a site that is not the user's home.
    pub writes_misplaced: u64,
}

/// A pinned market.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PinnedMarket {
    /// Its users.
    pub users: u64,
    /// How many of them moved: none should have.
    pub moved: u64,
}

/// The demo's result, as `--json FILE` gets it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DemoResult {
    /// The phases.
    pub phases: Vec<DemoPhase>,
    /// The pinned markets.
    pub pinned: BTreeMap<String, PinnedMarket>,
}

impl DemoResult {
    /// 1 where a write was lost, doubled or misplaced, or a pinned user moved.
    pub fn exit(&self) -> Exit {
        let wrong = |p: &DemoPhase| p.writes_lost + p.writes_duplicated + p.writes_misplaced > 0;
        match self.phases.iter().any(wrong) || self.pinned.values().any(|p| p.moved > 0) {
            true => Exit::Unfinished,
            false => Exit::Done,
        }
    }
}

/// The result as text.
pub fn render(result: &DemoResult, form: Form) -> String {
    if form == Form::Json {
        return json(result);
    }
    let mut grid = Grid::new(&[
        "phase",
        "service",
        ">moved",
        ">time",
        ">pause p50",
        ">p99",
        ">writes acknowledged",
        ">lost",
        ">duplicated",
        ">misplaced",
    ]);
    for p in &result.phases {
        grid.row([
            p.name.clone(),
            p.service.join(", "),
            count(p.moved),
            seconds(Duration::from_secs_f64(p.seconds.max(0.0))),
            milliseconds(p.pause_ms.p50),
            milliseconds(p.pause_ms.p99),
            count(p.writes_acknowledged),
            count(p.writes_lost),
            count(p.writes_duplicated),
            count(p.writes_misplaced),
        ]);
    }
    let mut out = grid.show(form);
    for (market, pinned) in &result.pinned {
        out.push_str(&format!(
            "Users of {market} moved: {} of {}\n",
            count(pinned.moved),
            count(pinned.users)
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> DemoResult {
        DemoResult {
            phases: vec![DemoPhase {
                name: "e-commerce".into(),
                service: vec!["shop".into()],
                moved: 2_400,
                seconds: 12.5,
                writes_acknowledged: 4_000,
                ..DemoPhase::default()
            }],
            pinned: BTreeMap::from([(
                "CN".into(),
                PinnedMarket {
                    users: 800,
                    moved: 0,
                },
            )]),
        }
    }

    #[test]
    fn the_document_has_the_fixed_fields() {
        assert_eq!(
            render(&result(), Form::Json),
            r#"{"phases":[{"name":"e-commerce","service":["shop"],"moved":2400,"seconds":12.5,"pause_ms":{"p50":0.0,"p95":0.0,"p99":0.0,"max":0.0},"writes_acknowledged":4000,"writes_lost":0,"writes_duplicated":0,"writes_misplaced":0}],"pinned":{"CN":{"users":800,"moved":0}}}"#
        );
        assert!(render(&result(), Form::Plain).ends_with("Users of CN moved: 0 of 800\n"));
    }

    #[test]
    fn any_wrong_write_or_pinned_move_fails_the_demo() {
        assert_eq!(result().exit(), Exit::Done);
        let spoil = |spoil: fn(&mut DemoResult)| {
            let mut result = result();
            spoil(&mut result);
            result.exit()
        };
        assert_eq!(spoil(|r| r.phases[0].writes_lost = 1), Exit::Unfinished);
        assert_eq!(
            spoil(|r| r.phases[0].writes_duplicated = 1),
            Exit::Unfinished
        );
        assert_eq!(
            spoil(|r| r.phases[0].writes_misplaced = 1),
            Exit::Unfinished
        );
        assert_eq!(
            spoil(|r| r.pinned.get_mut("CN").unwrap().moved = 1),
            Exit::Unfinished
        );
    }
}
