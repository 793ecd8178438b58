//! `erase`: what was deleted, what is not due yet, and what could not be.

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

/// What `erase` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Users whose rows were deleted at the site that they left.
    pub users: u64,
    /// The rows deleted.
    pub rows: u64,
    /// Departed users who are not due yet.
    pub waiting: u64,
    /// Users whose rows could not be deleted.
    pub frozen: Vec<Frozen>,
}

/// Said with every erasure, so that nobody takes a deletion for more than it is.
pub const NO_RECEIPT: &str = "No receipt exists yet: this version deletes the rows and notes it in its own \
table, and says nothing of WAL, backups and disk blocks that still hold them.";

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
    receipt: Option<()>,
    note: &'static str,
}

/// The result as text.
pub fn render(erased: &Erased, form: Form) -> String {
    if form == Form::Json {
        return json(&Document {
            erased,
            state: "deleted",
            receipt: None,
            note: NO_RECEIPT,
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
    if !erased.frozen.is_empty() {
        let mut grid = Grid::new(&["user", "site", "reason"]);
        for f in &erased.frozen {
            grid.row([f.user.clone(), f.site.clone(), f.reason.clone()]);
        }
        out.push_str(&format!("Still frozen\n{}", grid.show(form)));
    }
    out.push_str(NO_RECEIPT);
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
            frozen: vec![],
        };
        for form in [Form::Plain, Form::Json] {
            assert!(render(&erased, form).contains("No receipt exists yet"));
        }
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
}
