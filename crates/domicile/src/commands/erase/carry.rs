//! Every erasure at one site, as far as it can go now.

use model::ServiceName;
use mover::erase::purge::{Bounds, Standing, carry_on};
use postgres::connect::connect;
use residency::erasures::Scope;

use super::super::apply;
use super::super::homes::{Home, unreached};
use super::super::routes::end;
use crate::cli::Erase;
use crate::config::Service;
use crate::exit::Outcome;
use crate::render::erase::{Erased, Erasure};

/// Carries on, and lists where each stands.
pub(super) async fn on(
    args: &Erase,
    (name, service): (&ServiceName, &Service),
    home: &mut Home,
    erased: &mut Erased,
) -> Outcome<()> {
    let source = end(service, home)?;
    let site = source.site.clone();
    let admin = args.admin.iter().find(|admin| admin.site == site.as_str());
    let url = admin.map_or(source.url.as_str(), |admin| admin.url.expose());
    let hands = connect(url, "erase").await.map_err(|error| {
        let doing = format!("{name}: cannot reach its database at {site}");
        let place = match admin {
            Some(_) => "--admin".to_owned(),
            None => service.databases[&site].place(),
        };
        unreached(error, doing, &place)
    })?;
    let bounds = Bounds {
        rewrite: args.rewrite,
        turn_wal: args.turn_wal,
        backups_kept: service.erase.backups_kept,
    };
    let standing = carry_on(&source, &mut home.session, &hands, &bounds).await;
    let standing = standing.map_err(|error| {
        let doing = format!("{name}: carrying erasures on at {site}");
        let mut failure = apply::failure(error, doing);
        failure.mend = Some("what was done stays so: run erase again to go on".to_owned());
        failure
    })?;
    let shown = standing
        .into_iter()
        .map(|one| shown(name, site.as_str(), one));
    erased.erasures.extend(shown);
    Ok(())
}

fn shown(name: &ServiceName, site: &str, Standing { erasure, waits }: Standing) -> Erasure {
    let of = match &erasure.scope {
        Scope::Batch { batch, r#move } => (Some(batch.to_string()), Some(r#move.to_string())),
        Scope::User => (None, None),
    };
    Erasure {
        erasure: erasure.id,
        service: name.to_string(),
        site: site.to_owned(),
        batch: of.0,
        r#move: of.1,
        state: erasure.state.name().to_owned(),
        says: erasure.state.says(),
        users: erasure.users,
        rows: erasure.rows,
        residue: erasure.left_in,
        waits: waits.iter().map(ToString::to_string).collect(),
        remaining_s: waits
            .iter()
            .filter_map(|wait| wait.remaining())
            .map(|left| left.as_secs())
            .max(),
    }
}
