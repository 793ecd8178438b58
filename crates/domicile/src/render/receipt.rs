//! A receipt that was checked.

use ledger::receipt::{Report, Statement};

use super::grid::plain;
use super::ledger::{render_findings, vouched};
use super::{Form, count, json};

/// The result as text.
pub fn render(report: &Report, form: Form) -> String {
    if form == Form::Json {
        return json(report);
    }
    let mut out = report.statement.as_ref().map(stated).unwrap_or_default();
    out.push_str(&match vouched(&report.witnessed) {
        by if by.is_empty() => {
            "  not countersigned: its site could still change it unseen\n".to_owned()
        }
        by => format!("  countersigned by {by}\n"),
    });
    out.push_str(&match report.findings.as_slice() {
        [] => "  The receipt holds.\n".to_owned(),
        found => render_findings(found),
    });
    out
}

fn stated(statement: &Statement) -> String {
    let account = &statement.account;
    let of = match (&account.batch, &account.r#move) {
        (Some(batch), Some(of)) => format!("batch {batch} of move {of}"),
        _ => "a user at his home".to_owned(),
    };
    let mut lines = vec![format!(
        "Erasure {} of {} at {}: {of}, {} users, {} rows; {}.",
        account.erasure,
        statement.service,
        statement.site,
        count(account.users),
        count(account.rows),
        account.state
    )];
    for moment in &account.history {
        let lsn = moment
            .lsn
            .as_ref()
            .map_or(String::new(), |lsn| format!(", WAL {lsn}"));
        lines.push(format!("  {} {}{lsn}", moment.at, moment.state));
    }
    if account.agreed == Some(false) {
        lines.push(
            "  what was deleted was not what the sites agreed on when the users left".to_owned(),
        );
    }
    let lists = [
        ("free space may hold bytes", &account.residue),
        ("waits", &statement.waits),
        ("covers", &statement.covers),
        ("does not show", &statement.limits),
    ];
    for (what, list) in lists {
        lines.extend(list.iter().map(|text| format!("  {what}: {text}")));
    }
    // It may be a file that somebody sent.
    lines
        .iter()
        .map(|line| format!("{}\n", plain(line)))
        .collect()
}
