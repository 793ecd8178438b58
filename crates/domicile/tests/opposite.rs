//! Two moves in opposite directions at once: each site's stream carries what the other move writes there, and none of it
//! comes back.

mod support;

use std::time::Duration;

use anyhow::Result;
use shop::check::{Residence, check};
use shop::workload::{Isolation, UserSpec, Workload, WorkloadOptions};
use support::{Clusters, World, more_acknowledged, other};

/// How often everybody changes places.
const ROUNDS: usize = 3;

/// Every table's rows of both sites that are where their users live, as one digest a table.
const CONTENT: &str =
    "SELECT string_agg(md5(t::text), ',' ORDER BY t::text) FROM (SELECT c.*, i.*, l.* FROM customer AS c
       LEFT JOIN invoice AS i USING (customer_id) LEFT JOIN invoice_line AS l USING (invoice_id)
      WHERE NOT EXISTS (SELECT FROM domicile.resident AS r
                         WHERE r.user_key = c.customer_id AND r.state = 'departed')) AS t";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markets_that_change_places_again_and_again_meet_no_echo() -> Result<()> {
    let markets = [("IN", 1), ("BR", 1)];
    let world = World::shop(Clusters::shared().await?, "opposite", 120, &markets).await?;
    let content = async || -> Result<Vec<String>> {
        let mut rows = Vec::new();
        for site in [0, 1] {
            let there = world.value(site, CONTENT).await?;
            rows.extend(
                there
                    .split(',')
                    .map(str::to_owned)
                    .filter(|row| !row.is_empty()),
            );
        }
        rows.sort();
        Ok(rows)
    };
    let (indians, brazilians) = (
        world.users_of(0, "IN").await?,
        world.users_of(0, "BR").await?,
    );
    world.configure("br-there.toml", "br-there", &[("BR", "singapore")])?;
    world.configure("br-back.toml", "br-back", &[("BR", "beijing")])?;
    world.configure("in-there.toml", "in-there", &[("IN", "singapore")])?;
    world.configure("in-back.toml", "in-back", &[("IN", "beijing")])?;
    world.install().await?;
    let born = content().await?;
    world.apply("br-there.toml").run().await?.expect(0)?;
    assert_eq!(content().await?, born);

    let mut indians_at = "beijing";
    for round in 0..ROUNDS {
        let brazilians_at = other(indians_at);
        let at = |home: &str| {
            let home = home.to_owned();
            move |key: &i32| UserSpec {
                key: *key,
                first_home: home.clone(),
            }
        };
        let users = indians.iter().map(at(indians_at));
        let workload = Workload::start(WorkloadOptions {
            sites: world.sites(),
            users: users
                .chain(brazilians.iter().map(at(brazilians_at)))
                .collect(),
            writers: 6,
            isolations: Isolation::ALL.to_vec(),
            think: Duration::from_millis(25),
            ..WorkloadOptions::default()
        })
        .await?;
        more_acknowledged(&workload, 50).await?;
        let (these, those) = match indians_at {
            "beijing" => ("in-there.toml", "br-back.toml"),
            _ => ("in-back.toml", "br-there.toml"),
        };
        let (these, those) = (world.apply(these).start()?, world.apply(those).start()?);
        for (ran, users) in [(these, &indians), (those, &brazilians)] {
            let ran = ran.end().await?.expect(0)?;
            assert_eq!(ran.summary()?["moved"], users.len(), "round {round}: {ran}");
            assert_eq!(ran.summary()?["mismatches"], 0, "round {round}: {ran}");
        }
        more_acknowledged(&workload, 50).await?;
        let log = workload.stop().await?;
        let verdict = check(&world.sites(), &log, |user| {
            let from = match indians.contains(&user) {
                true => indians_at,
                false => brazilians_at,
            };
            Residence::at(from).then(other(from))
        })
        .await?;
        assert!(
            verdict.is_clean() && log.anomalies.is_empty(),
            "round {round}: {verdict:#?}\nanomalies: {:#?}",
            log.anomalies
        );
        let homes = world.expect_rest().await?;
        assert!(
            indians
                .iter()
                .all(|user| homes[&user.to_string()] == brazilians_at)
        );
        assert!(
            brazilians
                .iter()
                .all(|user| homes[&user.to_string()] == indians_at)
        );
        indians_at = brazilians_at;
    }

    // Without writers, whatever goes there and back is what it was.
    let before = content().await?;
    let both = match indians_at {
        "beijing" => ["in-there.toml", "br-back.toml"],
        _ => ["in-back.toml", "br-there.toml"],
    };
    let both = both.map(|file| world.apply(file).start());
    for ran in both {
        ran?.end().await?.expect(0)?;
    }
    assert_eq!(content().await?, before);
    Ok(())
}
