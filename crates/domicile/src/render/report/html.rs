//! The report as one HTML file that needs nothing else: no script, no font, no picture from anywhere.

use std::fmt::Write as _;

use super::{MarketReport, Report, WindowReport, about, cells, count};

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Domicile: before and after</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #1c1c1c; background: #fff }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin: 2em 0 .3em }
table { border-collapse: collapse; width: 100% } td, th { padding: .25em .6em; border-bottom: 1px solid #ddd; text-align: left }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.bar { background: #3b6ea5; height: .8em } .before .bar { background: #b0812f } .during .bar { background: #999 }
.w { width: 22% } .note { color: #555 }
</style></head><body>
<h1>Before and after</h1>
"#;

/// The report as a page.
pub fn render(report: &Report) -> String {
    let mut out = String::from(HEAD);
    for line in report.changes() {
        paragraph(&mut out, "", &line);
    }
    if report.markets.is_empty() {
        paragraph(&mut out, "", "No request is in the history.");
    }
    for market in &report.markets {
        section(&mut out, market);
    }
    paragraph(&mut out, "note", &about());
    for line in report.notes() {
        paragraph(&mut out, "note", &line);
    }
    out.push_str("</body></html>\n");
    out
}

fn section(out: &mut String, market: &MarketReport) {
    put(
        out,
        format_args!(
            "<h2>{}, {}</h2>\n",
            escape(&market.service),
            escape(market.name())
        ),
    );
    for moved in &market.moves {
        let phase = moved.phase.as_ref();
        let phase = phase.map_or_else(String::new, |phase| format!(", phase {phase}"));
        let line = format!(
            "{} users left {} for {}, the first at {}, the last at {}{phase}.",
            count(moved.users),
            moved.from,
            moved.to,
            moved.first,
            moved.last
        );
        paragraph(out, "", &line);
    }
    out.push_str("<table><tr><th>time</th>");
    for heading in [
        "requests", "failed", "mean", "p50", "p95", "p99", "waited", "sent on",
    ] {
        put(out, format_args!("<th class=\"n\">{heading}</th>"));
    }
    out.push_str("<th class=\"w\">p50</th><th>from</th><th>to</th></tr>\n");
    let longest = market.windows.iter().filter_map(median).fold(0.0, f64::max);
    for window in &market.windows {
        row(out, window, longest);
    }
    out.push_str("</table>\n");
}

fn row(out: &mut String, window: &WindowReport, longest: f64) {
    // Its words are ours.
    put(
        out,
        format_args!("<tr class=\"{0}\"><td>{0}</td>", escape(&window.window)),
    );
    for cell in cells(window) {
        put(out, format_args!("<td class=\"n\">{}</td>", escape(&cell)));
    }
    let wide = median(window).map_or(0.0, |ms| 100.0 * ms / longest.max(f64::MIN_POSITIVE));
    put(
        out,
        format_args!("<td><div class=\"bar\" style=\"width:{wide:.1}%\"></div></td>"),
    );
    for at in [&window.from, &window.to] {
        let at = at.as_deref().unwrap_or_default();
        put(out, format_args!("<td>{}</td>", escape(at)));
    }
    out.push_str("</tr>\n");
}

fn median(window: &WindowReport) -> Option<f64> {
    window.p50.and_then(|estimate| estimate.ms)
}

fn paragraph(out: &mut String, class: &str, text: &str) {
    put(
        out,
        format_args!("<p class=\"{class}\">{}</p>\n", escape(text)),
    );
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A String takes whatever is written to it.
    let _ = out.write_fmt(text);
}

/// Markets, phases and what databases say are others' words: none of them becomes markup.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
