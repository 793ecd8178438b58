//! Names are unique at all sites, and none leaves its home: claims between two daemons on real databases.

#![cfg(feature = "planted-faults")]

mod support;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use support::PATIENCE;
use support::claimants::{Claimed, create};
use support::scan::scan;
use testbed::wait_until;

/// Keys that nobody had at adoption: they can be created at either site.
const NEW: i32 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_claims_from_both_sites_one_wins_also_when_the_registry_is_killed() -> Result<()> {
    const NAMES: i32 = 120;
    let claimed = Claimed::shop("claims_race", 20, "10min").await?;
    let [registry, other] = claimed.serve().await?;
    let logs = || format!("{}\n{}", registry.log(), other.log());
    // What each site was told, by name and site.
    let race = async |from: i32, to: i32| -> Result<BTreeMap<(i32, usize), (u16, String)>> {
        // Those of the other site first: they have the longer way.
        let far = (from..to).map(|name| (name, 1));
        let racing = far.chain((from..to).map(|name| (name, 0)));
        let racing = racing.map(async |(name, site)| {
            let (address, user) = (format!("n{name}@race.example"), NEW + 2 * name);
            let operation = format!("race {name} {site}");
            let told = claimed
                .claim_until(site, &address, user + site as i32, &operation)
                .await?;
            anyhow::Ok(((name, site), (told.0, told.1.to_string())))
        });
        let told = futures_util::future::join_all(racing).await;
        told.into_iter().collect()
    };
    let judge = |told: &BTreeMap<(i32, usize), (u16, String)>| -> Result<[usize; 2]> {
        let mut wins = [0, 0];
        for name in told
            .keys()
            .map(|(name, _)| *name)
            .collect::<std::collections::BTreeSet<_>>()
        {
            let codes = [told[&(name, 0)].0, told[&(name, 1)].0];
            ensure!(
                codes == [200, 409] || codes == [409, 200],
                "{name}: {:?} {:?}",
                told[&(name, 0)],
                told[&(name, 1)]
            );
            wins[usize::from(codes[1] == 200)] += 1;
        }
        Ok(wins)
    };
    let began = std::time::Instant::now();
    let first = race(0, NAMES).await.with_context(logs)?;
    let took = began.elapsed();
    let wins = judge(&first)?;
    // A repeated operation has its first answer, at whichever site it is asked again.
    for name in [0, 1, NAMES - 1] {
        for site in [0, 1] {
            let (address, user) = (
                format!("n{name}@race.example"),
                NEW + 2 * name + site as i32,
            );
            for at in [0, 1] {
                let operation = format!("race {name} {site}");
                let again = claimed.claim(at, &address, user, &operation).await?;
                assert_eq!((again.0, again.1.to_string()), first[&(name, site)]);
            }
        }
    }
    let (code, body) = claimed
        .claim(1, "other@race.example", NEW, "race 0 0")
        .await?;
    assert_eq!(code, 422, "{body}");
    // While it is killed and comes again, nobody is told anything that turns out wrong.
    let killing = async {
        registry.signal("KILL").await?;
        drop(registry);
        claimed.gateways.linked.serve(0).await
    };
    let (second, registry) = tokio::join!(race(NAMES, 2 * NAMES), killing);
    let registry = registry?;
    let second = second.with_context(|| format!("{}\n{}", registry.log(), other.log()))?;
    let wins_killed = judge(&second)?;
    let third = race(NAMES, 2 * NAMES).await?;
    assert_eq!(second, third, "a repeated operation has its first answer");
    println!(
        "{NAMES} names, twice, in {took:?}: {wins:?} won by each site; killed meanwhile: {wins_killed:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_lease_takes_what_nobody_wrote_and_confirms_what_somebody_did() -> Result<()> {
    let claimed = Claimed::shop("claims_lease", 20, "2s").await?;
    let both = claimed.serve().await?;
    let world = claimed.world();
    let logs = || format!("{}\n{}", both[0].log(), both[1].log());
    let [never, written, open, rolled] =
        ["never", "written", "open", "rolled"].map(|name| format!("{name}@lease.example"));
    let user = |n: i32| NEW + n;
    // Begun within the lease: they may write what was claimed for as long as they are open.
    let mut opened = Vec::new();
    for (n, name) in [(3, &open), (4, &rolled)] {
        let (code, body) = claimed
            .claim(1, name, user(n), &format!("sign up {n}"))
            .await?;
        assert_eq!((code, body["state"].as_str()), (200, Some("claimed")));
        let application = world.application(1).await?;
        application.batch_execute("BEGIN").await?;
        opened.push(application);
    }
    for (n, name) in [(1, &never), (2, &written)] {
        let (code, body) = claimed
            .claim(1, name, user(n), &format!("sign up {n}"))
            .await?;
        assert_eq!((code, body["lease_ms"].as_i64()), (200, Some(2000)));
    }
    create(&world.application(1).await?, user(2), &written).await?;
    assert_eq!(
        claimed.locate(0, &written).await?,
        Some((user(2).to_string(), "singapore".into(), "claimed".into())),
        "a name is found as soon as it is claimed"
    );
    claimed
        .until(0, &written, Some((user(2), "singapore", "held")))
        .await
        .with_context(logs)?;
    // Homes are asked again and again, and none of what is open is taken away: not even what was not written yet.
    let asked = "SELECT count(*) FROM domicile.claim WHERE state = 'pending' AND user_key <> 999999 AND asked_at > until + interval '4 seconds'";
    world.wait_for(0, asked, "3").await.with_context(logs)?;
    for name in [&never, &open, &rolled] {
        let (code, body) = claimed
            .claim(0, name, user(9), &format!("steal {name}"))
            .await?;
        assert_eq!(
            (code, body["error"].as_str()),
            (409, Some("taken")),
            "{name}"
        );
    }
    create(&opened[0], user(3), &open).await?;
    create(&opened[1], user(4), &rolled).await?;
    opened[0].batch_execute("COMMIT").await?;
    claimed
        .until(1, &open, Some((user(3), "singapore", "held")))
        .await
        .with_context(logs)?;
    // One that began before still stands: what the other one might write is his, and so is what was never written.
    assert!(claimed.locate(0, &never).await?.is_some());
    opened[1].batch_execute("ROLLBACK").await?;
    for name in [&never, &rolled] {
        claimed.until(0, name, None).await.with_context(logs)?;
        let told = claimed
            .claim(0, name, user(9), &format!("take {name}"))
            .await?;
        assert_eq!(told.0, 200, "{name}: {}", told.1);
    }
    let (code, metrics) = both[0].get("/metrics").await?;
    ensure!(
        code == 200 && metrics.contains("domicile_claims_settled_total"),
        "{metrics}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_released_when_its_home_does_not_hold_it_any_more() -> Result<()> {
    let claimed = Claimed::shop("claims_release", 20, "10min").await?;
    let both = claimed.serve().await?;
    let logs = || format!("{}\n{}", both[0].log(), both[1].log());
    let (old, new, user) = ("old@change.example", "new@change.example", NEW + 1);
    claimed.claim(1, old, user, "sign up").await?;
    let application = claimed.world().application(1).await?;
    create(&application, user, old).await?;
    // The change of a name: claim the new one, write it, release the old one.
    assert_eq!(claimed.claim(1, new, user, "change").await?.0, 200);
    let (code, body) = claimed.release(1, old, user, "too soon").await?;
    assert_eq!(
        (code, body["error"].as_str()),
        (409, Some("held")),
        "{}",
        logs()
    );
    let change = "UPDATE customer SET email = $2 WHERE customer_id = $1";
    application.execute(change, &[&user, &new]).await?;
    assert_eq!(claimed.release(1, old, user + 1, "another's").await?.0, 409);
    let released = claimed.release(1, old, user, "changed").await?;
    assert_eq!(
        released,
        (200, json!({ "state": "released" })),
        "{}",
        logs()
    );
    assert_eq!(claimed.release(0, old, user, "changed").await?, released);
    let (code, _) = claimed.release(1, old, user, "too soon").await?;
    assert_eq!(code, 409, "a repeated operation has its first answer");
    assert_eq!(claimed.locate(0, old).await?, None);
    assert_eq!(claimed.claim(0, old, user + 5, "next").await?.0, 200);
    // One that is released while somebody may still write it goes when he has ended.
    let held_back = "held-back@change.example";
    claimed.claim(1, held_back, user, "again").await?;
    application.batch_execute("BEGIN").await?;
    let (code, body) = claimed.release(1, held_back, user, "give up").await?;
    assert_eq!((code, body["state"].as_str()), (200, Some("releasing")));
    assert_eq!(claimed.claim(0, held_back, user + 6, "early").await?.0, 409);
    application.batch_execute("ROLLBACK").await?;
    claimed.until(1, held_back, None).await.with_context(logs)?;
    // A request that says nothing that is known says so, and nothing of what it said.
    for (verb, body) in [
        ("claim", json!({ "kind": "email", "name": "x@y.example" })),
        (
            "claim",
            json!({ "kind": "pigeon", "name": "x@y.example", "user": 1, "operation": "1" }),
        ),
        (
            "claim",
            json!({ "kind": "email", "name": "x@y.example", "user": "x@y.example", "operation": "1" }),
        ),
        (
            "claim",
            json!({ "kind": "email", "name": "x@y.example", "user": 1, "operation": "" }),
        ),
        (
            "locate",
            json!({ "kind": "email", "name": "x@y.example", "user": 1 }),
        ),
        ("locate", json!("x@y.example")),
    ] {
        let (code, said) = claimed.ask(1, verb, &body).await?;
        assert_eq!(code, 400, "{body}");
        assert!(!said.to_string().contains("x@y"), "{said}");
    }
    assert_eq!(claimed.ask(1, "guess", &json!({})).await?.0, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_moves_keeps_his_name_at_every_moment_and_is_located_where_he_lives()
-> Result<()> {
    let claimed = Claimed::shop("claims_move", 300, "2s").await?;
    let both = claimed.serve().await?;
    let logs = || format!("{}\n{}", both[0].log(), both[1].log());
    // Users from before claims were configured have their names, from the first claim on.
    let name = |user: i32| format!("user{user}@example.com");
    for user in &claimed.movers[..20] {
        let found = claimed.locate(1, &name(*user)).await?;
        assert_eq!(
            found,
            Some((user.to_string(), "beijing".into(), "held".into()))
        );
    }
    let mut apply = claimed.gateways.linked.apply(0).start()?;
    let mut tries = 0_usize;
    wait_until("the move is over", PATIENCE, async || {
        let user = claimed.movers[tries % claimed.movers.len()];
        tries += 1;
        let (site, operation) = (tries % 2, format!("steal {tries}"));
        let told = claimed
            .claim_until(site, &name(user), NEW + 1, &operation)
            .await?;
        ensure!(told.0 == 409, "{user}: {told:?}");
        let found = claimed.locate(site, &name(user)).await?;
        ensure!(
            found
                .as_ref()
                .is_some_and(|found| found.0 == user.to_string()),
            "{found:?}"
        );
        Ok(apply.ended()?.is_some())
    })
    .await
    .with_context(logs)?;
    for user in &claimed.movers {
        for site in [0, 1] {
            let found = claimed.locate(site, &name(*user)).await?;
            assert_eq!(
                found,
                Some((user.to_string(), "singapore".into(), "held".into())),
                "{}",
                logs()
            );
        }
    }
    // He gives his name up at his new home, and the old one, which still has his frozen row, does not hold it against him.
    let user = claimed.movers[0];
    let application = claimed.world().application(1).await?;
    claimed
        .claim(1, "moved@away.example", user, "change")
        .await?;
    let change = "UPDATE customer SET email = 'moved@away.example' WHERE customer_id = $1";
    application.execute(change, &[&user]).await?;
    let released = claimed.release(0, &name(user), user, "changed").await?;
    assert_eq!(
        released,
        (200, json!({ "state": "released" })),
        "{}",
        logs()
    );
    println!("{tries} tries to take a name during the move");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_two_users_have_are_shown_and_no_name_is_found_at_the_other_site() -> Result<()>
{
    let claimed = Claimed::shop("claims_private", 20, "2s").await?;
    let both = claimed.serve().await?;
    let world = claimed.world();
    let marker = "only-at-home-in-singapore";
    for n in 0..20 {
        let name = format!("u{n}@{marker}.example");
        let operation = format!("sign up {name}");
        assert_eq!(claimed.claim(1, &name, NEW + n, &operation).await?.0, 200);
        create(&world.application(1).await?, NEW + n, &name).await?;
    }
    for n in 0..20 {
        let name = format!("u{n}@{marker}.example");
        claimed
            .until(0, &name, Some((NEW + n, "singapore", "held")))
            .await?;
    }
    // Written without a claim, as an application does that does not know of them: an address that a user at the other site has.
    let theirs = claimed.movers[0];
    let twice = format!("user{theirs}@example.com");
    create(&world.application(1).await?, NEW + 100, &twice).await?;
    let mut logs = format!("{}\n{}", both[0].log(), both[1].log());
    let [registry, other] = both;
    let (_, _, took) = other.terminate().await?;
    assert!(took < PATIENCE / 2, "it ended after {took:?}");
    let other = claimed.gateways.linked.serve(1).await?;
    let conflict = "domicile_claims_conflicts{";
    wait_until("the conflict is counted", PATIENCE, async || {
        let (_, metrics) = other.get("/metrics").await?;
        let mut lines = metrics.lines().filter(|line| line.starts_with(conflict));
        Ok(lines.any(|line| line.ends_with(" 1") || line.ends_with(" 1.0")))
    })
    .await
    .with_context(|| other.log())?;
    let found = claimed.locate(1, &twice).await?;
    assert_eq!(
        found,
        Some((theirs.to_string(), "beijing".into(), "held".into())),
        "nobody decided it"
    );
    logs.push_str(&registry.log());
    logs.push_str(&other.log());
    let named = logs.lines().any(|line| {
        line.contains(&format!("\"user\":\"{}\"", NEW + 100))
            && line.contains(&format!("\"other\":\"{theirs}\""))
    });
    assert!(named, "{logs}");
    // Neither in any file of the other site's server, nor in what either said.
    let cluster = &world.clusters.0[0];
    let at_registry = scan(cluster, &world.name, marker).await?;
    assert!(at_registry.is_empty(), "{at_registry:?}");
    let at_home = scan(&world.clusters.0[1], &world.name, marker).await?;
    assert!(!at_home.is_empty(), "the scan finds what is there");
    let dump = tokio::process::Command::new(cluster.bindir().join("pg_dump"))
        .arg(cluster.url("postgres", &world.name))
        .output()
        .await?;
    ensure!(
        dump.status.success(),
        "{}",
        String::from_utf8_lossy(&dump.stderr)
    );
    let dump = String::from_utf8(dump.stdout)?;
    assert!(dump.contains("domicile.claim") && !dump.contains(marker));
    for secret in [marker, "@example.com", "@"] {
        let mut lines = logs.lines().filter(|line| line.contains(secret));
        // Addresses of databases have one, too.
        let line = lines.find(|line| !line.contains("postgres://"));
        assert!(line.is_none(), "{line:?}");
    }
    Ok(())
}
