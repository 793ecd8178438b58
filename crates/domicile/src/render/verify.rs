//! `verify`: what an independent comparison found.

use serde::Serialize;

use super::status::NotRead;
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
    /// Users with a row in some site's user table.
    pub users: u64,
    /// Rows with an owner, in all owned tables of all sites.
    pub rows: u64,
    /// What is wrong; the first [`NAMED`].
    pub mismatches: Vec<Mismatch>,
    /// Mismatches that are not named.
    pub more: u64,
    /// Users who are moving right now: not looked at further.
    pub in_transit: u64,
    /// What was compared of batches that left and are not erased yet.
    pub frozen: FrozenRows,
    /// The sites that did not answer: of those there, and of what went between there and here, only what the others say was compared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_read: Vec<NotRead>,
}

/// The second look at what departed users left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FrozenRows {
    /// Batches whose frozen rows were read again and hold what both sides agreed on at the handoff.
    pub batches: u64,
    /// Their users whose rows at the home are still equal to the frozen ones.
    pub unchanged: u64,
    /// Their users whose rows the application has changed at the home since: these cannot be compared any more.
    pub changed: u64,
    /// Batches of which somebody has come back, gone on or been erased: there is nothing to compare.
    pub past: u64,
}

/// How many mismatches are named.
pub const NAMED: usize = 1_000;

impl Verified {
    /// Notes a mismatch; beyond [`NAMED`] it is counted.
    pub fn wrong(&mut self, mismatch: Mismatch) {
        match self.mismatches.len() < NAMED {
            true => self.mismatches.push(mismatch),
            false => self.more += 1,
        }
    }

    /// 3 where a site did not answer, 1 where something is wrong.
    pub fn exit(&self) -> Exit {
        if !self.not_read.is_empty() {
            return Exit::Unreached;
        }
        match self.mismatches.is_empty() && self.more == 0 {
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
    let frozen = &verified.frozen;
    let mut looked = String::new();
    for not in &verified.not_read {
        looked.push_str(&format!(
            "not looked at: {} at {}: {}\n",
            not.service, not.site, not.why
        ));
    }
    if frozen.batches > 0 {
        looked.push_str(&format!(
            "{} batches hold at the old site what both sides agreed on: of their users {} are unchanged since, {} changed\n",
            count(frozen.batches),
            count(frozen.unchanged),
            count(frozen.changed)
        ));
    }
    if verified.in_transit > 0 {
        looked.push_str(&format!(
            "{} users are moving right now\n",
            count(verified.in_transit)
        ));
    }
    looked.push_str(&format!(
        "{} users, {} rows looked at",
        count(verified.users),
        count(verified.rows)
    ));
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
        count(verified.mismatches.len() as u64 + verified.more)
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
            ..Verified::default()
        };
        assert!(
            render(&good, Form::Json)
                .starts_with(r#"{"users":2,"rows":30,"mismatches":[],"more":0,"#)
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
        let away = Verified {
            not_read: vec![NotRead {
                service: "shop".into(),
                site: "singapore".into(),
                why: "nobody answers".into(),
            }],
            ..bad.clone()
        };
        assert_eq!(away.exit(), Exit::Unreached);
        assert!(
            render(&away, Form::Plain)
                .contains("not looked at: shop at singapore: nobody answers\n2 users")
        );
        let mut many = bad;
        for _ in 0..NAMED {
            many.wrong(many.mismatches[0].clone());
        }
        assert_eq!((many.mismatches.len(), many.more), (NAMED, 1));
    }
}
