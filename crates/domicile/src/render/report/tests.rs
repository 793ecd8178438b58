//! What people and scripts see of a report.

use std::time::Duration;

use super::*;
use crate::traffic::counting::{minute, traffic};

/// India moved in minute 10: 75 ms before, 5 after.
fn report(market: &str) -> Report {
    let mut course = Course::new(vec![Leg {
        r#move: "shop-beijing-singapore-1".into(),
        phase: Some("e-commerce".into()),
        from: "beijing".into(),
        to: "singapore".into(),
        users: 1234,
        first: minute(10),
        last: minute(10) + Duration::from_secs(5),
    }]);
    let mut before = traffic(1, "beijing", market, [0, 0, 0, 1000, 0]);
    before.counted.failures = 4;
    course.add(&before);
    let mut during = traffic(10, "beijing", market, [0, 0, 0, 0, 7]);
    (during.counted.parked, during.counted.redirected) = (3, 2);
    course.add(&during);
    course.add(&traffic(20, "singapore", market, [150, 0, 0, 0, 0]));
    let mut report = Report::default();
    report.add(&"shop".into(), &market.into(), &course);
    let mut stayed = Course::new(Vec::new());
    stayed.add(&traffic(1, "beijing", "CN", [0, 0, 0, 0, 500]));
    report.add(&"shop".into(), &"CN".into(), &stayed);
    report
}

#[test]
fn people_see_before_during_and_after() {
    let shown = render(&report("IN"), Form::Plain);
    let rows: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|c| !c.is_empty())
                .collect()
        })
        .collect();
    let row = |market: &str, time: &str| {
        let found = rows
            .iter()
            .find(|row| row.get(1) == Some(&market) && row.get(2) == Some(&time));
        found.unwrap_or_else(|| panic!("{market} {time}: {shown}"))[3..11].to_vec()
    };
    let before = row("IN", "before");
    assert_eq!(
        before[..5],
        ["1,000", "0.40 %", "15.0 ms", "75.0 ms", "97.5 ms"]
    );
    let during = row("IN", "during");
    assert_eq!(during[3..], ["too few", "too few", "too few", "3", "2"]);
    assert_eq!(row("IN", "after")[3..6], ["5.0 ms", "too few", "too few"]);
    assert_eq!(row("CN", "throughout")[3..5], ["> 100 ms", "> 100 ms"]);
    assert!(
        shown.contains("1,234  1970-01-01T00:10:00Z  1970-01-01T00:10:05Z"),
        "{shown}"
    );
    let change = "shop IN: the median went from about 75.0 ms to about 5.0 ms (93 % less), failures from 0.40 % to 0.00 %";
    assert!(shown.contains(change), "{shown}");
}

#[test]
fn scripts_see_estimates_with_their_bounds() {
    let value: serde_json::Value =
        serde_json::from_str(&render(&report("IN"), Form::Json)).unwrap();
    let india = &value["markets"][0];
    assert_eq!(india["moves"][0]["to"], "singapore");
    let before = &india["windows"][0];
    assert_eq!(before["window"], "before");
    assert_eq!(before["p50"]["ms"], 75.0);
    assert_eq!(before["p50"]["between_ms"], serde_json::json!([50, 100]));
    assert!(india["windows"][1]["p50"].is_null());
    let china = &value["markets"][1]["windows"][0]["p50"];
    assert_eq!(china["between_ms"], serde_json::json!([100, null]));
    assert!(value["not_read"].is_null());
}

#[test]
fn a_page_escapes_what_others_wrote_and_asks_nobody() {
    let mut report = report("<script>alert(1)</script>");
    report.not_read.push(NotRead {
        service: "shop".into(),
        site: "singapore".into(),
        why: "\"quoted\" & <b>".into(),
    });
    let page = html::render(&report);
    assert!(!page.contains("<script"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(page.contains("&quot;quoted&quot; &amp; &lt;b&gt;"));
    for asks in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(asks), "{asks}");
    }
    assert!(
        page.contains("width:100.0%") && page.contains("width:6.7%"),
        "{page}"
    );
    assert_eq!(report.exit(), Exit::Unreached);
}

#[test]
fn no_history_and_users_of_no_known_market_are_named() {
    let report = Report {
        unsaid: 7,
        ..Report::default()
    };
    let shown = render(&report, Form::Plain);
    assert!(shown.starts_with("No request is in the history"), "{shown}");
    assert!(shown.contains("Of 7 users who moved"), "{shown}");
}
