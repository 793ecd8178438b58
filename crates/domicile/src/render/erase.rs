//! `erase`: what was deleted, what is not due yet, held, or could not be, and how far every erasure has come.

use serde::Serialize;

use super::{Form, Grid, count, json};
use crate::exit::Exit;

/// A user whose old data stays frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frozen {
    /// His key.
    pub user: String,
    /// The old site.
    pub site: String,
    /// Why: names table and constraint where somebody else's row points at his.
    pub reason: String,
}

/// A user whose old data is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// His key.
    pub user: String,
    /// The service.
    pub service: String,
    /// Where his rows are.
    pub site: String,
    /// Why they are held.
    pub reason: String,
    /// Up to which day; without it until the hold is taken out of the configuration.
    pub until: Option<String>,
}

/// How far one erasure has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Erasure {
    /// Its name.
    pub erasure: String,
    /// The service.
    pub service: String,
    /// Where.
    pub site: String,
    /// The batch whose users it is about; without one it is about a user at his home.
    pub batch: Option<String>,
    /// Its move.
    pub r#move: Option<String>,
    /// The state: deleted, vacuumed or purged.
    pub state: String,
    /// What that means.
    pub says: &'static str,
    /// How many users.
    pub users: u64,
    /// How many rows.
    pub rows: u64,
    /// Tables whose free space may hold bytes.
    pub residue: Vec<String>,
    /// What keeps the next state waiting.
    pub waits: Vec<String>,
    /// For how long still at least, in seconds, where that is known.
    pub remaining_s: Option<u64>,
}

/// What `erase` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Users whose rows were deleted.
    pub users: u64,
    /// The rows deleted.
    pub rows: u64,
    /// Departed users who are not due yet.
    pub waiting: u64,
    /// Users whose rows could not be deleted.
    pub frozen: Vec<Frozen>,
    /// Users whose rows may not be deleted.
    pub held: Vec<Held>,
    /// Every erasure that was not purged before this run.
    pub erasures: Vec<Erasure>,
    /// The folder with receipts, where one was asked for.
    pub receipt: Option<String>,
    /// How many were written.
    pub receipts: usize,
}

/// Said with every erasure, so that nobody takes a deletion for more than it is.
pub const NOTE: &str = "Deleted is not gone: each erasure says which files, WAL, standbys, archives and backups may still \
hold the rows. Run erase again to carry them on; --receipt FOLDER writes what can be shown.";

impl Erased {
    /// 1 where somebody could not be erased.
    pub fn exit(&self) -> Exit {
        match self.frozen.is_empty() {
            true => Exit::Done,
            false => Exit::Unfinished,
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    erased: &'a Erased,
    state: &'static str,
    note: &'static str,
}

/// The result as text.
pub fn render(erased: &Erased, form: Form) -> String {
    if form == Form::Json {
        return json(&Document {
            erased,
            state: "deleted",
            note: NOTE,
        });
    }
    let mut out = format!(
        "Deleted: {} users, {} rows.\n",
        count(erased.users),
        count(erased.rows)
    );
    if erased.waiting > 0 {
        out.push_str(&format!(
            "Not due yet: {} users (`erase.after` in the configuration; --now does not wait).\n",
            count(erased.waiting)
        ));
    }
    if !erased.held.is_empty() {
        let mut grid = Grid::new(&["user", "site", "reason", "until"]);
        for held in &erased.held {
            let until = held
                .until
                .clone()
                .unwrap_or_else(|| "it is lifted".to_owned());
            let (user, site) = (held.user.clone(), held.site.clone());
            grid.row([user, site, held.reason.clone(), until]);
        }
        out.push_str(&format!("Held\n{}", grid.show(form)));
    }
    if !erased.frozen.is_empty() {
        let mut grid = Grid::new(&["user", "site", "reason"]);
        for f in &erased.frozen {
            grid.row([f.user.clone(), f.site.clone(), f.reason.clone()]);
        }
        out.push_str(&format!("Still frozen\n{}", grid.show(form)));
    }
    if !erased.erasures.is_empty() {
        let mut grid = Grid::new(&["erasure", "state", "users", "waits for"]);
        for one in &erased.erasures {
            let waits = match one.waits.as_slice() {
                [] => one.says.to_owned(),
                waits => waits.join("; "),
            };
            grid.row([
                one.erasure.clone(),
                one.state.clone(),
                count(one.users),
                waits,
            ]);
        }
        out.push_str(&format!("Erasures\n{}", grid.show(form)));
    }
    if let Some(folder) = &erased.receipt {
        out.push_str(&format!(
            "Wrote {} receipts into {folder}; `domicile ledger verify --file` checks one anywhere.\n",
            erased.receipts
        ));
    }
    out.push_str(NOTE);
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_says_that_it_is_no_more_than_that() {
        let erased = Erased {
            users: 3,
            rows: 40,
            waiting: 2,
            ..Erased::default()
        };
        for form in [Form::Plain, Form::Json] {
            assert!(render(&erased, form).contains("Deleted is not gone"));
        }
        assert!(render(&erased, Form::Json).contains("\"receipt\":null"));
        assert!(render(&erased, Form::Plain).contains("Not due yet: 2 users"));
        assert_eq!(erased.exit(), Exit::Done);
    }

    #[test]
    fn a_frozen_user_is_listed_with_the_reason() {
        let frozen = Frozen {
            user: "7".into(),
            site: "beijing".into(),
            reason: "gift_invoice_fkey of gift".into(),
        };
        let erased = Erased {
            frozen: vec![frozen],
            ..Erased::default()
        };
        assert!(render(&erased, Form::Plain).contains("gift_invoice_fkey"));
        assert_eq!(erased.exit(), Exit::Unfinished);
    }

    #[test]
    fn a_hold_says_why_and_until_when() {
        let held = Held {
            user: "7".into(),
            service: "shop".into(),
            site: "beijing".into(),
            reason: "case 12".into(),
            until: Some("2999-01-01".into()),
        };
        let erased = Erased {
            held: vec![held],
            ..Erased::default()
        };
        let text = render(&erased, Form::Plain);
        assert!(
            text.contains("case 12") && text.contains("2999-01-01"),
            "{text}"
        );
        assert_eq!(erased.exit(), Exit::Done);
    }

    #[test]
    fn an_erasure_says_what_it_waits_for() {
        let one = Erasure {
            erasure: "beijing-erasure-1".into(),
            service: "shop".into(),
            site: "beijing".into(),
            batch: None,
            r#move: None,
            state: "vacuumed".into(),
            says: "",
            users: 1,
            rows: 9,
            residue: Vec::new(),
            waits: vec!["replication slot x has not gone past it".into()],
            remaining_s: Some(5),
        };
        let erased = Erased {
            erasures: vec![one],
            ..Erased::default()
        };
        assert!(render(&erased, Form::Plain).contains("replication slot x"));
    }
}
