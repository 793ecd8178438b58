//! `plan` where each site has a configuration that knows its own database alone.

#![cfg(feature = "planted-faults")]

mod support;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use support::linked::Linked;

async fn plan(linked: &Linked, site: usize, code: i32) -> Result<Value> {
    let ran = linked.at(site, &["plan", "--json", "--site", support::SITES[site]]);
    let ran = ran.run().await?.expect(code)?;
    Ok(serde_json::from_str(&ran.stdout)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_site_shows_who_leaves_and_who_comes_and_what_is_in_the_way() -> Result<()> {
    let (linked, movers) = Linked::shop("planned", 60).await?;
    let [beijing, singapore] = linked.serve_both().await?;
    let whole = linked
        .everywhere(&["plan", "--json"])
        .run()
        .await?
        .expect(0)?;
    let whole: Value = serde_json::from_str(&whole.stdout)?;
    assert_eq!(whole["moves"][0]["users"], movers.len(), "{whole}");
    // Who leaves: what a process finds that opens both databases.
    assert_eq!(plan(&linked, 0, 0).await?, whole);
    // Who comes: how many, by market.
    let there = plan(&linked, 1, 0).await?;
    let coming = json!([{
        "service": linked.world.name, "market": "IN", "phase": "out", "from": "beijing", "users": movers.len(),
    }]);
    assert_eq!(there["coming"], coming, "{there}");
    assert_eq!(there["moves"], json!([]), "{there}");
    let text = linked
        .at(1, &["plan", "--site", "singapore"])
        .run()
        .await?
        .expect(0)?;
    ensure!(text.stdout.contains("Come here"), "{text}");

    // What is in the way is what `apply` is stopped by.
    let admin = linked.world.admin(1).await?;
    for (plant, mend, code) in [
        (
            "ALTER TABLE invoice ALTER COLUMN billing_city TYPE text",
            "ALTER TABLE invoice ALTER COLUMN billing_city TYPE varchar(40)",
            1,
        ),
        (
            "INSERT INTO domicile.policy (version, body) SELECT 'another', body FROM domicile.policy",
            "INSERT INTO domicile.policy (version, body) SELECT version, body FROM domicile.policy ORDER BY n LIMIT 1",
            2,
        ),
    ] {
        admin.batch_execute(plant).await?;
        let found = plan(&linked, 0, 1).await?;
        let first = &found["findings"][0];
        assert_eq!(
            (&first["level"], &first["site"]),
            (&"blocker".into(), &"singapore".into()),
            "{found}"
        );
        assert_eq!(found["moves"], whole["moves"], "{found}");
        let refused = linked.apply(0).run().await?.expect(code)?;
        let what = first["what"].as_str().context("what")?;
        ensure!(refused.stderr.contains(what), "{what}: {refused}");
        admin.batch_execute(mend).await?;
        assert_eq!(plan(&linked, 0, 0).await?, whole, "{plant}");
    }

    // Nothing of it is begun, and a peer that is away is named.
    ensure!(
        linked
            .world
            .value(0, "SELECT count(*) FROM domicile.move")
            .await?
            == "0"
    );
    singapore.terminate().await?;
    let alone = plan(&linked, 0, 3).await?;
    assert_eq!(alone["moves"], whole["moves"], "{alone}");
    let not_read = alone["not_read"].as_array().context("not read")?;
    ensure!(
        not_read.len() == 1 && not_read[0]["site"] == "singapore",
        "{alone}"
    );
    drop(beijing);
    Ok(())
}
