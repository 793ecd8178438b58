//! The ledgers of two sites whose daemons seal and countersign them over the link, without anybody asking.

#![cfg(feature = "planted-faults")]

mod support;

use anyhow::{Context as _, Result, ensure};
use ledger::head::{Head, origin};
use ledger::key::SiteKey;
use ledger::note::Note;
use ledger::tree::{Frontier, leaf_hash};
use residency::log::{self, HeadRow};
use serde_json::Value;
use support::linked::{Linked, SEALING};
use support::served::Served;
use support::{Clusters, PATIENCE, SITES, World};
use testbed::wait_until;

/// Everything is taken, signed by this site, and countersigned by a peer.
const WITNESSED: &str = "SELECT (SELECT count(*) FROM domicile.entry) = (SELECT count(*) FROM domicile.leaf) \
     AND (SELECT count(*) FROM domicile.leaf) = (SELECT size FROM domicile.head ORDER BY n DESC LIMIT 1) \
     AND (SELECT count(*) FROM domicile.leaf) = (SELECT coalesce(max(size), 0) FROM domicile.cosigned)";

const ONE_MORE: &str = "INSERT INTO domicile.entry (kind, body) VALUES ('test', '{}')";

async fn shop(name: &str, customers: u32) -> Result<(Linked, usize)> {
    let markets = [("IN", 9), ("CN", 1)];
    let world = World::shop(Clusters::shared().await?, name, customers, &markets).await?;
    let movers = world.users_of(0, "IN").await?.len();
    Ok((Linked::new(world).await?, movers))
}

async fn witnessed(linked: &Linked, site: usize) -> Result<()> {
    linked.world.wait_for(site, WITNESSED, "true").await
}

/// What a daemon says of its ledger.
fn ledger(status: &Value) -> &Value {
    &status["services"][0]["ledger"]
}

async fn metric(daemon: &Served, name: &str) -> Result<Vec<String>> {
    let (_, text) = daemon.get("/metrics").await?;
    let name = format!("domicile_ledger_{name}{{");
    let lines = text.lines().filter(|line| line.starts_with(&name));
    Ok(lines.map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_daemons_move_is_sealed_and_countersigned_by_themselves() -> Result<()> {
    let (linked, movers) = shop("sealed_by_daemons", 120).await?;
    let both = linked.serve_both().await?;
    let ran = linked.apply(0).run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], movers);
    for site in [0, 1] {
        witnessed(&linked, site)
            .await
            .with_context(|| both[site].log())?;
        let status = both[site]
            .until("it says so", |status| {
                let ledger = ledger(status);
                ledger["entries"].as_u64() > Some(1)
                    && ledger["peers"][0]["entries"] == ledger["entries"]
            })
            .await?;
        assert_eq!(ledger(&status)["peers"][0]["peer"], SITES[1 - site]);
        assert_eq!(ledger(&status)["findings"], Value::Array(Vec::new()));
        let behind = metric(&both[site], "unwitnessed_seconds").await?;
        ensure!(
            behind.len() == 1 && behind[0].ends_with(" 0.0"),
            "{behind:?}"
        );
        let findings = metric(&both[site], "findings").await?;
        ensure!(
            findings.len() == 1 && findings[0].ends_with(" 0.0"),
            "{findings:?}"
        );
    }
    // A process that opens both databases finds every signature good, by the pins alone.
    let verified = linked
        .everywhere(&["ledger", "verify", "--json"])
        .run()
        .await?
        .expect(0)?;
    let verified: Value = serde_json::from_str(&verified.stdout)?;
    for log in verified["logs"].as_array().context("logs")? {
        ensure!(
            log["entries"] == log["witnessed"] && log["waiting"] == 0,
            "{verified}"
        );
    }
    // One entry more, by whomever.
    linked.world.admin(1).await?.batch_execute(ONE_MORE).await?;
    witnessed(&linked, 1).await
}

/// Each site has a configuration that knows its own database alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_one_site_commands_say_what_they_know_and_prove_it_offline() -> Result<()> {
    let (linked, movers) = shop("at_one_site", 60).await?;
    let both = linked.serve_both().await?;
    linked.apply(0).run().await?.expect(0)?;
    for site in [0, 1] {
        witnessed(&linked, site).await?;
    }
    let world = &linked.world;
    let moved = world.users_of(1, "IN").await?[0].to_string();
    let stayed = world.users_of(0, "CN").await?[0].to_string();
    let json = async |site: usize, args: &[&str], code: i32| -> Result<Value> {
        let ran = linked.at(site, &[args, &["--json"]].concat()).run().await?;
        let ran = ran.expect(code)?;
        let other = SITES[1 - site];
        let warned = format!("not looked at: {other}");
        ensure!(ran.stderr.contains(&warned), "{args:?}: {ran}");
        Ok(serde_json::from_str(&ran.stdout)?)
    };
    // Where he lives, where he left, and where nobody has heard of him.
    let proof = world.path("proof.json").display().to_string();
    for (site, user, home, by) in [
        (1, &moved, "singapore", None),
        (0, &moved, "singapore", Some("beijing")),
        (0, &stayed, "beijing", None),
    ] {
        let proven = json(site, &["prove", user, "--out", &proof], 0).await?;
        assert_eq!(proven["home"], home, "{proven}");
        let stated = &proven["report"]["statement"];
        assert_eq!(stated["by"].as_str(), by, "{proven}");
        let logs = proven["report"]["witnessed"].as_array().context("logs")?;
        ensure!(
            logs.len() == 1 && logs[0]["site"] == SITES[site],
            "{proven}"
        );
        assert_eq!(logs[0]["by"][0]["site"], SITES[1 - site], "{proven}");
        let elsewhere = tempfile::tempdir()?;
        let pins = linked.pins()?;
        let check = [&["prove", "--check", &proof][..], &[&pins[0], &pins[1]]].concat();
        let program = support::program::Program::new(elsewhere.path(), &check);
        let checked = program.run().await?.expect(0)?;
        ensure!(checked.stdout.contains("The proof holds"), "{checked}");
        let left = format!(
            "left beijing for singapore since {}",
            stated["since"].as_str().unwrap_or_default()
        );
        assert_eq!(checked.stdout.contains(&left), by.is_some(), "{checked}");
    }
    json(1, &["prove", &stayed], 1).await?;

    let found = json(0, &["where", &moved], 0).await?;
    assert_eq!(
        (&found["home"], &found["state"]),
        (&"singapore".into(), &"departed".into())
    );
    json(1, &["where", &stayed], 1).await?;

    for site in [0, 1] {
        let verified = json(site, &["ledger", "verify"], 0).await?;
        assert_eq!(verified["of"], serde_json::json!([SITES[site]]));
        let logs = verified["logs"].as_array().context("logs")?;
        ensure!(
            logs.len() == 1 && logs[0]["witnessed"] == logs[0]["entries"],
            "{verified}"
        );
        let bundle = world.path("bundle.json").display().to_string();
        linked
            .at(site, &["ledger", "export", "--out", &bundle])
            .run()
            .await?
            .expect(0)?;
        let checked = linked.at(1 - site, &["ledger", "verify", "--file", &bundle]);
        let checked = checked.run().await?.expect(0)?;
        let alone = format!("Of these sites alone: {}.", SITES[site]);
        ensure!(checked.stdout.contains(&alone), "{checked}");
        let status = json(site, &["status"], 0).await?;
        let moves = status["moves"].as_array().context("moves")?;
        ensure!(moves.len() == 1 - site, "{status}");
        json(site, &["check"], 0).await?;
        let other = SITES[1 - site];
        for args in [
            &["check", "--site", other][..],
            &["ledger", "verify", "--site", other],
        ] {
            let refused = linked.at(site, args).run().await?.expect(2)?;
            ensure!(refused.stderr.contains("are not known here"), "{refused}");
        }
    }

    world.admin(1).await?.batch_execute(ONE_MORE).await?;
    let sealed = json(1, &["ledger", "seal"], 0).await?;
    assert_eq!(
        sealed["logs"][0]["countersigned"],
        serde_json::json!(["beijing"]),
        "{sealed}"
    );
    witnessed(&linked, 1).await?;
    // Nobody can countersign without its daemon.
    let [beijing, _singapore] = both;
    beijing.terminate().await?;
    world.admin(1).await?.batch_execute(ONE_MORE).await?;
    let sealed = json(1, &["ledger", "seal"], 3).await?;
    assert_eq!(
        sealed["logs"][0]["countersigned"],
        serde_json::json!([]),
        "{sealed}"
    );
    ensure!(movers > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_was_rewritten_is_refused_over_the_link_and_told() -> Result<()> {
    let (linked, _) = shop("rewritten", 60).await?;
    let both = linked.serve_both().await?;
    linked.apply(0).run().await?.expect(0)?;
    for site in [0, 1] {
        witnessed(&linked, site).await?;
    }
    rewrite(&linked.world).await?;
    let found = |of: &'static str| {
        move |status: &Value| {
            let findings = ledger(status)["findings"].as_array();
            let mut findings = findings.into_iter().flatten();
            findings.any(|finding| {
                let what = finding["what"].as_str().unwrap_or_default();
                finding["site"] == of
                    && what.contains("equivocation: beijing refused the ledger of singapore")
            })
        }
    };
    for daemon in &both {
        daemon.until("both tell of it", found("singapore")).await?;
    }
    let refused = "SELECT count(*) FROM domicile.refused_head WHERE of = 'singapore'";
    ensure!(linked.world.value(0, refused).await? == "1");
    let refused = metric(&both[0], "refused_of_peer_total").await?;
    ensure!(
        refused.len() == 1 && refused[0].ends_with(" 1"),
        "{refused:?}"
    );
    let refused = metric(&both[1], "refused_by_peer_total").await?;
    ensure!(
        refused.len() == 1 && refused[0].ends_with(" 1"),
        "{refused:?}"
    );
    for daemon in &both {
        ensure!(daemon.log().contains("equivocation: "), "{}", daemon.log());
    }
    // The honest site's own ledger is countersigned as before.
    linked.world.admin(0).await?.batch_execute(ONE_MORE).await?;
    witnessed(&linked, 0).await?;
    // The evidence stays, also with a daemon that begins anew.
    let [beijing, _singapore] = both;
    beijing.terminate().await?;
    let beijing = linked.serve(0).await?;
    beijing.until("it knows", found("singapore")).await?;
    Ok(())
}

/// As superuser of singapore, with its key in hand: another past, signed, and going on from there.
async fn rewrite(world: &World) -> Result<()> {
    let session = world.admin(1).await?;
    let off: Vec<String> = ["entry", "leaf", "node", "head", "cosigned"]
        .iter()
        .map(|table| format!("ALTER TABLE domicile.{table} DISABLE TRIGGER keep;"))
        .collect();
    session.batch_execute(&off.concat()).await?;
    let pem = std::fs::read_to_string(world.path("singapore.key"))?;
    let key = SiteKey::from_pem(&pem).map_err(|_| anyhow::anyhow!("a key"))?;
    // While the daemon takes nothing: it would sign a past that is half rewritten, or refuse to.
    log::lock(&session).await?;
    session
        .batch_execute(
            "UPDATE domicile.entry SET body = body || '{\"rows\": 0}' WHERE n = (SELECT n FROM domicile.leaf WHERE position = 1);
             DELETE FROM domicile.node; DELETE FROM domicile.head; DELETE FROM domicile.cosigned",
        )
        .await?;
    let mut frontier = Frontier::default();
    for row in log::rows(&session, 0, 100_000).await? {
        let hash = leaf_hash(row.entry.context("an entry")?.text()?.as_bytes());
        let update = "UPDATE domicile.leaf SET hash = $1 WHERE position = $2";
        session
            .execute(update, &[&&hash.0[..], &row.position.cast_signed()])
            .await?;
        log::append(&session, &[], &frontier.push(hash)).await?;
    }
    let head = Head {
        origin: origin(&world.name, "singapore"),
        size: frontier.size(),
        root: frontier.root(),
    };
    let row = HeadRow {
        size: head.size,
        root: head.root,
        key: key.public(),
        note: Note::new(head.to_string(), vec![head.sign(&key)]).to_string(),
    };
    log::add_head(&session, &row).await?;
    session.batch_execute(ONE_MORE).await?;
    log::unlock(&session).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_away_holds_up_nobody_and_is_asked_when_it_comes() -> Result<()> {
    let (linked, _) = shop("peer_away", 20).await?;
    // A third site, of which beijing alone knows, and that is never there.
    let strange = SiteKey::from_seed(&[9; 32]).public().pin();
    let file = linked.world.path("beijing.toml");
    let text = std::fs::read_to_string(&file)?;
    let third = format!(
        "[site.auckland]\nlink = {{ address = \"127.0.0.1:1\", pins = [\"{strange}\"] }}\n"
    );
    std::fs::write(&file, format!("{third}{text}"))?;
    let beijing = linked.serve(0).await?;
    let signed = "SELECT (SELECT count(*) FROM domicile.entry) = (SELECT size FROM domicile.head ORDER BY n DESC LIMIT 1)";
    for _ in 0..3 {
        linked.world.admin(0).await?.batch_execute(ONE_MORE).await?;
        linked.world.wait_for(0, signed, "true").await?;
    }
    ensure!(
        linked
            .world
            .value(0, "SELECT count(*) FROM domicile.cosigned")
            .await?
            == "0"
    );
    let mut behind = Vec::new();
    wait_until("it is told that nobody vouches", PATIENCE, async || {
        behind = metric(&beijing, "unwitnessed_seconds").await?;
        Ok(behind.len() == 2 && !behind.iter().any(|line| line.ends_with(" 0.0")))
    })
    .await
    .with_context(|| format!("{behind:?}"))?;
    let _singapore = linked.serve(1).await?;
    witnessed(&linked, 0).await.with_context(|| beijing.log())?;
    let peers = "SELECT string_agg(DISTINCT peer, ',') FROM domicile.cosigned";
    ensure!(linked.world.value(0, peers).await? == "singapore");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_dies_while_it_seals_is_made_up_for() -> Result<()> {
    let (linked, _) = shop("dies_sealing", 20).await?;
    let _singapore = linked.serve(1).await?;
    for point in SEALING {
        linked.world.admin(0).await?.batch_execute(ONE_MORE).await?;
        let program = linked.serving(0).env("DOMICILE_STOP", point);
        // It may be gone before it has answered.
        let log = linked.world.path("dying.log");
        let mut dying = program.complain_to(&log)?.start()?;
        wait_until("the daemon dies", PATIENCE, async || {
            Ok(dying.ended()?.is_some())
        })
        .await
        .context(point)?;
        let beijing = linked.serve(0).await?;
        witnessed(&linked, 0).await.with_context(|| beijing.log())?;
        beijing.terminate().await?;
    }
    let verified = linked.everywhere(&["ledger", "verify"]);
    verified.run().await?.expect(0)?;
    Ok(())
}
