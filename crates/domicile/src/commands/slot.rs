//! `slot drop`: break-glass, for a disk that fills. With a recorded reason, and never under a move that runs.

use model::SiteName;
use postgres::slot;
use residency::office::Office;
use residency::{entries, install, journal};
use serde_json::json;

use super::homes;
use super::ledger;
use super::running::{Place, reach};
use super::show;
use crate::cli;
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::steer::{Dropped, render_dropped};

/// Drops the one slot that is meant. 2 where there are several, or a move runs.
pub async fn drop(config: &Config, args: &cli::SlotDrop) -> Outcome {
    let site = args
        .site
        .as_deref()
        .map(|site| homes::known_site(config, site))
        .transpose()?;
    if let Some(service) = &args.service {
        config.service(&service.as_str().into())?;
    }
    let meant = |place: &Place| {
        let same = |site: &SiteName| *site == place.site;
        site.as_ref().is_none_or(same)
            && args
                .service
                .as_deref()
                .is_none_or(|s| s == place.service.as_str())
    };
    let mut found = Vec::new();
    let reached = reach(config, "slot").await?;
    for place in reached.places.into_iter().filter(meant) {
        let name = install::stream_name(&place.service);
        let bytes = slot::wal_bytes(&place.session, &name)
            .await
            .or_fail(Exit::Unreached, || cannot(&place))?;
        if let Some(bytes) = bytes {
            found.push((place, name, bytes));
        }
    }
    if found.len() > 1 {
        let named: Vec<String> = found
            .iter()
            .map(|(place, ..)| format!("{} at {}", place.service, place.site))
            .collect();
        return Err(Failure::usage(format_args!(
            "there are several slots: {}",
            named.join(", ")
        ))
        .mend("say which one with --service and --site"));
    }
    let Some((mut place, name, bytes)) = found.pop() else {
        return Err(Failure::usage("there is no slot to drop")
            .mend("`domicile status` shows the slots that stand"));
    };
    let chunks = forget(&mut place, &name, &args.reason).await?;
    let gone = slot::drop(&place.session, &name)
        .await
        .or_fail(Exit::Unreached, || cannot(&place))?;
    if !gone {
        return Err(Failure::new(
            Exit::Unreached,
            anyhow::anyhow!("somebody reads the slot {name} at {}", place.site),
        )
        .mend("end that session (pg_replication_slots names its process), and run this again"));
    }
    ledger::seal::after(config).await;
    let dropped = Dropped {
        slot: name,
        service: place.service.to_string(),
        site: place.site.to_string(),
        wal_bytes: bytes,
        chunks,
        reason: args.reason.clone(),
    };
    show(&render_dropped(&dropped, Form::of_stdout(args.json.json)))?;
    Ok(Exit::Done)
}

/// Writes the reason down and lets everything that was enrolled under the slot start again, in one transaction: a crash
/// after it leaves a slot that the next run does not take for its own.
async fn forget(place: &mut Place, name: &str, reason: &str) -> Outcome<u64> {
    let office = match Office::take(&place.session, Office::DEPARTURES).await {
        Err(residency::Error::Office { .. }) => {
            return Err(Failure::usage(format_args!(
                "a move runs from {}: its slot is in use",
                place.site
            ))
            .mend("`domicile abort MOVE` ends it, or stop that process"));
        }
        office => office.or_fail(Exit::Unreached, || cannot(place))?,
    };
    let failed = cannot(place);
    let failed = || failed.clone();
    let tx = place
        .session
        .transaction()
        .await
        .or_fail(Exit::Unreached, failed)?;
    office.hold(&tx).await.or_fail(Exit::Unreached, failed)?;
    journal::forget_slot(&tx, name)
        .await
        .or_fail(Exit::Unreached, failed)?;
    let chunks = journal::cancel_chunks(&tx)
        .await
        .or_fail(Exit::Unreached, failed)?;
    let body = json!({
        "service": place.service, "site": place.site, "slot": name, "chunks": chunks, "reason": reason,
    });
    entries::append(&tx, "slot_dropped", body, &[])
        .await
        .or_fail(Exit::Unreached, failed)?;
    tx.commit().await.or_fail(Exit::Unreached, failed)?;
    Ok(chunks)
}

fn cannot(place: &Place) -> String {
    format!("{}: cannot drop the slot at {}", place.service, place.site)
}
