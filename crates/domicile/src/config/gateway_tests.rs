//! Tests of what the configuration says of gateways: `gateway`, `upstream` and `[token.NAME]`.

use std::path::Path;
use std::time::Duration;

use super::*;

/// A public key of nobody's.
pub(super) const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
    -----END PUBLIC KEY-----\n";

/// Nine lines; what a test changes stands below, or in their place.
pub(super) const SMALL: &str = r#"[site.beijing]
gateway = { listen = "0.0.0.0:8443", fronts = ["10.0.0.0/8"] }
[site.singapore]
[service.shop]
origin = "beijing"
user = { table = "customer", key = "customer_id", market = "country" }
ids = "uuid"
database.beijing = "postgres://b/shop"
upstream = { beijing = "http://127.0.0.1:9001" }
"#;

pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/domicile/d.toml"))
}

fn refusal(text: &str) -> String {
    let refused = parse(text).expect_err(text).to_string();
    refused.replace("/etc/domicile/", "")
}

/// The error when `more` follows SMALL.
pub(super) fn added(more: &str) -> String {
    refusal(&format!("{SMALL}{more}"))
}

/// The error when SMALL's gateway is `gateway`.
fn gateway(gateway: &str) -> String {
    let line = SMALL.lines().nth(1).unwrap();
    refusal(&SMALL.replace(line, &format!("gateway = {{ {gateway} }}")))
}

#[test]
fn the_whole_of_a_gateway_reads() {
    let gateway = r#"gateway = { listen = "0.0.0.0:8443", fronts = ["10.0.0.0/8", "::1", "192.0.2.7"], tls = { certificate = "cert.pem", key = "/k/key.pem" }, peers = { listen = "0.0.0.0:7444", address = "bj.example:7444" }, claims = "127.0.0.1:8701", threads = 2, resend = "1MiB", park = { requests = 5, bytes = "1kB", time = "250ms" } }"#;
    let line = SMALL.lines().nth(1).unwrap();
    let text = SMALL.replace(line, gateway);
    let config = parse(&text).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let found = config.sites[&"beijing".into()].gateway.clone().unwrap();
    let wanted = Gateway {
        listen: "0.0.0.0:8443".into(),
        fronts: vec![
            "10.0.0.0/8".parse().unwrap(),
            "::1/128".parse().unwrap(),
            "192.0.2.7/32".parse().unwrap(),
        ],
        tls: Some(Tls {
            certificate: "/etc/domicile/cert.pem".into(),
            key: "/k/key.pem".into(),
        }),
        peers: Some(GatewayPeers {
            listen: "0.0.0.0:7444".into(),
            address: "bj.example:7444".into(),
        }),
        claims: Some("127.0.0.1:8701".into()),
        threads: Some(2),
        resend: 1 << 20,
        park: Park {
            requests: 5,
            bytes: 1_000,
            time: Duration::from_millis(250),
        },
    };
    assert_eq!(found, wanted);
    assert_eq!(
        config.services[&"shop".into()].upstreams[&"beijing".into()],
        "127.0.0.1:9001"
    );
    let plain = parse(&SMALL.replace(", fronts = [\"10.0.0.0/8\"]", "")).unwrap();
    let plain = plain.sites[&"beijing".into()].gateway.clone().unwrap();
    assert_eq!(
        (plain.resend, plain.threads, plain.tls),
        (64 << 10, None, None)
    );
    assert_eq!((plain.park, plain.fronts.len()), (Park::default(), 0));
    assert_eq!(plain.park.time, Duration::from_secs(5));
    assert!(
        parse(SMALL).unwrap().sites[&"singapore".into()]
            .gateway
            .is_none()
    );
}

#[test]
fn gateways_of_another_form_are_refused() {
    for (refused, part) in [
        (
            gateway("fronts = []"),
            "d.toml:2: site.beijing.gateway: the key `listen` is missing",
        ),
        (
            gateway("listen = \"8443\""),
            "d.toml:2: site.beijing.gateway.listen: \"8443\" is not HOST:PORT",
        ),
        (
            gateway("listen = \"a:1\", front = []"),
            "unknown key `front` in site.beijing.gateway; did you mean `fronts`?",
        ),
        (
            gateway("listen = \"a:1\", fronts = [\"10/8\"]"),
            "fronts[0]: \"10/8\" is not an address or a network",
        ),
        (
            gateway("listen = \"a:1\", fronts = [\"0.0.0.0/0\"]"),
            "everybody would be a front",
        ),
        (
            gateway("listen = \"a:1\", fronts = [\"::/0\"]"),
            "everybody would be a front",
        ),
        (
            gateway("listen = \"a:1\", fronts = [\"10.0.0.1/8\"]"),
            "write 10.0.0.0/8 for the network",
        ),
        (
            gateway("listen = \"a:1\", tls = { key = \"k\" }"),
            "tls: the key `certificate` is missing",
        ),
        (
            gateway("listen = \"a:1\", tls = { certificate = \"c\", key = \"\" }"),
            "tls.key: expected the path of a file",
        ),
        (
            gateway("listen = \"a:1\", peers = { listen = \"a:1\" }"),
            "peers: the key `address` is missing",
        ),
        (
            gateway("listen = \"a:1\", peers = { listen = \"a:1\", address = \"b:0\" }"),
            "peers.address: \"b:0\" is not HOST:PORT",
        ),
        (
            gateway("listen = \"a:1\", threads = 0"),
            "threads: expected a whole number from 1 up",
        ),
        (
            gateway("listen = \"a:1\", threads = 257"),
            "threads: at most 256 threads",
        ),
        (
            gateway("listen = \"a:1\", resend = 5"),
            "resend: expected a string",
        ),
        (
            gateway("listen = \"a:1\", park = { time = \"0s\" }"),
            "park.time: \"0s\" is not a duration above zero",
        ),
        (
            gateway("listen = \"a:1\", park = { size = 1 }"),
            "unknown key `size` in site.beijing.gateway.park; did you mean `time`?",
        ),
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    let secret = gateway(
        "listen = \"a:1\", tls = { certificate = \"c\", key = \"-----BEGIN PRIVATE KEY-----MC4CAQ\" }",
    );
    assert!(!secret.contains("MC4CAQ"), "{secret}");
    let upstream = |text: &str| refusal(&SMALL.replace("\"http://127.0.0.1:9001\"", text));
    for text in [
        "http://a",
        "https://a:1",
        "a:1",
        "http://a:1/",
        "http://a:1/x",
        "http://a:0",
        "http://u:geheim@a:1",
        "",
    ] {
        let refused = upstream(&format!("{text:?}"));
        let wanted =
            "d.toml:9: service.shop.upstream.beijing: expected \"http://HOST:PORT\", with no path";
        assert_eq!(refused, wanted);
    }
    let nowhere = refusal(&SMALL.replace("upstream = { beijing", "upstream = { oslo"));
    assert!(
        nowhere.contains("upstream.oslo: there is no site oslo; there are: beijing, singapore"),
        "{nowhere}"
    );
}

#[test]
fn tokens_of_another_form_are_refused() {
    let token = |more: &str| added(&format!("[token.main]\n{more}\n"));
    let good = "algorithm = \"EdDSA\"\nkey = { file = \"k\" }";
    for (refused, part) in [
        (
            token("algorithm = \"none\""),
            "d.toml:11: token.main.algorithm: \"none\" is not one of EdDSA, ES256",
        ),
        (token("algorithm = \"eddsa\""), "\"eddsa\" is not one of"),
        (
            token("key = { file = \"k\" }"),
            "the key `algorithm` is missing",
        ),
        (token("algorithm = \"EdDSA\""), "the key `key` is missing"),
        (
            token("algorithm = \"EdDSA\"\nkey = {}"),
            "token.main.key: expected one of file = \"PATH\" and env = \"NAME\"",
        ),
        (
            token("algorithm = \"EdDSA\"\nkey = { file = \"a\", env = \"B\" }"),
            "expected one of file",
        ),
        (
            token("algorithm = \"EdDSA\"\nkey = { url = \"https://id.example\" }"),
            "unknown key `url` in token.main.key",
        ),
        (
            token(&format!("{good}\nleeway = \"6min\"")),
            ":13: token.main.leeway: \"6min\" is not whole seconds, at most \"5min\"",
        ),
        (
            token(&format!("{good}\nleeway = \"1500ms\"")),
            "is not whole seconds",
        ),
        (
            token(&format!("{good}\nmax_age = \"0s\"")),
            "is not whole seconds above zero",
        ),
        (
            token(&format!("{good}\nissuer = \"\"")),
            "token.main.issuer: \"\" is not a text with something in it",
        ),
        (
            token(&format!("{good}\njwks = \"https://id.example/keys\"")),
            "unknown key `jwks` in token.main",
        ),
        (
            added(&format!("[token.Main]\n{good}\n")),
            "token.Main: a name is",
        ),
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    for key in [
        "\"geheim\"",
        "{ file = \"-----BEGIN geheim\" }",
        "{ env = \"geheim+/=\" }",
    ] {
        let refused = token(&format!("algorithm = \"HS256\"\nkey = {key}"));
        assert!(!refused.contains("geheim"), "{refused}");
    }
}

#[test]
fn a_shared_secret_is_base64_long_and_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("issuer.secret");
    let text = "[token.main]\nalgorithm = \"HS256\"\nkey = { file = \"issuer.secret\" }\n";
    let config = Config::parse(&format!("{SMALL}{text}"), &folder.path().join("d.toml")).unwrap();
    let token = &config.tokens["main"];
    let with = |text: &str, mode: u32| {
        std::fs::write(&place, text).unwrap();
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode)).unwrap();
        token
            .verifier()
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let secret = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB\nQUFBQUFBQUFBQUE=\n";
    assert_eq!(with(secret, 0o600), Ok(()));
    for (text, mode, says) in [
        (
            secret,
            0o640,
            "may be read by others than its owner: chmod 600 it",
        ),
        (
            "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB",
            0o600,
            "it is a secret of fewer bytes than its hash has",
        ),
        (
            "geheim!",
            0o600,
            "is not in base64, as `openssl rand -base64 64` writes secrets",
        ),
        (
            PUBLIC,
            0o600,
            "is not in base64, as `openssl rand -base64 64` writes secrets",
        ),
    ] {
        let refused = with(text, mode).unwrap_err();
        assert!(
            refused.ends_with(says) && !refused.contains("geheim"),
            "{refused}"
        );
    }
    let env = text.replace("file = \"issuer.secret\"", "env = \"ISSUER\"");
    let config = parse(&format!("{SMALL}{env}")).unwrap();
    let token = &config.tokens["main"];
    assert!(
        token
            .verifier_from(|name| (name == "ISSUER").then(|| secret.to_owned()))
            .is_ok()
    );
    let unset = token.verifier_from(|_| None).unwrap_err().to_string();
    assert!(
        unset.ends_with("token.main.key: the environment variable ISSUER is not set"),
        "{unset}"
    );
}
