//! `resolve BATCH --statement`: what operators state, and what came of it.

use std::collections::BTreeSet;
use std::path::Path;

use ledger::destroyed::{Signed, Statement, WANTED};
use mover::reclaim::Reclaimed;
use serde::Serialize;
use serde_json::json as value;

use super::{Form, count, json};

/// A statement, and who has signed it.
#[derive(Debug, Serialize)]
pub struct Shown<'a> {
    /// Its file.
    pub file: String,
    /// What it says.
    pub statement: &'a Statement,
    /// The operators whose signatures hold.
    pub signed_by: &'a BTreeSet<String>,
    /// How many more are wanted.
    pub wanted: usize,
}

// === impl Shown ===

impl<'a> Shown<'a> {
    /// Of `signed`, in `file`, by `signers`.
    pub fn of(signed: &'a Signed, signers: &'a BTreeSet<String>, file: &Path) -> Self {
        Self {
            file: file.display().to_string(),
            statement: signed.statement(),
            signed_by: signers,
            wanted: WANTED.saturating_sub(signers.len()),
        }
    }
}

/// A statement as text.
pub fn render_statement(shown: &Shown<'_>, form: Form) -> String {
    if form == Form::Json {
        return json(shown);
    }
    let Statement {
        service,
        batch,
        source,
        destroyed,
        reason,
        at,
        ..
    } = shown.statement;
    let signers: Vec<&str> = shown.signed_by.iter().map(String::as_str).collect();
    let next = match shown.wanted {
        0 => format!(
            "To have it carried out, within a day: domicile resolve {batch} --statement {}",
            shown.file
        ),
        _ => format!(
            "Another operator signs it with: domicile resolve {batch} --statement {} --key HIS.key",
            shown.file
        ),
    };
    format!(
        "{destroyed} is destroyed for good, and {source} takes the batch {batch} of {service} back.\n\
         Reason: {reason}\nStated at {at}, signed by {}.\n{next}",
        signers.join(", ")
    )
}

/// What was taken back, as text.
pub fn render_reclaimed(statement: &Statement, done: &Reclaimed, form: Form) -> String {
    if form == Form::Json {
        return json(&value!({
            "service": statement.service,
            "batch": statement.batch,
            "site": statement.source,
            "destroyed": statement.destroyed,
            "users": done.users,
            "elsewhere": done.elsewhere,
        }));
    }
    let elsewhere = match done.elsewhere {
        0 => String::new(),
        n => format!(
            " {} had been handed on by {} before, and live where another site says.",
            count(n),
            statement.destroyed
        ),
    };
    format!(
        "{} users of {} live at {} again, and can be written.{elsewhere}",
        count(done.users),
        statement.batch,
        statement.source
    )
}
