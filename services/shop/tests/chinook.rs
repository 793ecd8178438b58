//! The sample as it is, and the sample grown.

use anyhow::Result;
use shop::chinook;
use shop::generate::{Options, Size, generate};
use testbed::{Cluster, ClusterOptions};
use tokio_postgres::{Client, NoTls};

async fn database(cluster: &Cluster, name: &str) -> Result<Client> {
    cluster.create_database(name).await?;
    let (client, connection) =
        tokio_postgres::connect(&cluster.url("postgres", name), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn number(client: &Client, query: &str) -> Result<i64> {
    Ok(client.query_one(query, &[]).await?.get(0))
}

#[tokio::test]
async fn chinook_loads_unchanged() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::named("chinook")).await?;
    let client = database(&cluster, "shop").await?;
    chinook::load(&client).await?;
    assert_eq!(number(&client, "SELECT count(*) FROM customer").await?, 59);
    assert_eq!(number(&client, "SELECT count(*) FROM invoice").await?, 412);
    assert_eq!(
        number(&client, "SELECT count(*) FROM invoice_line").await?,
        2240
    );
    assert_eq!(number(&client, "SELECT count(*) FROM track").await?, 3503);
    Ok(())
}

#[tokio::test]
async fn a_generated_shop_has_the_asked_size_and_chinooks_schema() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::named("generate")).await?;
    let client = database(&cluster, "grown").await?;
    let markets = vec![("CN".to_owned(), 3), ("IN".to_owned(), 1)];
    let size = Size {
        customers: 2_000,
        invoices_per_customer: 3,
        lines_per_invoice: 2,
    };
    generate(
        &client,
        &Options {
            size,
            markets,
            unique_email: true,
        },
    )
    .await?;

    assert_eq!(
        number(&client, "SELECT count(*) FROM customer").await?,
        2_000
    );
    assert_eq!(
        number(&client, "SELECT count(*) FROM invoice").await?,
        6_000
    );
    assert_eq!(
        number(&client, "SELECT count(*) FROM invoice_line").await?,
        12_000
    );
    let uneven =
        "SELECT count(*) FROM (SELECT 1 FROM invoice GROUP BY customer_id HAVING count(*) <> 3) x";
    assert_eq!(number(&client, uneven).await?, 0);
    let indian = number(
        &client,
        "SELECT count(*) FROM customer WHERE country = 'IN'",
    )
    .await?;
    assert!(
        (400..600).contains(&indian),
        "{indian} of 2000 where 500 were asked"
    );
    let wrong_totals = "SELECT count(*) FROM invoice i WHERE total <>
        (SELECT sum(unit_price * quantity) FROM invoice_line l WHERE l.invoice_id = i.invoice_id)";
    assert_eq!(number(&client, wrong_totals).await?, 0);
    let neighbours = "SELECT count(*) FROM invoice a JOIN invoice b
        ON b.invoice_id = a.invoice_id + 1 AND b.customer_id = a.customer_id";
    assert_eq!(number(&client, neighbours).await?, 0);

    let original = database(&cluster, "original").await?;
    chinook::load(&original).await?;
    let schema = "SELECT md5(string_agg(definition, ';' ORDER BY definition)) FROM (
            SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) AS definition
            FROM pg_constraint WHERE connamespace = 'public'::regnamespace
            UNION ALL
            SELECT indexdef FROM pg_indexes
            WHERE schemaname = 'public' AND indexname <> 'customer_email_key') x";
    let ours: String = client.query_one(schema, &[]).await?.get(0);
    let theirs: String = original.query_one(schema, &[]).await?.get(0);
    assert_eq!(ours, theirs);
    Ok(())
}

/// The size of the benchmarks; minutes and gigabytes, so only where asked for by name.
#[tokio::test]
#[ignore = "takes minutes and three gigabytes"]
async fn a_million_customers_and_nine_million_lines_are_generated_in_minutes() -> Result<()> {
    let mut options = ClusterOptions::named("million");
    options.settings = vec![("max_wal_size".to_owned(), "4GB".to_owned())];
    let cluster = Cluster::start(options).await?;
    let client = database(&cluster, "grown").await?;
    let markets = vec![
        ("CN".to_owned(), 60),
        ("IN".to_owned(), 30),
        ("SG".to_owned(), 10),
    ];
    let size = Size {
        customers: 1_000_000,
        invoices_per_customer: 3,
        lines_per_invoice: 3,
    };
    let began = std::time::Instant::now();
    generate(
        &client,
        &Options {
            size,
            markets,
            unique_email: true,
        },
    )
    .await?;
    println!("generated in {:?}", began.elapsed());
    let lines = number(&client, "SELECT count(*) FROM invoice_line").await?;
    assert_eq!(lines, 9_000_000);
    Ok(())
}
