//! The ledgers of two sites, by the real program: sealed at the end of moves, proven, checked offline; and what a superuser
//! of one site does to its tables, triggers off and its key in hand, is found by what the other site countersigned.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ledger::head::{Head, origin};
use ledger::key::SiteKey;
use ledger::note::Note;
use ledger::tree::{Frontier, leaf_hash};
use residency::log::{self, HeadRow};
use serde_json::Value;
use support::program::{Program, Ran};
use support::{Clusters, SITES, World};

/// People whose keys are their addresses: wherever one turns up, it is seen.
const PEOPLE: &str = "
    CREATE TABLE person (address text PRIMARY KEY, country text NOT NULL);
    CREATE TABLE letter (id bigint PRIMARY KEY, address text NOT NULL REFERENCES person, words text);";

const MOVERS: u32 = 40;

struct Scene(World);

fn seed(site: usize) -> [u8; 32] {
    [site as u8 + 11; 32]
}

fn key(site: usize) -> SiteKey {
    SiteKey::from_seed(&seed(site))
}

/// Gives each site of `world` a key.
fn give_keys(world: &World, file: &str) -> Result<()> {
    let config = world.path(file);
    let mut text = std::fs::read_to_string(&config)?;
    for (n, site) in SITES.iter().enumerate() {
        let name = format!("{site}.pem");
        write_key(&world.path(&name), n, 0o600)?;
        let table = format!("[site.{site}]\n");
        text = text.replace(&table, &format!("{table}key = {{ file = \"{name}\" }}\n"));
    }
    std::fs::write(config, text)?;
    Ok(())
}

fn write_key(path: &Path, site: usize, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let pem = SigningKey::from_bytes(&seed(site)).to_pkcs8_pem(LineEnding::LF)?;
    std::fs::write(path, pem.as_bytes())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// The pins, as flags.
fn pin_flags() -> Vec<String> {
    let pins = SITES.iter().enumerate();
    pins.map(|(n, site)| format!("--pin={site}={}", key(n).public().pin()))
        .collect()
}

/// Runs the program in an empty folder: no configuration, no database.
async fn elsewhere(args: &[&str]) -> Result<Ran> {
    let folder = tempfile::tempdir()?;
    let pins = pin_flags();
    let args: Vec<&str> = args
        .iter()
        .copied()
        .chain(pins.iter().map(String::as_str))
        .collect();
    Program::new(folder.path(), &args).run().await
}

impl Scene {
    async fn new(name: &str) -> Result<Scene> {
        let world = World::empty(Clusters::shared().await?, name).await?;
        for site in [0, 1] {
            world.admin(site).await?.batch_execute(PEOPLE).await?;
        }
        let fill = format!(
            "INSERT INTO person SELECT 'canary-' || n || '@example.org', CASE WHEN n <= {MOVERS} THEN 'IN' ELSE 'CN' END
               FROM generate_series(1, {MOVERS} + 4) AS n;
             INSERT INTO letter SELECT n, 'canary-' || (1 + n % {MOVERS}) || '@example.org', 'words' FROM generate_series(1, 90) AS n"
        );
        world.admin(0).await?.batch_execute(&fill).await?;
        let user = r#"{ table = "person", key = "address", market = "country" }"#;
        world.write_configuration(
            "domicile.toml",
            user,
            "letter = \"address\"",
            "out",
            &[("IN", "singapore")],
        )?;
        give_keys(&world, "domicile.toml")?;
        world.install().await?;
        Ok(Scene(world))
    }

    /// With the movers moved, and all of that countersigned.
    async fn moved(name: &str) -> Result<Scene> {
        let scene = Scene::new(name).await?;
        scene.0.apply("domicile.toml").run().await?.expect(0)?;
        scene.clean().await?;
        Ok(scene)
    }

    async fn run(&self, args: &[&str], code: i32) -> Result<Ran> {
        self.0.program(args).run().await?.expect(code)
    }

    async fn json(&self, args: &[&str], code: i32) -> Result<Value> {
        let ran = self.run(&[args, &["--json"]].concat(), code).await?;
        Ok(serde_json::from_str(&ran.stdout)?)
    }

    /// Nothing is found, and everything is countersigned.
    async fn clean(&self) -> Result<Value> {
        let verified = self.json(&["ledger", "verify"], 0).await?;
        for log in verified["logs"].as_array().context("logs")? {
            ensure!(
                log["entries"] == log["witnessed"] && log["waiting"] == 0,
                "{verified}"
            );
        }
        Ok(verified)
    }

    /// The kinds of what is found about singapore, and nothing about beijing.
    async fn found(&self) -> Result<Vec<String>> {
        let verified = self.json(&["ledger", "verify"], 1).await?;
        let findings = verified["findings"].as_array().context("findings")?;
        for finding in findings {
            ensure!(finding["site"] == "singapore", "{verified}");
        }
        let kinds = findings
            .iter()
            .filter_map(|finding| finding["kind"].as_str());
        Ok(kinds.map(str::to_owned).collect())
    }

    /// As superuser of singapore.
    async fn tamper(&self, sql: &str) -> Result<()> {
        Ok(self.0.admin(1).await?.batch_execute(sql).await?)
    }

    /// Computes the whole tree of singapore anew from the entries that stand there now.
    async fn rechain(&self) -> Result<Frontier> {
        let session = self.0.admin(1).await?;
        let rows = log::rows(&session, 0, 100_000).await?;
        let mut frontier = Frontier::default();
        session.batch_execute("DELETE FROM domicile.node").await?;
        for row in rows {
            let hash = leaf_hash(row.entry.context("an entry")?.text()?.as_bytes());
            let update = "UPDATE domicile.leaf SET hash = $1 WHERE position = $2";
            session
                .execute(update, &[&&hash.0[..], &row.position.cast_signed()])
                .await?;
            let perfect = frontier.push(hash);
            log::append(&session, &[], &perfect).await?;
        }
        Ok(frontier)
    }

    /// Signs what stands there with the site's own key, as the only head.
    async fn resign(&self) -> Result<()> {
        let frontier = self.rechain().await?;
        let session = self.0.admin(1).await?;
        session
            .batch_execute("DELETE FROM domicile.head; DELETE FROM domicile.cosigned")
            .await?;
        let head = Head {
            origin: origin(&self.0.name, "singapore"),
            size: frontier.size(),
            root: frontier.root(),
        };
        let row = HeadRow {
            size: head.size,
            root: head.root,
            key: key(1).public(),
            note: Note::new(head.to_string(), vec![head.sign(&key(1))]).to_string(),
        };
        Ok(log::add_head(&session, &row).await?)
    }
}

/// Tables that the attacks change.
const TABLES: [&str; 5] = ["entry", "leaf", "node", "head", "cosigned"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_eight_attacks_of_a_superuser_are_found_each() -> Result<()> {
    let scene = Scene::moved("attacked").await?;
    let entries: u64 = scene
        .0
        .value(1, "SELECT count(*) FROM domicile.leaf")
        .await?
        .parse()?;
    ensure!(entries >= 3, "three batches: {entries}");
    let save: Vec<String> = TABLES
        .iter()
        .map(|t| {
            format!(
                "ALTER TABLE domicile.{t} DISABLE TRIGGER keep;
                 CREATE TABLE saved_{t} AS SELECT * FROM domicile.{t};"
            )
        })
        .collect();
    scene.tamper(&save.concat()).await?;
    let restore: Vec<String> = TABLES
        .iter()
        .map(|t| {
            format!(
                "DELETE FROM domicile.{t};
                 INSERT INTO domicile.{t} OVERRIDING SYSTEM VALUE SELECT * FROM saved_{t};"
            )
        })
        .collect();
    let restore = restore.concat();
    let edit = "UPDATE domicile.entry SET body = body || '{\"rows\": 0}' WHERE n = (SELECT n FROM domicile.leaf WHERE position = 1);";
    let shift = "UPDATE domicile.leaf SET position = position + 1000 WHERE position >= 1;
                 UPDATE domicile.leaf SET position = position - 999 WHERE position >= 1000;";
    // 1 edit, 2 delete, 3 swap, 4 insert: the tables alone.
    scene.tamper(edit).await?;
    assert_eq!(scene.found().await?, ["entry"], "edit");
    scene.tamper(&restore).await?;
    scene.clean().await?;

    scene
        .tamper(
            "DELETE FROM domicile.entry WHERE n = (SELECT n FROM domicile.leaf WHERE position = 1)",
        )
        .await?;
    assert_eq!(scene.found().await?, ["entry"], "delete");
    scene.tamper(&restore).await?;
    let delete_whole = "WITH gone AS (DELETE FROM domicile.leaf WHERE position = 1 RETURNING n)
                        DELETE FROM domicile.entry WHERE n IN (SELECT n FROM gone)";
    scene.tamper(delete_whole).await?;
    assert!(scene.found().await?.contains(&"root".to_owned()), "delete");
    scene.tamper(&restore).await?;

    let swap = "UPDATE domicile.leaf SET position = 1000 WHERE position = 0;
                UPDATE domicile.leaf SET position = 0 WHERE position = 1;
                UPDATE domicile.leaf SET position = 1 WHERE position = 1000;";
    scene.tamper(swap).await?;
    assert!(scene.found().await?.contains(&"root".to_owned()), "swap");
    scene.rechain().await?;
    assert!(
        scene.found().await?.contains(&"root".to_owned()),
        "swap, chained anew"
    );
    scene.tamper(&restore).await?;

    let insert = "INSERT INTO domicile.entry (kind, body) VALUES ('erased', '{\"rows\": 1}');
                  INSERT INTO domicile.leaf SELECT 1, max(n), sha256('x') FROM domicile.entry;";
    scene.tamper(&format!("{shift} {insert}")).await?;
    scene.rechain().await?;
    assert!(scene.found().await?.contains(&"root".to_owned()), "insert");
    scene.tamper(&restore).await?;

    // 5 re-chain: every hash computed anew; the signatures are what is left.
    scene.tamper(edit).await?;
    scene.rechain().await?;
    assert_eq!(
        scene
            .found()
            .await?
            .iter()
            .filter(|kind| *kind != "root")
            .count(),
        0,
        "re-chain"
    );
    // The site's own program signs nothing over that either.
    let refused = scene.run(&["ledger", "seal"], 1).await?;
    assert!(refused.stderr.contains("do not continue"), "{refused}");
    scene.tamper(&restore).await?;

    // 6 truncate: nothing is left that says more.
    let truncate =
        "DELETE FROM domicile.entry WHERE n IN (SELECT n FROM domicile.leaf WHERE position > 0);
                    DELETE FROM domicile.leaf WHERE position > 0; DELETE FROM domicile.node;
                    DELETE FROM domicile.head; DELETE FROM domicile.cosigned;";
    scene.tamper(truncate).await?;
    assert!(
        scene.found().await?.contains(&"truncated".to_owned()),
        "truncate"
    );
    scene.tamper(&restore).await?;

    // 7 re-sign, with the site's own key.
    scene.tamper(edit).await?;
    scene.resign().await?;
    let found = scene.found().await?;
    assert!(
        found.contains(&"equivocation".to_owned()) && found.contains(&"root".to_owned()),
        "{found:?}"
    );
    scene.tamper(&restore).await?;
    scene.clean().await?;

    // 8 fork: another past, signed, and going on from there; the peer is shown it and refuses.
    scene.tamper(edit).await?;
    scene.resign().await?;
    scene
        .tamper("INSERT INTO domicile.entry (kind, body) VALUES ('erased', '{\"rows\": 2}')")
        .await?;
    let sealed = scene.json(&["ledger", "seal"], 1).await?;
    let refused = &sealed["logs"][1]["refused"][0];
    assert_eq!(refused["by"], "beijing", "{sealed}");
    let found = scene.found().await?;
    assert!(found.contains(&"equivocation".to_owned()), "{found:?}");
    // Put back as it was, the evidence stays.
    scene.tamper(&restore).await?;
    assert_eq!(scene.found().await?, ["equivocation"]);
    let check = scene.json(&["check"], 1).await?;
    let what = check["findings"].to_string();
    assert!(
        what.contains("equivocation: the ledger of singapore was refused"),
        "{check}"
    );
    Ok(())
}

/// X13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_heads_of_one_size_are_found_and_their_evidence_is_checked_offline() -> Result<()> {
    let scene = Scene::moved("split").await?;
    let off: Vec<String> = TABLES
        .iter()
        .map(|t| format!("ALTER TABLE domicile.{t} DISABLE TRIGGER keep;"))
        .collect();
    scene.tamper(&off.concat()).await?;
    let swap = "UPDATE domicile.leaf SET position = 1000 WHERE position = 0;
                UPDATE domicile.leaf SET position = 0 WHERE position = 1;
                UPDATE domicile.leaf SET position = 1 WHERE position = 1000;";
    scene.tamper(swap).await?;
    scene.resign().await?;
    let sealed = scene.run(&["ledger", "seal"], 1).await?;
    assert!(
        sealed.stdout.contains("two heads of the same size"),
        "{sealed}"
    );
    let found = scene.found().await?;
    assert!(found.contains(&"equivocation".to_owned()), "{found:?}");
    let bundle = scene.0.path("evidence.json");
    let bundle = bundle.to_str().context("a path")?;
    scene.run(&["ledger", "export", "--out", bundle], 0).await?;
    let verified = elsewhere(&["ledger", "verify", "--file", bundle])
        .await?
        .expect(1)?;
    assert!(
        verified.stdout.contains("beijing refused to countersign"),
        "{verified}"
    );
    assert!(
        verified.stdout.contains("it signed two different heads"),
        "{verified}"
    );
    assert!(
        !verified.stdout.contains("not signed by the site"),
        "{verified}"
    );
    // Who is told of a swap by the next move is told loudly.
    let ran = scene.0.apply("domicile.toml").run().await?.expect(0)?;
    assert!(
        ran.stderr.contains("equivocation: beijing refused"),
        "{ran}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_sealed_proven_and_checked_where_there_is_no_database() -> Result<()> {
    let scene = Scene::moved("proven").await?;
    let file = |name: &str| scene.0.path(name).display().to_string();
    let (bundle, moved, stayed) = (file("all.json"), file("moved.json"), file("stayed.json"));

    let proven = scene
        .json(&["prove", "canary-7@example.org", "--out", &moved], 0)
        .await?;
    assert_eq!(
        (&proven["home"], &proven["unsealed"]),
        (&"singapore".into(), &0.into()),
        "{proven}"
    );
    let arrived = "SELECT count(*) FROM domicile.entry WHERE kind = 'arrived' AND to_char(at AT TIME ZONE 'UTC',
                   'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') = '{}'";
    let since = proven["since"].as_str().context("since when")?;
    assert_eq!(scene.0.value(1, &arrived.replace("{}", since)).await?, "1");
    let shown = elsewhere(&["prove", "--check", &moved]).await?.expect(0)?;
    assert!(
        shown
            .stdout
            .contains(&format!("home singapore since {since}")),
        "{shown}"
    );
    assert!(shown.stdout.contains("countersigned by beijing"), "{shown}");
    elsewhere(&["ledger", "verify", "--file", &moved])
        .await?
        .expect(0)?;

    let proven = scene
        .json(
            &[
                "prove",
                &format!("canary-{}@example.org", MOVERS + 1),
                "--out",
                &stayed,
            ],
            0,
        )
        .await?;
    assert_eq!(
        (&proven["home"], &proven["since"]),
        (&"beijing".into(), &Value::Null)
    );
    let shown = elsewhere(&["prove", "--check", &stayed]).await?.expect(0)?;
    assert!(shown.stdout.contains("since before any entry"), "{shown}");

    scene
        .run(&["ledger", "export", "--out", &bundle], 0)
        .await?;
    let whole = elsewhere(&["ledger", "verify", "--file", &bundle])
        .await?
        .expect(0)?;
    assert!(
        whole.stdout.contains("countersigned to their ends"),
        "{whole}"
    );
    // Canary: a proof names its user and nobody else; all the rest names nobody.
    let text = std::fs::read_to_string(&moved)?;
    assert!(
        !text.replace("canary-7@example.org", "").contains("canary"),
        "{text}"
    );
    assert!(!std::fs::read_to_string(&bundle)?.contains("canary"));
    for table in residency::schema::APPEND_ONLY {
        for site in [0, 1] {
            let all = format!("SELECT string_agg(t::text, ' ') FROM domicile.{table} AS t");
            assert!(
                !scene.0.value(site, &all).await?.contains("canary"),
                "{table}"
            );
        }
    }
    let secrets = scene
        .0
        .value(
            1,
            "SELECT string_agg(encode(salt, 'base64'), ' ') FROM domicile.salt",
        )
        .await?;
    let home = scene
        .0
        .value(1, "SELECT encode(secret, 'base64') FROM domicile.home")
        .await?;
    for secret in secrets.split_whitespace().chain([home.as_str()]) {
        assert!(!text.contains(secret), "a secret left the site");
    }

    // Forged, it is refused; by other pins, too; and nothing that is wrong is repeated.
    let forged = text.replace("canary-7@", "canary-8@");
    std::fs::write(&moved, forged)?;
    elsewhere(&["prove", "--check", &moved]).await?.expect(1)?;
    let other = SiteKey::from_seed(&[99; 32]).public().pin();
    let folder = tempfile::tempdir()?;
    let args = [
        "ledger",
        "verify",
        "--file",
        &bundle,
        &format!("--pin=beijing={other}"),
    ];
    Program::new(folder.path(), &args).run().await?.expect(1)?;

    // Back again: since then he has lived at beijing again.
    let moves = scene.json(&["status"], 0).await?;
    let id = moves["moves"][0]["move"]
        .as_str()
        .context("a move")?
        .to_owned();
    scene.run(&["rollback", &id], 0).await?;
    let proven = scene.json(&["prove", "canary-7@example.org"], 0).await?;
    assert_eq!(proven["home"], "beijing", "{proven}");
    assert!(proven["since"].as_str() > Some(since), "{proven}");
    scene.clean().await?;
    // Nobody.
    scene.run(&["prove", "nobody@example.org"], 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_seal_at_once_take_every_entry_once() -> Result<()> {
    let scene = Scene::moved("crowded").await?;
    let late = scene.0.admin(1).await?;
    let one = "INSERT INTO domicile.entry (kind, body) VALUES ('test', '{}')";
    late.batch_execute(&format!("BEGIN; {one}")).await?;
    let more = "INSERT INTO domicile.entry (kind, body) SELECT 'test', '{}' FROM generate_series(1, 12000)";
    scene.tamper(more).await?;
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(scene.0.program(&["ledger", "seal"]).start()?);
    }
    for sealing in running {
        sealing.end().await?.expect(0)?;
    }
    scene.clean().await?;
    late.batch_execute("COMMIT").await?;
    let sealed = scene.json(&["ledger", "seal"], 0).await?;
    assert_eq!(sealed["logs"][1]["taken"], 1, "{sealed}");
    assert_eq!(sealed["logs"][1]["countersigned"][0], "beijing", "{sealed}");
    let lost = "SELECT count(*) FROM domicile.entry e FULL JOIN domicile.leaf l USING (n) WHERE e.at IS NULL OR l.hash IS NULL";
    assert_eq!(scene.0.value(1, lost).await?, "0");
    let last = "SELECT position - (SELECT max(position) FROM domicile.leaf) FROM domicile.leaf
                WHERE n = (SELECT min(n) FROM domicile.entry WHERE kind = 'test')";
    assert_eq!(
        scene.0.value(1, last).await?,
        "0",
        "drawn first, taken last"
    );
    scene.clean().await?;
    Ok(())
}

#[cfg(feature = "planted-faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dies_while_sealing_is_made_up_for() -> Result<()> {
    let scene = Scene::moved("died").await?;
    for point in [
        "after-take",
        "after-take:2",
        "after-head:2",
        "after-witness",
        "after-witness:2",
    ] {
        for site in [0, 1] {
            let one = "INSERT INTO domicile.entry (kind, body) VALUES ('test', '{}')";
            scene.0.admin(site).await?.batch_execute(one).await?;
        }
        let seal = scene
            .0
            .program(&["ledger", "seal"])
            .env("DOMICILE_STOP", point);
        let ran = seal.run().await?;
        ensure!(ran.code.is_none(), "{point} was not reached: {ran}");
        scene.0.free().await?;
        // What is half done is no finding.
        scene.json(&["ledger", "verify"], 0).await?;
        scene.run(&["ledger", "seal"], 0).await?;
        scene.clean().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_missing_or_open_to_others_or_exchanged_is_said() -> Result<()> {
    let scene = Scene::new("keyless").await?;
    let keyed = std::fs::read_to_string(scene.0.path("domicile.toml"))?;
    let lines = keyed.lines().filter(|line| !line.starts_with("key = "));
    let keyless: Vec<&str> = lines.collect();
    std::fs::write(scene.0.path("keyless.toml"), keyless.join("\n"))?;
    let ran = scene.0.apply("keyless.toml").run().await?.expect(0)?;
    assert_eq!(
        ran.stderr.matches("the ledger is not signed").count(),
        1,
        "{ran}"
    );
    scene
        .run(&["--config", "keyless.toml", "ledger", "seal"], 2)
        .await?;
    let unproven = scene
        .run(
            &["--config", "keyless.toml", "prove", "canary-7@example.org"],
            1,
        )
        .await?;
    assert!(unproven.stdout.contains("has no key"), "{unproven}");

    write_key(&scene.0.path("beijing.pem"), 0, 0o644)?;
    let open = scene.run(&["ledger", "seal"], 2).await?;
    assert!(open.stderr.contains("chmod 600"), "{open}");
    std::fs::write(scene.0.path("beijing.pem"), "geheim")?;
    write_mode(&scene.0.path("beijing.pem"), 0o600)?;
    let wrong = scene.run(&["ledger", "seal"], 2).await?;
    assert!(
        wrong.stderr.contains("PKCS#8") && !wrong.stderr.contains("geheim"),
        "{wrong}"
    );
    write_key(&scene.0.path("beijing.pem"), 0, 0o600)?;
    scene.run(&["ledger", "seal"], 0).await?;
    scene.clean().await?;

    // Rotated: the new key is pinned beside the old one, then alone. What the old one signed stands.
    write_key(&scene.0.path("singapore.pem"), 5, 0o600)?;
    let pins: BTreeMap<&str, String> = [
        (
            "both",
            format!(
                "\"{}\", \"{}\"",
                key(1).public().pin(),
                key(5).public().pin()
            ),
        ),
        ("new", format!("\"{}\"", key(5).public().pin())),
        ("old", format!("\"{}\"", key(1).public().pin())),
    ]
    .into();
    for (name, pins) in &pins {
        let table = "[site.singapore]\n";
        let link = format!("{table}link = {{ pins = [{pins}] }}\n");
        std::fs::write(
            scene.0.path(&format!("{name}.toml")),
            keyed.replace(table, &link),
        )?;
    }
    let strange = scene
        .run(&["--config", "old.toml", "ledger", "seal"], 1)
        .await?;
    assert!(
        strange.stderr.contains("none of those that its pins name"),
        "{strange}"
    );
    scene
        .run(&["--config", "both.toml", "ledger", "seal"], 0)
        .await?;
    for pins in ["both.toml", "new.toml"] {
        scene
            .run(&["--config", pins, "ledger", "verify"], 0)
            .await?;
        scene
            .run(&["--config", pins, "prove", "canary-7@example.org"], 0)
            .await?;
    }
    Ok(())
}

fn write_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(
        path,
        std::fs::Permissions::from_mode(mode),
    )?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shop_moves_under_its_writers_and_every_batch_is_in_both_ledgers() -> Result<()> {
    let world = World::shop(
        Clusters::shared().await?,
        "ledger_shop",
        120,
        &[("IN", 9), ("CN", 1)],
    )
    .await?;
    give_keys(&world, "domicile.toml")?;
    let movers = world.users_of(0, "IN").await?;
    let stayers = world.users_of(0, "CN").await?;
    let options = shop::workload::WorkloadOptions::default();
    let workload = world.writers("beijing", &movers, options).await?;
    support::more_acknowledged(&workload, 40).await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    let log = workload.stop().await?;
    world
        .expect_clean(&log, "beijing", |user| movers.contains(&user))
        .await?;
    let scene = Scene(world);
    scene.clean().await?;
    for (user, home) in [(movers[0], "singapore"), (stayers[0], "beijing")] {
        let proven = scene.json(&["prove", &user.to_string()], 0).await?;
        assert_eq!(proven["home"], home, "{proven}");
        assert_eq!(
            proven["report"]["findings"],
            Value::Array(Vec::new()),
            "{proven}"
        );
    }
    scene.run(&["erase", "--now"], 0).await?;
    let kinds = "SELECT string_agg(DISTINCT kind, ',' ORDER BY kind) FROM domicile.entry JOIN domicile.leaf USING (n)";
    assert_eq!(
        scene.0.value(0, kinds).await?,
        "departed,erased,erasing,move_begun,policy"
    );
    scene.clean().await?;
    Ok(())
}

/// What sealing costs where there is much. Run with --ignored --nocapture, in release; the figures stand in docs/ledger.md.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_hundred_thousand_entries_are_sealed_and_one_more() -> Result<()> {
    let scene = Scene::moved("hundred_thousand").await?;
    let many = "INSERT INTO domicile.entry (kind, body)
                SELECT 'arrived', jsonb_build_object('batch', n::text, 'nonce', repeat('0', 64), 'users',
                       (SELECT jsonb_agg(encode(sha256(convert_to(n::text || u::text, 'UTF8')), 'hex')) FROM generate_series(1, 16) AS u))
                  FROM generate_series(1, 100000) AS n";
    scene.tamper(many).await?;
    let one = "INSERT INTO domicile.entry (kind, body) VALUES ('test', '{}')";
    for (what, sql) in [
        ("100,000 entries", None),
        ("one more", Some(one)),
        ("one more", Some(one)),
        ("none", None),
    ] {
        if let Some(sql) = sql {
            scene.tamper(sql).await?;
        }
        let started = std::time::Instant::now();
        scene.run(&["ledger", "seal"], 0).await?;
        println!("seal, {what}: {:?}", started.elapsed());
    }
    let started = std::time::Instant::now();
    scene.run(&["prove", "canary-7@example.org"], 0).await?;
    println!("prove: {:?}", started.elapsed());
    let started = std::time::Instant::now();
    scene.clean().await?;
    println!("verify: {:?}", started.elapsed());
    Ok(())
}
