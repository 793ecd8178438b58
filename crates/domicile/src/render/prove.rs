//! `prove`: where a user is and since when, and what shows it.

use ledger::Finding;
use ledger::proof::{HeadReport, Proof, Report, Statement};
use serde::Serialize;

use super::grid::plain;
use super::ledger::{render_findings, vouched};
use super::whereabouts::Whereabouts;
use super::{Form, json};

/// What is proven of a user in one service.
#[derive(Clone, Debug, Serialize)]
pub struct Proven {
    /// Where he is.
    #[serde(flatten)]
    pub whereabouts: Whereabouts,
    /// Since when; `None`: since before any ledger entry.
    pub since: Option<String>,
    /// Entries, of anybody, that no log has yet: some may be about him.
    pub unsealed: u64,
    /// The proof.
    pub proof: Option<Proof>,
    /// What a check of it says.
    pub report: Option<Report>,
    /// Why there is none.
    pub missing: Option<String>,
}

// === impl Proven ===

impl Proven {
    /// Whether there is a proof that holds.
    pub fn is_proven(&self) -> bool {
        let holds = |report: &Report| report.findings.is_empty();
        self.report.as_ref().is_some_and(holds)
    }
}

/// The proofs as text: of one service a JSON object, of several an array.
pub fn render(proven: &[Proven], form: Form) -> String {
    if form == Form::Json {
        return match proven {
            [one] => json(one),
            several => json(&several),
        };
    }
    let mut out = String::new();
    for one in proven {
        if let Some(missing) = &one.missing {
            let Whereabouts {
                user,
                service,
                home,
                ..
            } = &one.whereabouts;
            let home = home.as_deref().unwrap_or("unknown");
            out.push_str(&format!(
                "User {user} of {service}: home {home}. Not proven: {missing}.\n"
            ));
        }
        if let Some(report) = &one.report {
            out.push_str(&checked(report));
        }
        if one.unsealed > 0 {
            out.push_str(&format!(
                "  {} entries are in no ledger yet, of whomever they are: `domicile ledger seal` takes them in\n",
                one.unsealed
            ));
        }
    }
    out
}

/// What a check of a proof says, as text.
pub fn render_checked(report: &Report, form: Form) -> String {
    match form {
        Form::Json => json(report),
        Form::Terminal | Form::Plain => checked(report),
    }
}

fn checked(report: &Report) -> String {
    let Report {
        statement,
        witnessed,
        findings,
    } = report;
    let said = statement.as_ref().map(stated).unwrap_or_default();
    format!(
        "{said}{}{}",
        evidence(statement, witnessed),
        outcome(findings)
    )
}

fn stated(statement: &Statement) -> String {
    let since = match &statement.since {
        Some(since) => format!("since {since}"),
        None => "since before any entry of its ledger".to_owned(),
    };
    if let Some(by) = &statement.by {
        let line = format!(
            "User {} of {}: left {by} for {} {since}, epoch {}; that he lives there is for {} to prove.",
            statement.user, statement.service, statement.home, statement.epoch, statement.home
        );
        return format!("{}\n", plain(&line));
    }
    let line = format!(
        "User {} of {}: home {} {since}, epoch {}, {}, by {}.",
        statement.user,
        statement.service,
        statement.home,
        statement.epoch,
        statement.state,
        statement.rule
    );
    // It may be a file that somebody sent.
    format!("{}\n", plain(&line))
}

fn evidence(statement: &Option<Statement>, witnessed: &[HeadReport]) -> String {
    let mut out = String::new();
    for looked in statement.iter().flat_map(|statement| &statement.logs) {
        let head = witnessed.iter().find(|head| head.site == looked.site);
        let by = match head.map(|head| vouched(&head.by)) {
            Some(by) if !by.is_empty() => format!("countersigned by {by}"),
            _ => "not countersigned: its site could still change it unseen".to_owned(),
        };
        out.push_str(&format!(
            "  {}: {} of {} entries are about the user; {by}\n",
            plain(&looked.site),
            looked.entries,
            looked.size
        ));
    }
    out
}

fn outcome(findings: &[Finding]) -> String {
    match findings {
        [] => "  The proof holds.\n".to_owned(),
        findings => render_findings(findings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_proven_says_why() {
        let proven = Proven {
            whereabouts: Whereabouts {
                user: "17".into(),
                service: "shop".into(),
                home: Some("singapore".into()),
                epoch: 2,
                state: "settled".into(),
                rule: "phase one".into(),
            },
            since: None,
            unsealed: 3,
            proof: None,
            report: None,
            missing: Some("no key".into()),
        };
        let text = render(std::slice::from_ref(&proven), Form::Plain);
        assert!(text.starts_with("User 17 of shop: home singapore. Not proven: no key.\n"));
        assert!(text.contains("3 entries are in no ledger yet"));
        let value: serde_json::Value =
            serde_json::from_str(&render(std::slice::from_ref(&proven), Form::Json)).unwrap();
        assert_eq!(
            (&value["home"], &value["unsealed"]),
            (&"singapore".into(), &3.into())
        );
        assert!(!proven.is_proven());
    }
}
