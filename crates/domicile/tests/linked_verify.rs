//! `verify` where each site has a configuration that knows its own database alone: what it finds is what a process finds that opens both.

#![cfg(feature = "planted-faults")]

mod support;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use support::linked::Linked;
use support::more_acknowledged;
use support::served::{Served, post};
use tokio_postgres::Client;

/// The mover's role, which the guard lets by: as whoever means ill at a site, or errs.
async fn mover(linked: &Linked, site: usize) -> Result<Client> {
    support::connect(&linked.world.mover_url(site)).await
}

async fn verify(linked: &Linked, site: usize, args: &[&str], code: i32) -> Result<Value> {
    let args = [&["verify", "--json"], args].concat();
    let ran = linked.at(site, &args).run().await?.expect(code)?;
    Ok(serde_json::from_str(&ran.stdout)?)
}

/// A move from beijing that has come to its end while writers went on.
async fn moved(name: &str) -> Result<(Linked, [Served; 2], Vec<i32>, Vec<i32>)> {
    let (linked, movers) = Linked::shop(name, 60).await?;
    let stayers = linked.world.users_of(0, "CN").await?;
    let both = linked.serve_both().await?;
    let workload = linked.writers().await?;
    linked.apply(0).run().await?.expect(0)?;
    more_acknowledged(&workload, 60).await?;
    // Writers go on while it is looked.
    for site in [0, 1] {
        let found = verify(&linked, site, &[], 0).await?;
        assert_eq!(found["mismatches"], json!([]), "{found}");
    }
    linked.at_rest(workload, &movers).await?;
    Ok((linked, both, movers, stayers))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_site_finds_what_a_process_finds_that_opens_both() -> Result<()> {
    let (linked, _both, movers, stayers) = moved("verified").await?;
    let everywhere = async |code: i32| -> Result<Value> {
        let ran = linked.everywhere(&["verify", "--json"]).run().await?;
        Ok(serde_json::from_str(&ran.expect(code)?.stdout)?)
    };
    let whole = everywhere(0).await?;
    assert_eq!(whole["users"], movers.len() + stayers.len(), "{whole}");
    let frozen = &whole["frozen"];
    ensure!(
        frozen["batches"].as_u64() > Some(1) && frozen["past"] == 0,
        "{whole}"
    );
    let looked = |which: &str| frozen[which].as_u64().unwrap_or_default();
    assert_eq!(looked("unchanged") + looked("changed"), movers.len() as u64);
    ensure!(looked("changed") > 0, "{whole}");
    // All of them concern beijing; those who never left it do not concern singapore.
    assert_eq!(verify(&linked, 0, &[], 0).await?, whole);
    let there = verify(&linked, 1, &[], 0).await?;
    assert_eq!(there["users"], movers.len(), "{there}");
    assert_eq!(&there["frozen"], frozen, "{there}");
    let all = there["rows"].as_u64().context("rows")?;
    ensure!(
        all > 0 && Some(all) < whole["rows"].as_u64(),
        "{there} {whole}"
    );

    let (gone, stayed) = (movers[0], stayers[0]);
    let batch = linked
        .world
        .value(
            0,
            &format!("SELECT batch FROM domicile.passenger WHERE user_key = {gone}"),
        )
        .await?;
    let plants = [
        (
            0,
            format!("UPDATE invoice SET total = total + 1 WHERE customer_id = {gone}"),
            format!("UPDATE invoice SET total = total - 1 WHERE customer_id = {gone}"),
            (
                "beijing",
                Value::Null,
                "invoice",
                format!("the frozen rows of batch {batch} "),
            ),
        ),
        (
            1,
            format!(
                "INSERT INTO customer (customer_id, first_name, last_name, email) VALUES ({stayed}, 'x', 'y', 'z')"
            ),
            format!("DELETE FROM customer WHERE customer_id = {stayed}"),
            (
                "singapore",
                stayed.to_string().into(),
                "customer",
                "1 misplaced rows".to_owned(),
            ),
        ),
        (
            0,
            format!(
                "UPDATE domicile.resident SET state = 'settled', peer = NULL WHERE user_key = {gone}"
            ),
            format!(
                "UPDATE domicile.resident SET state = 'departed', peer = 'singapore' WHERE user_key = {gone}"
            ),
            (
                "beijing, singapore",
                gone.to_string().into(),
                "",
                "more than one site is his home".to_owned(),
            ),
        ),
        (
            1,
            format!(
                "UPDATE domicile.resident SET state = 'departed', peer = 'beijing' WHERE user_key = {gone}"
            ),
            format!(
                "UPDATE domicile.resident SET state = 'settled', peer = NULL WHERE user_key = {gone}"
            ),
            (
                "beijing, singapore",
                gone.to_string().into(),
                "",
                "no site is his home".to_owned(),
            ),
        ),
        // Of somebody who never left, and of whom no site has told another.
        (
            1,
            format!(
                "INSERT INTO domicile.resident (user_key, state, epoch, seen) VALUES ({stayed}, 'settled', 1, 1); \
                 INSERT INTO customer (customer_id, first_name, last_name, email) VALUES ({stayed}, 'x', 'y', 'z')"
            ),
            format!(
                "DELETE FROM customer WHERE customer_id = {stayed}; \
                 UPDATE domicile.resident SET state = 'departed', peer = 'beijing' WHERE user_key = {stayed}"
            ),
            (
                "beijing, singapore",
                stayed.to_string().into(),
                "",
                "more than one site is his home".to_owned(),
            ),
        ),
        (
            1,
            "UPDATE genre SET name = name || '!' WHERE genre_id = 1".to_owned(),
            "UPDATE genre SET name = rtrim(name, '!') WHERE genre_id = 1".to_owned(),
            (
                "singapore",
                Value::Null,
                "",
                "reference table genre holds other rows at singapore".to_owned(),
            ),
        ),
    ];
    for (site, plant, mend, (at, user, table, what)) in plants {
        let session = mover(&linked, site).await?;
        let admin = linked.world.admin(site).await?;
        // The catalogue is not the mover's to change.
        let by = |sql: &str| match sql.contains("genre") {
            true => &admin,
            false => &session,
        };
        by(&plant)
            .batch_execute(&plant)
            .await
            .context(plant.clone())?;
        let wrong = everywhere(1).await?["mismatches"].clone();
        assert_eq!(wrong.as_array().map(Vec::len), Some(1), "{plant}: {wrong}");
        let one = &wrong[0];
        assert_eq!((&one["site"], &one["user"]), (&at.into(), &user), "{wrong}");
        assert_eq!(one["table"].as_str().unwrap_or_default(), table, "{wrong}");
        ensure!(
            one["what"].as_str().is_some_and(|w| w.contains(&what)),
            "{wrong}"
        );
        for site in [0, 1] {
            let found = verify(&linked, site, &[], 1).await?;
            assert_eq!(
                found["mismatches"],
                wrong,
                "{plant}: {}",
                support::SITES[site]
            );
        }
        by(&mend).batch_execute(&mend).await.context(mend)?;
    }
    for site in [0, 1] {
        verify(&linked, site, &[], 0).await?;
    }
    // Of one user alone, wherever he lives.
    let user = gone.to_string();
    for site in [0, 1] {
        let found = verify(&linked, site, &["--users", &user], 0).await?;
        assert_eq!(found["users"], 1, "{found}");
        assert_eq!(found["frozen"]["batches"], 1, "{found}");
        verify(&linked, site, &["--users", &user], 0).await?;
    }
    linked
        .at(0, &["verify", "--users", "x"])
        .run()
        .await?
        .expect(2)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_hears_of_those_alone_who_concern_it() -> Result<()> {
    let (linked, both, movers, stayers) = moved("concerned").await?;
    let service = linked.world.name.clone();
    let [beijing, singapore] = both;
    // As singapore's own daemon asks beijing's: whatever it likes.
    let ask = async |ask: Value| -> Result<(u16, Value)> {
        let wanted = json!({"service": service, "peer": "beijing", "ask": ask});
        let (code, said) = post(&singapore.socket, "/verify", &wanted).await?;
        Ok((code, serde_json::from_str(&said).context(said)?))
    };
    let (gone, stayed) = (movers[0].to_string(), stayers[0].to_string());
    let mut left: Vec<i32> = movers.clone();
    left.sort_unstable();
    let left: Vec<String> = left.iter().map(ToString::to_string).collect();
    for (asked, said) in [
        (json!({"Users": null}), json!({"Users": left})),
        (json!({"Users": left.last()}), json!({"Users": []})),
        (
            json!({"Standing": [gone, stayed]}),
            json!({"Users": [gone]}),
        ),
        (
            json!({"Records": [[gone, false], [stayed, false], ["424242", true]]}),
            json!({"Records": ["Departed", null, null]}),
        ),
    ] {
        assert_eq!(ask(asked).await?, (200, said));
    }
    let rows = async |user: &str| -> Result<u64> {
        let (_, held) = ask(json!({"Held": [user]})).await?;
        let tables = held["Held"].as_array().context("tables")?.iter();
        Ok(tables.filter_map(|table| table["rows"].as_u64()).sum())
    };
    ensure!(rows(&gone).await? > 0 && rows(&stayed).await? == 0);
    // Whoever claims a user who lives here has claimed him aloud.
    ensure!(!beijing.log().contains("two homes, or it tries"));
    let claim = json!({"Records": [[stayed, true]]});
    let (_, told) = ask(claim).await?;
    ensure!(told["Records"][0]["Settled"].is_object(), "{told}");
    ensure!(beijing.log().contains("two homes, or it tries"));
    // A batch that left for here, and of none that did not.
    let batch = linked
        .world
        .value(0, "SELECT min(batch) FROM domicile.batch_log")
        .await?;
    let (_, frozen) = ask(json!({"Frozen": [batch, null]})).await?;
    assert_eq!(frozen["Frozen"]["Compared"]["differing"], json!([]));
    let elsewhere = "UPDATE domicile.move SET target = 'auckland'";
    linked
        .world
        .admin(0)
        .await?
        .batch_execute(elsewhere)
        .await?;
    let (_, frozen) = ask(json!({"Frozen": [batch, null]})).await?;
    assert_eq!(frozen, json!({"Frozen": "Past"}));
    let (_, none) = ask(json!({"Batches": [0, null]})).await?;
    assert_eq!(none, json!({"Batches": []}));
    // All rows of a site are its own affair, and so is a question without end.
    let many: Vec<String> = (0..2_001).map(|n| n.to_string()).collect();
    for refused in [json!({"Held": null}), json!({"Standing": many})] {
        let (code, said) = ask(refused).await?;
        assert_eq!((code, &said["exit"]), (409, &3.into()), "{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_peer_the_rest_is_compared() -> Result<()> {
    let (linked, both, movers, stayers) = moved("verified_alone").await?;
    let [beijing, singapore] = both;
    singapore.terminate().await?;
    let alone = async || -> Result<Value> {
        let found = verify(&linked, 0, &[], 3).await?;
        assert_eq!(found["users"], movers.len() + stayers.len(), "{found}");
        let not_read = found["not_read"].as_array().context("not read")?;
        ensure!(
            not_read.len() == 1 && not_read[0]["site"] == "singapore",
            "{found}"
        );
        Ok(found)
    };
    let found = alone().await?;
    assert_eq!(found["mismatches"], json!([]), "{found}");
    ensure!(found["frozen"]["batches"].as_u64() > Some(1), "{found}");
    assert_eq!(found["frozen"]["unchanged"], 0, "{found}");
    let text = linked.at(0, &["verify"]).run().await?.expect(3)?;
    ensure!(text.stdout.contains("not looked at: "), "{text}");
    let altered = format!(
        "UPDATE invoice SET total = total + 1 WHERE customer_id = {}",
        movers[0]
    );
    mover(&linked, 0).await?.batch_execute(&altered).await?;
    let found = alone().await?;
    assert_eq!(found["mismatches"][0]["table"], "invoice", "{found}");
    // Without the own daemon nobody can be asked.
    beijing.terminate().await?;
    let found = alone().await?;
    assert_eq!(found["mismatches"][0]["table"], "invoice", "{found}");
    Ok(())
}
