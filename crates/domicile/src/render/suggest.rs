//! `plan --suggest`: where markets would be served faster, and what one would write for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::{Market, ServiceName, SiteName};
use serde::Serialize;

use super::status::NotRead;
use super::{Form, Grid, count, json, milliseconds};
use crate::exit::Exit;
use crate::traffic::suggest::{Candidate, Suggestion};

/// What is said of one market of one service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suggested {
    /// The service.
    pub service: ServiceName,
    /// What was found.
    #[serde(flatten)]
    pub suggestion: Suggestion,
    /// Its home once all phases of policy are carried out.
    pub planned: SiteName,
}

/// Everything that `plan --suggest` shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suggestions {
    /// Of the requests of so many days.
    pub days: u64,
    /// Every market of policy, by service.
    pub markets: Vec<Suggested>,
    /// What one would write into the configuration; none where nothing is proposed that policy does not say already.
    pub toml: Option<String>,
    /// The sites that were not read, or not to their end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_read: Vec<NotRead>,
}

// === impl Suggestions ===

impl Suggestions {
    /// Nothing yet, of the requests of `time`.
    pub fn new(time: Duration) -> Self {
        Self {
            days: time.as_secs() / 86_400,
            markets: Vec::new(),
            toml: None,
            not_read: Vec::new(),
        }
    }

    /// 3 where a site was not read.
    pub fn exit(&self) -> Exit {
        match self.not_read.is_empty() {
            true => Exit::Done,
            false => Exit::Unreached,
        }
    }

    /// Writes the phases that would do what is proposed, with names that no phase of `phases` has.
    pub fn write_toml(&mut self, phases: &BTreeSet<&str>) {
        let mut homes: BTreeMap<&ServiceName, Vec<(&Market, &SiteName)>> = BTreeMap::new();
        for one in &self.markets {
            let proposed = one.suggestion.proposed.as_ref();
            if let Some(site) = proposed.filter(|site| **site != one.planned) {
                let of = homes.entry(&one.service).or_default();
                of.push((&one.suggestion.market, site));
            }
        }
        let phase = |(service, homes): (&ServiceName, &Vec<(&Market, &SiteName)>)| {
            let name = (1..)
                .map(|n| format!("faster {service} {n}"))
                .find(|name| !phases.contains(name.as_str()));
            let home: Vec<String> = homes
                .iter()
                .map(|(market, site)| format!("{} = {}", quoted(market), quoted(site)))
                .collect();
            format!(
                "[[phase]]\nname = {}\nservice = [{}]\nhome = {{ {} }}\n\
                 # basis = {{ code = \"…\", document = \"…\", expires = \"YYYY-MM-DD\" }}   # without one nobody moves\n",
                quoted(name.unwrap_or_default()),
                quoted(service),
                home.join(", ")
            )
        };
        let phases: Vec<String> = homes
            .iter()
            .map(|(service, homes)| phase((service, homes)))
            .collect();
        self.toml = (!phases.is_empty()).then(|| phases.join("\n"));
    }
}

/// As a TOML string, whatever is in it.
fn quoted(text: impl ToString) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// The suggestions as text.
pub fn render(found: &Suggestions, form: Form) -> String {
    if form == Form::Json {
        return json(found);
    }
    let mut grid = Grid::new(&[
        "service",
        "market",
        ">requests",
        "home",
        ">median",
        "proposed",
        ">median",
        ">samples",
        "because",
    ]);
    let figure = |ms: Option<f64>| ms.map_or_else(|| "not measured".to_owned(), milliseconds);
    for one in &found.markets {
        let Suggestion {
            market,
            home,
            estimate_ms,
            requests,
            candidates,
            proposed,
            why,
        } = &one.suggestion;
        let best = |site: &SiteName| candidates.iter().find(|c| c.site == *site);
        let best = proposed.as_ref().and_then(best);
        let mut why = why.clone();
        if proposed.as_ref() == Some(&one.planned) {
            why.push_str("; a phase of policy sends it there already");
        }
        grid.row([
            one.service.to_string(),
            market.to_string(),
            count(*requests),
            home.to_string(),
            figure(*estimate_ms),
            best.map_or_else(|| "-".to_owned(), |best| best.site.to_string()),
            best.map_or_else(String::new, |best| figure(best.estimate_ms)),
            best.map_or_else(String::new, |best| count(best.samples)),
            why,
        ]);
    }
    let mut out = format!(
        "Of the requests of {} days\n{}",
        found.days,
        grid.show(form)
    );
    unmeasured(found, form, &mut out);
    if let Some(toml) = &found.toml {
        out.push_str(&format!(
            "\nTo do what is proposed, one would add to the configuration:\n\n{toml}"
        ));
    }
    out.push_str(
        "\nNothing was changed. Medians are of the time from the gateway at which a request comes in; what clients have on their way to it is not known here.\n",
    );
    for not in &found.not_read {
        let line = format!("Not read: {} at {}: {}", not.service, not.site, not.why);
        out.push_str(&super::grid::plain(&line));
        out.push('\n');
    }
    out
}

/// What is not known of homes that policy permits.
fn unmeasured(found: &Suggestions, form: Form, out: &mut String) {
    let mut grid = Grid::new(&["service", "market", "home", "not measured"]);
    for one in &found.markets {
        let all = one.suggestion.candidates.iter();
        for Candidate { site, why, .. } in all.filter(|one| one.estimate_ms.is_none()) {
            grid.row([
                one.service.to_string(),
                one.suggestion.market.to_string(),
                site.to_string(),
                why.clone().unwrap_or_default(),
            ]);
        }
    }
    if !grid.is_empty() {
        out.push_str(&format!("\nNot measured\n{}", grid.show(form)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(site: &str, ms: Option<f64>) -> Candidate {
        Candidate {
            site: site.into(),
            estimate_ms: ms,
            samples: 1500,
            why: ms.is_none().then(|| "nobody went there".to_owned()),
        }
    }

    fn suggested(market: &str, proposed: Option<&str>, planned: &str) -> Suggested {
        Suggested {
            service: "shop".into(),
            suggestion: Suggestion {
                market: market.into(),
                home: "beijing".into(),
                estimate_ms: Some(240.0),
                requests: 12_000,
                candidates: vec![
                    candidate("singapore", Some(31.0)),
                    candidate("beijing", Some(240.0)),
                    candidate("oregon", None),
                ],
                proposed: proposed.map(Into::into),
                why: "about 87 % less".into(),
            },
            planned: planned.into(),
        }
    }

    fn suggestions() -> Suggestions {
        let mut found = Suggestions::new(Duration::from_secs(30 * 86_400));
        found.markets = vec![
            suggested("BR", Some("singapore"), "singapore"),
            suggested("CN", None, "beijing"),
            suggested("I \"N", Some("singapore"), "beijing"),
        ];
        found.write_toml(&["faster shop 1"].into());
        found
    }

    #[test]
    fn people_see_both_figures_and_what_to_write() {
        let shown = render(&suggestions(), Form::Plain);
        let row = "shop     BR        12,000  beijing  240.0 ms  singapore  31.0 ms    1,500  about 87 % less; a phase of policy sends it there already";
        assert!(shown.contains(row), "{shown}");
        assert!(
            shown.contains("shop     BR      oregon  nobody went there"),
            "{shown}"
        );
        assert!(shown.contains("Nothing was changed."), "{shown}");
    }

    #[test]
    fn what_one_would_write_reads_as_what_is_proposed() {
        let found = suggestions();
        let written: toml::Value = toml::from_str(found.toml.as_deref().unwrap()).unwrap();
        let phases = written["phase"].as_array().unwrap();
        assert_eq!(phases.len(), 1);
        assert_eq!(phases[0]["name"].as_str(), Some("faster shop 2"));
        let home = phases[0]["home"].as_table().unwrap();
        assert_eq!(home.len(), 1);
        assert_eq!(home["I \"N"].as_str(), Some("singapore"));
    }

    #[test]
    fn scripts_see_all_candidates() {
        let value: serde_json::Value =
            serde_json::from_str(&render(&suggestions(), Form::Json)).unwrap();
        let first = &value["markets"][0];
        assert_eq!(first["proposed"], "singapore");
        assert_eq!(first["home"], "beijing");
        assert_eq!(
            first["candidates"][2]["estimate_ms"],
            serde_json::Value::Null
        );
        assert_eq!(value["days"], 30);
    }
}
