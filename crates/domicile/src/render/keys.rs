//! `keys`: pins, for the configurations of peers. No key is ever shown.

use serde::Serialize;

use super::{Form, json};

/// The keys of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Keys {
    /// The site.
    pub site: String,
    /// The file of its present key.
    pub file: String,
    /// The present key's pin.
    pub pin: String,
    /// The next key's pin, once there is one.
    pub next: Option<String>,
    /// What peers should have in `link.pins`: these.
    pub pins: Vec<String>,
}

/// A key of an operator that was just made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorKey {
    /// Whose.
    pub operator: String,
    /// The file of the key.
    pub file: String,
    /// Its public half, as the configuration has it.
    pub key: String,
}

/// What was done before they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// A first key was made.
    Made,
    /// Nothing.
    Nothing,
    /// The next key was made, or stands there from before.
    Prepared,
    /// The next key is now the present one.
    Activated,
}

impl Keys {
    /// Of a site whose present key stands in `file`.
    pub fn new(site: &str, file: String, pin: String, next: Option<String>) -> Self {
        let pins = std::iter::once(pin.clone()).chain(next.clone()).collect();
        Self {
            site: site.to_owned(),
            file,
            pin,
            next,
            pins,
        }
    }
}

/// The keys as text.
pub fn render(keys: &Keys, done: Done, form: Form) -> String {
    if form == Form::Json {
        return json(keys);
    }
    let quoted: Vec<String> = keys.pins.iter().map(|pin| format!("{pin:?}")).collect();
    let pins = format!("pins = [{}]", quoted.join(", "));
    let (site, file) = (&keys.site, &keys.file);
    match done {
        Done::Made => format!(
            "The key of {site} stands in {file}, which its owner alone can read.\n\
             In the configuration at {site}, under [site.{site}]: key = {{ file = {file:?} }}\n\
             In every peer's, in link of [site.{site}]: {pins}"
        ),
        Done::Nothing => format!("In every peer's configuration, in link of [site.{site}]: {pins}"),
        Done::Prepared => format!(
            "The next key of {site} is ready; {file} is still the one in use.\n\
             Put both into every peer's configuration, in link of [site.{site}]: {pins}\n\
             When every peer's daemon has read that: domicile keys rotate --site {site} --activate"
        ),
        Done::Activated => format!(
            "The key in {file} is the new one. Start the daemon of {site} anew.\n\
             When it is connected, in every peer's configuration, in link of [site.{site}]: {pins}\n\
             Then delete {file}.previous: it is the old key."
        ),
    }
}

/// An operator's new key as text.
pub fn render_operator(made: &OperatorKey, form: Form) -> String {
    let OperatorKey {
        operator,
        file,
        key,
    } = made;
    match form {
        Form::Json => json(made),
        _ => format!(
            "The key of {operator} stands in {file}, which its owner alone can read. Keep it away from the sites' machines.\n\
             In every site's configuration, under [operators]: {operator} = {key:?}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_shown_in_the_form_of_the_configuration() {
        let keys = Keys::new(
            "beijing",
            "bj.key".into(),
            "sha256/a=".into(),
            Some("sha256/b=".into()),
        );
        let text = render(&keys, Done::Nothing, Form::Plain);
        assert!(text.ends_with("link of [site.beijing]: pins = [\"sha256/a=\", \"sha256/b=\"]"));
        assert_eq!(
            render(&keys, Done::Prepared, Form::Json),
            r#"{"site":"beijing","file":"bj.key","pin":"sha256/a=","next":"sha256/b=","pins":["sha256/a=","sha256/b="]}"#
        );
    }
}
