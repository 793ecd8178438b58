//! A target that accepted a batch and is destroyed before it answers: two operators take the batch back, and the target finds
//! that when it comes back after all.

#![cfg(feature = "planted-faults")]

mod support;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::linked::Linked;
use support::program::Ran;
use support::{Clusters, PATIENCE, SITES, World, write};
use testbed::wait_until;

const REASON: &str = "the machine burnt down";

/// A shop whose sites are closed after a restart; ten users will go to singapore, ten stay. Everybody's first write is acknowledged.
async fn shop(name: &str) -> Result<(World, Vec<i32>)> {
    let clusters = Clusters::own(name).await?;
    let world = World::shop(clusters, name, 20, &[("CN", 10), ("IN", 10)]).await?;
    world.close_after_restarts().await?;
    let gone = world.users_of(0, "IN").await?;
    for user in &gone {
        assert_eq!(write(&world, 0, *user).await?, "ok");
    }
    Ok((world, gone))
}

/// How many writes of `user` stand at `site`.
async fn written(world: &World, site: usize, user: i32) -> Result<String> {
    let sql = format!(
        "SELECT length(first_name) - length(rtrim(first_name, '!')) FROM customer WHERE customer_id = {user}"
    );
    world.value(site, &sql).await
}

/// Makes the key `NAME.key` of an operator; returns its public half.
async fn operator(world: &World, name: &str) -> Result<String> {
    let file = format!("{name}.key");
    let args = ["keys", "new", "--operator", name, "--out", &file, "--json"];
    let made = world.program(&args).run().await?.expect(0)?;
    let made: Value = serde_json::from_str(&made.stdout)?;
    Ok(made["key"].as_str().context("a key")?.to_owned())
}

/// Names `operators` in a configuration, with keys of their own.
async fn configure(world: &World, file: &str, operators: &[(&str, &str)]) -> Result<()> {
    let path = world.path(file);
    let mut text = std::fs::read_to_string(&path)?;
    text.push_str("\n[operators]\n");
    for (name, key) in operators {
        text.push_str(&format!("{name} = {key:?}\n"));
    }
    Ok(std::fs::write(path, text)?)
}

async fn resolve(world: &World, config: &str, args: &[&str], code: i32) -> Result<Ran> {
    let all = [&["--config", config, "resolve"], args].concat();
    world.program(&all).run().await?.expect(code)
}

/// What alice gives to `resolve` to state that singapore is gone.
fn alice_states(batch: &str) -> [&str; 9] {
    [
        batch,
        "--destroyed",
        "singapore",
        "--reason",
        REASON,
        "--key",
        "alice.key",
        "--statement",
        "gone",
    ]
}

/// The batch that is in doubt at beijing.
async fn in_doubt(world: &World) -> Result<String> {
    let sql = "SELECT DISTINCT batch FROM domicile.resident WHERE state = 'offered'";
    let batch = world.value(0, sql).await?;
    ensure!(!batch.is_empty(), "nobody is in doubt");
    Ok(batch)
}

fn says(ran: &Ran, words: &str) -> Result<()> {
    ensure!(ran.stderr.contains(words), "{words:?} is not said: {ran}");
    ensure!(
        ran.stderr.contains("mend: "),
        "it does not say what to do: {ran}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_take_a_batch_back_from_a_site_that_accepted_it_and_is_gone() -> Result<()> {
    let (world, gone) = shop("destroyed").await?;
    let config = "domicile.toml";
    let (alice, bob) = (
        operator(&world, "alice").await?,
        operator(&world, "bob").await?,
    );
    operator(&world, "mallory").await?;
    let hold = world.path("hold");
    let apply = world
        .apply(config)
        .env("DOMICILE_HOLD", format!("after-accept={}", hold.display()))
        .start()?;
    support::wait_for_file(&hold, true).await?;
    let batch = in_doubt(&world).await?;
    let batch = batch.as_str();
    let first = alice_states(batch);
    let nobody = resolve(&world, config, &first, 2).await?;
    says(&nobody, "the configuration names 0")?;
    configure(&world, config, &[("alice", &alice), ("bob", &bob)]).await?;
    let answers = resolve(&world, config, &first, 2).await?;
    says(&answers, "singapore answers")?;

    // It has accepted, and nobody heard of it.
    assert_eq!(write(&world, 1, gone[0]).await?, "ok");
    world.clusters.0[1].stop_immediate().await?;
    apply.kill().await?;
    std::fs::remove_file(&hold)?;
    assert_eq!(write(&world, 0, gone[0]).await?, "40001");

    let mut elsewhere = first;
    elsewhere[2] = "beijing";
    let wrong = resolve(&world, config, &elsewhere, 2).await?;
    ensure!(wrong.stderr.contains("was offered to singapore"), "{wrong}");
    let mut stranger = first;
    stranger[6] = "mallory.key";
    says(
        &resolve(&world, config, &stranger, 2).await?,
        "no configured operator's",
    )?;
    let made = resolve(&world, config, &first, 0).await?;
    ensure!(made.stdout.contains(REASON), "{made}");
    assert_eq!(write(&world, 0, gone[0]).await?, "40001");

    // One is not enough, nor one who signs twice, nor a stranger.
    let carry_out = [batch, "--statement", "gone", "--yes", "--json"];
    let alone = resolve(&world, config, &carry_out, 2).await?;
    says(&alone, "2 different operators have to sign it")?;
    let sign = |key: &'static str| [batch, "--statement", "gone", "--yes", "--key", key];
    let twice = resolve(&world, config, &sign("alice.key"), 2).await?;
    says(&twice, "alice has signed")?;
    let other = resolve(&world, config, &sign("mallory.key"), 2).await?;
    says(&other, "no configured operator's")?;
    resolve(&world, config, &sign("bob.key"), 0).await?;

    // Of another batch, and of another reason.
    let another = resolve(
        &world,
        config,
        &["another", "--statement", "gone", "--yes"],
        2,
    )
    .await?;
    says(&another, "is about another batch")?;
    let signed = std::fs::read_to_string(world.path("gone"))?;
    let changed = signed.replace("burnt down", "was stolen");
    std::fs::write(world.path("changed"), changed)?;
    let changed = resolve(
        &world,
        config,
        &[batch, "--statement", "changed", "--yes"],
        2,
    )
    .await?;
    says(&changed, "changed after it was signed")?;
    assert_eq!(write(&world, 0, gone[0]).await?, "40001");

    let done = resolve(&world, config, &carry_out, 0).await?;
    let line = done.stdout.lines().last().context("it says something")?;
    let done: Value = serde_json::from_str(line)?;
    assert_eq!(
        (&done["users"], &done["elsewhere"]),
        (&10.into(), &0.into())
    );
    for user in &gone {
        // What was acknowledged here before the move, and is now.
        assert_eq!(write(&world, 0, *user).await?, "ok");
        assert_eq!(written(&world, 0, *user).await?, "2");
    }
    let doubt = "SELECT count(*) FROM domicile.resident WHERE state = 'offered'";
    assert_eq!(world.value(0, doubt).await?, "0");
    let entry = format!(
        "SELECT count(*) FROM domicile.entry WHERE kind = 'reclaimed' AND body ->> 'destroyed' = 'singapore' \
            AND body ->> 'batch' = '{batch}' AND body ->> 'reason' = '{REASON}' AND body ->> 'statement' ~ '^[0-9a-f]{{64}}$' \
            AND jsonb_array_length(body -> 'operators') = 2 AND body ->> 'count' = '10' \
            AND jsonb_array_length(body -> 'users') = 10 AND body::text !~ 'alice|bob'"
    );
    assert_eq!(world.value(0, &entry).await?, "1");
    // It counts once.
    resolve(&world, config, &carry_out, 2).await?;

    // It comes back after all, and believes that they live there.
    world.clusters.0[1].start_again().await?;
    for user in &gone {
        assert_eq!(write(&world, 1, *user).await?, "DM503");
    }
    let running = "SELECT move_id FROM domicile.move WHERE state = 'running'";
    let running = world.value(0, running).await?;
    let abort = world.program(&["--config", config, "abort", &running]);
    let ran = abort.run().await?.expect(0)?;
    ensure!(ran.stderr.contains("went back in time"), "{ran}");
    for user in &gone {
        assert_eq!(write(&world, 1, *user).await?, "DM421");
        assert_eq!(write(&world, 0, *user).await?, "ok");
    }
    world.expect_one_home_each().await?;
    // And they move, as anybody, with what was written here.
    let again = world.apply(config).run().await?.expect(0)?;
    assert_eq!(again.summary()?["moved"], 10);
    for user in &gone {
        assert_eq!(written(&world, 1, *user).await?, "3");
        assert_eq!(write(&world, 0, *user).await?, "DM421");
    }
    world.expect_one_home_each().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_takes_a_batch_back_only_once_its_link_to_the_target_is_down() -> Result<()> {
    let (world, gone) = shop("destroyed_linked").await?;
    let (alice, bob) = (
        operator(&world, "alice").await?,
        operator(&world, "bob").await?,
    );
    let linked = Linked::new(world).await?;
    let (world, config) = (&linked.world, "beijing.toml");
    configure(world, config, &[("alice", &alice), ("bob", &bob)]).await?;
    let (both, hold) = linked.serve_holding("after-accept").await?;
    let [beijing, singapore] = both;
    let apply = linked.apply(0).start()?;
    support::wait_for_file(&hold, true).await?;
    let batch = in_doubt(world).await?;
    let batch = batch.as_str();
    let first = alice_states(batch);
    resolve(world, config, &first, 0).await?;
    let sign = [batch, "--statement", "gone", "--yes", "--key", "bob.key"];
    resolve(world, config, &sign, 0).await?;
    let carry_out = [batch, "--statement", "gone", "--yes", "--json"];
    let linked_still = resolve(world, config, &carry_out, 2).await?;
    says(&linked_still, "is linked with singapore")?;
    assert_eq!(write(world, 0, gone[0]).await?, "40001");

    world.clusters.0[1].stop_immediate().await?;
    drop(singapore);
    std::fs::remove_file(&hold)?;
    beijing
        .until("beijing knows that the link is down", |status| {
            status["peers"][0]["connected"] == false
        })
        .await?;
    let done = resolve(world, config, &carry_out, 0)
        .await
        .with_context(|| beijing.log())?;
    let done: Value = serde_json::from_str(done.stdout.lines().last().context("a line")?)?;
    assert_eq!(done["users"], 10);
    drop(apply);
    for user in &gone {
        assert_eq!(write(world, 0, *user).await?, "ok");
    }

    // It comes back: nobody is written there before it has heard, and then the daemon goes on with the move.
    world.clusters.0[1].start_again().await?;
    for user in &gone {
        assert_eq!(write(world, 1, *user).await?, "DM503");
    }
    let _singapore = linked.serve(1).await?;
    let left = "SELECT count(*) FROM domicile.resident WHERE state = 'departed'";
    let moved = world.wait_for(0, left, "10").await;
    moved.with_context(|| beijing.log())?;
    let overtaken = "SELECT count(*) FROM domicile.entry WHERE kind = 'overtaken'";
    assert_eq!(world.value(1, overtaken).await?, "1");
    for user in &gone {
        assert_eq!(written(world, 1, *user).await?, "2", "user {user}");
        assert_eq!(write(world, 0, *user).await?, "DM421");
    }
    wait_until("they are written at their home", PATIENCE, async || {
        Ok(write(world, 1, gone[0]).await? == "ok")
    })
    .await
    .with_context(|| format!("{} {}", SITES[1], beijing.log()))?;
    world.expect_one_home_each().await
}
