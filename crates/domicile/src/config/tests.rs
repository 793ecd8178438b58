//! Each error says which key, which file, which line.

use std::collections::BTreeMap;
use std::time::Duration;

use model::Market;
use model::policy::Rule;

use super::*;

/// DESIGN's example, which must read whole.
const WHOLE: &str = r#"[site.beijing]
country = "CN"
provider = "own"
link    = { listen = "0.0.0.0:7443", address = "bj.example:7443", pins = ["sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "sha256/AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] }
gateway = { listen = "0.0.0.0:8443" }
after_restart = "open"
[site.singapore]
[site.california]

[service.shop]
origin = "beijing"
user = { table = "customer", key = "customer_id", market = "country" }
ids  = "ranges"
database.beijing   = { env = "SHOP_BEIJING_URL" }
database.singapore = "postgres://shop:geheim@sg.example/shop"
database.california = { file = "california.url" }
objects  = { key = "users/{user}/", store.beijing = "s3://b", store.singapore = "file:///o" }
messages = { subject = "push.{user}.>", stream = "PUSH", server.beijing = "nats://b", server.singapore = "nats://s" }
upstream = { beijing = "http://127.0.0.1:9001", singapore = "http://127.0.0.1:9001" }
batch    = { users = 32, rows = 10_000 }
limits   = { max_pause = "500ms", wal = "2GiB", rate = "20MiB/s" }
erase    = { after = "7d", backups_kept = "14d" }

[service.shop.tables]
invoice      = "customer_id"
invoice_line = "invoice_id -> invoice"
track        = "reference"
job_queue    = "ignore"

[policy]
pinned = { CN = "beijing" }

[[phase]]
name    = "e-commerce"
service = ["shop"]
home    = { HK = "singapore", US = "california", "*" = "singapore" }
basis   = { code = "c", document = "d", expires = "2027-01-01" }
"#;

/// Sixteen lines; what a test changes stands below or replaces a line.
const SMALL: &str = r#"[site.beijing]
[site.singapore]
[site.mumbai]

[service.shop]
origin = "beijing"
user = { table = "customer", key = "customer_id", market = "country" }
ids = "uuid"
database.beijing = "postgres://b/shop"
database.singapore = "postgres://s/shop"

[service.shop.tables]
invoice = "customer_id"
invoice_line = "invoice_id -> invoice"
track = "reference"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("domicile.toml"))
}

fn refusal(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

/// The error when line `n` of SMALL is replaced.
fn replaced(n: usize, line: &str) -> String {
    let mut lines: Vec<&str> = SMALL.lines().collect();
    lines[n - 1] = line;
    refusal(&lines.join("\n"))
}

/// The error when `more` follows SMALL.
fn added(more: &str) -> String {
    refusal(&format!("{SMALL}{more}"))
}

#[test]
fn the_whole_format_reads() {
    let config = parse(WHOLE).unwrap();
    let shop = &config.services[&"shop".into()];
    assert_eq!(
        shop.batch,
        Batch {
            users: 32,
            rows: 10_000
        }
    );
    assert_eq!(shop.limits.max_pause, Duration::from_millis(500));
    assert_eq!(shop.limits.rate, Some(20 << 20));
    assert_eq!(shop.erase.after, Duration::from_secs(7 * 86_400));
    assert_eq!(shop.tables.len(), 4);
    assert_eq!(
        config.sites[&"beijing".into()].country.as_deref(),
        Some("CN")
    );
    let (home, rule) =
        config
            .policy
            .home(&"shop".into(), &Market::from("DE"), Some(0), &shop.origin);
    assert_eq!(home.as_str(), "singapore");
    assert_eq!(rule, Rule::Others("e-commerce".into()));
}

#[test]
fn what_has_no_effect_yet_is_said() {
    let warnings = parse(WHOLE).unwrap().warnings.join("\n");
    assert!(warnings.contains("link: "), "{warnings}");
    assert!(warnings.contains("service.shop.objects: not moved by this version"));
    assert!(warnings.contains("service.shop.messages: not moved by this version"));
}

#[test]
fn defaults_are_those_of_the_design() {
    let config = parse(SMALL).unwrap();
    let shop = &config.services[&"shop".into()];
    assert_eq!(
        shop.batch,
        Batch {
            users: 64,
            rows: 20_000
        }
    );
    assert_eq!(shop.limits.max_pause, Duration::from_secs(1));
    assert_eq!((shop.limits.wal, shop.limits.rate), (10 << 30, None));
    assert_eq!(shop.limits.row, 64 << 20);
    assert_eq!(shop.erase.after, Duration::from_secs(30 * 86_400));
    assert!(config.warnings.is_empty());
}

#[test]
fn a_service_with_objects_or_open_questions_is_not_movable() {
    let refused = parse(WHOLE)
        .unwrap()
        .movable(&"shop".into())
        .unwrap_err()
        .to_string();
    assert!(
        refused.starts_with("domicile.toml:17: service.shop.objects: not moved"),
        "{refused}"
    );
    let open = SMALL.replace("\"reference\"", "\"?\"");
    let refused = parse(&open)
        .unwrap()
        .movable(&"shop".into())
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        "domicile.toml:15: service.shop.tables.track: not classified yet, \"?\" stands there; write the column \
         that holds the user's key, \"column -> table\", \"reference\" or \"ignore\""
    );
    assert!(parse(SMALL).unwrap().movable(&"shop".into()).is_ok());
}

#[test]
fn an_unknown_key_is_named_with_file_and_line_at_every_level() {
    assert_eq!(
        replaced(6, "orgin = \"beijing\"\norigin = \"beijing\""),
        "domicile.toml:6: unknown key `orgin` in service.shop; did you mean `origin`?"
    );
    assert_eq!(
        added("[polices]\n"),
        "domicile.toml:16: unknown key `polices` at the top of the file; did you mean `policy`?"
    );
    assert_eq!(
        replaced(1, "[site.beijing]\nplanet = \"earth\""),
        "domicile.toml:2: unknown key `planet` in site.beijing; \
         known here: country, provider, key, link, admin, gateway, after_restart"
    );
    assert!(
        replaced(5, "[service.shop]\nbatch = { user = 3 }")
            .contains(":6: unknown key `user` in service.shop.batch")
    );
    assert!(added("[policy]\npin = 1\n").contains(":17: unknown key `pin` in policy"));
    let phase = "[[phase]]\nname = \"a\"\nservice = [\"shop\"]\nhome = {}\nhomes = 1\n";
    assert!(added(phase).contains(":20: unknown key `homes` in phase[0]; did you mean `home`?"));
    let database = replaced(9, "database.beijing = { envv = \"X\" }");
    assert!(database.contains(":9: unknown key `envv` in service.shop.database.beijing"));
}

#[test]
fn a_sites_key_and_pins_are_kept_and_pins_alone_are_no_link() {
    let link = format!("link = {{ pins = [\"{}\"] }}", pin(5));
    let text = WHOLE.replace(
        "[site.singapore]",
        &format!("[site.singapore]\nkey = {{ file = \"a.pem\" }}\n{link}"),
    );
    let config = parse(&text).unwrap();
    let site = &config.sites[&"singapore".into()];
    let pins: Vec<String> = site
        .pins()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(pins, [pin(5)]);
    assert_eq!(site.key.as_ref().unwrap().name.to_str(), Some("a.pem"));
    assert!(!config.warnings.join("\n").contains("site.singapore"));
    assert!(
        config.sites[&"california".into()]
            .pins()
            .unwrap()
            .is_empty()
    );
    // Read when it is needed, and then named.
    let error = site.key.as_ref().unwrap().key().unwrap_err().to_string();
    assert!(
        error.contains("site.singapore.key: the file a.pem cannot be read"),
        "{error}"
    );
}

#[test]
fn names_that_point_nowhere_are_named() {
    assert_eq!(
        added("[policy]\npinned = { CN = \"bejing\" }\n"),
        "domicile.toml:17: policy.pinned.CN: there is no site bejing; there are: beijing, mumbai, singapore"
    );
    let phase = |service: &str, home: &str| {
        added(&format!(
            "[[phase]]\nname = \"a\"\nservice = [\"{service}\"]\nhome = {{ IN = \"{home}\" }}\n"
        ))
    };
    assert_eq!(
        phase("shop", "delhi"),
        "domicile.toml:19: phase[0].home.IN: there is no site delhi; there are: beijing, mumbai, singapore"
    );
    assert_eq!(
        phase("shop", "mumbai"),
        "domicile.toml:19: phase[0].home.IN: the service shop has no database at mumbai: configure \
         service.shop.database.mumbai, or name another home"
    );
    assert_eq!(
        phase("forum", "singapore"),
        "domicile.toml:18: phase[0].service[0]: there is no service forum; there are: shop"
    );
    assert_eq!(
        replaced(10, "database.oslo = \"postgres://o/shop\""),
        "domicile.toml:10: service.shop.database.oslo: there is no site oslo; there are: beijing, mumbai, singapore"
    );
    assert_eq!(
        replaced(6, "origin = \"mumbai\""),
        "domicile.toml:6: service.shop.origin: the service has no database at its origin mumbai"
    );
    assert_eq!(
        added("[policy]\npinned = { CN = \"mumbai\" }\n"),
        "domicile.toml:17: policy.pinned.CN: the service shop has no database at mumbai: configure \
         service.shop.database.mumbai, or name another home"
    );
}

#[test]
fn contradictions_are_refused() {
    let twice = "[[phase]]\nname = \"a\"\nservice = [\"shop\"]\nhome = {}\n".repeat(2);
    assert_eq!(
        added(&twice),
        "domicile.toml:21: phase[1].name: there is another phase \"a\" before this one"
    );
    let pin = "[policy]\npinned = { CN = \"beijing\" }\n[[phase]]\nname = \"a\"\nservice = [\"shop\"]\nhome = { CN = \"singapore\" }\n";
    assert_eq!(
        added(pin),
        "domicile.toml:21: phase[0].home.CN: the market CN is pinned to beijing and can have no other home; take it \
         out here, or out of policy.pinned"
    );
    assert!(
        added("\"public.track\" = \"ignore\"\n")
            .contains(":16: service.shop.tables.public.track: the table is classified twice")
    );
    assert!(
        replaced(13, "customer = \"reference\"")
            .contains(":13: service.shop.tables.customer: this is the user table")
    );
    assert_eq!(
        replaced(14, "invoice_line = \"track_id -> track\""),
        "domicile.toml:14: service.shop.tables.invoice_line: points at track, which belongs to no user"
    );
}

#[test]
fn bad_values_are_refused_with_their_form() {
    assert!(
        replaced(14, "invoice_line = \"(a, -> t\"")
            .starts_with("domicile.toml:14: service.shop.tables.invoice_line: ")
    );
    assert!(
        replaced(14, "invoice_line = \"<- a.b\"").contains(
            ":14: service.shop.tables.invoice_line: points at a, which belongs to no user"
        )
    );
    assert_eq!(
        replaced(8, "ids = \"serial\""),
        "domicile.toml:8: service.shop.ids: \"serial\" is not \"ranges\", \"uuid\" or \"application\""
    );
    assert!(
        replaced(8, "ids = 5")
            .contains(":8: service.shop.ids: expected a string, found a value of type integer")
    );
    assert!(
        replaced(5, "[service.shop]\nlimits = { max_pause = \"soon\" }")
            .contains(":6: service.shop.limits.max_pause: \"soon\" is not a duration")
    );
    assert!(
        replaced(5, "[service.shop]\nbatch = { users = 0 }").contains("a whole number from 1 up")
    );
    assert!(replaced(5, "[service.Shop]").contains(":5: service.Shop: a name is"));
    assert_eq!(
        replaced(7, ""),
        "domicile.toml:5: service.shop: the key `user` is missing"
    );
    assert!(replaced(8, "ids = ").starts_with("domicile.toml:8: "));
    assert!(replaced(8, "ids = \"uuid\"\nids = \"uuid\"").starts_with("domicile.toml:9: "));
}

#[test]
fn secrets_are_never_printed() {
    let config = parse(WHOLE).unwrap();
    assert!(!format!("{config:?}").contains("geheim"));
    for line in [
        "database = \"postgres://shop:geheim@h/shop\"",
        "database.beijing = \"postgre://shop:geheim@h/shop\"",
        "database.beijing = [\"postgres://shop:geheim@h/shop\"]",
        "database.beijing = \"postgres://shop:geheim@h/shop",
        "user = \"geheim\"",
        "batch = \"geheim\"",
    ] {
        let text = SMALL.replace("database.beijing = \"postgres://b/shop\"", line);
        let text = match line.starts_with("database = ") {
            true => text.replace("database.singapore = \"postgres://s/shop\"\n", ""),
            false => text,
        };
        let error = format!("{:?}", parse(&text).expect_err(line));
        assert!(!error.contains("geheim"), "{error}");
    }
}

#[test]
fn a_url_is_looked_up_when_it_is_needed() {
    let config = parse(WHOLE).unwrap();
    let databases = &config.services[&"shop".into()].databases;
    let here = &databases[&"singapore".into()];
    assert_eq!(
        here.url().unwrap().expose(),
        "postgres://shop:geheim@sg.example/shop"
    );
    let env = &databases[&"beijing".into()];
    let known = BTreeMap::from([("SHOP_BEIJING_URL", "postgres://x/y")]);
    let look = |name: &str| known.get(name).map(|text| (*text).to_owned());
    assert_eq!(env.url_from(look).unwrap().expose(), "postgres://x/y");
    assert_eq!(
        env.url_from(|_| None).unwrap_err().to_string(),
        "domicile.toml:14: service.shop.database.beijing: the environment variable SHOP_BEIJING_URL is not set"
    );
    let wrong = env
        .url_from(|_| Some("geheim".into()))
        .unwrap_err()
        .to_string();
    assert!(
        wrong.ends_with("SHOP_BEIJING_URL holds no postgres:// URL"),
        "{wrong}"
    );
}

#[test]
fn a_url_file_stands_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("california.url"), "postgres://c/shop\n").unwrap();
    let config = Config::parse(WHOLE, &folder.path().join("domicile.toml")).unwrap();
    let file = &config.services[&"shop".into()].databases[&"california".into()];
    assert_eq!(file.url().unwrap().expose(), "postgres://c/shop");
    let config = parse(WHOLE).unwrap();
    let missing = &config.services[&"shop".into()].databases[&"california".into()];
    assert!(
        missing
            .url()
            .unwrap_err()
            .to_string()
            .contains("cannot read the file california.url")
    );
}

/// 32 bytes, of which the first differs.
fn pin(n: u8) -> String {
    let first = char::from(b'A' + n);
    format!("sha256/{first}{}=", "A".repeat(42))
}

#[test]
fn links_and_keys_are_read() {
    let link = format!(
        "[site.beijing]\nkey = {{ file = \"keys/bj.key\" }}\n\
         link = {{ listen = \"0.0.0.0:0\", address = \"[::1]:7443\", pins = [\"{}\", \"{}\"], flows = 16 }}",
        pin(0),
        pin(1)
    );
    let text = SMALL.replacen("[site.beijing]", &link, 1);
    let config = Config::parse(&text, Path::new("/etc/domicile/domicile.toml")).unwrap();
    let site = &config.sites[&"beijing".into()];
    assert_eq!(
        site.key.as_ref().map(KeyFile::place),
        Some("/etc/domicile/keys/bj.key".into())
    );
    let link = site.link.as_ref().unwrap();
    assert_eq!(
        (link.flows, link.listen.as_deref()),
        (16, Some("0.0.0.0:0"))
    );
    assert_eq!(link.pins.as_ref().unwrap().iter().count(), 2);
    let alone = format!("[site.beijing]\nlink = {{ pins = [\"{}\"] }}", pin(0));
    let config = parse(&SMALL.replacen("[site.beijing]", &alone, 1)).unwrap();
    let link = config.sites[&"beijing".into()].link.clone().unwrap();
    assert_eq!((link.address, link.flows), (None, 8));
}

#[test]
fn links_and_keys_of_another_form_are_refused() {
    let link = |link: &str| replaced(1, &format!("[site.beijing]\nlink = {{ {link} }}"));
    let key = |key: &str| replaced(1, &format!("[site.beijing]\nkey = {key}"));
    let five = (0..5)
        .map(|n| format!("\"{}\"", pin(n)))
        .collect::<Vec<_>>();
    for (refused, part) in [
        (
            link("listen = \"7443\""),
            ":2: site.beijing.link.listen: \"7443\" is not HOST:PORT",
        ),
        (
            link("address = \"bj.example:0\""),
            "site.beijing.link.address",
        ),
        (
            link("address = \"https://bj.example:7443\""),
            "is not HOST:PORT",
        ),
        (link("pins = []"), "at least one pin"),
        (
            link("pins = [\"sha256/a\"]"),
            "site.beijing.link.pins[0]: a pin is",
        ),
        (
            link(&format!("pins = [\"{}\", \"{}\"]", pin(1), pin(1))),
            "twice",
        ),
        (
            link(&format!("pins = [{}]", five.join(", "))),
            "at most 4 pins",
        ),
        (link("flows = 65"), "at most 64"),
        (link("flows = 0"), "from 1 up"),
        (
            link("insecure = true"),
            "unknown key `insecure` in site.beijing.link",
        ),
        (key("{ fil = \"x\" }"), "the key `file` is missing"),
        (key("{ file = \"\" }"), "expected the path"),
        (key("\"x\""), "expected a table"),
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    let shared = format!(
        "[site.beijing]\nlink = {{ pins = [\"{0}\"] }}\n[site.sofia]\nlink = {{ pins = [\"{0}\"] }}",
        pin(3)
    );
    assert!(replaced(1, &shared).contains("is also beijing's"));
    let secret = key("{ file = \"-----BEGIN PRIVATE KEY-----MC4CAQ\" }");
    assert!(!secret.contains("MC4CAQ"), "{secret}");
}
