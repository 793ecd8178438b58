//! `ledger`: what was sealed, and what a check found.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use ledger::Finding;
use ledger::bundle::{LogReport, Report, Vouched};
use serde::Serialize;

use super::grid::plain;
use super::{Form, Grid, json};
use crate::exit::Exit;

/// The last second that has four digits for its year.
const LAST_SECOND: u64 = 253_402_300_799;

/// A log that was sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SealedLog {
    /// The service.
    pub service: String,
    /// The site.
    pub site: String,
    /// Entries in the log.
    pub entries: u64,
    /// How many of them were taken now.
    pub taken: u64,
    /// The peers that vouch for all of them.
    pub countersigned: Vec<String>,
    /// The peers that refused.
    pub refused: Vec<RefusedBy>,
}

/// A peer that refused to countersign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedBy {
    /// The peer.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// What `ledger verify` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The sites that it is about, where it is not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<Vec<String>>,
    /// Each log.
    pub logs: Vec<VerifiedLog>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// How far one log is vouched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifiedLog {
    /// What its entries and heads say.
    #[serde(flatten)]
    pub report: LogReport,
    /// Entries that are not in it yet.
    pub waiting: u64,
}

#[derive(Serialize)]
struct Sealed<'a> {
    logs: &'a [SealedLog],
}

// === impl Verified ===

impl Verified {
    /// What is reported, of all sites or of one.
    pub fn new(
        report: Report,
        waiting: &BTreeMap<(String, String), u64>,
        site: Option<&str>,
    ) -> Self {
        let asked = |of: &str| site.is_none_or(|site| of == site || of.is_empty());
        let logs = report.logs.into_iter().filter(|log| asked(&log.site));
        let logs = logs.map(|report| VerifiedLog {
            waiting: waiting
                .get(&(report.service.clone(), report.site.clone()))
                .copied()
                .unwrap_or_default(),
            report,
        });
        let findings = report.findings.into_iter();
        Self {
            of: report.of,
            logs: logs.collect(),
            findings: findings.filter(|finding| asked(&finding.site)).collect(),
        }
    }

    /// 1 where something was found.
    pub fn exit(&self) -> Exit {
        match self.findings.is_empty() {
            true => Exit::Done,
            false => Exit::Unfinished,
        }
    }
}

/// What `ledger verify` found, as text.
pub fn render(verified: &Verified, form: Form) -> String {
    if form == Form::Json {
        return json(verified);
    }
    let mut grid = Grid::new(&[
        "service",
        "site",
        ">entries",
        ">not yet in it",
        ">signed",
        ">countersigned",
        "by",
    ]);
    for VerifiedLog { report, waiting } in &verified.logs {
        grid.row([
            report.service.clone(),
            report.site.clone(),
            report.entries.to_string(),
            waiting.to_string(),
            report.signed.to_string(),
            report.witnessed.to_string(),
            vouched(&report.by),
        ]);
    }
    let open = verified
        .logs
        .iter()
        .any(|log| log.waiting > 0 || log.report.witnessed < log.report.entries);
    let last = match (verified.findings.is_empty(), open) {
        (true, false) => "The ledgers are whole, and countersigned to their ends.\n",
        (true, true) => {
            "The ledgers are whole. What is not countersigned yet, its site could still change unseen: run `domicile \
             ledger seal`.\n"
        }
        (false, _) => "",
    };
    let of = match &verified.of {
        // It may be a file that somebody sent.
        Some(of) => format!("Of these sites alone: {}.\n", plain(&of.join(", "))),
        None => String::new(),
    };
    format!(
        "{}{}{last}{of}",
        grid.show(form),
        render_findings(&verified.findings)
    )
}

/// The findings, a line each, and how many there are.
pub(super) fn render_findings(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        // As it is written in JSON.
        let kind = json(&finding.kind);
        let place: Vec<&str> = [finding.service.as_str(), finding.site.as_str()]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect();
        out.push_str(&format!(
            "{} {}: {}\n",
            kind.trim_matches('"'),
            plain(&place.join(" at ")),
            // It may quote a file that somebody sent.
            plain(&finding.what)
        ));
    }
    if !findings.is_empty() {
        out.push_str(&format!("Findings: {}.\n", findings.len()));
    }
    out
}

/// Who vouches, and when.
pub(super) fn vouched(by: &[Vouched]) -> String {
    let by = by.iter().map(|vouched| {
        let at = UNIX_EPOCH + Duration::from_secs(vouched.time.min(LAST_SECOND));
        format!("{} {}", vouched.site, humantime::format_rfc3339_seconds(at))
    });
    by.collect::<Vec<_>>().join(", ")
}

/// What `ledger seal` did, as text.
pub fn render_sealed(logs: &[SealedLog], form: Form) -> String {
    if form == Form::Json {
        return json(&Sealed { logs });
    }
    let mut grid = Grid::new(&["service", "site", ">entries", ">taken", "countersigned by"]);
    let mut refused = String::new();
    for log in logs {
        grid.row([
            log.service.clone(),
            log.site.clone(),
            log.entries.to_string(),
            log.taken.to_string(),
            log.countersigned.join(", "),
        ]);
        for RefusedBy { by, reason } in &log.refused {
            refused.push_str(&format!(
                "equivocation {} at {}: {by} refused to countersign: {reason}\n",
                log.service, log.site
            ));
        }
    }
    format!("{}{refused}", grid.show(form))
}

#[cfg(test)]
mod tests {
    use ledger::Kind;

    use super::*;

    fn verified(findings: Vec<Finding>) -> Verified {
        let log = LogReport {
            service: "shop".into(),
            site: "beijing".into(),
            entries: 8,
            signed: 8,
            witnessed: 5,
            by: vec![Vouched {
                site: "singapore".into(),
                time: u64::MAX,
            }],
        };
        let report = Report {
            of: None,
            logs: vec![log],
            findings,
        };
        let waiting = [(("shop".to_owned(), "beijing".to_owned()), 2)];
        Verified::new(report, &waiting.into(), Some("beijing"))
    }

    #[test]
    fn what_is_not_vouched_for_yet_is_said() {
        let text = render(&verified(Vec::new()), Form::Plain);
        assert!(text.contains("could still change unseen"), "{text}");
        let value: serde_json::Value =
            serde_json::from_str(&render(&verified(Vec::new()), Form::Json)).unwrap();
        assert_eq!(value["logs"][0]["witnessed"], 5);
        assert_eq!(value["logs"][0]["waiting"], 2);
    }

    #[test]
    fn a_finding_says_what_and_where_and_is_exit_code_1() {
        let found = |site| Finding::new(Kind::Truncated, ("shop", site), "it is short");
        let verified = verified(vec![found("beijing"), found("elsewhere")]);
        let text = render(&verified, Form::Plain);
        assert!(text.ends_with("truncated shop at beijing: it is short\nFindings: 1.\n"));
        assert_eq!(verified.exit(), Exit::Unfinished);
    }
}
