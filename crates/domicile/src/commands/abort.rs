//! `abort`: ends a running move with everybody at one of the two sites.

use std::time::Duration;

use model::MoveId;
use residency::office::Office;
use residency::steering::{self, Wish};

use super::apply::failure;
use super::routes::Ends;
use super::running::{Place, ended_already, reach, steer_failed};
use super::show;
use crate::cli;
use crate::config::Config;
use crate::exit::{Exit, OrFail, Outcome};
use crate::render::Form;
use crate::render::steer::{Aborted, render_aborted};

/// How often it is looked whether the run that carries the move has ended it, or has gone.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Tells whoever carries the move to end it, or ends it. 2 where it has ended or nobody knows it.
pub async fn run(config: &Config, args: &cli::Abort) -> Outcome {
    let id = MoveId::from(args.r#move.as_str());
    let (place, mut row) = reach(config, "abort").await?.find(&id).await?;
    if row.state != "running" {
        return Err(ended_already(&row));
    }
    let told = steering::wish(&*place.session, &id, Wish::Abort)
        .await
        .map_err(|error| steer_failed(error, format!("cannot tell the move {id}")))?;
    if !told {
        return Err(ended_already(&row));
    }
    let mut waited = false;
    while row.state == "running" {
        if carried(&place).await? {
            if !std::mem::replace(&mut waited, true) {
                eprintln!(
                    "A run of apply holds {} at {}: waiting until it has ended the move.",
                    place.service, place.site
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        } else {
            let route = Ends::default()
                .route_back(config, &row.service, (&row.source, &row.target))
                .await?;
            match mover::abort::abort(&route, &id).await {
                // Somebody was faster.
                Err(mover::Error::Residency {
                    source: residency::Error::Office { .. },
                    ..
                }) => tokio::time::sleep(LOOK_EVERY).await,
                done => done.map_err(|error| {
                    failure(error, format!("{}: aborting {id}", row.service))
                        .mend("what is wished stands: run abort again to go on")
                })?,
            }
        }
        row = place.look_up(&id).await?.unwrap_or(row);
    }
    if row.state != "aborted" {
        return Err(ended_already(&row));
    }
    let aborted = Aborted {
        r#move: id.to_string(),
        state: row.state,
        moved: row.moved.unsigned_abs(),
        service: row.service.to_string(),
        from: row.source.to_string(),
        to: row.target.to_string(),
    };
    show(&render_aborted(&aborted, Form::of_stdout(args.json.json)))?;
    Ok(Exit::Done)
}

/// Whether some process carries moves from there.
async fn carried(place: &Place) -> Outcome<bool> {
    let holder = Office::holder(&*place.session, Office::DEPARTURES)
        .await
        .or_fail(Exit::Unreached, || {
            format!(
                "{}: cannot look who moves users from {}",
                place.service, place.site
            )
        })?;
    Ok(holder.is_some())
}
