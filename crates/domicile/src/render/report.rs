//! `report`: each market's requests before, during and after its users moved.

pub mod html;

use std::time::SystemTime;

use model::{Market, ServiceName};
use serde::Serialize;

use super::status::NotRead;
use super::{Form, Grid, count, json, milliseconds};
use crate::exit::Exit;
use crate::traffic::course::{Course, Leg, Window};
use crate::traffic::latency::{Estimate, FEW};

/// Everything that `report` shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The markets of all services.
    pub markets: Vec<MarketReport>,
    /// Users who left before the journal said of which market they were.
    #[serde(skip_serializing_if = "is_zero")]
    pub unsaid: u64,
    /// The sites that were not read, or not to their end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_read: Vec<NotRead>,
}

/// One market of one service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MarketReport {
    /// The service.
    pub service: String,
    /// The market: one of policy, `other`, or empty for requests that named none.
    pub market: String,
    /// How its users moved, the first first.
    pub moves: Vec<MoveReport>,
    /// Its requests: before, during and after that, or throughout.
    pub windows: Vec<WindowReport>,
}

/// Users of a market who changed home in one move.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MoveReport {
    /// The move.
    pub r#move: String,
    /// Its phase, where it is one's.
    pub phase: Option<String>,
    /// Where they lived.
    pub from: String,
    /// Where they went.
    pub to: String,
    /// How many.
    pub users: u64,
    /// When the first of them left.
    pub first: String,
    /// When the last of them left.
    pub last: String,
}

/// The requests of one time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowReport {
    /// `before`, `during`, `between`, `after`, or `throughout` where nobody moved.
    pub window: String,
    /// When the first minute or hour with requests began.
    pub from: Option<String>,
    /// When the last one ended.
    pub to: Option<String>,
    /// Requests of clients.
    pub requests: u64,
    /// Those answered 5xx.
    pub failures: u64,
    /// The part of them.
    pub failure_rate: Option<f64>,
    /// How long they took on the average.
    pub mean_ms: Option<f64>,
    /// Estimates; none where there are too few requests to say.
    pub p50: Option<Estimate>,
    /// Like it.
    pub p95: Option<Estimate>,
    /// Like it.
    pub p99: Option<Estimate>,
    /// Requests that waited before a closed door.
    pub parked: u64,
    /// Requests that were sent on because a first site was not the home.
    pub redirected: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

// === impl Report ===

impl Report {
    /// Adds a market.
    pub fn add(&mut self, service: &ServiceName, market: &Market, course: &Course) {
        self.markets.push(MarketReport {
            service: service.to_string(),
            market: market.to_string(),
            moves: course.legs().iter().map(MoveReport::of).collect(),
            windows: course.windows().iter().map(WindowReport::of).collect(),
        });
    }

    /// 3 where a site was not read.
    pub fn exit(&self) -> Exit {
        match self.not_read.is_empty() {
            true => Exit::Done,
            false => Exit::Unreached,
        }
    }

    /// What is to be said of what is not in it.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.unsaid > 0 {
            notes.push(format!(
                "Of {} users who moved it was not written down of which market they are.",
                count(self.unsaid)
            ));
        }
        let not = self.not_read.iter();
        notes.extend(not.map(|n| format!("Not read: {} at {}: {}", n.service, n.site, n.why)));
        notes
    }

    /// What moving did to each market, in a sentence.
    fn changes(&self) -> Vec<String> {
        self.markets
            .iter()
            .filter_map(MarketReport::change)
            .collect()
    }
}

impl MarketReport {
    fn name(&self) -> &str {
        match self.market.as_str() {
            "" => "(none named)",
            market => market,
        }
    }

    fn change(&self) -> Option<String> {
        let (before, after) = (self.windows.first()?, self.windows.last()?);
        let median = |window: &WindowReport| window.p50.and_then(|estimate| estimate.ms);
        let (was, is) = (median(before)?, median(after)?);
        if self.windows.len() < 3 || was <= 0.0 {
            return None;
        }
        let by = match is <= was {
            true => format!("{:.0} % less", 100.0 * (1.0 - is / was)),
            false => format!("{:.0} % more", 100.0 * (is / was - 1.0)),
        };
        Some(format!(
            "{} {}: the median went from about {} to about {} ({by}), failures from {} to {}",
            self.service,
            self.name(),
            milliseconds(was),
            milliseconds(is),
            percent(before.failure_rate),
            percent(after.failure_rate),
        ))
    }
}

impl MoveReport {
    fn of(leg: &Leg) -> Self {
        Self {
            r#move: leg.r#move.to_string(),
            phase: leg.phase.clone(),
            from: leg.from.to_string(),
            to: leg.to.to_string(),
            users: leg.users,
            first: time(leg.first),
            last: time(leg.last),
        }
    }
}

impl WindowReport {
    fn of(window: &Window) -> Self {
        let sum = &window.sum;
        Self {
            window: window.when.word().to_owned(),
            from: window.seen.map(|(from, _)| time(from)),
            to: window.seen.map(|(_, to)| time(to)),
            requests: sum.requests,
            failures: sum.failures,
            failure_rate: sum.failure_rate(),
            mean_ms: sum.mean_ms(),
            p50: sum.quantile(0.5),
            p95: sum.quantile(0.95),
            p99: sum.quantile(0.99),
            parked: sum.parked,
            redirected: sum.redirected,
        }
    }
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// The figures of a window, as a table and the page show them: requests, failed, mean, p50, p95, p99, waited, sent on.
fn cells(window: &WindowReport) -> [String; 8] {
    let part = |of| estimate(of, window.requests);
    [
        count(window.requests),
        percent(window.failure_rate),
        window.mean_ms.map_or_else(|| "-".into(), milliseconds),
        part(window.p50),
        part(window.p95),
        part(window.p99),
        count(window.parked),
        count(window.redirected),
    ]
}

fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".to_owned(), |part| format!("{:.2} %", part * 100.0))
}

/// What stands in a table: the figure, or why there is none.
fn estimate(estimate: Option<Estimate>, requests: u64) -> String {
    match estimate {
        Some(Estimate { ms: Some(ms), .. }) => milliseconds(ms),
        Some(Estimate { between_ms, .. }) => format!("> {} ms", count(between_ms.0)),
        None if requests == 0 => "-".to_owned(),
        None => "too few".to_owned(),
    }
}

/// What the figures are.
fn about() -> String {
    format!(
        "Times are those of the gateway at which a request came in, failed ones too. p50, p95 and p99 are estimated between the bounds of a \
         histogram (--json shows them), and said of no fewer than {FEW} requests, ten of which took longer."
    )
}

/// The report as text.
pub fn render(report: &Report, form: Form) -> String {
    if form == Form::Json {
        return json(report);
    }
    let mut out = String::new();
    let mut grid = Grid::new(&[
        "service",
        "market",
        "time",
        ">requests",
        ">failed",
        ">mean",
        ">p50",
        ">p95",
        ">p99",
        ">waited",
        ">sent on",
        "from",
        "to",
    ]);
    for market in &report.markets {
        for window in &market.windows {
            let [requests, failed, mean, p50, p95, p99, waited, sent_on] = cells(window);
            grid.row([
                market.service.clone(),
                market.name().to_owned(),
                window.window.clone(),
                requests,
                failed,
                mean,
                p50,
                p95,
                p99,
                waited,
                sent_on,
                window.from.clone().unwrap_or_default(),
                window.to.clone().unwrap_or_default(),
            ]);
        }
    }
    match grid.is_empty() {
        true => out.push_str(
            "No request is in the history: gateways write it, once a minute and when they end.\n",
        ),
        false => out.push_str(&format!("Requests\n{}{}\n", grid.show(form), about())),
    }
    let mut grid = Grid::new(&[
        "service",
        "market",
        "from",
        "to",
        ">users",
        "first left",
        "last left",
        "phase",
        "move",
    ]);
    for market in &report.markets {
        for moved in &market.moves {
            grid.row([
                market.service.clone(),
                market.name().to_owned(),
                moved.from.clone(),
                moved.to.clone(),
                count(moved.users),
                moved.first.clone(),
                moved.last.clone(),
                moved.phase.clone().unwrap_or_default(),
                moved.r#move.clone(),
            ]);
        }
    }
    if !grid.is_empty() {
        out.push_str(&format!("\nMoves\n{}", grid.show(form)));
    }
    for line in report.changes().into_iter().chain(report.notes()) {
        out.push_str(&super::grid::plain(&line));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests;
