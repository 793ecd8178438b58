//! Databases to look at.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use model::ownership::Ownership;
use model::policy::Policy;
use model::table::HomeSchema;
use model::{ServiceName, SiteName};
use postgres::catalog::{self, Catalog};
use postgres::classify::{Declared, classify};
use postgres::connect::{Session, connect};
use residency::install::{Installation, install, mark_at_origin};
use testbed::{Cluster, ClusterOptions};

pub async fn cluster(name: &str) -> Result<Cluster> {
    let mut options = ClusterOptions::named(name);
    options.fsync = false;
    Cluster::start(options).await
}

/// A database of its own with `sql` loaded.
pub async fn database(cluster: &Cluster, name: &str, sql: &str) -> Result<Session> {
    cluster.create_database(name).await?;
    let config: tokio_postgres::Config = cluster.url("postgres", name).parse()?;
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await?;
    drop(client);
    connection.await??;
    Ok(connect(&cluster.url("postgres", name), "test").await?)
}

pub async fn chinook(cluster: &Cluster, name: &str) -> Result<Session> {
    database(cluster, name, shop::chinook::SQL).await
}

pub fn declared(
    user_table: &str,
    key: &str,
    market: Option<&str>,
    tables: &[(&str, &str)],
) -> Declared {
    let parse = |text: &&str| Ownership::parse(text).expect("a classification");
    Declared {
        user_table: user_table.to_owned(),
        key: key.to_owned(),
        market: market.map(str::to_owned),
        tables: tables
            .iter()
            .map(|(name, text)| ((*name).to_owned(), parse(text)))
            .collect(),
    }
}

pub fn chinook_declared() -> Declared {
    declared(
        "customer",
        "customer_id",
        Some("country"),
        &[
            ("invoice", "customer_id"),
            ("invoice_line", "invoice_id -> invoice"),
            ("album", "reference"),
            ("artist", "reference"),
            ("employee", "reference"),
            ("genre", "reference"),
            ("media_type", "reference"),
            ("playlist", "reference"),
            ("playlist_track", "reference"),
            ("track", "reference"),
        ],
    )
}

/// Reads and classifies; every mistake in one error.
pub async fn schema(session: &Session, declared: &Declared) -> Result<(Catalog, HomeSchema)> {
    let catalog = catalog::read(session).await?;
    let schema = classify(&catalog, declared).map_err(|errors| {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow!("{}", texts.join("; "))
    })?;
    Ok((catalog, schema))
}

/// Installs Domicile for service `shop`, mover `domicile`.
pub async fn installed(
    session: &mut Session,
    site: &str,
    origin: &str,
    schema: &HomeSchema,
) -> Result<()> {
    let mark = mark_at_origin(session, schema).await?;
    let wanted = Installation {
        service: &ServiceName::from("shop"),
        site: &SiteName::from(site),
        origin: &SiteName::from(origin),
        home: schema,
        mover: ("domicile", None),
        policy: &Policy::default(),
        mark,
        after_restart: "open",
    };
    install(session, &wanted).await?;
    Ok(())
}

/// A map of texts, for comparisons that print well.
pub fn texts<K: ToString, V: ToString>(
    map: impl IntoIterator<Item = (K, V)>,
) -> BTreeMap<String, String> {
    map.into_iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}
