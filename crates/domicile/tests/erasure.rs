//! Erasures, against the disk: after each state every file of the old site's data directory is looked through for what the
//! users had, and must hold no more of it than the state claims. The users who stay are looked for as well: the scan can find.

mod support;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ledger::key::{Pins, SiteKey};
use ledger::receipt::{LIMITS, Receipt};
use serde_json::Value;
use support::program::Ran;
use support::scan::{Found, expect_claim, scan};
use support::{Clusters, SITES, World};
use testbed::{Cluster, ClusterOptions, wait_until};

/// What everybody has: a name that is indexed, words that are too large for a page, a subject that is so common that the
/// planner keeps it, and a letter that refers to nobody else.
const PEOPLE: &str = "
    CREATE TABLE person (id bigint PRIMARY KEY, country text NOT NULL, name text NOT NULL);
    CREATE INDEX person_name ON person (name);
    CREATE TABLE letter (id bigint PRIMARY KEY, person bigint NOT NULL REFERENCES person, subject text, words text);
    ALTER TABLE letter ALTER words SET STORAGE EXTERNAL;
    CREATE INDEX letter_subject ON letter (subject);
    CREATE INDEX letter_person ON letter (person);
    CREATE STATISTICS letter_both (mcv) ON subject, person FROM letter;
    CREATE TABLE gift (id bigint PRIMARY KEY, person bigint NOT NULL REFERENCES person, letter bigint REFERENCES letter);";

const GONE: &str = "gone-";
const STAY: &str = "stay-";

/// Those who leave, and as many who stay.
const MOVERS: i64 = 100;

struct Scene {
    world: World,
    file: &'static str,
}

/// Two clusters of which the first archives its log by `archive`, if by anything.
async fn clusters(name: &str, archive: Option<&str>) -> Result<Arc<Clusters>> {
    let start = |site: &str, archive: Option<&str>| {
        let mut settings = vec![
            ("autovacuum".to_owned(), "off".to_owned()),
            ("min_wal_size".to_owned(), "32MB".to_owned()),
            ("max_wal_size".to_owned(), "64MB".to_owned()),
        ];
        if let Some(command) = archive {
            settings.push(("archive_mode".to_owned(), "on".to_owned()));
            settings.push(("archive_command".to_owned(), command.to_owned()));
        }
        Cluster::start(ClusterOptions {
            fsync: false,
            settings,
            ..ClusterOptions::named(&format!("{name}-{site}"))
        })
    };
    let clusters = Clusters([
        start(SITES[0], archive).await?,
        start(SITES[1], None).await?,
    ]);
    for cluster in &clusters.0 {
        cluster.psql("postgres", "CREATE ROLE shop LOGIN").await?;
    }
    Ok(Arc::new(clusters))
}

fn key(site: usize) -> SigningKey {
    SigningKey::from_bytes(&[site as u8 + 31; 32])
}

fn pins() -> Pins {
    let pin = |n: usize| vec![SiteKey::from_seed(&key(n).to_bytes()).public().pin()];
    SITES
        .iter()
        .enumerate()
        .map(|(n, site)| ((*site).to_owned(), pin(n)))
        .collect()
}

// === impl Scene ===

impl Scene {
    /// `large`: the letters of those who stay make their table too large to be rewritten unasked.
    async fn new(name: &str, archive: Option<&str>, large: bool) -> Result<Scene> {
        let world = World::empty(clusters(name, archive).await?, name).await?;
        for site in [0, 1] {
            world.admin(site).await?.batch_execute(PEOPLE).await?;
        }
        // Side by side on the pages, so that none is free of those who stay.
        let fill = format!(
            "INSERT INTO person SELECT n, CASE WHEN n <= {MOVERS} THEN 'IN' ELSE 'CN' END,
                    CASE WHEN n <= {MOVERS} THEN '{GONE}' ELSE '{STAY}' END || lpad(n::text, 6, '0')
               FROM generate_series(1, 2 * {MOVERS}) AS n ORDER BY n % 17;
             INSERT INTO letter SELECT n, 1 + n % (2 * {MOVERS}), w || CASE WHEN n % 3 = 0 THEN 'common' ELSE n::text END,
                    CASE WHEN n % 20 = 0 THEN repeat(w || lpad(n::text, 6, '0'), 300) ELSE w || 'short' END
               FROM (SELECT n, CASE WHEN n % (2 * {MOVERS}) < {MOVERS} THEN '{GONE}' ELSE '{STAY}' END AS w
                       FROM generate_series(1, 4000) AS n) AS x ORDER BY n % 13;"
        );
        let source = world.admin(0).await?;
        source.batch_execute(&fill).await?;
        if large {
            let fill = format!(
                "INSERT INTO letter SELECT 100000 + n, {MOVERS} + 1 + n % {MOVERS}, 'large', repeat('{STAY}x', 1500)
                   FROM generate_series(1, 4500) AS n"
            );
            source.batch_execute(&fill).await?;
        }
        source.batch_execute("VACUUM ANALYZE").await?;
        let user = r#"{ table = "person", key = "id", market = "country" }"#;
        let tables = "letter = \"person\"\ngift = \"person\"\n";
        world.write_configuration("domicile.toml", user, tables, "out", &[("IN", SITES[1])])?;
        world.install().await?;
        let scene = Scene {
            world,
            file: "domicile.toml",
        };
        for (n, site) in SITES.iter().enumerate() {
            let pem = key(n).to_pkcs8_pem(LineEnding::LF)?;
            let path = scene.world.path(&format!("{site}.pem"));
            std::fs::write(&path, pem.as_bytes())?;
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        }
        scene.configure("after = \"30d\", backups_kept = \"0s\"")?;
        Ok(scene)
    }

    /// Sets `erase` in the configuration, and gives the sites their keys.
    fn configure(&self, erase: &str) -> Result<()> {
        let path = self.world.path(self.file);
        let text = std::fs::read_to_string(&path)?;
        let kept = text
            .lines()
            .filter(|line| !line.starts_with("erase =") && !line.starts_with("key ="));
        let mut out = String::new();
        for line in kept {
            out.push_str(&format!("{line}\n"));
            if line.starts_with("batch =") {
                out.push_str(&format!("erase = {{ {erase} }}\n"));
            }
            if let Some(site) = SITES.iter().find(|site| line == format!("[site.{site}]")) {
                out.push_str(&format!("key = {{ file = \"{site}.pem\" }}\n"));
            }
        }
        Ok(std::fs::write(path, out)?)
    }

    async fn run(&self, args: &[&str], code: i32) -> Result<Ran> {
        self.world.program(args).run().await?.expect(code)
    }

    async fn move_out(&self) -> Result<()> {
        self.run(&["apply", "--yes"], 0).await.map(drop)
    }

    /// `erase --json` with these arguments, as administrator of the old site.
    async fn erase(&self, args: &[&str], code: i32) -> Result<Value> {
        let ran = self.program(args).run().await?.expect(code)?;
        serde_json::from_str(&ran.stdout).with_context(|| ran.to_string())
    }

    fn program(&self, args: &[&str]) -> support::program::Program {
        let admin = format!("{}={}", SITES[0], self.world.admin_url(0));
        let args: Vec<&str> = ["erase", "--json", "--admin", &admin]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        self.world.program(&args)
    }

    async fn scan(&self, marker: &str) -> Result<Found> {
        scan(&self.world.clusters.0[0], &self.world.name, marker).await
    }

    /// Looks through the disk and holds it against what `erased` says of every erasure.
    async fn expect_claims(&self, erased: &Value) -> Result<Found> {
        let found = self.scan(GONE).await?;
        let stay = self.scan(STAY).await?;
        ensure!(
            [
                "heap person",
                "heap letter",
                "index person",
                "toast letter",
                "statistics"
            ]
            .iter()
            .all(|of| stay.contains_key(*of)),
            "those who stay are found everywhere: {stay:?}"
        );
        for one in list(erased, "erasures") {
            let residue: Vec<String> = list(one, "residue")
                .iter()
                .filter_map(|t| t.as_str().map(Into::into))
                .collect();
            expect_claim(&found, one["state"].as_str().unwrap_or_default(), &residue)
                .with_context(|| format!("{one:#}"))?;
        }
        Ok(found)
    }

    async fn receipts(&self, folder: &str) -> Result<Vec<(std::path::PathBuf, Receipt)>> {
        let mut receipts = Vec::new();
        for entry in std::fs::read_dir(self.world.path(folder))? {
            let path = entry?.path();
            let text = std::fs::read_to_string(&path)?;
            receipts.push((path, serde_json::from_str(&text)?));
        }
        Ok(receipts)
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// The state that all erasures are in, and whatever they wait for.
fn standing(erased: &Value) -> Result<(String, String)> {
    let mut states: Vec<&str> = list(erased, "erasures")
        .iter()
        .filter_map(|one| one["state"].as_str())
        .collect();
    states.dedup();
    ensure!(states.len() == 1, "{erased:#}");
    let waits = list(erased, "erasures")
        .iter()
        .flat_map(|one| list(one, "waits"));
    let waits: Vec<&str> = waits.filter_map(Value::as_str).collect();
    Ok((states[0].to_owned(), waits.join("\n")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_disk_holds_is_what_each_state_claims() -> Result<()> {
    let scene = Scene::new("states", Some("false"), true).await?;
    let source = scene.world.admin(0).await?;
    let before = scene.scan(GONE).await?;
    println!("before: {before:?}");
    for of in [
        "heap person",
        "heap letter",
        "toast letter",
        "index person",
        "index letter",
        "statistics",
        "wal",
    ] {
        ensure!(before.contains_key(of), "{of}: {before:?}");
    }
    scene.move_out().await?;
    source
        .batch_execute("SELECT pg_create_physical_replication_slot('holder', true)")
        .await?;

    // The mover's role may delete, and no more.
    let erased = scene.run(&["erase", "--json"], 0).await?;
    ensure!(erased.stdout.contains("\"waiting\":100"), "{erased}");
    let erased = scene.run(&["erase", "--now", "--json"], 0).await?;
    let erased: Value = serde_json::from_str(&erased.stdout)?;
    let (state, waits) = standing(&erased)?;
    ensure!(
        state == "deleted" && waits.contains("--admin"),
        "{erased:#}"
    );
    println!("deleted: {:?}", scene.expect_claims(&erased).await?);

    // Somebody who looked before still sees them.
    let looker = scene.world.admin(0).await?;
    looker
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM letter")
        .await?;
    let reader = scene.world.admin(0).await?;
    reader.batch_execute("SELECT pg_current_xact_id()").await?;
    looker.batch_execute("COMMIT").await?;

    let erased = scene.erase(&[], 0).await?;
    let (state, waits) = standing(&erased)?;
    ensure!(
        state == "vacuumed" && waits.contains("letter"),
        "{erased:#}"
    );
    let found = scene.expect_claims(&erased).await?;
    println!("vacuumed, letter too large: {found:?}");
    ensure!(
        found.contains_key("heap letter"),
        "the residue is real: {found:?}"
    );

    let erased = scene.erase(&["--rewrite", "--turn-wal"], 0).await?;
    let (state, waits) = standing(&erased)?;
    ensure!(
        state == "vacuumed" && waits.contains("slot holder"),
        "{erased:#}"
    );
    let found = scene.expect_claims(&erased).await?;
    println!("vacuumed: {found:?}");
    ensure!(found.contains_key("wal"), "{found:?}");

    // The slot goes; the server cannot archive, and keeps its log.
    source
        .batch_execute("SELECT pg_drop_replication_slot('holder'); SELECT pg_switch_wal()")
        .await?;
    wait_until("archiving fails", support::PATIENCE, async || {
        let failed = scene
            .world
            .value(0, "SELECT failed_count > 0 FROM pg_stat_archiver")
            .await?;
        Ok(failed == "true")
    })
    .await?;
    let erased = scene.erase(&["--turn-wal"], 0).await?;
    let (state, waits) = standing(&erased)?;
    ensure!(
        state == "vacuumed" && waits.contains("cannot archive"),
        "{erased:#}"
    );
    ensure!(scene.expect_claims(&erased).await?.contains_key("wal"));

    // It archives again, and nobody has said for how long that is kept.
    source
        .batch_execute("ALTER SYSTEM SET archive_command = 'true'")
        .await?;
    source
        .batch_execute("SELECT pg_reload_conf(); SELECT pg_switch_wal()")
        .await?;
    wait_until("it archives again", support::PATIENCE, async || {
        let erased = scene.erase(&["--turn-wal"], 0).await?;
        let (state, waits) = standing(&erased)?;
        ensure!(state == "vacuumed", "{erased:#}");
        Ok(
            waits.contains("backups_kept says") && !waits.contains('\n'.to_string().as_str()) || {
                let lines: std::collections::BTreeSet<&str> = waits.lines().collect();
                lines.len() == 1 && waits.contains("backups_kept says")
            },
        )
    })
    .await?;
    let found = scene.scan(GONE).await?;
    ensure!(found.is_empty(), "the log has been written over: {found:?}");

    // A retention that has not passed.
    scene.configure("after = \"30d\", backups_kept = \"2d\"")?;
    let erased = scene.erase(&["--receipt", "waiting"], 0).await?;
    let (state, waits) = standing(&erased)?;
    ensure!(
        state == "vacuumed"
            && waits.contains("47 h") | waits.contains("2 days") | waits.contains("1 days"),
        "{erased:#}"
    );
    ensure!(
        list(&erased, "erasures")[0]["remaining_s"]
            .as_u64()
            .is_some_and(|s| s > 80_000),
        "{erased:#}"
    );
    scene.configure("after = \"30d\", backups_kept = \"1s\"")?;
    let mut last = Value::Null;
    wait_until("backups have expired", support::PATIENCE, async || {
        last = scene.erase(&["--receipt", "purged"], 0).await?;
        // One may be a moment behind the others: then they do not stand alike yet.
        Ok(standing(&last).is_ok_and(|(state, _)| state == "purged"))
    })
    .await?;
    let found = scene.expect_claims(&last).await?;
    ensure!(found.is_empty(), "{found:?}");
    println!("purged: {found:?}");

    // Nobody can tell any more whom the entries are about; what was given out still holds.
    let salts = format!("SELECT count(*) FROM domicile.salt WHERE user_key::bigint <= {MOVERS}");
    assert_eq!(scene.world.value(0, &salts).await?, "0");
    assert_eq!(
        scene
            .world
            .value(0, "SELECT count(*) FROM domicile.erasing")
            .await?,
        "0"
    );
    for (folder, state) in [("waiting", "vacuumed"), ("purged", "purged")] {
        let receipts = scene.receipts(folder).await?;
        ensure!(!receipts.is_empty());
        for (path, receipt) in receipts {
            let report = receipt.check(&pins());
            ensure!(report.findings.is_empty(), "{report:#?}");
            let statement = report.statement.context("a statement")?;
            assert_eq!(statement.account.state, state);
            assert_eq!(statement.account.agreed, Some(true));
            assert_eq!(statement.limits, LIMITS);
            assert_eq!(report.witnessed.len(), 1);
            let path = path.to_string_lossy().into_owned();
            let checked = scene.run(&["ledger", "verify", "--file", &path], 0).await?;
            ensure!(checked.stdout.contains("The receipt holds."), "{checked}");
        }
    }
    scene.run(&["ledger", "verify"], 0).await?;
    scene.run(&["verify"], 0).await?;
    Ok(())
}

/// D1: whatever is changed in a receipt, it does not hold any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_with_any_field_forged_does_not_hold() -> Result<()> {
    let scene = Scene::new("forged", None, false).await?;
    scene
        .run(&["erase", "--user", "7", "--yes", "--receipt", "r"], 0)
        .await?;
    let (_, receipt) = scene.receipts("r").await?.pop().context("a receipt")?;
    ensure!(receipt.check(&pins()).findings.is_empty());
    ensure!(receipt.statement.contains("\"user\":\"7\""));
    let whole = serde_json::to_value(&receipt)?;
    let mut forged = 0;
    let mut paths = Vec::new();
    leaves(&whole, String::new(), &mut paths);
    // The statement's own fields stand in one line of text.
    let line = receipt.statement.lines().next().context("a statement")?;
    let stated: Value = serde_json::from_str(line)?;
    let mut inner = Vec::new();
    leaves(&stated, String::new(), &mut inner);
    for path in &paths {
        let mut other = whole.clone();
        change(other.pointer_mut(path).context("it is there")?);
        forged += usize::from(holds(&other));
    }
    for path in &inner {
        let mut other = stated.clone();
        change(other.pointer_mut(path).context("it is there")?);
        let line_of = serde_json::to_string(&other)?;
        let mut document = whole.clone();
        document["statement"] = Value::String(receipt.statement.replace(line, &line_of));
        forged += usize::from(holds(&document));
    }
    println!(
        "forged {} fields of the receipt, {} of the statement: {forged} held",
        paths.len(),
        inner.len()
    );
    assert_eq!(forged, 0);
    ensure!(paths.len() > 10 && inner.len() > 20);
    // An entry left out, or told twice.
    for n in 0..receipt.entries.len() {
        let mut other = receipt.clone();
        other.entries.remove(n);
        ensure!(!other.check(&pins()).findings.is_empty());
        let mut other = receipt.clone();
        other.entries.insert(n, receipt.entries[n].clone());
        ensure!(!other.check(&pins()).findings.is_empty());
    }
    ensure!(
        !receipt.check(&Pins::new()).findings.is_empty(),
        "without pins nothing holds"
    );
    Ok(())
}

fn leaves(value: &Value, at: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                leaves(value, format!("{at}/{name}"), paths);
            }
        }
        Value::Array(values) => {
            for (n, value) in values.iter().enumerate() {
                leaves(value, format!("{at}/{n}"), paths);
            }
        }
        _ => paths.push(at),
    }
}

fn change(value: &mut Value) {
    *value = match value {
        Value::String(text) => {
            let last = if text.ends_with('0') { '1' } else { '0' };
            let mut text = text.clone();
            text.pop();
            text.push(last);
            Value::String(text)
        }
        Value::Number(n) => Value::from(n.as_u64().unwrap_or_default() + 1),
        Value::Bool(b) => Value::Bool(!*b),
        _ => Value::String("x".to_owned()),
    };
}

fn holds(document: &Value) -> bool {
    serde_json::from_value::<Receipt>(document.clone())
        .is_ok_and(|receipt| receipt.check(&pins()).findings.is_empty())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_erased_at_his_home() -> Result<()> {
    let scene = Scene::new("forget", None, false).await?;
    scene.run(&["ledger", "seal"], 0).await?;
    // Not without a word of confirmation.
    let refused = scene.run(&["erase", "--user", "7"], 2).await?;
    ensure!(refused.stderr.contains("--yes"), "{refused}");

    // Not against a hold.
    scene.configure("after = \"30d\", backups_kept = \"0s\", hold = { users = [\"7\"], reason = \"case 12\", until = \"2999-01-01\" }")?;
    let erased = scene.erase(&["--user", "007", "--yes"], 0).await?;
    assert_eq!(erased["held"][0]["reason"], "case 12", "{erased:#}");
    assert_eq!(
        (&erased["users"], &erased["held"][0]["until"]),
        (&0.into(), &"2999-01-01".into())
    );
    scene.configure("after = \"30d\", backups_kept = \"0s\", hold = { markets = [\"IN\"], reason = \"case 13\", until = \"2001-01-01\" }")?;

    // Not where a row of somebody else's points at his.
    let source = scene.world.admin(0).await?;
    source
        .batch_execute("INSERT INTO gift SELECT 1, 150, min(id) FROM letter WHERE person = 7")
        .await?;
    let erased = scene.erase(&["--user", "7", "--yes"], 1).await?;
    let reason = erased["frozen"][0]["reason"].as_str().context("a reason")?;
    ensure!(
        reason.contains("gift") && reason.contains("gift_letter_fkey"),
        "{erased:#}"
    );
    assert_eq!(
        scene
            .world
            .value(0, "SELECT count(*) FROM letter WHERE person = 7")
            .await?,
        "20"
    );
    source.batch_execute("DELETE FROM gift").await?;

    let erased = scene
        .erase(&["--user", "7", "--yes", "--turn-wal"], 0)
        .await?;
    assert_eq!(
        (&erased["users"], &erased["rows"]),
        (&1.into(), &21.into()),
        "{erased:#}"
    );
    assert_eq!(standing(&erased)?.0, "purged", "{erased:#}");
    let own = "gone-000007";
    let found = scene.scan(own).await?;
    ensure!(found.is_empty(), "{found:?}");
    ensure!(scene.scan("gone-000008").await?.contains_key("heap person"));

    // What is said of him then: he lives here, under a new epoch, and has no rows.
    let found: Value =
        serde_json::from_str(&scene.run(&["where", "7", "--json"], 0).await?.stdout)?;
    assert_eq!(
        (&found["home"], &found["epoch"], &found["state"]),
        (&SITES[0].into(), &1.into(), &"settled".into())
    );
    scene.run(&["verify"], 0).await?;
    let proven = scene.run(&["prove", "7"], 0).await?;
    ensure!(proven.stdout.contains("The proof holds"), "{proven}");
    let checked = scene.world.program(&["check"]).run().await?;
    ensure!(!checked.stdout.contains("erasure"), "{checked}");
    // Nothing is left to be done again.
    let erased = scene.erase(&["--user", "7", "--yes"], 0).await?;
    assert_eq!(
        (&erased["users"], &erased["erasures"]),
        (&0.into(), &Value::Array(Vec::new()))
    );

    // Whoever left is erased where he lives now, and where he was, whether or not that is due.
    scene.move_out().await?;
    let erased = scene.erase(&["--user", "8", "--yes"], 0).await?;
    assert_eq!(erased["users"], 2, "{erased:#}");
    for site in [0, 1] {
        assert_eq!(
            scene
                .world
                .value(site, "SELECT count(*) FROM person WHERE id = 8")
                .await?,
            "0"
        );
    }
    let found: Value =
        serde_json::from_str(&scene.run(&["where", "8", "--json"], 0).await?.stdout)?;
    assert_eq!(found["home"], SITES[1]);
    scene.run(&["verify"], 0).await?;
    // His key can be created again where he lives, by the application, as if it had deleted him itself; nowhere else.
    let create = "INSERT INTO person VALUES (8, 'IN', 'anew')";
    let refused = scene
        .world
        .application(0)
        .await?
        .batch_execute(create)
        .await;
    ensure!(refused.is_err(), "created at the site that he left");
    scene
        .world
        .application(1)
        .await?
        .batch_execute(create)
        .await?;
    Ok(())
}

/// Of departed users: held ones stay, the others of the same batch go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_held_stays_and_the_rest_of_the_batch_goes() -> Result<()> {
    let scene = Scene::new("held", None, false).await?;
    scene.move_out().await?;
    scene.configure("after = \"0s\", backups_kept = \"0s\", hold = { users = [\"3\", \"5\"], reason = \"case 14\" }")?;
    let erased = scene.erase(&[], 0).await?;
    assert_eq!(
        (&erased["users"], list(&erased, "held").len()),
        (&(MOVERS - 2).into(), 2),
        "{erased:#}"
    );
    assert_eq!(
        scene
            .world
            .value(
                0,
                "SELECT string_agg(id::text, ',' ORDER BY id) FROM person WHERE country = 'IN'"
            )
            .await?,
        "3,5"
    );
    scene.configure("after = \"0s\", backups_kept = \"0s\", hold = { reason = \"all\" }")?;
    let erased = scene.erase(&[], 0).await?;
    assert_eq!(
        (&erased["users"], list(&erased, "held").len()),
        (&0.into(), 2),
        "{erased:#}"
    );
    scene.configure("after = \"0s\", backups_kept = \"0s\"")?;
    let erased = scene.erase(&[], 0).await?;
    assert_eq!(erased["users"], 2, "{erased:#}");
    Ok(())
}

/// Somebody who may still see the rows, or has a table open, holds the state back; nothing is said before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_still_sees_the_rows_holds_the_state_back() -> Result<()> {
    let scene = Scene::new("seen", None, false).await?;
    scene.move_out().await?;
    let looker = scene.world.admin(0).await?;
    looker
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM letter")
        .await?;
    let erased = scene.erase(&["--now", "--rewrite"], 0).await?;
    let (state, waits) = standing(&erased)?;
    ensure!(
        state == "deleted" && waits.contains("may still see"),
        "{erased:#}"
    );
    scene.expect_claims(&erased).await?;
    looker.batch_execute("COMMIT").await?;
    // A statistic that everybody left: ANALYZE would keep it.
    let erased = scene.erase(&["--rewrite"], 0).await?;
    assert_eq!(standing(&erased)?.0, "vacuumed", "{erased:#}");
    scene.expect_claims(&erased).await?;
    Ok(())
}

/// Everybody leaves: the tables are empty, and ANALYZE keeps the statistics of an empty table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_of_a_table_that_became_empty_are_gone() -> Result<()> {
    let scene = Scene::new("empty", None, false).await?;
    let source = scene.world.admin(0).await?;
    source
        .batch_execute(
            "DELETE FROM letter WHERE subject LIKE 'stay%'; DELETE FROM person WHERE country <> 'IN'",
        )
        .await?;
    source.batch_execute("VACUUM ANALYZE").await?;
    scene.move_out().await?;
    let erased = scene.erase(&["--now"], 0).await?;
    assert_eq!(standing(&erased)?.0, "vacuumed", "{erased:#}");
    let found = scene.scan(GONE).await?;
    expect_claim(&found, "vacuumed", &[])?;
    Ok(())
}

/// A planted bug takes VACUUM for all that is needed: the scan finds what it leaves.
#[cfg(feature = "planted-faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_says_more_than_is_true_is_caught_by_the_scan() -> Result<()> {
    let scene = Scene::new("liar", None, false).await?;
    scene.move_out().await?;
    let ran = scene
        .program(&["--now"])
        .env("DOMICILE_BUG", "vacuum-alone")
        .run()
        .await?
        .expect(0)?;
    let erased: Value = serde_json::from_str(&ran.stdout)?;
    assert_eq!(standing(&erased)?.0, "vacuumed");
    let caught = scene.expect_claims(&erased).await;
    println!(
        "caught: {:#}",
        caught.as_ref().err().context("the scan found nothing")?
    );
    ensure!(format!("{:#}", caught.unwrap_err()).contains("index"));
    Ok(())
}

/// The program dies at each step: the next run goes on, and what it says then is true.
#[cfg(feature = "planted-faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_step_it_dies_at_the_next_run_goes_on() -> Result<()> {
    let scene = Scene::new("dies", None, false).await?;
    let steps = [
        "after-deleting",
        "before-erase",
        "after-erase",
        "before-vacuum",
        "after-table-cleaned:1",
        "after-table-cleaned:2",
        "after-clean",
        "after-statistics",
        "after-vacuumed",
        "after-wal-mark",
        "before-purged",
        "after-purged",
    ];
    for (n, step) in steps.into_iter().enumerate() {
        let user = (n + 1).to_string();
        let args = ["--user", &user, "--yes", "--turn-wal"];
        let ran = scene
            .program(&args)
            .env("DOMICILE_STOP", step)
            .run()
            .await?;
        ensure!(ran.code.is_none(), "{step} was not reached: {ran}");
        // Its sessions may still be ending, and one may hold the tables.
        scene.world.free().await?;
        let mut last = scene
            .erase(&args, 0)
            .await
            .with_context(|| step.to_owned())?;
        if !list(&last, "erasures").is_empty() {
            assert_eq!(standing(&last)?.0, "purged", "{step}: {last:#}");
            last = scene.erase(&args, 0).await?;
        }
        ensure!(list(&last, "erasures").is_empty(), "{step}: {last:#}");
        let found = scene.scan(&format!("{GONE}{:0>6}", user)).await?;
        ensure!(found.is_empty(), "{step}: {found:?}");
        let states = "SELECT string_agg(DISTINCT state, ',' ORDER BY state) FROM domicile.erasure";
        let states = scene.world.value(0, states).await?;
        ensure!(
            ["purged", "frozen,purged"].contains(&states.as_str()),
            "{step}: {states}"
        );
        scene.run(&["ledger", "verify"], 0).await?;
    }
    Ok(())
}
