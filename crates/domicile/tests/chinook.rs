//! The public sample shop, loaded unchanged, moved by country as an operator would: every step by the real program,
//! while writers write.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use shop::Site;
use shop::check::{Residence, check};
use shop::workload::{Isolation, UserSpec, Workload, WorkloadOptions};
use support::program::Program;
use support::{connect, more_acknowledged};
use testbed::{Cluster, ClusterOptions};

const ORIGIN: &str = "beijing";
const SITES: [&str; 5] = [ORIGIN, "singapore", "california", "sao-paulo", "mumbai"];

/// Where policy sends a country, as the phase below says.
fn destination(country: &str) -> &'static str {
    match country {
        "Brazil" => "sao-paulo",
        "India" => "mumbai",
        "USA" => "california",
        _ => "singapore",
    }
}

const PHASE: &str = r#"
[[phase]]
name = "home"
service = ["shop"]
home = { Brazil = "sao-paulo", India = "mumbai", USA = "california", "*" = "singapore" }
basis = { code = "test", document = "T-1", expires = "2999-01-01" }
"#;

/// Five sites: Chinook at the first, its catalogue at the others; a role for the mover without any right yet.
async fn world() -> Result<Vec<Cluster>> {
    let mut clusters = Vec::new();
    for site in SITES {
        let cluster = Cluster::start(ClusterOptions {
            fsync: false,
            ..ClusterOptions::named(&format!("chinook-{site}"))
        })
        .await?;
        cluster
            .psql(
                "postgres",
                "CREATE ROLE shop LOGIN; CREATE ROLE mover LOGIN",
            )
            .await?;
        cluster.create_database("shop").await?;
        let client = connect(&cluster.url("postgres", "shop")).await?;
        match site {
            ORIGIN => shop::chinook::load(&client).await?,
            _ => shop::chinook::load_catalogue(&client).await?,
        }
        client
            .batch_execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO shop")
            .await?;
        clusters.push(cluster);
    }
    Ok(clusters)
}

/// The customers, each with his country.
async fn customers(origin: &Cluster) -> Result<BTreeMap<i32, String>> {
    let client = connect(&origin.url("postgres", "shop")).await?;
    let rows = client
        .query("SELECT customer_id, country FROM customer", &[])
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn writers(
    sites: &[Site],
    homes: impl Iterator<Item = (i32, &'static str)>,
) -> Result<Workload> {
    let users = homes.map(|(key, home)| UserSpec {
        key,
        first_home: home.to_owned(),
    });
    Workload::start(WorkloadOptions {
        sites: sites.to_vec(),
        users: users.collect(),
        writers: 8,
        isolations: Isolation::ALL.to_vec(),
        think: Duration::from_millis(25),
        ..WorkloadOptions::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chinook_moves_by_country_from_init_to_erase_while_writers_write() -> Result<()> {
    let clusters = world().await?;
    let folder = tempfile::tempdir()?;
    let run = async |args: &[&str]| Program::new(folder.path(), args).run().await;
    let countries = customers(&clusters[0]).await?;
    assert_eq!(countries.len(), 59);
    let sites: Vec<Site> = SITES
        .iter()
        .zip(&clusters)
        .map(|(site, cluster)| Site::new(*site, cluster.url("shop", "shop")))
        .collect();
    let pairs = |role: &str| -> Vec<String> {
        let pair =
            |(site, cluster): (&&str, &Cluster)| format!("{site}={}", cluster.url(role, "shop"));
        SITES.iter().zip(&clusters).map(pair).collect()
    };

    // init: everything is classified, nothing is left to decide.
    let mut init = vec![
        "init",
        "--service",
        "shop",
        "--user-table",
        "customer",
        "--market",
        "country",
    ];
    let urls = pairs("mover");
    urls.iter().for_each(|pair| init.extend(["--site", pair]));
    let proposed = run(&init).await?.expect(0)?.stdout;
    assert!(!proposed.contains("= \"?\""), "{proposed}");
    assert!(proposed.contains("ids = \"application\""), "{proposed}");
    std::fs::write(folder.path().join("domicile.toml"), proposed + PHASE)?;

    // check says that nothing is installed; install; check finds no blocker.
    let before = run(&["check", "--json"]).await?.expect(1)?;
    assert!(before.stdout.contains("domicile install"), "{before}");
    let mut install = vec!["install"];
    let admins = pairs("postgres");
    admins
        .iter()
        .for_each(|pair| install.extend(["--admin", pair]));
    run(&install).await?.expect(0)?;
    run(&install).await?.expect(0)?;
    run(&["check"]).await?.expect(0)?;

    let plan = run(&["plan", "--json"]).await?.expect(0)?;
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout)?;
    let planned: u64 = plan["moves"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|m| m["users"].as_u64())
        .sum();
    assert_eq!(planned, 59, "{plan}");

    // apply, while everybody's writers write.
    let workload = writers(&sites, countries.keys().map(|user| (*user, ORIGIN))).await?;
    more_acknowledged(&workload, 100).await?;
    let applied = run(&["apply", "--yes", "--json"]).await?.expect(0)?;
    more_acknowledged(&workload, 100).await?;
    let there = workload.stop().await?;
    let summary = applied.summary()?;
    assert_eq!(summary["moved"], 59, "{summary}");
    assert_eq!(summary["mismatches"], 0, "{summary}");
    let verdict = check(&sites, &there, |user| {
        Residence::at(ORIGIN).then(destination(&countries[&user]))
    })
    .await?;
    ensure!(
        verdict.is_clean() && there.anomalies.is_empty(),
        "{verdict:#?} {:#?}",
        there.anomalies
    );

    for (user, country) in [(1, "Brazil"), (58, "India"), (16, "USA"), (2, "Germany")] {
        assert_eq!(countries[&user], country);
        let found = run(&["where", &user.to_string(), "--json"])
            .await?
            .expect(0)?;
        let found: serde_json::Value = serde_json::from_str(&found.stdout)?;
        assert_eq!(found["home"], destination(country), "{found}");
        assert_eq!(found["state"], "settled", "{found}");
    }
    let verified = run(&["verify", "--json"]).await?.expect(0)?;
    assert!(verified.stdout.contains("\"users\":59"), "{verified}");

    // rollback of the Americans' move, while writers write; what they left at california is then erased.
    let moves = summary["move"].as_str().unwrap_or_default();
    let american = moves
        .split(',')
        .find(|id| id.contains("california"))
        .unwrap_or_default();
    let homes = countries
        .iter()
        .map(|(user, country)| (*user, destination(country)));
    let workload = writers(&sites, homes).await?;
    more_acknowledged(&workload, 100).await?;
    let back = run(&["rollback", american, "--json"]).await?.expect(0)?;
    more_acknowledged(&workload, 100).await?;
    let log = workload.stop().await?;
    assert_eq!(back.summary()?["moved"], 13);
    let residence = |user: i32| match countries[&user].as_str() {
        "USA" => Residence::at("california").then(ORIGIN),
        country => Residence::at(destination(country)),
    };
    let verdict = check(&sites, &log, residence).await?;
    // The old copies that the others left at the origin are none of this log's business.
    ensure!(
        verdict.lost == 0 && log.anomalies.is_empty(),
        "{verdict:#?} {:#?}",
        log.anomalies
    );
    run(&["verify"]).await?.expect(0)?;

    // erase: not before its time unless told to; then nothing of a departed user is left where he was.
    let waiting = run(&["erase", "--json"]).await?.expect(0)?;
    assert!(waiting.stdout.contains("\"rows\":0"), "{waiting}");
    let erased = run(&["erase", "--now", "--json"]).await?.expect(0)?;
    assert!(erased.stdout.contains("Deleted is not gone"), "{erased}");
    run(&["verify"]).await?.expect(0)?;
    for (site, cluster) in SITES.iter().zip(&clusters) {
        let client = connect(&cluster.url("postgres", "shop")).await?;
        let rows = client
            .query("SELECT customer_id, country FROM customer", &[])
            .await?;
        for row in &rows {
            let country: &str = row.get(1);
            let home = if country == "USA" {
                ORIGIN
            } else {
                destination(country)
            };
            assert_eq!(
                *site,
                home,
                "a row of customer {} is left at {site}",
                row.get::<_, i32>(0)
            );
        }
    }
    Ok(())
}
