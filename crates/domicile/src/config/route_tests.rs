//! Tests of `[[route]]`, and of the rules that are made of it.

use ::gateway::identify::{Algorithm, Nobody, Prefix};

use super::gateway_tests::{PUBLIC, SMALL, added, parse};
use super::*;
use crate::site::gateway::rules::rules;

const TOKEN: &str = r#"[token.main]
algorithm = "EdDSA"
key = { file = "issuer.pem" }
"#;

/// The error of a route with `more`, which begins on line 12.
fn route(more: &str) -> String {
    added(&format!("[[route]]\nservice = \"shop\"\n{more}\n"))
}

#[test]
fn the_whole_of_tokens_and_routes_reads() {
    let more = r#"[token.main]
algorithm = "ES256"
key = { env = "ISSUER" }
issuer = "https://id.example"
audience = "shop"
type = "at+jwt"
kid = "2026"
leeway = "1min"
max_age = "10min"
[[route]]
service = "shop"
host = "shop.example"
path = "/api"
user = [ { token = "main", claim = "sub" }, { token = "main", claim = "sub", cookie = "session" }, { header = "X-User" }, { cookie = "uid" }, { segment = 2 }, { query = "user" } ]
market = { token = "main", claim = "country" }
without_user = "market"
[[route]]
service = "shop"
path = "/hooks"
without_user = { site = "beijing" }
[[route]]
service = "shop"
user = { cookie = "uid" }
"#;
    let config = parse(&format!("{SMALL}{more}")).unwrap();
    let token = &config.tokens["main"];
    assert_eq!(
        (token.algorithm, &token.key),
        (Algorithm::Es256, &KeyFrom::Env("ISSUER".into()))
    );
    assert_eq!(
        (token.leeway.as_secs(), token.max_age.unwrap().as_secs()),
        (60, 600)
    );
    assert_eq!(
        (token.kind.as_deref(), token.key_id.as_deref()),
        (Some("at+jwt"), Some("2026"))
    );
    let [api, hooks, rest] = config.routes.as_slice() else {
        panic!("{:?}", config.routes)
    };
    let claim = |claim: &str, cookie: Option<&str>| ClaimFrom {
        token: "main".into(),
        claim: claim.into(),
        cookie: cookie.map(Into::into),
    };
    let users = [
        UserFrom::Claim(claim("sub", None)),
        UserFrom::Claim(claim("sub", Some("session"))),
        UserFrom::Header("x-user".into()),
        UserFrom::Cookie("uid".into()),
        UserFrom::Segment(2.try_into().unwrap()),
        UserFrom::Query("user".into()),
    ];
    assert_eq!(api.user, users);
    assert_eq!(api.market, Some(MarketFrom::Claim(claim("country", None))));
    assert_eq!((&api.without_user, api.line), (&Nobody::Market, 19));
    assert_eq!(hooks.without_user, Nobody::Site("beijing".into()));
    assert_eq!(
        (&rest.without_user, &rest.path),
        (&Nobody::Refuse, &Prefix::default())
    );
    assert_eq!(rest.user, [UserFrom::Cookie("uid".into())]);
}

#[test]
fn routes_that_point_nowhere_or_contradict_themselves_are_refused() {
    let user = |user: &str| route(&format!("user = {user}"));
    let segment = "user = { segment = 1 }";
    let token = format!(
        "[[route]]\nservice = \"shop\"\nuser = {{ token = \"man\", claim = \"sub\" }}\n{TOKEN}"
    );
    let twice = |first: &str, second: &str| {
        let one = |path: &str| format!("[[route]]\nservice = \"shop\"\n{segment}\n{path}\n");
        added(&format!("{}{}", one(first), one(second)))
    };
    for (refused, part) in [
        (
            added("[[route]]\n"),
            "d.toml:10: route[0]: the key `service` is missing",
        ),
        (
            added("[[route]]\nservice = \"forum\"\n"),
            "d.toml:11: route[0].service: there is no service forum; there are: shop",
        ),
        (
            user("{ token = \"main\", claim = \"sub\" }"),
            ":12: route[0].user.token: there is no token main: configure [token.main]",
        ),
        (
            added(&token),
            "route[0].user.token: there is no token man; there are: main",
        ),
        (
            route("without_user = { site = \"oslo\" }"),
            "route[0].without_user.site: there is no site oslo",
        ),
        (
            route("without_user = \"origin\""),
            "\"origin\" is not \"local\", \"market\", \"refuse\" or { site",
        ),
        (
            route(&format!("{segment}\nwithout_user = \"market\"")),
            "nothing says which market: add `market =",
        ),
        (
            route(""),
            "route[0]: nothing names a user and requests without one are refused: add",
        ),
        (user("[]"), "nothing names a user"),
        (user("\"x-user\""), "expected a list"),
        (user("{}"), "route[0].user: expected one of { token"),
        (user("{ token = \"main\" }"), "expected one of { token"),
        (
            user("[{ cookie = \"a\" }, { header = \"a\", query = \"b\" }]"),
            "route[0].user[1]: expected one of { token",
        ),
        (
            user("{ kookie = \"a\" }"),
            "unknown key `kookie` in route[0].user; did you mean `cookie`?",
        ),
        (user("{ segment = 0 }"), "a whole number from 1 up"),
        (
            user("{ segment = 33 }"),
            "route[0].user.segment: at most 32",
        ),
        (
            user("{ header = \"x_user\" }"),
            "route[0].user.header: \"x_user\" is not letters, digits and `-`",
        ),
        (
            user("{ header = \"Domicile-User\" }"),
            "`domicile-` is for gateways alone",
        ),
        (
            user("{ header = \"Authorization\" }"),
            "`authorization` means something else",
        ),
        (
            user("{ header = \"Connection\" }"),
            "`connection` means something else",
        ),
        (
            user("{ cookie = \"a=b\" }"),
            "\"a=b\" is not the name of a cookie",
        ),
        (user("{ query = \"a&b\" }"), "\"a&b\" is not letters"),
        (
            route(&format!("{segment}\nmarket = {{ cookie = \"c\" }}")),
            "route[0].market: expected one of { header",
        ),
        (
            route(&format!("{segment}\npath = \"api\"")),
            "route[0].path: \"api\" is not a path of plain segments",
        ),
        (
            route(&format!("{segment}\npath = \"/a/../b\"")),
            "is not a path of plain segments",
        ),
        (
            route(&format!("{segment}\nhost = \"shop.example:8443\"")),
            "is not a host name without port",
        ),
        (
            route(&format!("{segment}\nhosts = \"a\"")),
            "unknown key `hosts` in route[0]; did you mean `host`?",
        ),
        (
            twice("path = \"/a\"", "path = \"/a/b\""),
            ":14: route[1]: never taken: route[0] before it takes all its requests",
        ),
        (twice("", "host = \"a\""), "never taken"),
        (twice("host = \"A\"", "host = \"a\""), "never taken"),
    ] {
        assert!(refused.contains(part), "{refused}\n{part}");
    }
    let apart = |first: &str, second: &str| {
        let one = |path: &str| format!("[[route]]\nservice = \"shop\"\n{segment}\n{path}\n");
        parse(&format!("{SMALL}{}{}", one(first), one(second))).map(|config| config.routes.len())
    };
    assert_eq!(apart("path = \"/a\"", "path = \"/ab\"").unwrap(), 2);
    assert_eq!(apart("host = \"a\"", "host = \"b\"").unwrap(), 2);
    assert_eq!(apart("host = \"a\"", "").unwrap(), 2);
}

#[test]
fn a_header_that_no_front_sets_is_warned_of() {
    let route = "[[route]]\nservice = \"shop\"\nuser = { header = \"x-user\" }\n";
    assert!(
        parse(&format!("{SMALL}{route}"))
            .unwrap()
            .warnings
            .is_empty()
    );
    let alone = SMALL.replace(", fronts = [\"10.0.0.0/8\"]", "");
    let warnings = parse(&format!("{alone}{route}")).unwrap().warnings;
    assert!(
        warnings[0].starts_with("route[0]: a header is believed from a front alone"),
        "{warnings:?}"
    );
}

#[test]
fn rules_are_made_with_the_keys_that_routes_name() {
    let folder = tempfile::tempdir().unwrap();
    let load = |more: &str| {
        let text = format!("{SMALL}{more}");
        Config::parse(&text, &folder.path().join("d.toml")).unwrap()
    };
    let rules = |config: &Config| rules(config, &"beijing".into());
    let route = "[[route]]\nservice = \"shop\"\nuser = { token = \"main\", claim = \"sub\" }\n";
    // Nobody looks for a key that no route needs.
    assert_eq!(rules(&load(TOKEN)).unwrap().routes().len(), 0);
    let config = load(&format!("{TOKEN}{route}"));
    let missing = rules(&config).unwrap_err().to_string();
    assert!(
        missing.contains("d.toml:12: token.main.key: the file ")
            && missing.ends_with("cannot be read"),
        "{missing}"
    );
    std::fs::write(folder.path().join("issuer.pem"), PUBLIC).unwrap();
    assert_eq!(rules(&config).unwrap().routes().len(), 1);
    let other = load(&format!("{TOKEN}{route}").replace("EdDSA", "ES256"));
    let other = rules(&other).unwrap_err().to_string();
    assert!(
        other.ends_with("holds no key for ES256: it is a key of another kind than the algorithm's"),
        "{other}"
    );
}
