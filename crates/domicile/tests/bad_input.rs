//! Wrong words: on the command line, in the configuration, in the URLs. Each is refused with the thing and the mend
//! named; nothing secret is printed and nothing changes.

mod support;

use anyhow::{Context as _, Result};
use support::refusal::{SECRET, refusal};
use support::{Clusters, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_nobody_knows_are_refused() -> Result<()> {
    let world = World::small_installed(Clusters::shared().await?, "names").await?;
    let sites = &["there is no site moon", "beijing, mumbai, singapore"][..];
    let url = format!("postgres://u:{SECRET}@h/d");
    let elsewhere = format!("moon={url}");
    let bare = format!("{url}?sslmode=disable");
    world
        .all_refused(&[
            (&["fly"], refusal(2, &["unrecognized subcommand 'fly'"])),
            (&["check", "--site", "moon"], refusal(2, sites)),
            (&["install", "--site", "moon"], refusal(2, sites)),
            (&["uninstall", "--site", "moon"], refusal(2, sites)),
            (&["install", "--admin", &elsewhere], refusal(2, sites)),
            // A URL where a site should stand, with and without a sign that makes it look like one.
            (
                &["install", "--admin", &url],
                refusal(2, &["expected SITE=URL", "(hidden)"]),
            ),
            (
                &["install", "--admin", &bare],
                refusal(2, &["there is no site", "(hidden)"]),
            ),
            (
                &["install", &url],
                refusal(2, &["unexpected argument", "(hidden)"]),
            ),
            (
                &["where", "1", "--service", "moon"],
                refusal(2, &["there is no service moon; there are: names"]),
            ),
            (
                &["verify", "--service", "moon"],
                refusal(2, &["there is no service moon; there are: names"]),
            ),
            (
                &["plan", "--phase", "moon"],
                refusal(2, &["no phase \"moon\"; there are: out"]),
            ),
            (
                &["apply", "--phase", "moon", "--yes"],
                refusal(2, &["no phase \"moon\"; there are: out"]),
            ),
            (
                &["rollback", "moon"],
                refusal(2, &["no move moon", "mend: `domicile status`"]),
            ),
            (
                &["erase", "--move", "moon"],
                refusal(2, &["no move moon", "mend: `domicile status`"]),
            ),
            (
                &["where", "Rio"],
                refusal(2, &["Rio can be no user's key in names"]),
            ),
            (
                &["erase", "--user", "Rio"],
                refusal(2, &["Rio can be no user's key"]),
            ),
            (&["where", "999", "--json"], refusal(1, &["\"home\":null"])),
            (&["apply"], refusal(2, &["mend: add --yes"])),
            (
                &["--config", "moon.toml", "check"],
                refusal(2, &["moon.toml", "mend: write one with `domicile init`"]),
            ),
        ])
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_who_cannot_be_meant_are_refused() -> Result<()> {
    let world = World::small_installed(Clusters::shared().await?, "lists").await?;
    world.write("empty.txt", "\n\n")?;
    world.write("some.txt", "1\n2\n1\n 2 \n")?;
    world.write("nobody.txt", "1\n999\n")?;
    world.write("pinned.txt", "1\n7\n")?;
    let apply = |users| ["apply", "--yes", "--json", "--users", users];
    let cases = [
        (
            "./missing.txt",
            refusal(2, &["there is no file ./missing.txt", "mend: name a file"]),
        ),
        (
            "missing.txt",
            refusal(
                2,
                &["missing.txt", "there is no such file", "mend: name a file"],
            ),
        ),
        (
            "empty.txt",
            refusal(2, &["empty.txt names nobody", "mend: name a file"]),
        ),
        (",", refusal(2, &["names nobody"])),
        (
            "1,Rio",
            refusal(2, &["Rio can be no user's key in lists", "mend: "]),
        ),
        (
            "nobody.txt",
            refusal(
                2,
                &[
                    "1 of the users named",
                    "phase: 999",
                    "mend: `domicile where USER`",
                ],
            ),
        ),
        (
            "pinned.txt",
            refusal(
                2,
                &[
                    "1 of the users named",
                    "phase: 7",
                    "mend: `domicile where USER`",
                ],
            ),
        ),
    ];
    for (users, wanted) in cases {
        world.refused(&apply(users), wanted).await?;
    }
    // Named twice he goes once.
    let ran = world.program(&apply("some.txt")).run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], 2, "{ran}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_does_not_hang_together_is_refused() -> Result<()> {
    let world = World::small_installed(Clusters::shared().await?, "words").await?;
    let misquoted = format!("origin = \"beijing\nsecret = \"{SECRET}\"");
    let in_env = format!("database.beijing = {{ env = \"postgres://u:{SECRET}@h/d\" }}");
    let in_file = format!("database.beijing = {{ file = \"postgres://u:{SECRET}@h/d\" }}");
    let no_url = format!("database.beijing = \"pg://u:{SECRET}@h/d\"");
    let as_origin = format!("origin = \"postgres://u:{SECRET}@h/d\"");
    let text = world.small_configuration();
    let url_line = text
        .lines()
        .find(|line| line.starts_with("database.beijing"))
        .context("no URL")?
        .to_owned();
    // What is replaced, by what, and what is said of it: the file, the line, the key.
    let origin = "origin = \"beijing\"";
    let cases: &[(&str, &str, &[&str])] = &[
        (
            origin,
            "origin = \"beijing\"\norign = \"x\"",
            &[
                ":7: unknown key `orign` in service.words",
                "did you mean `origin`?",
            ],
        ),
        (
            origin,
            "origin = \"beijing\"\ncolour = 1",
            &[":7: unknown key `colour` in service.words", "known here: "],
        ),
        (
            "[site.mumbai]",
            "[site.mumbai]\nhemisphere = 1",
            &[":4: unknown key `hemisphere` in site.mumbai"],
        ),
        ("[site.mumbai]", "[site.beijing]", &[":3: duplicate key"]),
        (
            "[site.mumbai]",
            "[site.Mumbai]",
            &[":3: site.Mumbai: a name is"],
        ),
        (origin, &misquoted, &["domicile.toml:6: "]),
        (
            origin,
            &as_origin,
            &[":6: service.words.origin: there is no site"],
        ),
        (
            origin,
            "origin = \"moon\"",
            &[":6: service.words.origin: there is no site moon; there are: beijing, mumbai"],
        ),
        (
            origin,
            "origin = \"mumbai\"",
            &[":6: service.words.origin: the service has no database at its origin mumbai"],
        ),
        (origin, "", &["service.words: the key `origin` is missing"]),
        (
            &url_line,
            &in_env,
            &[":9: service.words.database.beijing: env and file name where the URL stands"],
        ),
        (
            &url_line,
            &in_file,
            &[":9: service.words.database.beijing: env and file name where the URL stands"],
        ),
        (
            &url_line,
            &no_url,
            &[":9: service.words.database.beijing: not a postgres:// URL"],
        ),
        (
            "IN = \"singapore\"",
            "IN = \"moon\"",
            &["phase[0].home.IN: there is no site moon"],
        ),
        (
            "IN = \"singapore\"",
            "IN = \"mumbai\"",
            &[
                "phase[0].home.IN: the service words has no database at mumbai: configure service.words.database.mumbai",
            ],
        ),
        (
            "IN = \"singapore\"",
            "CN = \"singapore\"",
            &[
                "phase[0].home.CN: the market CN is pinned to beijing",
                "take it out here, or out of policy.pinned",
            ],
        ),
        (
            "service = [\"words\"]",
            "service = [\"moon\"]",
            &["there is no service moon; there are: words"],
        ),
        (
            "[service.words.tables]",
            "limits = { row = \"big\" }\n[service.words.tables]",
            &["limits.row: \"big\" is not a size"],
        ),
    ];
    for (old, new, says) in cases {
        world.reconfigure(old, new)?;
        let wanted = refusal(2, says);
        world
            .all_refused(&[
                (&["check", "--json"], wanted),
                (&["apply", "--yes"], wanted),
            ])
            .await
            .with_context(|| new.to_string())?;
    }
    // A table that somebody has to decide on.
    world.reconfigure("kind = \"reference\"", "kind = \"?\"")?;
    let undecided = ["kind", "\"?\"", "\"column -> table\""];
    world.refused(&["check"], refusal(1, &undecided)).await?;
    world
        .refused(
            &["install"],
            refusal(2, &[":14:", "kind", "mend: replace its \"?\""]),
        )
        .await?;
    let admin = format!("beijing={}", world.admin_url(0));
    world
        .refused(&["install", "--admin", &admin], refusal(2, &["kind"]))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_reached_is_named_without_its_password() -> Result<()> {
    let clusters = Clusters::shared().await?;
    let world = World::small_installed(clusters, "reach").await?;
    let cluster = &world.clusters.0[0];
    let port = cluster.port();
    // A role that must know its password.
    let hba = cluster.psql("postgres", "SHOW hba_file").await?;
    let rules = std::fs::read_to_string(hba.trim())?;
    std::fs::write(
        hba.trim(),
        format!("host all locked 127.0.0.1/32 scram-sha-256\n{rules}"),
    )?;
    cluster
        .psql("postgres", "CREATE ROLE locked LOGIN PASSWORD 'right'")
        .await?;
    cluster.psql("postgres", "SELECT pg_reload_conf()").await?;
    let old = old_server().await?;

    let url = |role: &str, place: &str| format!("postgres://{role}:{SECRET}@{place}");
    let here = format!("127.0.0.1:{port}");
    let cases = [
        (
            url("mover_reach", "127.0.0.1:1/reach"),
            3,
            "cannot connect to 127.0.0.1:1/reach as mover_reach",
            "start the server, or correct host, port",
        ),
        (
            url("mover_reach", "no-such-host.invalid/reach"),
            3,
            "no-such-host.invalid:5432/reach",
            "start the server, or correct host, port",
        ),
        (
            url("locked", &format!("{here}/reach")),
            3,
            "password authentication failed",
            "correct role and password in service.reach.database.beijing",
        ),
        (
            url("stranger", &format!("{here}/reach")),
            3,
            "role \"stranger\" does not exist",
            "correct the role in service.reach.database.beijing",
        ),
        (
            url("mover_reach", &format!("{here}/nowhere")),
            3,
            "database \"nowhere\" does not exist",
            "create the database, or correct its name",
        ),
        (
            url("u", "h:port/d"),
            2,
            "neither postgres://",
            "in a password @ is %40",
        ),
        (
            format!("postgres://u:p@{SECRET}@h/d"),
            2,
            "neither postgres://",
            "in a password @ is %40",
        ),
        (
            url("mover_reach", &format!("127.0.0.1:{old}/reach")),
            1,
            "PostgreSQL 13.4 at 127.0.0.1",
            "upgrade to PostgreSQL 14 or later",
        ),
    ];
    let present = format!(
        "\"{}\"",
        world.mover_url(0).replace('@', &format!(":{SECRET}@"))
    );
    world.reconfigure(&present, "{ env = \"REACH_URL\" }")?;
    let looking = [&["check"][..], &["check", "--json"]];
    let others = [
        &["plan", "--json"][..],
        &["apply", "--yes", "--json"],
        &["install"],
        &["verify"],
    ];
    for (n, (url, code, what, mend)) in cases.iter().enumerate() {
        let says = ["beijing", what, mend];
        let wanted = refusal(*code, &says);
        // Every reason with one way to look, every command with a reason.
        let variables = [("REACH_URL", url.as_str()), ("DOMICILE_LOG", "debug")];
        let both = [(looking[n % 2], wanted), (others[n % 4], wanted)];
        world.refused_with(&variables, &both).await?;
        let site = format!("beijing={url}");
        let says = [*what];
        world
            .refused(&["install", "--admin", &site], refusal(*code, &says))
            .await?;
    }
    for (value, what) in [
        (
            "",
            "service.reach.database.beijing: the environment variable REACH_URL is not set",
        ),
        (
            SECRET,
            "the environment variable REACH_URL holds no postgres:// URL",
        ),
    ] {
        let says = [":9:", what, "mend: set it to the URL"];
        let looked = (&["check", "--json"][..], refusal(2, &says));
        world
            .refused_with(&[("REACH_URL", value)], &[looked])
            .await?;
    }
    world.reconfigure(&present, "{ file = \"reach.url\" }")?;
    world
        .refused(
            &["apply", "--yes"],
            refusal(2, &["cannot read the file reach.url", "mend: set it"]),
        )
        .await?;
    Ok(())
}

/// The port of a server that says to be PostgreSQL 13, and nothing else.
async fn old_server() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut startup = [0; 1024];
            let _ = socket.read(&mut startup).await;
            let mut answer = b"R\0\0\0\x08\0\0\0\0".to_vec();
            let parameter = b"server_version\x0013.4\0";
            answer.push(b'S');
            answer.extend((parameter.len() as u32 + 4).to_be_bytes());
            answer.extend(parameter);
            answer.extend(b"Z\0\0\0\x05I");
            let _ = socket.write_all(&answer).await;
            // Open until the client has gone.
            let _ = socket.read(&mut startup).await;
        }
    });
    Ok(port)
}
