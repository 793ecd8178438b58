//! Entries, the log that takes them, and what is kept for ever.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ledger::entry::{Entry, commitment};
use ledger::tree::{Frontier, Hash, Span, leaf_hash};
use model::UserKey;
use residency::log::{self, NewLeaf};
use residency::{entries, install, schema};
use serde_json::{Value, json};
use support::{Site, number, tried};
use tokio_postgres::Client;

/// Takes what is there, as the mover does. Returns the numbers taken.
async fn take(session: &Client) -> Result<Vec<i64>> {
    log::lock(session).await?;
    let size = log::size(session).await?;
    let nodes = log::nodes(session, &Span::whole(size).parts()).await?;
    let mut frontier = Frontier::at(size, &nodes).context("the tree is whole")?;
    let (mut leaves, mut perfect) = (Vec::new(), Vec::new());
    for entry in log::untaken(session, 100_000).await? {
        let hash = leaf_hash(entry.text()?.as_bytes());
        leaves.push(NewLeaf {
            position: frontier.size(),
            n: entry.n,
            hash,
        });
        perfect.extend(frontier.push(hash));
    }
    log::append(session, &leaves, &perfect).await?;
    log::unlock(session).await?;
    Ok(leaves.iter().map(|leaf| leaf.n).collect())
}

async fn append(session: &Client, users: &[&str]) -> Result<()> {
    let users: Vec<UserKey> = users.iter().map(|user| UserKey::from(*user)).collect();
    Ok(entries::append(session, "arrived", json!({"to": "here"}), &users).await?)
}

async fn logged(session: &Client) -> Result<Vec<Entry>> {
    let rows = log::rows(session, 0, 100_000).await?;
    let entries = rows.into_iter().map(|row| row.entry.context("an entry"));
    entries.collect()
}

#[tokio::test]
async fn an_entry_that_commits_late_is_taken_later_and_none_twice() -> Result<()> {
    let site = Site::new().await?;
    let (late, other, taker) = (
        site.mover().await?,
        site.mover().await?,
        site.mover().await?,
    );
    take(&taker).await?; // what installing entered
    late.batch_execute("BEGIN").await?;
    append(&late, &["1"]).await?;
    append(&other, &["2"]).await?;
    append(&other, &["3"]).await?;
    let first = take(&taker).await?;
    assert_eq!(first.len(), 2);
    assert_eq!(log::waiting(&taker).await?, 0);
    late.batch_execute("COMMIT").await?;
    assert_eq!(log::waiting(&taker).await?, 1);
    append(&other, &["4"]).await?;
    let second = take(&taker).await?;
    assert_eq!(second.len(), 2);
    assert!(
        second[0] < first[0],
        "drawn first, taken later: {second:?} after {first:?}"
    );
    assert!(take(&taker).await?.is_empty());
    let all: BTreeSet<i64> = first.iter().chain(&second).copied().collect();
    assert_eq!(all.len(), 4);
    // One that rolls back leaves a number that nobody waits for.
    late.batch_execute("BEGIN").await?;
    append(&late, &["1"]).await?;
    late.batch_execute("ROLLBACK").await?;
    assert!(take(&taker).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn one_takes_at_a_time_and_a_lost_taker_keeps_nobody_out() -> Result<()> {
    let site = Site::new().await?;
    let (first, second) = (site.mover().await?, site.mover().await?);
    take(&first).await?; // what installing entered
    log::lock(&first).await?;
    let waiting = tokio::spawn(async move {
        append(&second, &["1"]).await?;
        take(&second).await
    });
    let admin = site.session("postgres").await?;
    let queue = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    support::until(&admin, "the second waits", queue).await?;
    drop(first);
    let taken = tokio::time::timeout(Duration::from_secs(30), waiting).await??;
    assert_eq!(taken?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn two_that_name_the_same_users_do_not_wait_crosswise() -> Result<()> {
    let site = Site::new().await?;
    let (a, b) = (site.mover().await?, site.mover().await?);
    for _ in 0..20 {
        let (a, b) = tokio::join!(
            append(&a, &["1", "2", "3", "4"]),
            append(&b, &["4", "3", "2", "1"])
        );
        a?;
        b?;
    }
    let reader = site.mover().await?;
    take(&reader).await?;
    assert_eq!(entries::about(&reader, &"3".into(), 41).await?.len(), 40);
    Ok(())
}

/// D7: with everything that the site has left, a thousand candidates are a thousand candidates.
#[tokio::test]
async fn who_is_forgotten_is_nobodys_and_a_proof_of_before_still_holds() -> Result<()> {
    let site = Site::new().await?;
    let mover = site.mover().await?;
    let candidates: Vec<String> = (0..1000)
        .map(|n| format!("canary-{n}@example.org"))
        .collect();
    for users in candidates.chunks(50) {
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        append(&mover, &users).await?;
    }
    append(&mover, &[&candidates[317]]).await?;
    take(&mover).await?;
    let chosen = UserKey::from(candidates[317].as_str());
    let found = entries::about(&mover, &chosen, 22).await?;
    let positions: Vec<u64> = found.iter().map(|one| one.position).collect();
    assert_eq!(positions, [7, 21]); // after what installing entered
    let log = logged(&mover).await?;
    for one in &found {
        assert!(log[one.position as usize].names(chosen.as_str(), &one.opening));
    }
    // One entry's opening opens no other, and nobody else's commitment.
    assert!(!log[7].names(chosen.as_str(), &found[1].opening));
    assert!(!log[7].names(&candidates[318], &found[0].opening));
    assert!(
        entries::about(&mover, &chosen, 21).await?.len() == 1,
        "as far as the head goes"
    );

    assert_eq!(
        entries::forget(&mover, std::slice::from_ref(&chosen)).await?,
        1
    );
    assert!(entries::about(&mover, &chosen, 22).await?.is_empty());
    assert!(
        log[7].names(chosen.as_str(), &found[0].opening),
        "given out before"
    );
    // Whoever has the whole database now tries each candidate with each secret in it.
    let secret: Vec<u8> = mover
        .query_one("SELECT secret FROM domicile.home", &[])
        .await?
        .get(0);
    let salts = mover.query("SELECT salt FROM domicile.salt", &[]).await?;
    let mut secrets: Vec<Vec<u8>> = salts.iter().map(|row| row.get(0)).collect();
    assert_eq!(secrets.len(), 999);
    secrets.push(secret);
    let last = &log[21];
    let nonce = last.said("nonce").context("a nonce")?;
    let openings = "SELECT array_agg(sha256(s || decode($2, 'hex'))) FROM unnest($1::bytea[]) AS s";
    let row = mover.query_one(openings, &[&secrets, &nonce]).await?;
    let mut openings: Vec<Vec<u8>> = row.get(0);
    openings.extend(secrets);
    for opening in &openings {
        let opening = Hash::from_slice(opening).context("32 bytes")?;
        assert!(!candidates.iter().any(|user| last.names(user, &opening)));
    }
    // Who comes back is written of under a new salt, and the old entry stays nobody's.
    append(&mover, &[chosen.as_str()]).await?;
    take(&mover).await?;
    let again = entries::about(&mover, &chosen, 23).await?;
    assert_eq!(
        again.iter().map(|one| one.position).collect::<Vec<_>>(),
        [22]
    );
    Ok(())
}

/// Canary: no key in an entry or in what is made of it, and neither a key's plain hash.
#[tokio::test]
async fn nothing_but_the_salts_names_a_user() -> Result<()> {
    let site = Site::new().await?;
    let mover = site.mover().await?;
    append(&mover, &["canary-1@example.org", "canary-2@example.org"]).await?;
    take(&mover).await?;
    let admin = site.session("postgres").await?;
    let zero = Hash([0; 32]);
    for table in schema::APPEND_ONLY {
        let sql =
            format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM domicile.{table} AS t");
        let text: String = admin.query_one(&sql, &[]).await?.get(0);
        let sha: String = admin
            .query_one("SELECT encode(sha256('canary-1@example.org'), 'hex')", &[])
            .await?
            .get(0);
        for canary in [
            "canary",
            "example.org",
            &sha,
            &commitment(&zero, "canary-1@example.org"),
        ] {
            assert!(!text.contains(canary), "{canary} in {table}");
        }
    }
    let users = &logged(&mover).await?[1].body["users"];
    let named: Vec<&str> = users
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    assert!(named.len() == 2 && named.is_sorted() && named.iter().all(|c| c.len() == 64));
    Ok(())
}

#[tokio::test]
async fn what_the_ledger_keeps_is_kept_from_superusers_too() -> Result<()> {
    let site = Site::new().await?;
    let mover = site.mover().await?;
    append(&mover, &["1"]).await?;
    take(&mover).await?;
    let admin = site.session("postgres").await?;
    for mode in ["origin", "replica"] {
        admin
            .batch_execute(&format!("SET session_replication_role = {mode}"))
            .await?;
        for table in schema::APPEND_ONLY {
            for verb in ["DELETE FROM", "TRUNCATE"] {
                let sql = format!("{verb} domicile.{table}");
                assert_eq!(tried(&admin, &sql).await?, "DM409", "{sql} in mode {mode}");
            }
        }
        assert_eq!(
            tried(&admin, "UPDATE domicile.leaf SET n = n").await?,
            "DM409"
        );
        assert_eq!(
            tried(&admin, "UPDATE domicile.witnessed SET size = 0").await?,
            "DM409"
        );
    }
    for sql in [
        "UPDATE domicile.head SET size = 0",
        "DELETE FROM domicile.leaf",
    ] {
        assert_eq!(tried(&mover, sql).await?, "42501", "{sql}");
    }
    Ok(())
}

#[tokio::test]
async fn tables_of_version_3_become_those_of_this_version_and_their_entries_are_taken() -> Result<()>
{
    let mut site = Site::new().await?;
    let admin = site.session("postgres").await?;
    admin
        .batch_execute(
            "DROP TABLE domicile.erasing, domicile.erasure; DROP SEQUENCE domicile.erasure_number;
             DROP TABLE domicile.salt, domicile.leaf, domicile.node, domicile.head, domicile.cosigned,
                        domicile.witnessed, domicile.refused_head;
             UPDATE domicile.home SET version = 3;
             INSERT INTO domicile.entry (kind, body) VALUES ('erased', '{\"users\": [\"00112233445566778899aabbccddeeff\"]}')",
        )
        .await?;
    site.install().await?;
    site.install().await?;
    assert_eq!(
        number(&admin, "SELECT version::bigint FROM domicile.home").await?,
        i64::from(install::VERSION)
    );
    let mover = site.mover().await?;
    append(&mover, &["1"]).await?;
    // That of before, the policy's, and this one.
    assert_eq!(take(&mover).await?.len(), 3);
    assert_eq!(entries::about(&mover, &"1".into(), 3).await?.len(), 1);
    Ok(())
}
