//! Moves that meet what they cannot carry, or run into a limit: who cannot go stays, with the reason; what stops a
//! move is named with the mend, and nobody is left between two sites.

mod support;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use support::refusal::refusal;
use support::{Clusters, World};
use tokio_postgres::Client;

const APPLY: &[&str] = &["apply", "--yes", "--json"];

/// Whose rows stand where, as "1,2,…".
async fn people(world: &World, site: usize) -> Result<String> {
    let settled = "SELECT string_agg(id::text, ',' ORDER BY id) FROM person WHERE domicile.known(id) \
                   AND NOT EXISTS (SELECT FROM domicile.resident WHERE user_key = id AND state <> 'settled')";
    world.value(site, settled).await
}

/// Nobody is on his way, nothing is kept back for a move, nothing was left of it at the target.
async fn expect_rest(world: &World) -> Result<()> {
    world.expect_one_home_each().await?;
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    ensure!(world.value(0, slots).await? == "0", "a slot is left");
    let left =
        "SELECT count(*) FROM person AS p WHERE NOT EXISTS (SELECT FROM domicile.resident AS r
                 WHERE r.user_key = p.id AND r.state = 'settled')";
    ensure!(
        world.value(1, left).await? == "0",
        "rows are left at singapore"
    );
    Ok(())
}

/// A reader with an old snapshot: the enrolment's barrier waits for it, and the making of the slot does not.
async fn hold(world: &World) -> Result<Client> {
    let client = world.admin(0).await?;
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT id FROM person")
        .await?;
    Ok(client)
}

/// The enrolment's barrier has begun: a transaction that begins now is not waited for.
const AT_BARRIER: &str = "SELECT count(*) FROM domicile.activity \
    WHERE doing ->> 'copying' = 'enrolling' AND jsonb_array_length(doing -> 'barrier' -> 'who') > 0";
const MOVING: &str = "SELECT count(*) FROM domicile.resident WHERE state = 'moving'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_fit_stays_with_the_reason_and_the_others_move() -> Result<()> {
    let world = World::small(Clusters::shared().await?, "misfits").await?;
    let gift = "CREATE TABLE gift (id int PRIMARY KEY, person_id int NOT NULL REFERENCES person,
                                   giver_id int REFERENCES person)";
    for site in [0, 1] {
        world.execute(site, gift).await?;
        // Stored as it is, so that a row's size is what it seems.
        world
            .execute(site, "ALTER TABLE item ALTER body SET STORAGE EXTERNAL")
            .await?;
    }
    // 1's gift is from 7, who stays; 8, who stays, has one from 2.
    world
        .execute(0, "INSERT INTO gift VALUES (1, 1, 7), (2, 8, 2)")
        .await?;
    // 4 has a large row.
    world
        .execute(0, "UPDATE item SET body = repeat('x', 100000) WHERE id = 7")
        .await?;
    let tables = "[service.misfits.tables]";
    let more = format!("limits = {{ row = \"64KiB\" }}\n{tables}\ngift = \"person_id\"");
    world.reconfigure(tables, &more)?;
    world.install_small().await?.expect(0)?;
    // 3's e-mail address is somebody's who was born at singapore.
    world
        .execute(1, "INSERT INTO person VALUES (900, 'SG', 'p3@example.com')")
        .await?;

    let ran = world.program(APPLY).run().await?.expect(1)?;
    let mut aside = ran.set_aside()?;
    aside.sort();
    let of = |n: usize| (aside[n].0.as_str(), aside[n].1.as_str());
    ensure!(aside.len() == 4, "{aside:?}");
    for (n, user) in [(0, "1"), (1, "2")] {
        ensure!(
            of(n).0 == user
                && of(n)
                    .1
                    .contains("tied by foreign key gift_giver_id_fkey of gift"),
            "{aside:?}"
        );
    }
    ensure!(
        of(2).0 == "3" && of(2).1.contains("person_email_key"),
        "{aside:?}"
    );
    let large = "a row of item has 100";
    ensure!(
        of(3).0 == "4" && of(3).1.contains(large) && of(3).1.contains("limits.row = 65536"),
        "{aside:?}"
    );
    ensure!(
        !format!("{ran}").contains("example.com") && !format!("{ran}").contains("xxx"),
        "values: {ran}"
    );
    ensure!(ran.summary()?["moved"] == 2, "{ran}");
    assert_eq!(people(&world, 0).await?, "1,2,3,4,7,8,9,10,11,12");
    expect_rest(&world).await?;
    let status = world.program(&["status"]).run().await?.expect(1)?;
    ensure!(
        status.stdout.contains("person_email_key") && status.stdout.contains("limits.row"),
        "{status}"
    );

    // Mended, they go.
    world
        .execute(1, "DELETE FROM person WHERE id = 900")
        .await?;
    world.execute(0, "UPDATE gift SET giver_id = NULL").await?;
    world.reconfigure(tables, &format!("{tables}\ngift = \"person_id\""))?;
    let ran = world.program(APPLY).run().await?.expect(0)?;
    ensure!(ran.summary()?["moved"] == 4, "{ran}");

    // What 2 left cannot go while 8's gift points at it.
    world
        .execute(0, "INSERT INTO gift VALUES (3, 8, 2)")
        .await?;
    let erased = world
        .program(&["erase", "--now", "--json"])
        .run()
        .await?
        .expect(1)?;
    ensure!(
        erased.stdout.contains("gift_giver_id_fkey") && erased.stdout.contains("\"user\":\"2\""),
        "{erased}"
    );
    let kept = "SELECT count(*) FROM gift WHERE giver_id = 2";
    assert_eq!(world.value(0, kept).await?, "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_grows_over_the_limit_during_a_move_keeps_its_user() -> Result<()> {
    let world = World::small(Clusters::shared().await?, "grows").await?;
    let tables = "[service.grows.tables]";
    world.reconfigure(tables, &format!("limits = {{ row = \"64KiB\" }}\n{tables}"))?;
    world.install_small().await?.expect(0)?;
    let early = hold(&world).await?;
    let moving = world.program(APPLY).start()?;
    world.wait_for(0, MOVING, "6").await?;
    world.wait_for(0, AT_BARRIER, "1").await?;
    // From now on no batch can be closed, and the stream goes on.
    let late = world.admin(0).await?;
    late.batch_execute("BEGIN; UPDATE person SET age = 2 WHERE land = 'IN'")
        .await?;
    early.batch_execute("COMMIT").await?;
    world
        .wait_for(
            1,
            "SELECT string_agg(state, ',') FROM domicile.inbound",
            "streaming",
        )
        .await?;
    let grow = "UPDATE item SET body = repeat('x', 100000) WHERE id = 7";
    world.execute(0, grow).await?;
    world
        .wait_for(1, "SELECT count(*) FROM domicile.spoilt", "1")
        .await?;
    late.batch_execute("COMMIT").await?;
    let ran = moving.end().await?.expect(1)?;
    let aside = ran.set_aside()?;
    ensure!(
        aside.len() == 1 && aside[0].0 == "4" && aside[0].1.contains("limits.row = 65536"),
        "{aside:?}"
    );
    ensure!(ran.summary()?["moved"] == 5, "{ran}");
    assert_eq!(
        world
            .value(1, "SELECT count(*) FROM person WHERE age = 2")
            .await?,
        "5"
    );
    expect_rest(&world).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_of_two_operators_is_told_who_the_first_is() -> Result<()> {
    let world = World::small_installed(Clusters::shared().await?, "operators").await?;
    let held = hold(&world).await?;
    let first = world.program(APPLY).start()?;
    world.wait_for(0, MOVING, "6").await?;
    let id = first.id().context("the first has ended")?;
    let who = format!("process {id} at 127.0.0.1, since 20");
    let told = [
        "another mover holds the office \"departures\" here",
        who.as_str(),
        "mend: a move is already running here: wait for it, or stop that process",
    ];
    world.refused(APPLY, refusal(2, &told)).await?;
    held.batch_execute("COMMIT").await?;
    let ran = first.end().await?.expect(0)?;
    ensure!(ran.summary()?["moved"] == 6, "{ran}");
    expect_rest(&world).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_cap_of_the_log_the_move_ends_and_keeps_nothing_back() -> Result<()> {
    let world = World::small(Clusters::own("capped").await?, "capped").await?;
    let tables = "[service.capped.tables]";
    world.reconfigure(tables, &format!("limits = {{ wal = \"2MiB\" }}\n{tables}"))?;
    world.install_small().await?.expect(0)?;
    let early = hold(&world).await?;
    let moving = world.program(APPLY).start()?;
    world.wait_for(0, MOVING, "6").await?;
    world.wait_for(0, AT_BARRIER, "1").await?;
    // A transaction that writes and stays open keeps the log back, and the batch as well.
    let late = world.admin(0).await?;
    late.batch_execute("BEGIN; UPDATE person SET age = 2 WHERE id = 1")
        .await?;
    let much = "SELECT count(pg_logical_emit_message(false, 'noise', repeat('x', 100000))) FROM generate_series(1, 50)";
    world.value(0, much).await?;
    early.batch_execute("COMMIT").await?;
    // He holds his user's record too: the move does not wait for him.
    let ran = moving.end().await?;
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(world.value(0, slots).await?, "0");
    late.batch_execute("COMMIT").await?;
    let said = [
        "more than limits.wal = 2097152 allows",
        "beijing",
        "mend: nobody is left half-way; raise limits.wal",
    ];
    refusal(4, &said).hold(&ran)?;
    ensure!(ran.summary()?["moved"] == 0, "{ran}");
    // They live where they lived, and write; the next run puts back what could not be at once.
    let away = "SELECT count(*) FROM domicile.resident WHERE state NOT IN ('settled', 'moving')";
    assert_eq!(world.value(0, away).await?, "0");
    world
        .execute(0, "UPDATE person SET age = 3 WHERE id <= 6")
        .await?;

    world.write("domicile.toml", &world.small_configuration())?;
    let ran = world.program(APPLY).run().await?.expect(0)?;
    ensure!(ran.summary()?["moved"] == 6, "{ran}");
    let there = "SELECT count(*) FROM person WHERE age = 3";
    assert_eq!(world.value(1, there).await?, "6");
    expect_rest(&world).await
}

/// A file system of its own; unmounted when dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// `None` where this account may not mount.
    fn new(size: &str, owner: &Path) -> Result<Option<Mounted>> {
        let mounted = Mounted(tempfile::tempdir()?);
        let owner = std::fs::metadata(owner)?;
        let options = format!(
            "size={size},uid={},gid={},mode=700",
            owner.uid(),
            owner.gid()
        );
        Ok(mounted.mount(&options)?.then_some(mounted))
    }

    fn mount(&self, options: &str) -> Result<bool> {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(self.0.path());
        Ok(mount.output().context("cannot run mount")?.status.success())
    }

    fn grow(&self, size: &str) -> Result<()> {
        ensure!(
            self.mount(&format!("remount,size={size}"))?,
            "cannot mount it larger"
        );
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The server may have files open in it still.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_targets_disk_is_full_the_move_stops_and_goes_on_later() -> Result<()> {
    let clusters = Clusters::own("full").await?;
    let target = &clusters.0[1];
    let data = target.psql("postgres", "SHOW data_directory").await?;
    let Some(disk) = Mounted::new("16m", Path::new(data.trim()))? else {
        eprintln!("skipped: this account may not mount a small file system");
        return Ok(());
    };
    let world = World::small(clusters.clone(), "full").await?;
    let place = disk.0.path().display();
    target
        .psql(
            "postgres",
            &format!("CREATE TABLESPACE small LOCATION '{place}'"),
        )
        .await?;
    target
        .psql("postgres", "ALTER DATABASE \"full\" SET TABLESPACE small")
        .await?;
    for site in [0, 1] {
        world
            .execute(site, "ALTER TABLE item ALTER body SET STORAGE EXTERNAL")
            .await?;
    }
    world.install_small().await?.expect(0)?;
    world
        .execute(
            0,
            "UPDATE item SET body = repeat('x', 2000000) WHERE id <= 12",
        )
        .await?;

    let ran = world.program(APPLY).run().await?;
    let said = [
        "copying a chunk at singapore",
        "SQLSTATE 53100",
        "No space left on device",
        "mend: make room on that server's disk",
    ];
    refusal(4, &said).hold(&ran)?;
    ensure!(!format!("{ran}").contains("xxx"), "values: {ran}");
    assert_eq!(world.value(1, "SELECT count(*) FROM person").await?, "0");
    // Those who were to move live where they lived, and write.
    world
        .execute(0, "UPDATE person SET age = 3 WHERE id <= 6")
        .await?;

    disk.grow("128m")?;
    let ran = world.program(APPLY).run().await?.expect(0)?;
    ensure!(ran.summary()?["moved"] == 6, "{ran}");
    assert_eq!(
        world
            .value(1, "SELECT count(*) FROM person WHERE age = 3")
            .await?,
        "6"
    );
    expect_rest(&world).await
}
