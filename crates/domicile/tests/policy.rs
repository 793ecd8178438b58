//! The policy at both ends: each site asks its own copy, refuses what it does not permit, and says so in its entries.

mod support;

use anyhow::{Result, ensure};
use support::program::Ran;
use support::refusal::refusal;
use support::{Clusters, PATIENCE, World};
use testbed::wait_until;

const APPLY: &[&str] = &["apply", "--yes", "--json"];
const BASIS: &str = r#"basis = { code = "test", document = "T-1", expires = "2999-01-01" }"#;
const EXPIRED: &str = r#"basis = { code = "test", document = "T-0", expires = "2020-02-29" }"#;

/// Refusals entered at a site, as "why|who was concerned".
const REFUSALS: &str = "SELECT coalesce(string_agg(format('%s|%s', body ->> 'why', jsonb_array_length(body -> 'users')), ', '
    ORDER BY n), '') FROM domicile.entry WHERE kind = 'policy_refused'";
/// People who live at a site by its records; at the origin those of whom it has none, too.
const HERE: &str =
    "SELECT count(*) FROM person AS p LEFT JOIN domicile.resident AS r ON r.user_key = p.id
    WHERE r.state = 'settled' OR r.state IS NULL AND (SELECT is_origin FROM domicile.home)";
/// Whatever a move leaves.
const TRACES: &str =
    "SELECT ((SELECT count(*) FROM domicile.move) + (SELECT count(*) FROM domicile.inbound)
    + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()))::text";

/// The small home, its phase with this basis, installed at both sites.
async fn installed(name: &str, basis: &str) -> Result<World> {
    let world = World::small(Clusters::shared().await?, name).await?;
    world.reconfigure(BASIS, basis)?;
    world.install_small().await?.expect(0)?;
    Ok(world)
}

async fn apply(world: &World) -> Result<Ran> {
    world.program(APPLY).run().await
}

/// Nobody has moved, nothing is left of a move, and these refusals are entered.
async fn expect_nothing(world: &World, refusals: [&str; 2]) -> Result<()> {
    ensure!(world.value(1, HERE).await? == "0", "somebody moved");
    for (site, wanted) in refusals.iter().enumerate() {
        assert_eq!(world.value(site, REFUSALS).await?, *wanted);
        ensure!(world.value(site, TRACES).await? == "0", "a trace is left");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phase_without_a_basis_moves_nobody() -> Result<()> {
    let world = installed("nobasis", "").await?;
    let check = world.program(&["check"]).run().await?;
    refusal(0, &["phase out has no basis", "add basis = {"]).hold(&check)?;
    let wanted = refusal(
        2,
        &[
            "the policy at beijing refuses",
            "phase out has no basis",
            "add basis = {",
        ],
    );
    wanted.hold(&apply(&world).await?)?;
    let why = "phase out has no basis: nothing says what permits its moves|0";
    expect_nothing(&world, [why, ""]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_basis_moves_nobody_forth_and_holds_nobody_back() -> Result<()> {
    let world = installed("expired", EXPIRED).await?;
    let wanted = refusal(2, &["(T-0) holds no more since 2020-02-29", "renewed"]);
    wanted.hold(&apply(&world).await?)?;
    let why = "the basis of phase out (T-0) holds no more since 2020-02-29|0";
    expect_nothing(&world, [why, ""]).await?;

    // Renewed, they go; expired again, they may come home, and nobody else may go.
    world.write("domicile.toml", &world.small_configuration())?;
    world.install_small().await?.expect(0)?;
    let ran = apply(&world).await?.expect(0)?;
    let id = ran.summary()?["move"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(world.value(1, HERE).await?, "6");
    world.reconfigure(BASIS, EXPIRED)?;
    world.install_small().await?.expect(0)?;
    world.program(&["rollback", &id]).run().await?.expect(0)?;
    assert_eq!(world.value(1, HERE).await?, "0");
    apply(&world).await?.expect(2)?;
    assert_eq!(world.value(1, HERE).await?, "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_with_different_policies_do_not_start() -> Result<()> {
    let world = installed("differ", BASIS).await?;
    // The target alone gets another policy.
    world.reconfigure("home = { IN = ", "home = { SG = \"singapore\", IN = ")?;
    world.install_small_at(1).await?.expect(0)?;
    let version = "SELECT version FROM domicile.policy ORDER BY n DESC LIMIT 1";
    let (here, there) = (
        world.value(0, version).await?,
        world.value(1, version).await?,
    );
    ensure!(here != there, "the versions tell the policies apart");
    let says = [
        "the policy at singapore refuses",
        &here,
        &there,
        "`domicile install` at every site",
    ];
    let wanted = refusal(2, &says);
    wanted.hold(&apply(&world).await?)?;
    let why =
        format!("the policy installed is of version {there}, that of beijing of version {here}|0");
    expect_nothing(&world, ["", &why]).await?;
    // Of the same again, they move.
    world.install_small().await?.expect(0)?;
    apply(&world).await?.expect(0)?;
    assert_eq!(world.value(1, HERE).await?, "8");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_reads_nothing_of_whom_its_own_copy_keeps() -> Result<()> {
    let world = installed("keeps", BASIS).await?;
    // What is asked for goes beyond what is installed.
    world.reconfigure("home = { IN = ", "home = { SG = \"singapore\", IN = ")?;
    let ran = apply(&world).await?.expect(1)?;
    assert_eq!(ran.summary()?["moved"], 6);
    let aside = ran.summary()?["set_aside"].to_string();
    ensure!(
        aside.contains("gives market SG no home at singapore"),
        "{aside}"
    );
    let why = "the policy does not let these users go there|2";
    assert_eq!(world.value(0, REFUSALS).await?, why);
    let spoken = "SELECT count(*)::text FROM domicile.resident WHERE user_key IN (11, 12)";
    assert_eq!(
        world.value(1, spoken).await?,
        "0",
        "the target never hears of them"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_lets_nobody_in_whom_its_own_copy_keeps_out() -> Result<()> {
    let world = installed("keepsout", BASIS).await?;
    // A copy of the same version that says otherwise: whatever the source believes, this is what counts here.
    world
        .execute(
            1,
            "INSERT INTO domicile.policy (version, body)
             SELECT version, jsonb_set(body, '{phases,0,home}', '{\"FR\": \"singapore\"}') FROM domicile.policy",
        )
        .await?;
    let ran = apply(&world).await?.expect(1)?;
    assert_eq!(ran.summary()?["moved"], 0);
    let aside = ran.summary()?["set_aside"].to_string();
    ensure!(
        aside.contains("gives market IN no home at singapore"),
        "{aside}"
    );
    assert_eq!(world.value(1, HERE).await?, "0");
    assert_eq!(
        world.value(1, "SELECT count(*)::text FROM person").await?,
        "0"
    );
    let refused = "SELECT count(*)::text FROM domicile.entry WHERE kind = 'refused'";
    assert_eq!(world.value(1, refused).await?, "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_said_to_come_back_must_have_left() -> Result<()> {
    let world = installed("returns", BASIS).await?;
    let ran = apply(&world).await?.expect(0)?;
    let id = ran.summary()?["move"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let hold = world.path("hold");
    let mut back = world
        .program(&["rollback", &id, "--json"])
        .env("DOMICILE_HOLD", format!("before-begin={}", hold.display()))
        .start()?;
    wait_until("the rollback is held or ends", PATIENCE, async || {
        Ok(hold.exists() || back.ended()?.is_some())
    })
    .await?;
    // The origin forgets that 3 went: as if somebody were sent to it who never lived there.
    world
        .execute(0, "DELETE FROM domicile.passenger WHERE user_key = 3")
        .await?;
    std::fs::remove_file(&hold)?;
    let ran = back.end().await?.expect(1)?;
    ensure!(ran.stdout.contains("he never left from beijing"), "{ran}");
    assert_eq!(world.value(1, HERE).await?, "1", "he stays where he is");
    assert_eq!(world.value(0, HERE).await?, "11");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_entries_say_what_permitted_a_move() -> Result<()> {
    let world = installed("entries", BASIS).await?;
    apply(&world).await?.expect(0)?;
    let permitted = |kind: &str| {
        format!(
            "SELECT format('%s %s %s %s %s', body ->> 'from', body ->> 'to', body ->> 'phase', body -> 'basis' ->> 'document',
                           body ->> 'policy' = (SELECT version FROM domicile.policy)) FROM domicile.entry WHERE kind = '{kind}'"
        )
    };
    assert_eq!(
        world.value(0, &permitted("move_begun")).await?,
        "beijing singapore out T-1 t"
    );
    assert_eq!(
        world.value(1, &permitted("arriving")).await?,
        "beijing singapore out T-1 t"
    );
    for site in [0, 1] {
        // The policy itself is entered, too, so that its version can be looked up for ever.
        let policy = "SELECT body -> 'policy' = (SELECT body FROM domicile.policy) FROM domicile.entry WHERE kind = 'policy'";
        assert_eq!(world.value(site, policy).await?, "true");
        // What the mover asks, it cannot answer.
        let may = format!(
            "SELECT has_table_privilege('mover_{}', 'domicile.policy', 'INSERT, UPDATE, DELETE')",
            world.name
        );
        assert_eq!(world.value(site, &may).await?, "false");
    }
    Ok(())
}
