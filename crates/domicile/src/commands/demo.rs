//! `demo`: the whole story on this machine, and nothing of it left behind.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::show;
use crate::cli::Demo;
use crate::demo::{Finale, Stage, play, users_wanted};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::demo::render;
use crate::render::{Form, count, seconds};

/// Plays the demo, shows what it came to, and ends the sites, also when it is told to stop.
pub async fn run(args: &Demo) -> Outcome {
    let users = users_wanted()?;
    if let Some(file) = &args.json {
        refuse_unwritable(file)?;
    }
    let mut stop = Stop::listen()?;
    // Dropped where it stands when we are told to stop: with it go the sites.
    tokio::select! {
        outcome = tell(args, users) => outcome,
        name = stop.told() => {
            eprintln!("{name}: ending the sites and removing their folders ...");
            Err(Failure::new(
                Exit::Unfinished,
                anyhow::anyhow!("stopped by {name} before the end"),
            ))
        }
    }
}

async fn tell(args: &Demo, users: u32) -> Outcome {
    let began = std::time::Instant::now();
    show(
        "Starting five sites, throwaway PostgreSQL clusters on this machine, and loading the shop ...",
    )?;
    let stage = Stage::build(users)
        .await
        .or_fail(Exit::Unreached, || "cannot set the demo up".into())?;
    show(&format!(
        "{} users, all in Beijing, after {}",
        count(stage.users().len() as u64),
        seconds(began.elapsed())
    ))?;
    let played = play(&stage).await;
    let outcome = match &played {
        Ok(finale) => report(finale, args.json.as_deref()),
        Err(_) => Ok(Exit::Unfinished),
    };
    if args.keep {
        keep(stage)?;
    } else {
        drop(stage);
        show("The sites are ended and their folders removed.")?;
    }
    played.and(outcome)
}

/// Shows what it came to, and writes it to the file.
fn report(finale: &Finale, file: Option<&Path>) -> Outcome {
    let Finale {
        result,
        figures,
        complaints,
    } = finale;
    show("\n== What the writers' own log says, held against all sites")?;
    show(&render(result, Form::of_stdout(false)))?;
    for (phase, seen) in result.phases.iter().zip(figures) {
        let rate = phase.writes_acknowledged as f64 / phase.seconds.max(f64::MIN_POSITIVE);
        show(&format!(
            "{}: {rate:.0} acknowledged writes a second while users moved; {} writes since the beginning \
             looked for at every site; pauses are those of {} users, from the first write that was refused, or \
             sent on, to the first that was acknowledged at the new home.",
            phase.name,
            count(seen.writes_checked as u64),
            count(seen.pauses as u64),
        ))?;
    }
    for complaint in complaints {
        show(&format!("! {complaint}"))?;
    }
    if let Some(file) = file {
        let text = render(result, Form::Json) + "\n";
        std::fs::write(file, text).or_fail(Exit::Usage, || unwritable(file))?;
    }
    Ok(finale.exit())
}

/// Leaves the sites running and says how to look around.
fn keep(stage: Stage) -> Outcome<()> {
    let kept = stage
        .keep()
        .or_fail(Exit::Unreached, || "cannot keep the sites".into())?;
    let program = std::env::current_exe()
        .map_or_else(|_| "domicile".to_owned(), |path| path.display().to_string());
    let config = kept.config_file.display();
    let mut text = String::from("\n== The sites go on running; look around:\n");
    for (site, url) in &kept.databases {
        text.push_str(&format!("psql {url}   # {site}\n"));
    }
    for command in ["status", "where 17", "plan", "verify"] {
        text.push_str(&format!("{program} --config {config} {command}\n"));
    }
    text.push_str("Stop them and remove everything:\n");
    text.push_str(&format!("sh {}\n", kept.stop.display()));
    show(&text)
}

/// Found out before a minute has passed.
fn refuse_unwritable(file: &Path) -> Outcome<()> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match folder.is_dir() && !file.is_dir() {
        true => Ok(()),
        false => Err(Failure::usage(unwritable(file))),
    }
}

fn unwritable(file: &Path) -> String {
    format!("cannot write the result to {}", file.display())
}

/// The ways in which a process is told to stop.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Stop {
    fn listen() -> Outcome<Stop> {
        let on =
            |kind| signal(kind).or_fail(Exit::Unreached, || "cannot listen for signals".into());
        Ok(Stop {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }

    async fn told(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}
