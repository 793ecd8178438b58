//! Which statements took a server's time.

use anyhow::Result;
use testbed::Cluster;

/// The library that counts.
pub(crate) const LIBRARY: &str = "pg_stat_statements";

const SHOWN: usize = 16;

/// Begins to count.
pub(crate) async fn begin(cluster: &Cluster) -> Result<()> {
    let sql =
        "CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT pg_stat_statements_reset()";
    cluster.psql("postgres", sql).await.map(drop)
}

/// Prints what took most of the time since [`begin`].
pub(crate) async fn show(cluster: &Cluster) -> Result<()> {
    let sql = format!(
        "SELECT format('%10s ms %9s calls %9s ms each %10s rows  %s', round(total_exec_time::numeric, 0), calls,
             round(mean_exec_time::numeric, 3), rows, left(regexp_replace(query, '\\s+', ' ', 'g'), 150))
         FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT {SHOWN}"
    );
    let listed = cluster.psql("postgres", &sql).await?;
    println!("  statements at {}:", cluster.name());
    listed.lines().for_each(|line| println!("    {line}"));
    let sum = "SELECT round(sum(total_exec_time)::numeric, 0) || ' ms in ' || sum(calls) || ' calls' FROM pg_stat_statements";
    println!("    all: {}", cluster.psql("postgres", sum).await?.trim());
    Ok(())
}
