//! The public sample shop, loaded unchanged.

use anyhow::Result;
use model::table::TableName;
use model::{Market, UserKey};
use postgres::catalog;
use postgres::census::{census, orphan_rows, users_exist, users_page};
use postgres::preflight::{Level, compare_references, reference_digest};
use postgres::propose::propose;

use crate::support::{chinook, chinook_declared, cluster, installed, schema, texts};

#[tokio::test]
async fn init_proposes_a_classification_without_doubt() -> Result<()> {
    let cluster = cluster("propose").await?;
    let session = chinook(&cluster, "chinook").await?;
    let catalog = catalog::read(&session).await?;
    let proposal = propose(&catalog, "customer", None, None)?;
    assert_eq!(proposal.key, "customer_id");
    assert_eq!(proposal.market.as_deref(), Some("country"));
    let proposed = proposal
        .tables
        .iter()
        .map(|(name, proposed)| (name, &proposed.ownership));
    let wanted = chinook_declared().tables;
    assert_eq!(texts(proposed), texts(&wanted));
    assert!(
        proposal
            .tables
            .values()
            .all(|proposed| !proposed.why.is_empty())
    );
    Ok(())
}

#[tokio::test]
async fn the_schema_comes_out_parents_first_with_enforced_ways() -> Result<()> {
    let cluster = cluster("classify").await?;
    let session = chinook(&cluster, "chinook").await?;
    let (_, home) = schema(&session, &chinook_declared()).await?;
    let names: Vec<String> = home
        .owned
        .iter()
        .map(|table| table.name.to_string())
        .collect();
    assert_eq!(names, ["customer", "invoice", "invoice_line"]);
    let line = &home.owned[2];
    assert_eq!(line.ways[0].column, "customer_id");
    assert_eq!(line.ways[0].hops.len(), 1);
    assert_eq!(line.ways[0].hops[0].parent, TableName::parse("invoice"));
    assert_eq!(line.ways[0].hops[0].parent_columns, ["invoice_id"]);
    assert!(line.ways[0].hops[0].enforced);
    assert_eq!(line.key, ["invoice_line_id"]);
    assert!(home.owned.iter().all(|table| table.portable_binary()));
    assert_eq!(home.users.market.as_deref(), Some("\"country\""));
    assert_eq!(home.references.len(), 8);
    let keys: Vec<&str> = home
        .foreign_keys
        .iter()
        .map(|key| key.name.as_str())
        .collect();
    assert_eq!(
        keys,
        [
            "customer_support_rep_id_fkey",
            "invoice_customer_id_fkey",
            "invoice_line_invoice_id_fkey",
            "invoice_line_track_id_fkey"
        ]
    );
    Ok(())
}

#[tokio::test]
async fn the_census_counts_every_row_once() -> Result<()> {
    let cluster = cluster("census").await?;
    let mut session = chinook(&cluster, "chinook").await?;
    let (_, home) = schema(&session, &chinook_declared()).await?;

    let all = census(&mut session, &home, true).await?;
    assert_eq!(all.len(), 24);
    assert_eq!(all.iter().map(|market| market.users).sum::<u64>(), 59);
    assert_eq!(
        all.iter().map(|market| market.rows).sum::<u64>(),
        59 + 412 + 2240
    );
    let usa = all
        .iter()
        .find(|market| market.market.as_str() == "USA")
        .expect("USA");
    assert_eq!(usa.users, 13);
    assert!(usa.bytes > usa.rows * 24);
    assert_eq!(census(&mut session, &home, false).await?, []);
    assert!(orphan_rows(&mut session, &home).await?.is_empty());

    let markets = [Market::from("USA"), Market::from("India")];
    let mut seen = Vec::new();
    loop {
        let after = seen.last().map(|(key, _): &(UserKey, u64)| key.clone());
        let page = users_page(&mut session, &home, true, &markets, after.as_ref(), 4).await?;
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen.len(), 15);
    let numbers: Vec<i64> = seen
        .iter()
        .map(|(key, _)| key.as_str().parse())
        .collect::<Result<_, _>>()?;
    assert!(
        numbers.is_sorted_by(|a, b| a < b),
        "ordered as numbers: {numbers:?}"
    );
    let rows: u64 = seen.iter().map(|(_, rows)| rows).sum();
    let counted = all.iter().filter(|census| markets.contains(&census.market));
    assert_eq!(rows, counted.map(|census| census.rows).sum::<u64>());
    Ok(())
}

#[tokio::test]
async fn who_lives_here_is_what_the_records_say() -> Result<()> {
    let cluster = cluster("lives").await?;
    let mut session = chinook(&cluster, "chinook").await?;
    let (_, home) = schema(&session, &chinook_declared()).await?;
    installed(&mut session, "beijing", "beijing", &home).await?;
    let users =
        |found: Vec<postgres::census::Census>| -> u64 { found.iter().map(|c| c.users).sum() };
    assert_eq!(users(census(&mut session, &home, false).await?), 59);

    let record = "INSERT INTO domicile.resident (user_key, state, epoch, seen, peer, attempt) VALUES \
        (1, 'departed', 2, 2, 'mumbai', NULL), (2, 'settled', 1, 1, NULL, NULL), \
        (3, 'moving', 1, 1, 'mumbai', 1), (4, 'arriving', 0, 1, 'mumbai', 1)";
    session.batch_execute(record).await?;
    assert_eq!(users(census(&mut session, &home, false).await?), 57);

    let ask: Vec<UserKey> = ["1", "2", "3", "4", "5", "60", "x"]
        .map(UserKey::from)
        .to_vec();
    let found = users_exist(&mut session, &home, false, &ask).await?;
    let here: Vec<(&str, bool)> = found
        .iter()
        .map(|(key, presence)| (key.as_str(), presence.here))
        .collect();
    assert_eq!(
        here,
        [
            ("1", false),
            ("2", true),
            ("3", true),
            ("4", false),
            ("5", true)
        ]
    );
    assert_eq!(found[&UserKey::from("1")].market.as_str(), "Brazil");

    // Above the mark nobody lives here without a record; away from the origin nobody at all.
    session
        .batch_execute("UPDATE domicile.home SET mark = 10")
        .await?;
    assert_eq!(users(census(&mut session, &home, false).await?), 8);
    session
        .batch_execute("UPDATE domicile.home SET known_by = 'row', mark = NULL")
        .await?;
    assert_eq!(users(census(&mut session, &home, false).await?), 57);
    session
        .batch_execute("UPDATE domicile.home SET is_origin = false")
        .await?;
    assert_eq!(users(census(&mut session, &home, false).await?), 2);
    let markets = [Market::from("Germany"), Market::from("Canada")];
    let page = users_page(&mut session, &home, false, &markets, None, 9).await?;
    assert_eq!(
        page.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        ["2", "3"]
    );
    Ok(())
}

#[tokio::test]
async fn a_changed_catalogue_row_is_seen_and_named() -> Result<()> {
    let cluster = cluster("references").await?;
    let first = chinook(&cluster, "first").await?;
    let second = chinook(&cluster, "second").await?;
    let (_, home) = schema(&first, &chinook_declared()).await?;
    let (_, there) = schema(&second, &chinook_declared()).await?;
    assert_eq!(home.fingerprint, there.fingerprint);
    // Another order on disk is no difference.
    second
        .batch_execute("UPDATE public.genre SET name = name WHERE genre_id < 5")
        .await?;
    let (a, b) = ("beijing".into(), "mumbai".into());
    let before = reference_digest(&first, &home).await?;
    assert_eq!(before, reference_digest(&second, &there).await?);
    assert_eq!(before[&TableName::parse("track")].rows, 3503);

    let change = "UPDATE public.track SET name = name || ' ' WHERE track_id = 1; \
                  UPDATE public.genre SET name = NULL WHERE genre_id = 1";
    second.batch_execute(change).await?;
    let after = reference_digest(&second, &there).await?;
    let found = compare_references((&a, &before), (&b, &after));
    assert!(
        found
            .iter()
            .all(|finding| finding.level == Level::Blocker && finding.site == b)
    );
    let named: Vec<&str> = found
        .iter()
        .filter_map(|finding| finding.what.split(' ').nth(2))
        .collect();
    assert_eq!(named, ["genre", "track"]);
    Ok(())
}
