//! `guard` and `resolve`: how sites stand that may have gone back in time.

use model::UserKey;
use serde::Serialize;

use super::{Form, count, json};

/// How one site stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guarded {
    /// The service.
    pub service: String,
    /// The site.
    pub site: String,
    /// Whether its guard refuses every write while it is not open.
    pub closes: bool,
    /// Whether it was opened since its server started.
    pub open: bool,
    /// Since when it is open.
    pub since: Option<String>,
    /// Why it was opened.
    pub why: Option<String>,
    /// Why it was closed by hand, where it was.
    pub shut: Option<String>,
    /// Users who are lost there.
    pub lost: Vec<UserKey>,
}

/// Users who were lost, and are resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// The service.
    pub service: String,
    /// The site at which they were lost.
    pub site: String,
    /// Where they live now.
    pub home: String,
    /// Who they are, with the number of rows of theirs that stand at the site.
    pub users: Vec<(UserKey, u64)>,
    /// Why, as recorded.
    pub reason: String,
}

/// The sites, as text.
pub fn render(found: &[Guarded], form: Form) -> String {
    if form == Form::Json {
        return json(&serde_json::json!({ "guards": found }));
    }
    let lines: Vec<String> = found.iter().map(line).collect();
    lines.join("\n")
}

fn line(one: &Guarded) -> String {
    let stands = match (one.open, one.closes) {
        (false, _) if one.shut.is_some() => format!(
            "closed by hand until `domicile guard open` ({})",
            one.shut.as_deref().unwrap_or("?")
        ),
        (true, _) => format!(
            "open since {} ({})",
            one.since.as_deref().unwrap_or("?"),
            one.why.as_deref().unwrap_or("?")
        ),
        (false, true) => {
            "closed: the application's writes are refused until it is compared with its peers".to_owned()
        }
        (false, false) => {
            "not compared with its peers since its server started: nothing moves; the application's writes go on".to_owned()
        }
    };
    let lost = match one.lost.len() as u64 {
        0 => String::new(),
        n => format!(
            "; {} users are lost (`domicile resolve --lost all --site {}`)",
            count(n),
            one.site
        ),
    };
    format!("{} at {}: {stands}{lost}.", one.service, one.site)
}

/// Users who were resolved, as text.
pub fn render_resolved(resolved: &Resolved, form: Form) -> String {
    if form == Form::Json {
        return json(resolved);
    }
    let users = count(resolved.users.len() as u64);
    format!(
        "{users} lost users of {} at {} live at {} from now on.{}",
        resolved.service,
        resolved.site,
        resolved.home,
        match resolved.home == resolved.site {
            true => "",
            false => " They are lost there until they are resolved with --here.",
        }
    )
}

/// Who is to be resolved, for a person to look at.
pub fn render_lost(users: &[(UserKey, u64)], site: &str) -> String {
    let mut text = format!("Lost at {site}, with the rows of each that stand there:\n");
    for (user, rows) in users.iter().take(20) {
        text.push_str(&format!("  {user}  {} rows\n", count(*rows)));
    }
    if users.len() > 20 {
        let more = count(users.len() as u64 - 20);
        text.push_str(&format!("  and {more} more\n"));
    }
    text
}
