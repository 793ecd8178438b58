//! `export`: one user's rows, whole, from his home, and nobody else's.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::refusal::refusal;
use support::{Clusters, World};

/// Writes user `key`'s data into `folder`, and gives the manifest.
async fn export(world: &World, key: &str, folder: &str) -> Result<Value> {
    let args = ["export", key, "--out", folder, "--json"];
    let ran = world.program(&args).run().await?.expect(0)?;
    let manifest: Value = serde_json::from_str(&ran.stdout)?;
    let kept = std::fs::read_to_string(world.path(folder).join("manifest.json"))?;
    assert_eq!(manifest, serde_json::from_str::<Value>(&kept)?);
    Ok(manifest)
}

/// Rows and hashes of the only service in a manifest, by table.
fn tables(manifest: &Value) -> Result<BTreeMap<String, (u64, String)>> {
    let tables = manifest["services"][0]["tables"]
        .as_array()
        .context("no tables")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let table = |t: &Value| {
        let rows = t["rows"].as_u64().unwrap_or_default();
        (text(&t["table"]), (rows, text(&t["blake3"])))
    };
    Ok(tables.iter().map(table).collect())
}

/// The lines of a table's file, each read as JSON.
fn lines(world: &World, folder: &str, file: &str) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(world.path(folder).join(file))?;
    text.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_users_rows_and_nobody_elses_are_written() -> Result<()> {
    let world = World::small(Clusters::shared().await?, "exported").await?;
    world.install_small().await?.expect(0)?;
    let awkward = "UPDATE item SET body = E'a \"b\"\\n\\\\ü' WHERE id = 4";
    world.execute(0, awkward).await?;
    let manifest = export(&world, "2", "two").await?;
    let service = &manifest["services"][0];
    assert_eq!(manifest["user"], "2");
    assert_eq!(
        (&service["service"], &service["site"]),
        (&"exported".into(), &"beijing".into())
    );
    let counted: Vec<(String, u64)> = tables(&manifest)?
        .into_iter()
        .map(|(t, (n, _))| (t, n))
        .collect();
    assert_eq!(counted, [("item".to_owned(), 2), ("person".to_owned(), 1)]);
    let person = lines(&world, "two", "exported/person.jsonl")?;
    assert_eq!(person[0]["email"], "p2@example.com");
    let items = lines(&world, "two", "exported/item.jsonl")?;
    assert_eq!(items[1]["body"], "a \"b\"\n\\ü");
    let mode = std::fs::metadata(world.path("two"))?.permissions().mode();
    assert_eq!(mode & 0o077, 0, "others may not look into the folder");

    let entered = "SELECT count(*) || ' ' || bool_or(body::text LIKE '%example.com%')
                   FROM domicile.entry WHERE kind = 'exported' AND jsonb_array_length(body -> 'users') = 1";
    assert_eq!(world.value(0, entered).await?, "1 false");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_exported_leaves_no_folder() -> Result<()> {
    let world = World::small(Clusters::shared().await?, "unexported").await?;
    world.install_small().await?.expect(0)?;
    export(&world, "1", "one").await?;
    let run = async |args: &[&str]| world.program(args).run().await;
    let again = run(&["export", "1", "--out", "one"]).await?;
    refusal(2, &["one is there already"]).hold(&again)?;
    let nobody = run(&["export", "999", "--out", "nobody"]).await?;
    refusal(1, &["999 lives nowhere that we know", "domicile where"]).hold(&nobody)?;
    let no_key = run(&["export", "abc", "--out", "nobody"]).await?;
    refusal(2, &["abc can be no user's key"]).hold(&no_key)?;
    let nowhere = run(&["export", "1", "--out", "no/such/folder"]).await?;
    refusal(2, &["cannot make a folder in no/such"]).hold(&nowhere)?;
    let left = std::fs::read_dir(world.folder.path())?;
    for entry in left {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(name == "one" || name.ends_with(".toml"), "{name} is left");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_is_the_same_after_a_move_and_comes_from_the_new_home() -> Result<()> {
    let world = World::depot(Clusters::shared().await?, "carried").await?;
    let before = export(&world, "3", "before").await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    let after = export(&world, "3", "after").await?;
    assert_eq!(after["services"][0]["site"], "singapore");
    assert_eq!(tables(&before)?, tables(&after)?);
    let rows: u64 = tables(&after)?.values().map(|(rows, _)| rows).sum();
    assert_eq!(rows, 1 + 1 + 3 + 6, "account, wrapping, orders, items");
    Ok(())
}
