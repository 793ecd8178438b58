//! `check`: the findings, the blockers first.

use serde::Serialize;

use super::{Form, json};
use crate::exit::Exit;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No move until it is mended.
    Blocker,
    /// Worth knowing.
    Warning,
}

/// Something that `check` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// Where; `None`: at no site in particular (the configuration).
    pub site: Option<String>,
    /// What.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

#[derive(Serialize)]
struct Findings<'a> {
    findings: &'a [Finding],
}

/// The findings as text, blockers first, otherwise in their order.
pub fn render(findings: &[Finding], form: Form) -> String {
    let mut findings = findings.to_vec();
    findings.sort_by_key(|finding| finding.level);
    if form == Form::Json {
        return json(&Findings {
            findings: &findings,
        });
    }
    let mut out = String::new();
    for finding in &findings {
        let level = match finding.level {
            Level::Blocker => "blocker",
            Level::Warning => "warning",
        };
        let site = finding
            .site
            .as_ref()
            .map_or(String::new(), |site| format!(" {site}"));
        out.push_str(&format!("{level}{site}: {}\n", finding.what));
        if !finding.mend.is_empty() {
            out.push_str(&format!("  mend: {}\n", finding.mend));
        }
    }
    let number = |level| findings.iter().filter(|f| f.level == level).count();
    let (blockers, warnings) = (number(Level::Blocker), number(Level::Warning));
    out.push_str(&match (blockers, warnings) {
        (0, 0) => "Nothing found: ready.\n".to_owned(),
        (0, _) => format!("No blocker: ready. Warnings: {warnings}.\n"),
        (_, _) => format!("Not ready. Blockers: {blockers}, warnings: {warnings}.\n"),
    });
    out
}

/// 1 where a finding is a blocker.
pub fn exit(findings: &[Finding]) -> Exit {
    match findings
        .iter()
        .any(|finding| finding.level == Level::Blocker)
    {
        true => Exit::Unfinished,
        false => Exit::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        let finding = |level, site: Option<&str>, what: &str, mend: &str| Finding {
            level,
            site: site.map(Into::into),
            what: what.into(),
            mend: mend.into(),
        };
        vec![
            finding(
                Level::Warning,
                None,
                "objects: not moved by this version",
                "",
            ),
            finding(
                Level::Blocker,
                Some("beijing"),
                "wal_level is replica",
                "set it to logical and restart",
            ),
        ]
    }

    #[test]
    fn blockers_come_first_with_their_mend() {
        assert_eq!(
            render(&findings(), Form::Plain),
            "blocker beijing: wal_level is replica\n  mend: set it to logical and restart\n\
             warning: objects: not moved by this version\nNot ready. Blockers: 1, warnings: 1.\n"
        );
        assert_eq!(exit(&findings()), Exit::Unfinished);
    }

    #[test]
    fn a_warning_alone_is_no_failure() {
        assert_eq!(exit(&findings()[..1]), Exit::Done);
        assert!(render(&[], Form::Plain).starts_with("Nothing found"));
    }

    #[test]
    fn scripts_see_the_fixed_fields() {
        assert_eq!(
            render(&findings()[1..], Form::Json),
            r#"{"findings":[{"level":"blocker","site":"beijing","what":"wal_level is replica","mend":"set it to logical and restart"}]}"#
        );
    }
}
