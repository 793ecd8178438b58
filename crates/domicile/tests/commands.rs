//! Chinook, unchanged, through every command: its customers go where their country says, are looked at, and come home.

mod support;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::program::Ran;
use support::{Clusters, SITES, World};
use tokio_postgres::Client;

/// What follows `init`'s proposal; Canadians stay.
fn policy(service: &str) -> String {
    let phase = |name: &str, home: &str| {
        format!(
            "[[phase]]\nname = \"{name}\"\nservice = [\"{service}\"]\nhome = {{ {home} }}\n\
             basis = {{ code = \"test\", document = \"T-1\", expires = \"2999-01-01\" }}\n"
        )
    };
    format!(
        "\n[policy]\npinned = {{ Canada = \"beijing\" }}\n\n{}\n{}",
        phase("first", "Brazil = \"singapore\""),
        phase("second", "USA = \"singapore\", India = \"singapore\""),
    )
}

/// Brazilians among Chinook's customers, and Americans.
const BRAZIL: u64 = 5;
const USA: u64 = 13;
const INDIA: u64 = 2;

/// Chinook at beijing, its catalogue at singapore, a configuration by `init`; not installed yet.
async fn chinook(name: &str) -> Result<World> {
    let world = World::empty(Clusters::shared().await?, name).await?;
    shop::chinook::load(&world.admin(0).await?).await?;
    shop::chinook::load_catalogue(&world.admin(1).await?).await?;
    let sites = [0, 1].map(|n| format!("{}={}", SITES[n], world.admin_url(n)));
    let args = [
        "init",
        "--service",
        name,
        "--user-table",
        "customer",
        "--market",
        "country",
        "--site",
        &sites[0],
        "--site",
        &sites[1],
    ];
    let proposed = world.program(&args).run().await?.expect(0)?.stdout;
    ensure!(!proposed.contains("= \"?\""), "{proposed}");
    // Only `install` is for an administrator.
    let proposed = proposed.replace("postgres://postgres@", &format!("postgres://mover_{name}@"));
    let text = proposed + &policy(name);
    std::fs::write(world.folder.path().join("domicile.toml"), text)?;
    Ok(world)
}

/// Chinook installed, with the Brazilians moved. The move's name.
async fn moved(name: &str) -> Result<(World, String)> {
    let world = chinook(name).await?;
    world.install().await?;
    let summary = run(&world, &["apply", "--phase", "first", "--yes", "--json"], 0)
        .await?
        .summary()?;
    assert_eq!(summary["moved"], BRAZIL, "{summary}");
    let id = summary["move"].as_str().context("no move")?.to_owned();
    Ok((world, id))
}

async fn run(world: &World, args: &[&str], code: i32) -> Result<Ran> {
    let ran = world.program(args).run().await?;
    ran.expect(code).with_context(|| args.join(" "))
}

/// The document that a command with `--json` prints.
async fn document(world: &World, args: &[&str], code: i32) -> Result<Value> {
    let args = [args, &["--json"]].concat();
    let ran = run(world, &args, code).await?;
    serde_json::from_str(&ran.stdout).with_context(|| ran.to_string())
}

/// A session as the mover, for whom the guard makes way: to plant what no application could.
async fn mover(world: &World, site: usize) -> Result<Client> {
    let role = format!("mover_{}", world.name);
    let url = world.clusters.0[site].url(&role, &world.name);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// `uninstall` as administrator of both sites.
async fn uninstall(world: &World, more: &[&str], code: i32) -> Result<Ran> {
    let admin = [0, 1].map(|n| format!("{}={}", SITES[n], world.admin_url(n)));
    let args = [
        "uninstall",
        "--json",
        "--admin",
        &admin[0],
        "--admin",
        &admin[1],
    ];
    run(world, &[&args, more].concat(), code).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chinook_goes_and_comes_home_and_nothing_is_left() -> Result<()> {
    let world = chinook("story").await?;
    world.install().await?;
    document(&world, &["check"], 0).await?;
    // Nobody has moved: it may go, and come again.
    let gone = uninstall(&world, &[], 0).await?;
    let gone: Value = serde_json::from_str(&gone.stdout)?;
    assert_eq!(gone["databases"].as_array().map(Vec::len), Some(2));
    run(&world, &["verify"], 2).await?;
    let early = run(&world, &["where", "1"], 2).await?;
    assert!(early.stderr.contains("not installed at beijing"), "{early}");
    let status = document(&world, &["status"], 0).await?;
    assert_eq!(status["moves"], serde_json::json!([]));
    assert_eq!(status["slot"], Value::Null);
    assert_eq!(status["phases"][0]["left"], BRAZIL);
    assert_eq!(status["phases"][1]["left"], USA + INDIA);
    assert_eq!(status["phases"][0]["state"], "open");
    world.install().await?;

    let summary = run(&world, &["apply", "--yes", "--json"], 0)
        .await?
        .summary()?;
    assert_eq!(summary["moved"], BRAZIL, "{summary}");
    let id = summary["move"].as_str().context("no move")?.to_owned();

    let there = document(&world, &["where", "+1"], 0).await?;
    let expected = serde_json::json!({
        "user": "1", "service": "story", "home": "singapore", "epoch": there["epoch"],
        "state": "settled", "rule": "phase first",
    });
    assert_eq!(there, expected);
    assert!(there["epoch"].as_i64() >= Some(1), "{there}");
    let german = document(&world, &["where", "2", "--service", "story"], 0).await?;
    assert_eq!(
        (&german["home"], &german["rule"]),
        (&"beijing".into(), &"origin".into())
    );
    let canadian = document(&world, &["where", "3"], 0).await?;
    assert_eq!(canadian["rule"], "pinned");
    let nobody = document(&world, &["where", "60"], 1).await?;
    assert_eq!(nobody["home"], Value::Null);
    run(&world, &["where", "Rio"], 2).await?;

    let status = document(&world, &["status"], 0).await?;
    let one = &status["moves"][0];
    assert_eq!(
        (&one["move"], &one["state"]),
        (&id.as_str().into(), &"done".into())
    );
    assert_eq!((&one["moved"], &one["left"]), (&BRAZIL.into(), &0.into()));
    assert_eq!(status["phases"][0]["state"], "done");
    assert_eq!(status["in_doubt"], serde_json::json!([]));

    let verified = document(&world, &["verify"], 0).await?;
    assert_eq!(verified["users"], 59, "{verified}");
    assert_eq!(verified["mismatches"], serde_json::json!([]));
    assert_eq!(verified["frozen"]["unchanged"], BRAZIL, "{verified}");
    // 59 customers, 412 invoices, 2,240 lines, and what the Brazilians left: 5, 35 and 190.
    assert_eq!(verified["rows"], 59 + 412 + 2240 + 5 + 35 + 190);

    for more in [&[][..], &["--site", "singapore"]] {
        let refused = uninstall(&world, more, 2).await?;
        assert!(refused.stderr.contains("rollback"), "{refused}");
    }
    let waiting = document(&world, &["erase"], 0).await?;
    assert_eq!(
        (&waiting["waiting"], &waiting["users"]),
        (&BRAZIL.into(), &0.into())
    );

    run(&world, &["rollback", "story-moon-9"], 2).await?;
    let back = run(&world, &["rollback", &id, "--json"], 0)
        .await?
        .summary()?;
    assert_eq!(back["moved"], BRAZIL, "{back}");
    assert_eq!(
        document(&world, &["where", "1"], 0).await?["home"],
        "beijing"
    );
    document(&world, &["verify"], 0).await?;
    // Nobody of that move is away any more.
    let again = run(&world, &["rollback", &id, "--json"], 0)
        .await?
        .summary()?;
    assert_eq!(again["moved"], 0, "{again}");

    run(&world, &["erase", "--move", "story-moon-9"], 2).await?;
    let back = back["move"].as_str().context("no move")?;
    let one = document(
        &world,
        &["erase", "--move", back, "--user", "1", "--now"],
        0,
    )
    .await?;
    assert_eq!(one["users"], 1, "{one}");
    let rest = document(&world, &["erase", "--now"], 0).await?;
    assert_eq!(rest["users"], BRAZIL - 1, "{rest}");
    assert_eq!(rest["receipt"], Value::Null);
    assert_eq!(world.value(1, "SELECT count(*) FROM customer").await?, "0");
    assert_eq!(world.value(0, "SELECT count(*) FROM customer").await?, "59");
    document(&world, &["verify"], 0).await?;

    uninstall(&world, &[], 0).await?;
    let status = document(&world, &["status"], 0).await?;
    assert_eq!(status["moves"], serde_json::json!([]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_finds_what_is_planted_and_nothing_else() -> Result<()> {
    let (world, id) = moved("planted").await?;
    // A write of the application's at the new home is no mismatch.
    let total = "UPDATE invoice SET total = total + 1 WHERE customer_id = 1";
    world.application(1).await?.execute(total, &[]).await?;
    let verified = document(&world, &["verify"], 0).await?;
    assert_eq!(verified["frozen"]["changed"], 1, "{verified}");

    let plants = [
        (
            0,
            "UPDATE invoice SET total = total + 1 WHERE customer_id = 10",
            "UPDATE invoice SET total = total - 1 WHERE customer_id = 10",
            (
                "beijing",
                Value::Null,
                "invoice",
                "not those that both sides agreed on",
            ),
        ),
        (
            1,
            "INSERT INTO customer (customer_id, first_name, last_name, email) VALUES (2, 'x', 'y', 'z')",
            "DELETE FROM customer WHERE customer_id = 2",
            ("singapore", "2".into(), "customer", "1 misplaced rows"),
        ),
        (
            0,
            "UPDATE domicile.resident SET state = 'settled', peer = NULL WHERE user_key = 11",
            "UPDATE domicile.resident SET state = 'departed', peer = 'singapore' WHERE user_key = 11",
            ("beijing, singapore", "11".into(), "", "more than one site"),
        ),
        (
            1,
            "UPDATE domicile.resident SET state = 'departed', peer = 'beijing' WHERE user_key = 11",
            "UPDATE domicile.resident SET state = 'settled', peer = NULL WHERE user_key = 11",
            ("beijing, singapore", "11".into(), "", "no site is his home"),
        ),
    ];
    for (site, plant, mend, (at, user, table, what)) in plants {
        let mover = mover(&world, site).await?;
        mover.execute(plant, &[]).await?;
        let found = document(&world, &["verify"], 1).await?;
        let wrong = &found["mismatches"];
        assert_eq!(wrong.as_array().map(Vec::len), Some(1), "{plant}: {found}");
        let one = &wrong[0];
        assert_eq!((&one["site"], &one["user"]), (&at.into(), &user), "{found}");
        assert_eq!(one["table"].as_str().unwrap_or_default(), table, "{found}");
        assert!(
            one["what"].as_str().is_some_and(|w| w.contains(what)),
            "{found}"
        );
        mover.execute(mend, &[]).await?;
        document(&world, &["verify"], 0).await?;
    }
    // Somebody on his way is no mismatch, but his batch waits for an answer.
    let offered = "INSERT INTO domicile.resident (user_key, state, epoch, seen, peer, batch, attempt, attempt_seen) \
                   VALUES (2, 'offered', 1, 1, 'singapore', 'b/9', 9, 9)";
    let admin = world.admin(0).await?;
    admin.execute(offered, &[]).await?;
    let found = document(&world, &["verify"], 0).await?;
    assert_eq!(found["in_transit"], 1, "{found}");
    let status = document(&world, &["status"], 1).await?;
    assert_eq!(status["in_doubt"][0]["batch"], "b/9", "{status}");
    assert_eq!(status["in_doubt"][0]["users"], 1);
    assert_eq!(
        document(&world, &["where", "2"], 0).await?["state"],
        "offered"
    );
    let settled = "UPDATE domicile.resident SET state = 'settled', peer = NULL WHERE user_key = 2";
    admin.execute(settled, &[]).await?;
    // A move that is not at its end is not taken back.
    let running = "UPDATE domicile.move SET state = $2 WHERE move_id = $1";
    admin.execute(running, &[&id, &"running"]).await?;
    let refused = run(&world, &["rollback", &id], 2).await?;
    assert!(refused.stderr.contains("is not at its end"), "{refused}");
    admin.execute(running, &[&id, &"done"]).await?;

    let genre = "UPDATE genre SET name = name || '!' WHERE genre_id = 1";
    world.admin(1).await?.execute(genre, &[]).await?;
    let found = document(&world, &["verify", "--users", "2,3"], 1).await?;
    assert_eq!(found["users"], 2);
    let what = found["mismatches"][0]["what"].as_str().unwrap_or_default();
    assert!(what.contains("reference table genre"), "{found}");
    run(&world, &["verify", "--users", "x"], 2).await?;
    run(&world, &["verify", "--service", "moon"], 2).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_names_who_was_set_aside_and_what_cannot_be_read() -> Result<()> {
    let (world, _) = moved("aside").await?;
    // An American's invoice number is taken at singapore, by a Brazilian who lives there.
    let taken = "INSERT INTO invoice (invoice_id, customer_id, invoice_date, total) VALUES ($1, 1, now(), 1)";
    let sql = "SELECT min(invoice_id)::text FROM invoice WHERE customer_id = 16";
    let number: i32 = world.value(0, sql).await?.parse()?;
    world
        .application(1)
        .await?
        .execute(taken, &[&number])
        .await?;
    let summary = run(&world, &["apply", "--yes", "--json"], 1)
        .await?
        .summary()?;
    assert_eq!(summary["moved"], USA + INDIA - 1, "{summary}");
    let status = document(&world, &["status"], 1).await?;
    assert_eq!(
        status["set_aside"].as_array().map(Vec::len),
        Some(1),
        "{status}"
    );
    assert_eq!(status["set_aside"][0]["user"], "16");
    assert_eq!(status["phases"][1]["left"], 1);
    assert_eq!(status["phases"][1]["state"], "begun");
    assert_eq!(
        document(&world, &["where", "16"], 0).await?["home"],
        "beijing"
    );

    // Nobody listens on port 1.
    let file = world.folder.path().join("domicile.toml");
    let text = std::fs::read_to_string(&file)?;
    let port = format!(":{}/", world.clusters.0[1].port());
    std::fs::write(&file, text.replace(&port, ":1/"))?;
    let status = document(&world, &["status"], 3).await?;
    assert_eq!(
        status["moves"].as_array().map(Vec::len),
        Some(2),
        "{status}"
    );
    assert_eq!(status["not_read"][0]["site"], "singapore");
    let german = document(&world, &["where", "2"], 3).await?;
    assert_eq!(german["home"], "beijing");
    let brazilian = document(&world, &["where", "1"], 3).await?;
    assert_eq!(
        (&brazilian["home"], &brazilian["state"]),
        (&"singapore".into(), &"departed".into())
    );
    run(&world, &["verify"], 3).await?;
    Ok(())
}
