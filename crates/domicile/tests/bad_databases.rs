//! Databases that are not as a move needs them: each refused with the thing and the mend named, and nothing changed.

mod support;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::Value;
use support::refusal::{SECRET, refusal};
use support::{Clusters, PATIENCE, SITES, World};
use testbed::{Cluster, ClusterOptions, wait_until};

const CHECK: &[&str] = &["check", "--json"];
const APPLY: &[&str] = &["apply", "--yes", "--json"];

/// The small home as the superuser sees it, who needs no installation to look.
async fn bare(clusters: Arc<Clusters>, name: &str) -> Result<World> {
    let world = World::small(clusters, name).await?;
    let text = world.small_configuration();
    world.write(
        "domicile.toml",
        &text
            .replace("//mover_", "//postgres_")
            .replace(&format!("postgres_{name}:"), "postgres:"),
    )?;
    Ok(world)
}

/// What `check` finds, each as (level, site, what, mend).
async fn findings(world: &World, code: i32) -> Result<Vec<[String; 4]>> {
    let ran = world.program(CHECK).run().await?.expect(code)?;
    let document: Value = serde_json::from_str(&ran.stdout)?;
    let list = document["findings"].as_array().context("no findings")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(list
        .iter()
        .map(|one| ["level", "site", "what", "mend"].map(|key| text(&one[key])))
        .collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_installation_one_can_look_and_no_more() -> Result<()> {
    let world = bare(Clusters::shared().await?, "before").await?;
    let absent = refusal(
        1,
        &[
            "Domicile is not installed in this database",
            "domicile install",
        ],
    );
    world.refused(CHECK, absent).await?;
    world.refused(APPLY, absent).await?;
    world.refused(&["plan"], refusal(0, &["6 users"])).await?;
    let wanted = refusal(
        2,
        &[
            "before: Domicile is not installed at beijing",
            "mend: run `domicile install`",
        ],
    );
    for command in [
        &["where", "1"][..],
        &["verify"],
        &["erase", "--now"],
        &["rollback", "m"],
    ] {
        world.refused(command, wanted).await?;
    }
    // The mover's role does not exist yet either.
    world.write("domicile.toml", &world.small_configuration())?;
    let stranger = [
        "role \"mover_before\" does not exist",
        "`domicile install --admin SITE=URL` creates",
    ];
    world.refused(&["install"], refusal(3, &stranger)).await?;
    world.refused(&["plan"], refusal(3, &stranger)).await?;

    world.install_small().await?.expect(0)?;
    let before = world.everything().await?;
    world.install_small().await?.expect(0)?;
    assert_eq!(
        before,
        world.everything().await?,
        "a second installation changes nothing"
    );
    world
        .refused(
            &["check"],
            refusal(0, &["No blocker", "fsync or full_page_writes is off"]),
        )
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_another_home_is_refused() -> Result<()> {
    let world = World::small_installed(Clusters::shared().await?, "swapped").await?;
    let text = world.small_configuration();
    let [a, b] = [0, 1].map(|site| format!("127.0.0.1:{}/swapped", world.clusters.0[site].port()));
    let admin = [0, 1].map(|n| format!("{}={}", SITES[1 - n], world.admin_url(n)));
    let install = ["install", "--admin", &admin[0], "--admin", &admin[1]];

    world.write(
        "domicile.toml",
        &text.replace(&a, "X").replace(&b, &a).replace('X', &b),
    )?;
    let wrong_place = [
        "installed for service swapped at site singapore",
        "correct the database's address",
    ];
    world.refused(CHECK, refusal(1, &wrong_place)).await?;
    let wrong_place = [
        "installed for service swapped at site singapore, origin beijing",
        "mend: correct service.swapped.database.beijing",
    ];
    for command in [APPLY, &["plan"], &["verify"], &["where", "1"]] {
        world.refused(command, refusal(2, &wrong_place)).await?;
    }
    let asked = [
        "installed as service \"swapped\" at site \"singapore\"",
        "correct the configuration",
    ];
    world.refused(&install, refusal(2, &asked)).await?;

    let other = text
        .replace("service.swapped", "service.other")
        .replace("[\"swapped\"]", "[\"other\"]");
    world.write("domicile.toml", &other)?;
    let wrong_service = ["installed for service swapped", "beijing"];
    world.refused(CHECK, refusal(1, &wrong_service)).await?;
    world.refused(APPLY, refusal(2, &wrong_service)).await?;
    let admin = [0, 1].map(|n| format!("{}={}", SITES[n], world.admin_url(n)));
    let install = ["install", "--admin", &admin[0], "--admin", &admin[1]];
    let asked = ["installed as service \"swapped\"", "uninstall first"];
    world.refused(&install, refusal(2, &asked)).await?;

    // One database for two sites, whatever it is called.
    let twice = text.replace(&b, &a.replace("127.0.0.1", "localhost"));
    world.write("domicile.toml", &twice)?;
    let same = [
        "the databases of beijing and singapore are one and the same",
        "mend: correct service.swapped.database.beijing",
        "every site has a database of its own",
    ];
    for command in [CHECK, APPLY, &["plan"], &["install"]] {
        world.refused(command, refusal(2, &same)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_are_not_installed_in_one_database() -> Result<()> {
    let world = bare(Clusters::shared().await?, "twice").await?;
    let [a, b] = [0, 1].map(|site| format!("127.0.0.1:{}/twice", world.clusters.0[site].port()));
    let text = std::fs::read_to_string(world.path("domicile.toml"))?;
    world.write("domicile.toml", &text.replace(&b, &a))?;
    world
        .refused(&["install"], refusal(2, &["one and the same"]))
        .await?;
    // Whatever is wrong at the second site is found before anything is put in at the first.
    world.write("domicile.toml", &text)?;
    world.execute(1, "DROP TABLE item").await?;
    world
        .refused(
            &["install"],
            refusal(2, &["there is no table item", "mend: run `domicile check`"]),
        )
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_no_home() -> Result<()> {
    let clusters = Clusters::own("standby").await?;
    let world = World::small_installed(clusters, "standby").await?;
    let [primary, target] = &world.clusters.0;
    for (site, cluster) in [primary, target].into_iter().enumerate() {
        let standby = cluster.standby("follower").await?;
        let home = "SELECT count(*) FROM domicile.home";
        wait_until("the installation has come", PATIENCE, async || {
            Ok(standby.psql("standby", home).await?.trim() == "1")
        })
        .await?;
        let text = world.small_configuration();
        let [ours, theirs] = [cluster, &standby].map(|one| format!(":{}/", one.port()));
        world.write("domicile.toml", &text.replace(&ours, &theirs))?;
        let at = format!("\"site\":\"{}\"", SITES[site]);
        let looked = [
            at.as_str(),
            "the server is a standby: nothing can be written here",
            "give the primary's address",
        ];
        world.refused(CHECK, refusal(1, &looked)).await?;
        world.refused(APPLY, refusal(1, &looked[1..])).await?;
        let refused = ["is a standby", "mend: give the primary's address"];
        world.refused(&["install"], refusal(2, &refused)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lacks_what_a_move_needs_is_refused() -> Result<()> {
    let start = async |name: &str, settings: &[(&str, &str)]| {
        Cluster::start(ClusterOptions {
            fsync: false,
            settings: settings
                .iter()
                .map(|(a, b)| ((*a).into(), (*b).into()))
                .collect(),
            ..ClusterOptions::named(name)
        })
        .await
    };
    let clusters = Clusters([
        start("low", &[("wal_level", "replica"), ("max_wal_senders", "0")]).await?,
        start("cramped", &[("max_replication_slots", "1")]).await?,
    ]);
    let world = World::small(Arc::new(clusters), "cramped").await?;
    let install = world.install_small().await?.expect(0)?;
    assert!(!install.stdout.contains(SECRET), "{install}");
    world
        .execute(1, "SELECT pg_create_physical_replication_slot('mine')")
        .await?;
    let found = findings(&world, 1).await?;
    for (site, what, mend) in [
        (
            "beijing",
            "wal_level is replica",
            "ALTER SYSTEM SET wal_level = logical, then restart",
        ),
        ("beijing", "no WAL sender is free", "raise max_wal_senders"),
        (
            "singapore",
            "no replication slot is free",
            "raise max_replication_slots",
        ),
    ] {
        let named =
            |one: &&[String; 4]| one[0] == "blocker" && one[1] == site && one[2].contains(what);
        let one = found
            .iter()
            .find(named)
            .with_context(|| format!("{what}: {found:#?}"))?;
        assert!(one[3].contains(mend), "{one:?}");
    }
    world
        .refused(
            APPLY,
            refusal(
                1,
                &[
                    "wal_level is replica",
                    "mend: ALTER SYSTEM SET wal_level = logical",
                ],
            ),
        )
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_that_differ_are_told_by_table_and_column() -> Result<()> {
    let world = bare(Clusters::shared().await?, "differ").await?;
    // What is done at singapore, and what is said of it there.
    let cases: &[(&str, &[&str])] = &[
        ("DROP TABLE item", &["there is no table item"]),
        ("DROP TABLE kind CASCADE", &["there is no table kind"]),
        (
            "CREATE TABLE extra (id int PRIMARY KEY)",
            &["nobody classified table extra"],
        ),
        (
            "ALTER TABLE item DROP body",
            &[
                "column body of table item stands at beijing and not at singapore",
                "create it at singapore",
            ],
        ),
        (
            "ALTER TABLE item ADD more int",
            &["column more of table item stands at singapore and not at beijing"],
        ),
        (
            "ALTER TABLE item ALTER body TYPE varchar(9)",
            &[
                "column body of table item (text and character varying(9)): singapore differs from beijing",
                "make it equal at beijing and singapore",
            ],
        ),
        (
            "ALTER TABLE person ALTER email SET NOT NULL",
            &["column email of table person (NOT NULL): singapore differs"],
        ),
        (
            "ALTER TABLE kind ALTER name DROP NOT NULL",
            &["column name of table kind (NOT NULL): singapore differs"],
        ),
        (
            "ALTER TABLE person DROP CONSTRAINT person_email_key",
            &[
                "the unique index on (email) of table person stands at beijing and not at singapore",
                "CREATE UNIQUE INDEX ON \"public\".\"person\" (\"email\") at singapore",
            ],
        ),
        (
            "CREATE UNIQUE INDEX ON item (body)",
            &["the unique index on (body) of table item stands at singapore and not at beijing"],
        ),
        (
            "ALTER TABLE item DROP CONSTRAINT item_pkey",
            &["table item has neither a primary key nor"],
        ),
        (
            "ALTER TABLE item DROP CONSTRAINT item_kind_id_fkey",
            &[
                "foreign key item_kind_id_fkey of table item (kind_id) to kind stands at beijing and not at singapore",
            ],
        ),
    ];
    for (ddl, says) in cases {
        world.execute(1, ddl).await?;
        world.refused(CHECK, refusal(1, says)).await.context(*ddl)?;
        // What no plan can be made of is wrong configuration; what differs is a finding.
        let code = if says[0].contains("there is no")
            || says[0].contains("nobody")
            || says[0].contains("neither")
        {
            2
        } else {
            1
        };
        world
            .refused(APPLY, refusal(code, &says[..1]))
            .await
            .context(*ddl)?;
        world.reset(1).await?;
    }
    // Rows of the catalogue: no schema, but as bad.
    world
        .execute(1, "INSERT INTO kind VALUES (3, 'more')")
        .await?;
    let rows = [
        "reference table kind holds other rows at singapore (3) than at beijing (2)",
        "make kind equal",
    ];
    world.refused(CHECK, refusal(1, &rows)).await?;

    // Equal at both sites, and not as it was installed.
    let world = World::small_installed(world.clusters.clone(), "altered").await?;
    for site in [0, 1] {
        world.execute(site, "ALTER TABLE item ADD more int").await?;
    }
    let changed = [
        "the tables or their classification changed since Domicile was installed",
        "domicile install",
    ];
    world.refused(CHECK, refusal(1, &changed)).await?;
    world.refused(APPLY, refusal(1, &changed)).await?;
    world.install_small().await?.expect(0)?;
    world.program(CHECK).run().await?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_cannot_be_parted_by_users_are_refused() -> Result<()> {
    let world = bare(Clusters::shared().await?, "unfit").await?;
    let configuration = std::fs::read_to_string(world.path("domicile.toml"))?;
    // What stands at both sites, how it is classified, the exit code of `apply`, and what is said.
    let cases: &[(&str, &str, i32, &[&str])] = &[
        ("CREATE TABLE note (person_id int REFERENCES person, text text)", "note = \"person_id\"", 2, &["table note has neither a primary key nor a unique index on columns that are NOT NULL", "give \"public\".\"note\" a primary key"]),
        ("CREATE TABLE note (id int PRIMARY KEY)", "", 2, &["nobody classified table note", "say under [service"]),
        ("CREATE TABLE note (id int PRIMARY KEY)", "note = \"?\"", 2, &["note", "\"?\"", "\"reference\""]),
        ("CREATE TABLE note (id int PRIMARY KEY, person_id int REFERENCES person)", "note = \"ignore\"", 2, &["table note, which stays, points at rows of users by note_person_id_fkey", "DROP CONSTRAINT \"note_person_id_fkey\""]),
        ("CREATE TABLE note (id int PRIMARY KEY, item int REFERENCES item)", "note = \"reference\"", 2, &["table note, which stays, points at rows of users by note_item_fkey", "classify note as owned"]),
        ("CREATE TABLE note (id int PRIMARY KEY, person_id date)", "note = \"person_id\"", 2, &["column person_id of table note is of type date, the user's key of type integer", "name the column of note"]),
        ("CREATE TABLE note (id int PRIMARY KEY)", "note = \"person_id\"", 2, &["table note has no column person_id", "correct person_id"]),
        ("CREATE TABLE note (id int PRIMARY KEY, item int)", "note = \"item -> nothing\"", 2, &["note", "nothing, which belongs to no user"]),
        ("CREATE UNLOGGED TABLE note (id int PRIMARY KEY, person_id int REFERENCES person)", "note = \"person_id\"", 1, &["table note is unlogged", "ALTER TABLE \"public\".\"note\" SET LOGGED"]),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER t BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE item ENABLE ALWAYS TRIGGER t",
            "", 1, &["trigger t on item fires on copied rows too", "ENABLE TRIGGER \"t\""],
        ),
    ];
    for (ddl, classified, code, says) in cases {
        for site in [0, 1] {
            world.execute(site, ddl).await?;
        }
        let tables = format!("kind = \"reference\"\n{classified}");
        world.write(
            "domicile.toml",
            &configuration.replace("kind = \"reference\"", &tables),
        )?;
        // A table that is pointed at and is none is wrong in the configuration itself.
        let looks = if says[1].contains("belongs to no user") {
            2
        } else {
            1
        };
        world
            .refused(CHECK, refusal(looks, says))
            .await
            .context(*ddl)?;
        world
            .refused(APPLY, refusal(*code, &says[..1]))
            .await
            .context(*ddl)?;
        for site in [0, 1] {
            world.reset(site).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_collide_are_mended_by_what_check_prints() -> Result<()> {
    let world = World::small(Clusters::shared().await?, "ids").await?;
    for site in [0, 1] {
        for table in ["person", "item"] {
            let identity =
                format!("ALTER TABLE {table} ALTER id ADD GENERATED BY DEFAULT AS IDENTITY");
            world.execute(site, &identity).await?;
        }
    }
    let given = "SELECT setval('person_id_seq', 12), setval('item_id_seq', 24)";
    world.execute(0, given).await?;
    world.reconfigure("\"application\"", "\"ranges\"")?;
    world.install_small().await?.expect(0)?;
    let wanted = [
        "the sequence behind person.id could give out numbers that",
        "ALTER SEQUENCE",
    ];
    world.refused(CHECK, refusal(1, &wanted)).await?;
    world.refused(APPLY, refusal(1, &wanted)).await?;
    let blockers: Vec<_> = findings(&world, 1)
        .await?
        .into_iter()
        .filter(|one| one[0] == "blocker")
        .collect();
    assert_eq!(blockers.len(), 4, "{blockers:#?}");
    for [_, site, _, mend] in &blockers {
        let at = SITES
            .iter()
            .position(|name| name == site)
            .context("no such site")?;
        world
            .execute(at, mend)
            .await
            .with_context(|| mend.clone())?;
    }
    let left = findings(&world, 0).await?;
    assert!(left.iter().all(|one| one[0] == "warning"), "{left:#?}");
    // And the sites do give out different numbers.
    let next = "SELECT nextval('person_id_seq')";
    assert_eq!(world.value(0, &next[7..]).await?, "13");
    assert!(world.value(1, &next[7..]).await?.parse::<i64>()? > 1_000);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_a_superuser_is_told() -> Result<()> {
    let world = World::small_installed(Clusters::shared().await?, "mighty").await?;
    world
        .execute(0, "ALTER DATABASE mighty SET application_name = 'psql'")
        .await?;
    let _application = world.admin(0).await?;
    let found = findings(&world, 0).await?;
    let told = |one: &[String; 4]| {
        one[0] == "warning"
            && one[1] == "beijing"
            && one[2].contains("use role postgres, a superuser, whom no guard stops")
            && one[3].contains("no superuser")
    };
    assert!(found.iter().any(told), "{found:#?}");
    Ok(())
}
