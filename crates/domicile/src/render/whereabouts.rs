//! `where`: the home of one user.

use serde::Serialize;

use super::{Form, Grid, json};

/// Where a user lives in one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Whereabouts {
    /// His key.
    pub user: String,
    /// The service.
    pub service: String,
    /// His home; `None`: he lives nowhere that we know.
    pub home: Option<String>,
    /// His epoch.
    pub epoch: i64,
    /// The state of his record there.
    pub state: String,
    /// The rule of the policy that speaks of him.
    pub rule: String,
}

/// The whereabouts as text: of one service a JSON object, of several an array.
pub fn render(found: &[Whereabouts], form: Form) -> String {
    if form == Form::Json {
        return match found {
            [one] => json(one),
            several => json(&several),
        };
    }
    let mut grid = Grid::new(&["user", "service", "home", ">epoch", "state", "rule"]);
    for w in found {
        grid.row([
            w.user.clone(),
            w.service.clone(),
            w.home.clone().unwrap_or_else(|| "unknown".into()),
            w.epoch.to_string(),
            w.state.clone(),
            w.rule.clone(),
        ]);
    }
    grid.show(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whereabouts() -> Whereabouts {
        Whereabouts {
            user: "17".into(),
            service: "shop".into(),
            home: Some("singapore".into()),
            epoch: 2,
            state: "settled".into(),
            rule: "phase one".into(),
        }
    }

    #[test]
    fn one_service_is_an_object_and_several_are_a_list() {
        let object = r#"{"user":"17","service":"shop","home":"singapore","epoch":2,"state":"settled","rule":"phase one"}"#;
        assert_eq!(render(&[whereabouts()], Form::Json), object);
        assert_eq!(
            render(&[whereabouts(), whereabouts()], Form::Json),
            format!("[{object},{object}]")
        );
    }

    #[test]
    fn a_user_nobody_knows_has_no_home() {
        let nowhere = Whereabouts {
            home: None,
            epoch: 0,
            state: "unknown".into(),
            ..whereabouts()
        };
        assert!(render(std::slice::from_ref(&nowhere), Form::Json).contains(r#""home":null"#));
        assert!(
            render(&[nowhere], Form::Plain)
                .ends_with("17    shop     unknown      0  unknown  phase one\n")
        );
    }
}
