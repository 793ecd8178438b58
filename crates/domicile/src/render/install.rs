//! `install` and `uninstall`: what was done where.

use serde::Serialize;

use super::{Form, json};

/// What was done to one home database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prepared {
    /// The service.
    pub service: String,
    /// The site.
    pub site: String,
    /// What was done, one sentence each; empty: everything stood already.
    pub done: Vec<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    databases: &'a [Prepared],
}

/// The result as text.
pub fn render(prepared: &[Prepared], form: Form) -> String {
    if form == Form::Json {
        return json(&Document {
            databases: prepared,
        });
    }
    let mut out = String::new();
    for database in prepared {
        let place = format!("{} at {}", database.service, database.site);
        if database.done.is_empty() {
            out.push_str(&format!("{place}: nothing to do\n"));
        }
        for done in &database.done {
            out.push_str(&format!("{place}: {done}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_has_nothing_to_do() {
        let database = |done: &[&str]| Prepared {
            service: "shop".into(),
            site: "beijing".into(),
            done: done.iter().map(|d| (*d).to_owned()).collect(),
        };
        assert_eq!(
            render(&[database(&[])], Form::Plain),
            "shop at beijing: nothing to do\n"
        );
        assert_eq!(
            render(&[database(&["guard on 3 tables"])], Form::Plain),
            "shop at beijing: guard on 3 tables\n"
        );
        assert!(
            render(&[database(&[])], Form::Json).starts_with(r#"{"databases":[{"service":"shop""#)
        );
    }
}
