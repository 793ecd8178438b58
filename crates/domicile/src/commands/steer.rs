//! `pause`, `resume`, `throttle`: tell running moves how to go on. What is told stands in the source's database: a run
//! that carries the move hears it within about a second, one that begins later at its beginning.

use std::time::{Duration, Instant};

use model::MoveId;
use mover::activity::Activity;
use residency::steering::{self, Orders, Throttle, Told, Wish};

use super::running::{Place, Reached, ended_already, reach, steer_failed};
use super::show;
use crate::cli;
use crate::config::{Config, rate};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::steer::{Steered, render};

/// How long `pause` waits for the run to say that it holds still.
const PAUSE_PATIENCE: Duration = Duration::from_secs(15);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Lets moves hold still. Returns when they do, or when that takes long. 2 where none runs.
pub async fn pause(config: &Config, args: &cli::Steer) -> Outcome {
    let (reached, found) = wished(config, args.r#move.as_deref(), "pause", Wish::Pause).await?;
    let since = Instant::now();
    let mut told = Vec::new();
    for (n, id) in &found {
        told.push(heard(&reached.places[*n], id, since).await?);
    }
    finish(&told, args.json)
}

/// Lets moves go on. 2 where none runs.
pub async fn resume(config: &Config, args: &cli::Steer) -> Outcome {
    let (reached, found) = wished(config, args.r#move.as_deref(), "resume", Wish::Go).await?;
    finish(&looked_up(&reached, &found).await?, args.json)
}

/// Sets how fast moves may copy. 2 where none runs, or the rate cannot be read.
pub async fn throttle(config: &Config, args: &cli::Throttle) -> Outcome {
    let throttle = match args.rate.trim() {
        "configured" => Throttle::Configured,
        text => match rate(text) {
            Some(None) => Throttle::Unlimited,
            Some(Some(rate)) => Throttle::Rate(rate),
            None => {
                return Err(Failure::usage(format_args!(
                    "{text:?} is no rate: write 20MiB/s, or unlimited, or configured"
                )));
            }
        },
    };
    let mut reached = reach(config, "throttle").await?;
    let mut found = Vec::new();
    for (n, row) in reached.running(args.r#move.as_deref()).await? {
        let place = &reached.places[n];
        let told = steering::throttle(&*place.session, &row.id, throttle)
            .await
            .map_err(|error| steer_failed(error, format!("cannot tell the move {}", row.id)))?;
        if !told {
            return Err(ended_already(&row));
        }
        found.push((n, row.id));
    }
    finish(&looked_up(&reached, &found).await?, args.json)
}

/// Tells the moves what is wished. Each is named with the index of its place.
async fn wished(
    config: &Config,
    only: Option<&str>,
    purpose: &str,
    wish: Wish,
) -> Outcome<(Reached, Vec<(usize, MoveId)>)> {
    let mut reached = reach(config, purpose).await?;
    let mut found = Vec::new();
    for (n, row) in reached.running(only).await? {
        let session = &*reached.places[n].session;
        let told = steering::wish(session, &row.id, wish)
            .await
            .map_err(|error| steer_failed(error, format!("cannot tell the move {}", row.id)))?;
        if !told {
            return Err(
                Failure::usage(format_args!("the move {} is being aborted", row.id))
                    .mend("`domicile abort MOVE` brings that to its end"),
            );
        }
        found.push((n, row.id));
    }
    Ok((reached, found))
}

/// Waits, within a bound, until the run that carries the move has said since then that it holds still.
async fn heard(place: &Place, id: &MoveId, since: Instant) -> Outcome<Steered> {
    loop {
        let told = look(place, id).await?;
        let fresh = told
            .as_ref()
            .and_then(|told| told.doing.as_ref())
            .is_none_or(|doing| doing.age < since.elapsed());
        let steered = steered(place, id, told);
        let settled = steered.paused || !steered.carried;
        if fresh && settled || since.elapsed() >= PAUSE_PATIENCE {
            return Ok(steered);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn looked_up(reached: &Reached, found: &[(usize, MoveId)]) -> Outcome<Vec<Steered>> {
    let mut all = Vec::new();
    for (n, id) in found {
        let place = &reached.places[*n];
        all.push(steered(place, id, look(place, id).await?));
    }
    Ok(all)
}

async fn look(place: &Place, id: &MoveId) -> Outcome<Option<Told>> {
    let running = steering::running(&*place.session)
        .await
        .or_fail(Exit::Unreached, || format!("cannot look at the move {id}"))?;
    Ok(running.into_iter().find(|told| told.r#move == *id))
}

/// What became of the word; none where the move has ended meanwhile.
fn steered(place: &Place, id: &MoveId, told: Option<Told>) -> Steered {
    let Orders { wish, throttle } = told.as_ref().map(|told| told.orders).unwrap_or_default();
    let activity = told
        .as_ref()
        .and_then(|told| told.doing.as_ref())
        .map(|doing| Activity::deserialized(&doing.activity));
    Steered {
        r#move: id.to_string(),
        service: place.service.to_string(),
        from: place.site.to_string(),
        running: told.is_some(),
        carried: activity.is_some(),
        wish: match wish {
            Wish::Go => "go",
            Wish::Pause => "pause",
            Wish::Abort => "abort",
        },
        paused: activity.as_ref().is_some_and(Activity::paused),
        doing: activity.as_ref().map(Activity::words),
        throttled: throttle != Throttle::Configured,
        rate: throttle.over(None),
    }
}

fn finish(told: &[Steered], json: cli::Json) -> Outcome {
    show(&render(told, Form::of_stdout(json.json)))?;
    Ok(Exit::Done)
}
