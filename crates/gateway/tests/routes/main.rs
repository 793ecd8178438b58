//! Which route a request takes, whose it is, and what becomes of nobody's.

#[path = "../issuer/mod.rs"]
mod issuer;
mod properties;
#[path = "../request/mod.rs"]
mod request;

use std::num::NonZeroUsize;
use std::sync::Arc;

use gateway::identify::{
    Algorithm, Claim, MarketSource, Nobody, Prefix, Refused, Route, Rules, Source, TokenError,
    Verifier,
};
use issuer::{Issuer, now};
use model::{KeyKind, SiteName};
use request::Request;

fn route(service: &str, path: &str) -> Route {
    Route {
        service: service.into(),
        host: None,
        path: Prefix::parse(path).expect(path),
        user: Vec::new(),
        market: None,
        nobody: Nobody::Local,
    }
}

fn segment(number: usize) -> Source {
    Source::Segment(NonZeroUsize::new(number).unwrap())
}

/// The service that `target` goes to.
fn service(rules: &Rules, host: &str, target: &str) -> Result<String, Refused> {
    let request = Request::get(target).host(host);
    request.with(|asked| {
        let found = rules.identify(asked, now(), |_| Some(KeyKind::Text))?;
        Ok(found.service.to_string())
    })
}

/// The user that a request to a route with `user` names.
fn user(user: Vec<Source>, kind: KeyKind, request: &Request) -> Result<Option<String>, Refused> {
    let rules = Rules::new(
        vec![Route {
            user,
            ..route("shop", "/")
        }],
        vec!["10.0.0.0/8".parse().unwrap()],
    );
    request.with(|asked| {
        let found = rules.identify(asked, now(), |_| Some(kind))?;
        Ok(found.user.map(|user| user.to_string()))
    })
}

#[test]
fn the_first_route_whose_host_and_path_fit_is_taken() {
    let host = |host: &str, route: Route| Route {
        host: Some(host.into()),
        ..route
    };
    let rules = Rules::new(
        vec![
            host("shop.example", route("orders", "/api/orders")),
            host("Shop.Example", route("api", "/api/")),
            host("forum.example", route("forum", "/")),
            route("rest", "/static"),
        ],
        Vec::new(),
    );
    for (host, target, wanted) in [
        ("shop.example", "/api/orders", Ok("orders")),
        ("shop.example", "/api/orders/7?x=/static", Ok("orders")),
        ("SHOP.example", "/api/ordersx", Ok("api")),
        ("shop.example.", "/api", Ok("api")),
        ("shop.example", "/api/", Ok("api")),
        ("shop.example", "/apix", Err(Refused::NoRoute)),
        ("shop.example", "/API", Err(Refused::NoRoute)),
        ("shop.example", "/static/x", Ok("rest")),
        ("evil-shop.example", "/api", Err(Refused::NoRoute)),
        ("forum.example", "/anything", Ok("forum")),
        ("forum.example", "*", Ok("forum")),
        ("other.example", "/", Err(Refused::NoRoute)),
        // Servers that undo escapes, drop parameters or join slashes serve these as /api/orders.
        ("shop.example", "/%61pi/orders", Ok("orders")),
        ("shop.example", "/api;v=1/orders;x", Ok("orders")),
        ("shop.example", "//api///orders", Ok("orders")),
        // And these as another path than the one that was asked for.
        ("shop.example", "/static/../api", Err(Refused::Path)),
        ("shop.example", "/static/%2e%2E/api", Err(Refused::Path)),
        ("shop.example", "/static/..;x=1/api", Err(Refused::Path)),
        ("shop.example", "/static/..%2fapi", Err(Refused::Path)),
        ("shop.example", "/static/%2e/api", Err(Refused::Path)),
        ("shop.example", "/static\\..\\api", Err(Refused::Path)),
        ("shop.example", "/api%", Err(Refused::Path)),
        ("shop.example", "/api/%4", Err(Refused::Path)),
        ("shop.example", "/api/%zz", Err(Refused::Path)),
        ("shop.example", "/api%00", Err(Refused::Path)),
        // An escaped slash divides nothing.
        ("shop.example", "/api%2forders", Err(Refused::NoRoute)),
        ("shop.example", "/api/..x/.y./%E9", Ok("api")),
    ] {
        assert_eq!(
            service(&rules, host, target),
            wanted.map(str::to_owned),
            "{host} {target}"
        );
    }
}

#[test]
fn prefixes_are_plain_paths() {
    for good in ["/", "/a", "/a/", "/a/b.c/~d"] {
        assert!(Prefix::parse(good).is_some(), "{good}");
    }
    for bad in [
        "", "a", "//", "/a//b", "/a/../b", "/.", "/a%20", "/a;b", "/a?b", "/a#b", "/a b", "/a\\b",
        "/a\n",
    ] {
        assert!(Prefix::parse(bad).is_none(), "{bad}");
    }
    let parse = |text| Prefix::parse(text).unwrap();
    assert!(parse("/").includes(&parse("/a")));
    assert!(parse("/a").includes(&parse("/a/b")));
    assert!(!parse("/a").includes(&parse("/ab")));
    assert!(!parse("/a/b").includes(&parse("/a")));
}

#[test]
fn each_place_names_a_user() {
    let get = Request::get;
    let cookie = || vec![Source::Cookie("uid".into())];
    let query = || vec![Source::Query("user".into())];
    let header = || vec![Source::Header("X-User".into())];
    for (sources, request, wanted) in [
        (vec![segment(2)], get("/users/42/orders"), "42"),
        (vec![segment(1)], get("/%34%32"), "42"),
        (query(), get("/?a=b&user=42"), "42"),
        (query(), get("/?user=%34%32&c"), "42"),
        (cookie(), get("/").header("Cookie", "a=b; uid=42; c"), "42"),
        (
            cookie(),
            get("/").header("cookie", "a=b").header("cookie", "uid=42"),
            "42",
        ),
        (
            header(),
            get("/").header("x-user", " 42 ").from("10.1.2.3"),
            "42",
        ),
        (
            header(),
            get("/").header("X-USER", "42").from("::ffff:10.1.2.3"),
            "42",
        ),
        (header(), get("/").header("X-User", "42").peer(), "42"),
    ] {
        assert_eq!(
            user(sources, KeyKind::Integer, &request),
            Ok(Some(wanted.into())),
            "{request:?}"
        );
    }
    for (sources, request) in [
        (vec![segment(2)], get("/users")),
        (vec![segment(2)], get("/users/")),
        (vec![segment(1)], get("*")),
        (query(), get("/")),
        (query(), get("/?user=&x=1")),
        (query(), get("/?user")),
        (query(), get("/?username=4&xuser=5")),
        (cookie(), get("/").header("Cookie", "uid=; xuid=7; uidx=8")),
        (cookie(), get("/").header("Cookie", "")),
        (header(), get("/").from("10.1.2.3")),
    ] {
        assert_eq!(
            user(sources, KeyKind::Integer, &request),
            Ok(None),
            "{request:?}"
        );
    }
}

#[test]
fn the_first_source_that_is_there_decides_good_or_bad() {
    let issuer = Issuer::new(Algorithm::EdDsa);
    let token = Arc::new(Verifier::new(issuer.key()));
    let claim = |cookie: Option<&str>| {
        Source::Claim(Claim {
            token: Arc::clone(&token),
            name: "sub".into(),
            cookie: cookie.map(Into::into),
        })
    };
    let sources = || {
        vec![
            claim(None),
            claim(Some("session")),
            Source::Cookie("uid".into()),
        ]
    };
    let good = |sub: u32| issuer.good(&format!(r#""sub":{sub}"#));
    let bad = Issuer::new(Algorithm::EdDsa).good(r#""sub":1"#);
    let bearer =
        |request: Request, token: &str| request.header("Authorization", &format!("Bearer {token}"));
    let get = || Request::get("/");
    let all = bearer(get(), &good(1)).header("Cookie", &format!("session={}; uid=3", good(2)));
    let two = get().header("Cookie", &format!("session={}; uid=3", good(2)));
    let basic = two.clone().header("authorization", "Basic Ym9iOnB3");
    let three = get().header("Cookie", "uid=3");
    for (request, wanted) in [(all, "1"), (two, "2"), (basic, "2"), (three, "3")] {
        assert_eq!(
            user(sources(), KeyKind::Integer, &request),
            Ok(Some(wanted.into()))
        );
    }
    let signature = Refused::Token(TokenError::Signature);
    let forged = bearer(get(), &bad).header("Cookie", "uid=3");
    assert_eq!(user(sources(), KeyKind::Integer, &forged), Err(signature));
    assert_eq!(
        (signature.status(), signature.reason()),
        (401, "the token is not accepted")
    );
    let forged = get().header("Cookie", &format!("session={bad}; uid=3"));
    assert_eq!(user(sources(), KeyKind::Integer, &forged), Err(signature));
    for value in ["Bearer", "bearer ", "Bearer\tx", "Bearer:x", "BEARER x y"] {
        let request = get()
            .header("Authorization", value)
            .header("Cookie", "uid=3");
        let found = user(sources(), KeyKind::Integer, &request);
        assert!(
            matches!(found, Err(Refused::Token(TokenError::Form))),
            "{value} {found:?}"
        );
    }
    let unnamed = bearer(get(), &issuer.good(r#""name":"x""#)).header("Cookie", "uid=3");
    let wanted = Err(Refused::Token(TokenError::Claim));
    assert_eq!(user(sources(), KeyKind::Integer, &unnamed), wanted);
    for sub in [
        "7.0",
        "true",
        "null",
        "[7]",
        r#"{"id":7}"#,
        "1e2",
        "-0",
        "99999999999999999999",
    ] {
        let odd = bearer(get(), &issuer.good(&format!(r#""sub":{sub}"#)));
        assert_eq!(user(sources(), KeyKind::Integer, &odd), wanted, "{sub}");
    }
}

#[test]
fn a_key_of_another_kind_is_refused_and_none_is_guessed_before_the_kind_is_known() {
    let sources = || vec![Source::Query("user".into())];
    let upper = Request::get("/?user=0F8FAD5BD9CB469FA16570867728950E");
    let wanted = Ok(Some("0f8fad5b-d9cb-469f-a165-70867728950e".to_owned()));
    assert_eq!(user(sources(), KeyKind::Uuid, &upper), wanted);
    assert_eq!(
        user(sources(), KeyKind::Integer, &upper),
        Err(Refused::NotAKey)
    );
    let rules = Rules::new(
        vec![Route {
            user: sources(),
            ..route("shop", "/")
        }],
        Vec::new(),
    );
    upper.with(|asked| {
        let found = rules.identify(asked, now(), |_| None);
        assert_eq!(found.unwrap_err().status(), 503);
    });
    // Nobody needs no kind.
    Request::get("/").with(|asked| assert!(rules.identify(asked, now(), |_| None).is_ok()));
}

#[test]
fn nobody_goes_where_the_route_says() {
    for nobody in [
        Nobody::Local,
        Nobody::Market,
        Nobody::Site(SiteName::from("beijing")),
    ] {
        let rules = Rules::new(
            vec![Route {
                nobody: nobody.clone(),
                ..route("shop", "/")
            }],
            Vec::new(),
        );
        Request::get("/").with(|asked| {
            let found = rules
                .identify(asked, now(), |_| Some(KeyKind::Text))
                .unwrap();
            assert_eq!((found.user, found.nobody), (None, &nobody));
        });
    }
    let refusing = Route {
        nobody: Nobody::Refuse,
        user: vec![segment(1)],
        ..route("shop", "/")
    };
    let rules = Rules::new(vec![refusing], Vec::new());
    Request::get("/").with(|asked| {
        let found = rules.identify(asked, now(), |_| Some(KeyKind::Text));
        assert_eq!(found.unwrap_err(), Refused::UserWanted);
    });
    Request::get("/ann").with(|asked| {
        let found = rules
            .identify(asked, now(), |_| Some(KeyKind::Text))
            .unwrap();
        // What is said of a user stays out of logs.
        let shown = format!("{found:?}");
        assert!(!shown.contains("ann"), "{shown}");
    });
}

#[test]
fn a_market_comes_from_a_front_or_from_a_token() {
    let issuer = Issuer::new(Algorithm::Es256);
    let claim = Claim {
        token: Arc::new(Verifier::new(issuer.key())),
        name: "country".into(),
        cookie: None,
    };
    let by = |market: MarketSource| {
        Rules::new(
            vec![Route {
                market: Some(market),
                ..route("shop", "/")
            }],
            vec!["10.0.0.0/8".parse().unwrap()],
        )
    };
    let header = by(MarketSource::Header("x-country".into()));
    let token = by(MarketSource::Claim(claim));
    let market = |rules: &Rules, request: &Request| {
        request.with(|asked| {
            let found = rules.identify(asked, now(), |_| Some(KeyKind::Text))?;
            Ok(found.market.map(|market| market.to_string()))
        })
    };
    let get = || Request::get("/");
    let bearer =
        |claims: &str| get().header("Authorization", &format!("Bearer {}", issuer.good(claims)));
    let long = "X".repeat(65);
    for (rules, request, wanted) in [
        (
            &header,
            get().from("10.0.0.1").header("X-Country", "IN"),
            Ok(Some("IN")),
        ),
        (&header, get().from("10.0.0.1"), Ok(None)),
        (
            &header,
            get().header("X-Country", "IN"),
            Err(Refused::Spoofed),
        ),
        (
            &header,
            get().from("10.0.0.1").header("X-Country", ""),
            Err(Refused::Malformed),
        ),
        (
            &header,
            get().from("10.0.0.1").header("X-Country", "IN, CN"),
            Err(Refused::Malformed),
        ),
        (
            &header,
            get().from("10.0.0.1").header("X-Country", &long),
            Err(Refused::Malformed),
        ),
        (&token, bearer(r#""country":"BR""#), Ok(Some("BR"))),
        (&token, bearer(r#""x":1"#), Ok(None)),
        (&token, get(), Ok(None)),
        (
            &token,
            bearer(r#""country":["BR"]"#),
            Err(Refused::Token(TokenError::Claim)),
        ),
        (&token, bearer(r#""country":"""#), Err(Refused::Malformed)),
        (
            &token,
            get().header("Authorization", "Bearer x.y.z"),
            Err(Refused::Token(TokenError::Form)),
        ),
    ] {
        let wanted = wanted.map(|market: Option<&str>| market.map(str::to_owned));
        assert_eq!(market(rules, &request), wanted, "{request:?}");
    }
}

/// A token that was found good says nothing of another one.
#[test]
fn each_token_is_judged_by_itself() {
    let issuer = Issuer::new(Algorithm::EdDsa);
    let token = Arc::new(Verifier::new(issuer.key()));
    let claim = |name: &str, cookie: Option<&str>| Claim {
        token: Arc::clone(&token),
        name: name.into(),
        cookie: cookie.map(Into::into),
    };
    let both = Route {
        user: vec![Source::Claim(claim("sub", None))],
        market: Some(MarketSource::Claim(claim("country", Some("place")))),
        ..route("shop", "/")
    };
    let rules = Rules::new(vec![both], Vec::new());
    let market = |place: &str| {
        let own = issuer.good(r#""sub":7,"country":"IN""#);
        let request = Request::get("/")
            .header("Authorization", &format!("Bearer {own}"))
            .header("Cookie", &format!("place={place}"));
        request.with(|asked| {
            let found = rules.identify(asked, now(), |_| Some(KeyKind::Integer))?;
            Ok(found.market.map(|market| market.to_string()))
        })
    };
    let theirs = issuer.good(r#""country":"BR""#);
    assert_eq!(market(&theirs), Ok(Some("BR".to_owned())));
    let forged = Issuer::new(Algorithm::EdDsa).good(r#""country":"CN""#);
    assert_eq!(market(&forged), Err(Refused::Token(TokenError::Signature)));
}
