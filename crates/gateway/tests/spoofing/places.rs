//! Tokens, cookies, paths and queries that name somebody else, or two.

use gateway::identify::{Algorithm, Refused, TokenError};

use super::Wanted::{Nobody, Refused as No};
use super::issuer::Issuer;
use super::request::Request;
use super::{Case, Site};

pub fn cases(site: &Site) -> Vec<Case> {
    let at = |path: &str| Request::get(path);
    let cookie = |value: &str| at("/cookie").header("Cookie", value);
    let bearer = |token: &str| at("/token").header("Authorization", token);
    let forged = Issuer::new(Algorithm::EdDsa).good(r#""sub":666"#);
    let own = site.issuer.good(r#""sub":7"#);
    let signature = || No(Refused::Token(TokenError::Signature));
    let form = || No(Refused::Token(TokenError::Form));
    let ambiguous = || No(Refused::Ambiguous);
    let malformed = || No(Refused::Malformed);
    let path = || No(Refused::Path);
    vec![
        // Tokens.
        (
            "a stranger's token",
            bearer(&format!("Bearer {forged}")),
            signature(),
        ),
        (
            "a stranger's token in another case",
            bearer(&format!("bEARER {forged}")),
            signature(),
        ),
        (
            "two authorizations",
            bearer(&format!("Bearer {own}")).header("authorization", &format!("Bearer {forged}")),
            ambiguous(),
        ),
        (
            "two tokens in one",
            bearer(&format!("Bearer {own}, Bearer {forged}")),
            form(),
        ),
        (
            "two tokens with a blank",
            bearer(&format!("Bearer {own} {forged}")),
            form(),
        ),
        ("no token", bearer("Bearer"), form()),
        (
            "a token glued on",
            bearer(&format!("Bearer\t{own}")),
            form(),
        ),
        ("a user in plain words", bearer("Bearer 666"), form()),
        ("another scheme", bearer("Basic NjY2Ong="), Nobody),
        (
            "an underscored authorization of a proxy",
            at("/token").header("Proxy_Authorization", "x"),
            Nobody,
        ),
        (
            "a token in the query",
            at(&format!("/token?access_token={own}")),
            Nobody,
        ),
        (
            "a token in another place",
            at("/session").header("Authorization", &format!("Bearer {own}")),
            Nobody,
        ),
        (
            "a stranger's token in the cookie",
            at("/session").header("Cookie", &format!("session={forged}")),
            signature(),
        ),
        (
            "two sessions",
            at("/session").header("Cookie", &format!("session={own}; session={forged}")),
            ambiguous(),
        ),
        // Cookies.
        ("a cookie twice", cookie("uid=7; uid=666"), ambiguous()),
        (
            "a cookie twice, the first empty",
            cookie("uid=; uid=666"),
            ambiguous(),
        ),
        (
            "a cookie in two fields",
            cookie("uid=7").header("cookie", "uid=666"),
            ambiguous(),
        ),
        ("a cookie in another case", cookie("UID=666"), ambiguous()),
        (
            "a cookie with a blank in its name",
            cookie("uid =666"),
            ambiguous(),
        ),
        ("a quoted cookie", cookie("uid=\"666\""), malformed()),
        (
            "a cookie out of another's quotes",
            cookie("a=\"b; uid=666\""),
            malformed(),
        ),
        ("an escaped cookie", cookie("uid=%36%36%36"), malformed()),
        ("a cookie with a blank", cookie("uid= 666"), malformed()),
        (
            "a cookie with a comma",
            cookie("uid=7,uid=666"),
            malformed(),
        ),
        (
            "a cookie that is no text",
            at("/cookie").raw("Cookie", b"uid=\xff666"),
            malformed(),
        ),
        ("a cookie behind a comma", cookie("a=b, uid=666"), Nobody),
        // Paths.
        ("a path that goes back", at("/path/7/../666"), path()),
        (
            "a path that goes back by escapes",
            at("/path/%2e%2e/path/666"),
            path(),
        ),
        (
            "a path that goes back by parameters",
            at("/path/..;/path/666"),
            path(),
        ),
        ("an empty segment before the user", at("/path//666"), path()),
        ("an empty segment before all", at("//path/666"), path()),
        ("parameters behind the user", at("/path/7;user=666"), path()),
        (
            "an escaped slash behind the user",
            at("/path/7%2f666"),
            path(),
        ),
        (
            "an escaped backslash behind the user",
            at("/path/7%5c666"),
            path(),
        ),
        ("a backslash", at("/path\\666"), path()),
        ("a NUL behind the user", at("/path/666%00"), path()),
        ("a broken escape", at("/path/666%"), path()),
        ("escapes that are no UTF-8", at("/path/%c0%b6"), malformed()),
        (
            "an escape that is escaped",
            at("/path/%2536"),
            No(Refused::NotAKey),
        ),
        (
            "a blank behind the user",
            at("/path/666%20"),
            No(Refused::NotAKey),
        ),
        // Queries.
        (
            "a parameter twice",
            at("/query?user=7&user=666"),
            ambiguous(),
        ),
        (
            "a parameter twice, the first empty",
            at("/query?user=&user=666"),
            ambiguous(),
        ),
        (
            "a parameter twice, once escaped",
            at("/query?user=7&%75ser=666"),
            ambiguous(),
        ),
        (
            "a parameter in another case",
            at("/query?user=7&User=666"),
            ambiguous(),
        ),
        (
            "a parameter behind a semicolon",
            at("/query?user=7;user=666"),
            ambiguous(),
        ),
        (
            "a parameter behind another's semicolon",
            at("/query?a=1;user=666&user=7"),
            ambiguous(),
        ),
        (
            "a parameter behind another's semicolon alone",
            at("/query?a=1;user=666"),
            ambiguous(),
        ),
        (
            "a semicolon behind the value",
            at("/query?user=666;a=1"),
            ambiguous(),
        ),
        (
            "a parameter as a list",
            at("/query?user[]=666"),
            ambiguous(),
        ),
        (
            "a parameter as a list beside itself",
            at("/query?user=7&user%5B0%5D=666"),
            ambiguous(),
        ),
        (
            "a parameter with a NUL in its name",
            at("/query?user%00=666"),
            Nobody,
        ),
        (
            "a parameter with a blank before its name",
            at("/query?+user=666"),
            ambiguous(),
        ),
        ("a plus in the value", at("/query?user=+666"), malformed()),
        (
            "a broken escape in the value",
            at("/query?user=666%"),
            malformed(),
        ),
        ("a NUL in the value", at("/query?user=666%00"), malformed()),
        (
            "a line in the value",
            at("/query?user=666%0a"),
            No(Refused::NotAKey),
        ),
    ]
}
