//! X5: requests that try to be somebody else's. None gets through: it is refused, or goes on as nobody's and without the forgery.

mod fronts;
#[path = "../issuer/mod.rs"]
mod issuer;
mod places;
#[path = "../request/mod.rs"]
mod request;

use std::num::NonZeroUsize;
use std::sync::Arc;

use gateway::clean::Clean;
use gateway::identify::{
    Algorithm, Claim, MarketSource, Nobody, Prefix, Refused, Route, Rules, Source, Verifier,
};
use issuer::{Issuer, now};
use model::KeyKind;
use request::Request;

const FRONT: &str = "10.1.2.3";

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Refused(Refused),
    /// It goes on: whose it is, and the names of the fields that go on, in lower case.
    Goes(Option<String>, Vec<String>),
}

struct Site {
    rules: Rules,
    issuer: Issuer,
}

impl Site {
    /// One route for each place in which a user can stand.
    fn new() -> Self {
        let issuer = Issuer::new(Algorithm::EdDsa);
        let token = Arc::new(Verifier::new(issuer.key()));
        let claim = |cookie: Option<&str>| {
            Source::Claim(Claim {
                token: Arc::clone(&token),
                name: "sub".into(),
                cookie: cookie.map(Into::into),
            })
        };
        let route = |path: &str, user| Route {
            service: "shop".into(),
            host: None,
            path: Prefix::parse(path).unwrap(),
            user: vec![user],
            market: None,
            nobody: Nobody::Local,
        };
        let header = Route {
            market: Some(MarketSource::Header("x-country".into())),
            ..route("/header", Source::Header("x-user-id".into()))
        };
        let routes = vec![
            header,
            route("/token", claim(None)),
            route("/session", claim(Some("session"))),
            route("/cookie", Source::Cookie("uid".into())),
            route("/path", Source::Segment(NonZeroUsize::new(2).unwrap())),
            route("/query", Source::Query("user".into())),
        ];
        Self {
            rules: Rules::new(
                routes,
                vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            ),
            issuer,
        }
    }

    fn end(&self, kind: KeyKind, request: &Request) -> End {
        let clean = Clean::new(&self.rules);
        request.with(|asked| {
            let found = match self.rules.identify(asked, now(), |_| Some(kind)) {
                Ok(found) => found,
                Err(refused) => return End::Refused(refused),
            };
            let fields: Result<Vec<_>, _> =
                clean.passing(asked, self.rules.trusts(asked)).collect();
            match fields {
                Err(refused) => End::Refused(refused),
                Ok(fields) => {
                    let names = fields.iter().map(|field| field.name.to_ascii_lowercase());
                    End::Goes(found.user.map(|user| user.to_string()), names.collect())
                }
            }
        })
    }
}

/// What the author of a case expects of it.
#[derive(Clone, Copy)]
enum Wanted {
    Refused(Refused),
    /// Nobody's, and none of the fields is there that are checked below.
    Nobody,
    /// His who the front says it is, with the front's header going on.
    Fronts,
}

/// What is tried, as a sentence; the request; and what has to come of it.
type Case = (&'static str, Request, Wanted);

#[test]
fn nothing_of_the_corpus_gets_through() {
    let site = Site::new();
    let mut cases = fronts::cases();
    cases.extend(places::cases(&site));
    let (tried, mut passed) = (cases.len(), Vec::new());
    for (name, request, wanted) in cases {
        let end = site.end(KeyKind::Integer, &request);
        let good = match (&end, wanted) {
            (End::Refused(refused), Wanted::Refused(expected)) => {
                assert_eq!(*refused, expected, "{name}");
                assert!((400..500).contains(&refused.status()));
                true
            }
            (End::Goes(None, names), Wanted::Nobody) => !names.iter().any(|name| {
                name.contains(['_', '.'])
                    || name.contains("user")
                    || name.contains("country")
                    || name.starts_with("domicile")
            }),
            (End::Goes(Some(user), names), Wanted::Fronts) => {
                user == "7" && *names == ["x-user-id"]
            }
            _ => false,
        };
        if !good {
            passed.push(format!("{name}: {end:?}"));
        }
    }
    println!("{tried} cases, {} passed", passed.len());
    assert!(tried >= 60);
    assert!(passed.is_empty(), "{passed:#?}");
}

/// Texts are not saved by their kind: whatever a reader might undo has to be refused by itself.
#[test]
fn keys_that_are_texts_have_one_reading_as_well() {
    let site = Site::new();
    let get = Request::get;
    for (request, refused) in [
        (
            get("/cookie").header("Cookie", "uid=a%62"),
            Refused::Malformed,
        ),
        (
            get("/cookie").header("Cookie", "uid=\"ab\""),
            Refused::Malformed,
        ),
        (
            get("/cookie").header("Cookie", "uid=a\\142"),
            Refused::Malformed,
        ),
        (get("/query?user=a+b"), Refused::Malformed),
        (get("/query?user=%ff"), Refused::Malformed),
        (get("/path/a;b"), Refused::Path),
        (get("/path/a%2Fb"), Refused::Path),
        (get("/path/a%0ab"), Refused::NotAKey),
        (
            get("/header").from(FRONT).header("X-User-Id", "ann,bob"),
            Refused::Malformed,
        ),
    ] {
        assert_eq!(
            site.end(KeyKind::Text, &request),
            End::Refused(refused),
            "{request:?}"
        );
    }
    for (request, user) in [
        (
            get("/cookie").header("Cookie", "uid=ann@a.example=="),
            "ann@a.example==",
        ),
        (get("/query?user=a%20b%2Bc"), "a b+c"),
        (get("/path/%C3%A9+a"), "é+a"),
    ] {
        assert!(
            matches!(site.end(KeyKind::Text, &request), End::Goes(Some(found), _) if found == user),
            "{request:?}"
        );
    }
}

#[test]
fn what_is_not_forged_goes_on_as_it_was_written() {
    let site = Site::new();
    let clean = Clean::new(&site.rules);
    let plain = [
        ("Host", "shop.example"),
        ("User-Agent", "x"),
        ("X-User", "not the name"),
        ("Cookie", "a=b"),
        ("Authorization", "Bearer x"),
        ("Content-Length", "3"),
        ("x-odd.name!", "kept"),
        ("Domiciled-At", "kept"),
        ("X-Forwarded-For", "1.2.3.4"),
    ];
    let ends = [
        ("Connection", "keep-alive"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "x"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ("Proxy-Authenticate", "x"),
        ("Proxy-Authorization", "x"),
        ("some_name", "x"),
    ];
    let mut request = Request::get("/token");
    for (name, value) in ends.iter().chain(&plain) {
        request = request.header(name, value);
    }
    let passing = |request: &Request| {
        request.with(|asked| {
            let fields = clean.passing(asked, site.rules.trusts(asked));
            let fields = fields.map(|field| {
                let field = field.unwrap();
                (
                    field.name.to_owned(),
                    std::str::from_utf8(field.value).unwrap().to_owned(),
                )
            });
            fields.collect::<Vec<_>>()
        })
    };
    let kept = |fields: &[(&str, &str)]| {
        fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(passing(&request), kept(&plain));
    let said = [("Domicile-Hops", "1"), ("X-User-Id", "7")];
    let mut peers = Request::get("/token").peer();
    for (name, value) in said {
        peers = peers.header(name, value);
    }
    assert_eq!(passing(&peers), kept(&said));
}
