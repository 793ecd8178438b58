//! The history of requests in a home database: what gateways tell adds up, nothing is counted twice, hours keep the sums of their minutes.

mod support;

use std::time::Duration;

use anyhow::Result;
use model::{Market, SiteName};
use postgres::connect::{Session, connect};
use residency::traffic::{self, Counted, HOURS_KEPT, MINUTES_KEPT, Told, Traffic};
use support::Site;

const BOUNDS: [u64; 2] = [10, 100];

async fn session(site: &Site) -> Result<Session> {
    let url = site.cluster.url(&site.mover, &site.database);
    Ok(connect(&url, "test").await?)
}

/// Requests of `market` served by `home`; one in ten failed, one waited, one was sent on.
fn counted(home: &str, market: &str, within: [u64; 3]) -> Counted {
    let requests: u64 = within.iter().sum();
    Counted {
        home: (!home.is_empty()).then(|| SiteName::from(home)),
        market: Market::from(market),
        requests,
        failures: requests / 10,
        parked: 1,
        redirected: 1,
        total_us: requests * 1_000,
        within: within.into(),
    }
}

fn told(n: i64, age: Duration, counted: Vec<Counted>) -> Told {
    Told { n, age, counted }
}

async fn history(session: &Session, since: Option<Duration>) -> Result<Vec<Traffic>> {
    let mut all = Vec::new();
    traffic::history(&**session, since, |one| all.push(one)).await?;
    Ok(all)
}

/// Requests, failures, parked, redirected, microseconds; and the histogram.
fn sums(history: &[Traffic]) -> ([u64; 5], Vec<u64>) {
    let (mut sums, mut within) = ([0; 5], vec![0; BOUNDS.len() + 1]);
    for Traffic { counted: c, .. } in history {
        let counts = [c.requests, c.failures, c.parked, c.redirected, c.total_us];
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
        for (sum, count) in within.iter_mut().zip(&c.within) {
            *sum += count;
        }
    }
    (sums, within)
}

const AGO: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn counts_of_several_gateways_add_up() -> Result<()> {
    let site = Site::new().await?;
    let session = session(&site).await?;
    for gateway in ["one", "two", "three"] {
        let counts = vec![
            counted("beijing", "IN", [10, 20, 0]),
            counted("singapore", "IN", [0, 5, 5]),
            counted("", "", [1, 0, 0]),
        ];
        assert!(traffic::add(&*session, gateway, &BOUNDS, &told(1, AGO, counts)).await?);
    }
    // All three in the same minute, or, at its edge, in two.
    let found = history(&session, None).await?;
    let (all, within) = sums(&found);
    assert_eq!(all, [123, 12, 9, 9, 123_000]);
    assert_eq!(within, [33, 75, 15]);
    let nowhere: Vec<&Traffic> = found.iter().filter(|t| t.counted.home.is_none()).collect();
    assert!(nowhere.iter().all(|t| t.counted.market.as_str().is_empty()));
    assert_eq!(nowhere.iter().map(|t| t.counted.requests).sum::<u64>(), 3);
    Ok(())
}

#[tokio::test]
async fn what_is_told_again_is_not_counted_again() -> Result<()> {
    let site = Site::new().await?;
    let session = session(&site).await?;
    let first = told(1, AGO, vec![counted("beijing", "IN", [10, 0, 0])]);
    assert!(traffic::add(&*session, "one", &BOUNDS, &first).await?);
    assert!(!traffic::add(&*session, "one", &BOUNDS, &first).await?);
    let second = told(2, AGO, vec![counted("beijing", "IN", [10, 0, 0])]);
    assert!(traffic::add(&*session, "one", &BOUNDS, &second).await?);
    assert!(!traffic::add(&*session, "one", &BOUNDS, &first).await?);
    assert_eq!(sums(&history(&session, None).await?).0[0], 20);
    Ok(())
}

#[tokio::test]
async fn hours_keep_the_sums_of_their_minutes_and_old_hours_go() -> Result<()> {
    let site = Site::new().await?;
    let session = session(&site).await?;
    let minute = Duration::from_secs(60);
    let mut n = 0;
    for age in 0..90 {
        n += 1;
        let counts = vec![
            counted("beijing", "IN", [u64::from(age), 2, 1]),
            counted("beijing", "CN", [0, 0, 7]),
        ];
        let then = MINUTES_KEPT + AGO + minute * age;
        assert!(traffic::add(&*session, "one", &BOUNDS, &told(n, then, counts)).await?);
    }
    let fresh = vec![counted("beijing", "IN", [3, 0, 0])];
    traffic::add(&*session, "one", &BOUNDS, &told(n + 1, minute, fresh)).await?;
    // Other bounds are another histogram.
    let other = told(
        n + 2,
        MINUTES_KEPT + AGO,
        vec![counted("beijing", "IN", [1, 1, 1])],
    );
    traffic::add(&*session, "one", &[20, 200], &other).await?;
    let before = history(&session, None).await?;
    traffic::tend(&*session).await?;
    let after = history(&session, None).await?;
    assert_eq!(sums(&before), sums(&after));
    let hours = || after.iter().filter(|one| one.span == AGO);
    assert!(hours().count() <= 8, "{after:#?}");
    assert!(hours().any(|one| one.bounds_ms == [20, 200] && one.counted.requests == 3));
    let minutes: Vec<&Traffic> = after.iter().filter(|one| one.span == minute).collect();
    assert_eq!(minutes.len(), 1);
    // Late minutes come into their hour; what is too old goes.
    let late = told(
        n + 3,
        MINUTES_KEPT + AGO,
        vec![counted("beijing", "IN", [5, 0, 0])],
    );
    traffic::add(&*session, "one", &BOUNDS, &late).await?;
    traffic::tend(&*session).await?;
    let with_late = history(&session, None).await?;
    assert_eq!(sums(&with_late).0[0], sums(&after).0[0] + 5);
    assert_eq!(with_late.len(), after.len());
    let old = told(
        n + 4,
        HOURS_KEPT + AGO * 2,
        vec![counted("beijing", "IN", [9, 0, 0])],
    );
    traffic::add(&*session, "one", &BOUNDS, &old).await?;
    traffic::tend(&*session).await?;
    traffic::tend(&*session).await?;
    assert_eq!(history(&session, None).await?, with_late);
    // Since the last half hour there is one minute.
    assert_eq!(sums(&history(&session, Some(AGO / 2)).await?).0[0], 3);
    Ok(())
}
