//! `verify`: what an independent comparison found.

use serde::Serialize;

use super::{Form, Grid, count, json};
use crate::exit::Exit;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The service.
    pub service: String,
    /// Where.
    pub site: String,
    /// Whose; `None` where no single user can be named.
    pub user: Option<String>,
    /// The table, where it is about one.
    pub table: Option<String>,
    /// What.
    pub what: String,
}

/// What was compared and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Users looked at.
    pub users: u64,
    /// Rows looked at.
    pub rows: u64,
    /// What is wrong.
    pub mismatches: Vec<Mismatch>,
}

impl Verified {
    /// 1 where something is wrong.
    pub fn exit(&self) -> Exit {
        match self.mismatches.is_empty() {
            true => Exit::Done,
            false => Exit::Unfinished,
        }
    }
}

/// The result as text.
pub fn render(verified: &Verified, form: Form) -> String {
    if form == Form::Json {
        return json(verified);
    }
    let looked = format!(
        "{} users, {} rows looked at",
        count(verified.users),
        count(verified.rows)
    );
    if verified.mismatches.is_empty() {
        return format!("{looked}: no mismatch.\n");
    }
    let mut grid = Grid::new(&["service", "site", "user", "table", "what"]);
    for m in &verified.mismatches {
        grid.row([
            m.service.clone(),
            m.site.clone(),
            m.user.clone().unwrap_or_default(),
            m.table.clone().unwrap_or_default(),
            m.what.clone(),
        ]);
    }
    format!(
        "{}{looked}: {} mismatches.\n",
        grid.show(form),
        count(verified.mismatches.len() as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_is_named_and_shows_in_the_exit_code() {
        let good = Verified {
            users: 2,
            rows: 30,
            mismatches: vec![],
        };
        assert_eq!(
            render(&good, Form::Json),
            r#"{"users":2,"rows":30,"mismatches":[]}"#
        );
        assert_eq!(
            render(&good, Form::Plain),
            "2 users, 30 rows looked at: no mismatch.\n"
        );
        assert_eq!(good.exit(), Exit::Done);
        let bad = Verified {
            mismatches: vec![Mismatch {
                service: "shop".into(),
                site: "singapore".into(),
                user: Some("7".into()),
                table: Some("invoice".into()),
                what: "a row is missing".into(),
            }],
            ..good
        };
        assert!(
            render(&bad, Form::Plain)
                .ends_with("a row is missing\n2 users, 30 rows looked at: 1 mismatches.\n")
        );
        assert_eq!(bad.exit(), Exit::Unfinished);
    }
}
