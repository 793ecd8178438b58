//! Tests of what the configuration says of claims.

use std::time::Duration;

use super::gateway_tests::{SMALL, parse};
use super::*;

const WHOLE: &str = r#"
[service.shop.claims]
at = "singapore"
key = { env = "SHOP_CLAIMS_KEY" }
lease = "90s"
names = { email = "customer.email", phone = "public.customer.phone" }
"#;

fn claims(more: &str) -> Claims {
    let config = parse(&format!("{SMALL}{more}")).unwrap();
    config.services[&"shop".into()].claims.clone().unwrap()
}

/// The error when `line` stands in the place of the line of WHOLE that begins as it does.
fn refused(line: &str) -> String {
    let key = line.split(' ').next().unwrap();
    let replaced = |old: &str| match old.starts_with(&format!("{key} ")) {
        true => line.to_owned(),
        false => old.to_owned(),
    };
    let lines: Vec<String> = WHOLE.lines().map(replaced).collect();
    let text = format!("{SMALL}{}", lines.join("\n"));
    let error = parse(&text).expect_err(line).to_string();
    error.replace("/etc/domicile/", "")
}

#[test]
fn claims_read_with_their_defaults() {
    let whole = claims(WHOLE);
    assert_eq!(whole.at, "singapore".into());
    assert_eq!(whole.lease, Duration::from_secs(90));
    let names: Vec<_> = whole.names.iter().collect();
    assert_eq!(names.len(), 2);
    assert_eq!(whole.names["email"], "email");
    assert_eq!(whole.names["phone"], "phone");
    let least = claims(
        "[service.shop.claims]\nkey = { file = \"claims.key\" }\nnames = { email = \"customer.email\" }\n",
    );
    assert_eq!(least.at, "beijing".into());
    assert_eq!(least.lease, Duration::from_secs(600));
}

#[test]
fn errors_of_claims_name_key_file_and_line() {
    let at = refused("at = \"oslo\"");
    assert_eq!(
        at,
        "d.toml:12: service.shop.claims.at: there is no site oslo; there are: beijing, singapore"
    );
    for lease in ["0s", "2d", "10", "soon"] {
        let lease = refused(&format!("lease = \"{lease}\""));
        assert!(lease.contains("service.shop.claims.lease"), "{lease}");
        assert!(
            lease.ends_with("is not a duration from \"1s\" to \"1d\""),
            "{lease}"
        );
    }
    for column in [
        "email",
        "invoice.email",
        "other.customer.email",
        "customer.",
        "",
    ] {
        let names = refused(&format!("names = {{ email = \"{column}\" }}"));
        assert!(
            names.ends_with("is not a column of the user table, as in \"customer.email\""),
            "{names}"
        );
    }
    assert!(refused("names = { }").contains("no kind of name is there"));
    assert!(refused("names = { E-Mail = \"customer.email\" }").contains("lower-case letters"));
    // Nothing of what could be the key is repeated.
    let bare = refused("key = \"c2VjcmV0\"");
    assert!(bare.contains("expected { file = \"PATH\" } or { env = \"NAME\" }"));
    assert!(!bare.contains("c2VjcmV0"));
    assert!(refused("key = { }").contains("expected one of"));
    let missing = parse(&format!(
        "{SMALL}[service.shop.claims]\nnames = {{ email = \"customer.email\" }}\n"
    ));
    assert!(
        missing
            .expect_err("no key")
            .to_string()
            .contains("the key `key` is missing")
    );
    let unknown = parse(&format!("{SMALL}{WHOLE}leese = \"1s\"\n")).expect_err("a slip");
    assert!(unknown.to_string().contains("did you mean `lease`?"));
}

#[test]
fn the_key_is_long_enough_and_never_shown() {
    let claims = claims(WHOLE);
    let with = |value: Option<&str>| claims.key_from(|_| value.map(str::to_owned));
    // 32 bytes, and 31.
    let (long, short) = (
        "bG9uZ2xvbmdsb25nbG9uZ2xvbmdsb25nbG9uZ2xvbmc=",
        "bG9uZ2xvbmdsb25nbG9uZ2xvbmdsb25nbG9uZ2xvbg==",
    );
    assert_eq!(with(Some(long)).unwrap().len(), 32);
    for (value, says) in [
        (None, "SHOP_CLAIMS_KEY is not set"),
        (Some(""), "is not set"),
        (Some(short), "holds 31 bytes; 32 are the least"),
        (Some("not base64!"), "is not in base64"),
    ] {
        let error = with(value).expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
        assert!(
            error.contains("d.toml:13: service.shop.claims.key"),
            "{error}"
        );
        assert!(value.is_none_or(|value| value.is_empty() || !error.contains(value)));
    }
}

#[test]
fn applications_reach_claims_at_a_loopback_address_alone() {
    let line = SMALL.lines().nth(1).unwrap();
    for address in [
        "0.0.0.0:8701",
        "10.0.0.1:8701",
        "[::]:8701",
        "localhost:8701",
        "127.0.0.1",
        "127.0.0.1:0",
    ] {
        let wrong = format!("gateway = {{ listen = \"0.0.0.0:8443\", claims = \"{address}\" }}");
        let error = parse(&SMALL.replace(line, &wrong)).expect_err(address);
        assert!(
            error
                .to_string()
                .contains("an address of this machine alone"),
            "{error}"
        );
    }
    let right = "gateway = { listen = \"0.0.0.0:8443\", claims = \"[::1]:8701\" }";
    assert!(parse(&SMALL.replace(line, right)).is_ok());
}
