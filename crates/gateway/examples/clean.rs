//! What sorting a request's header fields and finding its user costs: `cargo run --release -p gateway --example clean`.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use gateway::asked::Asked;
use gateway::clean::Clean;
use gateway::identify::{Nobody, Prefix, Route, Rules, Source};
use httparse::Header;
use model::{KeyKind, ServiceName};

const ROUNDS: u32 = 100_000;

/// As a browser writes them.
const HEADERS: [(&str, &str); 15] = [
    ("Host", "shop.example"),
    ("Connection", "keep-alive"),
    ("sec-ch-ua", "\"Chromium\";v=\"130\""),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", "\"Linux\""),
    ("Upgrade-Insecure-Requests", "1"),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    ),
    ("Accept", "text/html,application/xhtml+xml"),
    ("Sec-Fetch-Site", "none"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Accept-Language", "en-GB,en;q=0.9"),
    ("Cookie", "theme=dark; uid=1234567; _ga=GA1.1.1234.5678"),
    ("X-Request-Id", "0f8fad5b-d9cb-469f-a165-70867728950e"),
    ("X-User-Id", "1234567"),
];

fn main() {
    let front: IpAddr = [10, 0, 0, 1].into();
    let route = |path: &str, user| Route {
        service: ServiceName::from("shop"),
        host: Some("shop.example".to_owned()),
        path: Prefix::parse(path).unwrap_or_default(),
        user: vec![user],
        market: None,
        nobody: Nobody::Refuse,
    };
    let routes = vec![
        route("/api", Source::Header("x-user-id".to_owned())),
        route("/", Source::Cookie("uid".to_owned())),
    ];
    let rules = Rules::new(routes, vec![front.into()]);
    let clean = Clean::new(&rules);
    let headers = HEADERS.map(|(name, value)| Header {
        name,
        value: value.as_bytes(),
    });
    let asked = |path| Asked {
        method: "GET",
        host: "shop.example",
        path,
        query: Some("q=shoes&page=2"),
        headers: &headers,
        from: front,
        peer: None,
    };
    // The least of some runs: others who use the machine only add to it.
    let time = |what: &str, run: &dyn Fn()| {
        let once = |_| {
            let start = Instant::now();
            (0..ROUNDS).for_each(|_| run());
            start.elapsed() / ROUNDS
        };
        let least = (0..20).map(once).min().unwrap_or_default();
        println!("{what}: {least:?} a request of {} fields", headers.len());
    };
    time("clean", &|| {
        let asked = black_box(asked("/orders/17"));
        let fields = clean.passing(&asked, true).filter(Result::is_ok);
        black_box(fields.count());
    });
    for (what, path) in [
        ("identify, header", "/api/orders/17"),
        ("identify, cookie", "/orders/17"),
    ] {
        time(what, &|| {
            let asked = black_box(asked(path));
            let found = rules.identify(&asked, SystemTime::UNIX_EPOCH, |_| Some(KeyKind::Integer));
            black_box(found.is_ok());
        });
    }
}
