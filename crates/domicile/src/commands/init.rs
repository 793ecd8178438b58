//! `init`: reads a schema and proposes a configuration.

use postgres::catalog::{self, Catalog};
use postgres::connect::connect;
use postgres::propose::{self, propose};

use super::{homes, show};
use crate::cli::Init;
use crate::config::Ids;
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::propose_toml::{self, Proposal, ProposedTable};

/// Prints the proposal for the schema at the first site.
pub async fn run(args: &Init) -> Outcome {
    let Some(origin) = args.sites.first() else {
        return Err(Failure::usage("name at least one site: --site SITE=URL"));
    };
    let session = connect(origin.url.expose(), "init")
        .await
        .map_err(|error| {
            homes::unreached(
                error,
                format!("cannot reach the database at {}", origin.site),
                &format!("--site {}=URL", origin.site),
            )
        })?;
    let catalog = catalog::read(&session).await.or_fail(Exit::Unreached, || {
        format!("cannot read the catalog at {}", origin.site)
    })?;
    let found = propose(&catalog, &args.user_table, None, args.market.as_deref())
        .or_fail(Exit::Usage, || "nothing can be proposed".into())?;
    show(&propose_toml::render(&proposal(args, &catalog, found)))?;
    Ok(Exit::Done)
}

fn proposal(args: &Init, catalog: &Catalog, found: propose::Proposal) -> Proposal {
    let tables = found
        .tables
        .into_iter()
        .map(|(table, proposed)| ProposedTable {
            table: table.to_string(),
            ownership: proposed.ownership,
            why: Some(proposed.why).filter(|why| !why.is_empty()),
        });
    Proposal {
        service: args.service.clone(),
        ids: ids(catalog, &found.user_table, &found.key),
        user_table: found.user_table.to_string(),
        key: found.key,
        market: found.market,
        market_why: match &args.market {
            Some(_) => String::new(),
            None => found.market_why,
        },
        sites: args
            .sites
            .iter()
            .map(|pair| (pair.site.clone(), pair.url.clone()))
            .collect(),
        tables: tables.collect(),
    }
}

/// How the users' keys look as if they were kept unique.
fn ids(catalog: &Catalog, table: &model::table::TableName, key: &str) -> Ids {
    match catalog
        .tables
        .get(table)
        .and_then(|table| table.column(key))
    {
        Some(column) if column.base_type == "uuid" => Ids::Uuid,
        Some(column) if !column.sequences.is_empty() => Ids::Ranges,
        Some(_) | None => Ids::Application,
    }
}
