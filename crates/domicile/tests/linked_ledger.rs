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
use support::linked::Linked;
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
