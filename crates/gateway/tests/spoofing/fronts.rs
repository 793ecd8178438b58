//! Headers that only fronts and gateways may set, and fields that are to be dropped.

use gateway::identify::Refused;

use super::Wanted::{self, Fronts, Nobody, Refused as No};
use super::request::Request;
use super::{Case, FRONT};

pub fn cases() -> Vec<Case> {
    let at = |path: &str| Request::get(path);
    let header = |name: &str, value: &str| at("/header").header(name, value);
    let front = || at("/header").from(FRONT).header("X-User-Id", "7");
    let spoofed = || -> Wanted { No(Refused::Spoofed) };
    let ambiguous = || No(Refused::Ambiguous);
    let malformed = || No(Refused::Malformed);
    vec![
        // A front's header from somebody who is none.
        ("the header itself", header("X-User-Id", "666"), spoofed()),
        ("in lower case", header("x-user-id", "666"), spoofed()),
        ("in upper case", header("X-USER-ID", "666"), spoofed()),
        ("in mixed case", header("x-UsEr-iD", "666"), spoofed()),
        ("with underscores", header("X_User_Id", "666"), spoofed()),
        ("with one underscore", header("X-User_Id", "666"), spoofed()),
        (
            "with underscores, upper case",
            header("X_USER_ID", "666"),
            spoofed(),
        ),
        ("with dots", header("X.User.Id", "666"), spoofed()),
        ("with other signs", header("X~User!Id", "666"), spoofed()),
        ("empty", header("X-User-Id", ""), spoofed()),
        (
            "twice",
            header("X-User-Id", "7").header("X-User-Id", "666"),
            spoofed(),
        ),
        ("the market", header("X-Country", "CN"), spoofed()),
        (
            "the market with an underscore",
            header("x_country", "CN"),
            spoofed(),
        ),
        (
            "from the network beside the front's",
            header("X-User-Id", "666").from("11.0.0.1"),
            spoofed(),
        ),
        (
            "from an address that ends alike",
            header("X-User-Id", "666").from("203.10.1.2"),
            spoofed(),
        ),
        (
            "from the newer network beside the front's",
            header("X-User-Id", "666").from("fe00::1"),
            spoofed(),
        ),
        (
            "from the front's digits in another form",
            header("X-User-Id", "666").from("::a01:203"),
            spoofed(),
        ),
        (
            "with a forwarded address of the front",
            header("X-User-Id", "666").header("X-Forwarded-For", FRONT),
            spoofed(),
        ),
        (
            "with the same in Forwarded",
            header("X-User-Id", "666").header("Forwarded", "for=10.1.2.3"),
            spoofed(),
        ),
        (
            "on a route by token",
            at("/token").header("X-User-Id", "666"),
            Nobody,
        ),
        (
            "on a route by token, with underscores",
            at("/token").header("X_User_Id", "666"),
            spoofed(),
        ),
        (
            "on a route by cookie, the market",
            at("/cookie").header("X-Country", "CN"),
            Nobody,
        ),
        (
            "on a route by cookie, the market with an underscore",
            at("/cookie").header("X_Country", "CN"),
            spoofed(),
        ),
        // A client's header that its front let through.
        (
            "a second header through a front",
            front().header("X-User-Id", "666"),
            ambiguous(),
        ),
        (
            "a second header in lower case",
            front().header("x-user-id", "666"),
            ambiguous(),
        ),
        (
            "a second header with underscores",
            front().header("X_User_Id", "666"),
            ambiguous(),
        ),
        (
            "a second header with dots",
            front().header("X.User.Id", "666"),
            ambiguous(),
        ),
        (
            "an underscored one alone",
            at("/header").from(FRONT).header("X_User_Id", "666"),
            ambiguous(),
        ),
        (
            "two that the front joined",
            at("/header").from(FRONT).header("X-User-Id", "7, 666"),
            malformed(),
        ),
        (
            "two that it joined without a blank",
            at("/header").from(FRONT).header("X-User-Id", "7,666"),
            malformed(),
        ),
        (
            "an empty one",
            at("/header").from(FRONT).header("X-User-Id", " "),
            malformed(),
        ),
        (
            "no UTF-8",
            at("/header").from(FRONT).raw("X-User-Id", b"\xff666"),
            malformed(),
        ),
        (
            "a number with a sign",
            at("/header").from(FRONT).header("X-User-Id", "+666"),
            No(Refused::NotAKey),
        ),
        (
            "a number with a zero",
            at("/header").from(FRONT).header("X-User-Id", "0666"),
            No(Refused::NotAKey),
        ),
        (
            "a number in other digits",
            at("/header").from(FRONT).header("X-User-Id", "٦٦٦"),
            No(Refused::NotAKey),
        ),
        (
            "a second market",
            front().header("X-Country", "IN").header("X-Country", "CN"),
            ambiguous(),
        ),
        // The front's header is taken away, so that the application falls back on the client's.
        (
            "Connection names it",
            front().header("Connection", "X-User-Id"),
            No(Refused::Connection),
        ),
        (
            "Connection names it beside close",
            front().header("Connection", "close, x-user-id"),
            No(Refused::Connection),
        ),
        (
            "a second Connection names it",
            front()
                .header("Connection", "close")
                .header("connection", "X-User-Id"),
            No(Refused::Connection),
        ),
        (
            "Connection names it with underscores",
            front().header("Connection", "X_User_Id"),
            No(Refused::Connection),
        ),
        (
            "Connection names the authorization",
            at("/token").header("Connection", "Authorization"),
            No(Refused::Connection),
        ),
        (
            "Connection names the cookies",
            at("/cookie").header("Connection", "Cookie"),
            No(Refused::Connection),
        ),
        (
            "Connection names the host",
            front().header("Connection", "Host"),
            No(Refused::Connection),
        ),
        (
            "Connection names the length",
            front().header("Connection", "Content-Length"),
            No(Refused::Connection),
        ),
        (
            "Connection names the front's address",
            front().header("Connection", "X-Forwarded-For"),
            No(Refused::Connection),
        ),
        (
            "Connection names a reserved header",
            front().header("Connection", "Domicile-User"),
            No(Refused::Connection),
        ),
        (
            "Connection is no text",
            front().raw("Connection", b"close,\xff"),
            No(Refused::Connection),
        ),
        (
            "Proxy-Connection names it",
            front().header("Proxy-Connection", "X-User-Id"),
            Fronts,
        ),
        (
            "Keep-Alive names it",
            front().header("Keep-Alive", "X-User-Id"),
            Fronts,
        ),
        (
            "Connection says what it may",
            front().header("Connection", "keep-alive, Upgrade,, HTTP2-Settings"),
            Fronts,
        ),
        // What gateways say to each other.
        (
            "the reserved prefix",
            at("/token").header("Domicile-User", "666"),
            Nobody,
        ),
        (
            "the reserved prefix in lower case",
            at("/token").header("domicile-home", "beijing"),
            Nobody,
        ),
        (
            "the reserved prefix in upper case",
            at("/token").header("DOMICILE-HOPS", "0"),
            Nobody,
        ),
        (
            "the reserved prefix through a front",
            at("/token").from(FRONT).header("Domicile-User", "666"),
            Nobody,
        ),
        (
            "the reserved prefix with an underscore",
            at("/token").header("Domicile_User", "666"),
            spoofed(),
        ),
        (
            "the reserved prefix, all underscores",
            at("/token").header("DOMICILE_USER_ID", "666"),
            spoofed(),
        ),
        (
            "the reserved prefix with a later underscore",
            at("/token").header("Domicile-User_Id", "666"),
            spoofed(),
        ),
        (
            "the reserved prefix with a dot",
            at("/token").header("domicile.user", "666"),
            spoofed(),
        ),
        (
            "the reserved prefix alone",
            at("/token").header("Domicile-", "666"),
            Nobody,
        ),
        (
            "the same with an underscore, from a peer",
            at("/token").peer().header("Domicile_User", "666"),
            spoofed(),
        ),
        (
            "any name with an underscore",
            at("/token").header("Remote_User", "666"),
            Nobody,
        ),
    ]
}
