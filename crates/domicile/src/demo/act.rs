//! One phase: writers write for everybody, `apply` moves, then all sites are read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shop::check::{Verdict, check};
use shop::log::Log;
use shop::workload::{Ids, Isolation, UserSpec, Workload, WorkloadOptions};

use super::residences::Residences;
use super::stage::Stage;
use crate::cli::{Apply, Json};
use crate::commands::{apply, show};
use crate::config::Config;
use crate::exit::{Exit, OrFail, Outcome};
use crate::render::demo::DemoPhase;
use crate::summary::Pauses;

/// Concurrent writers: with [`THINK`], some 300 writes a second, which leaves two cores room for five
/// database servers and the mover. Many patient ones rather than few busy ones, so that the rate falls
/// less where the machine has other work to do.
const WRITERS: usize = 32;
/// A writer's pause between two writes.
const THINK: Duration = Duration::from_millis(100);
/// Writes before the phase begins and after it has ended: every move stands between writes.
const WRITES_AROUND: usize = 300;
/// How long these may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// More findings than a person reads.
const FINDINGS_MAX: usize = 20;

/// A phase to be carried out.
#[derive(Clone, Copy)]
pub(super) struct Act<'a> {
    pub(super) stage: &'a Stage,
    pub(super) config: &'a Config,
    pub(super) phase: &'a str,
    pub(super) ids: &'a Arc<Ids>,
}

/// What the phases so far leave to the next one.
pub(super) struct Past {
    /// Where everybody lives.
    pub(super) residences: Residences,
    /// Everything that the writers wrote since the beginning: an old copy at a former home may be as
    /// old as that.
    pub(super) log: Option<Log>,
    /// What was found wrong by the end of the phase before. It still stands there, and counts once.
    pub(super) found: Verdict,
}

/// What was seen of a phase besides its counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Users whose writers were refused, or sent on, because of the move.
    pub pauses: usize,
    /// Acknowledged writes that were held against the sites: all since the beginning.
    pub writes_checked: usize,
}

/// A phase that was carried out.
pub(super) struct Played {
    pub(super) counts: DemoPhase,
    pub(super) figures: Figures,
    pub(super) complaints: Vec<String>,
    pub(super) past: Past,
}

impl Act<'_> {
    /// Carries the phase out.
    pub(super) async fn play(&self, past: Past) -> Outcome<Played> {
        let before = past.residences;
        let workload = Workload::start(self.workload(&before))
            .await
            .or_fail(Exit::Unreached, || "cannot start the writers".into())?;
        more_writes(&workload).await?;
        let acknowledged_before = workload.acknowledged();
        let began = Instant::now();
        let applied = self.apply().await?;
        let seconds = began.elapsed().as_secs_f64();
        let acknowledged = workload.acknowledged() - acknowledged_before;
        more_writes(&workload).await?;
        let mut pauses = Pauses::default();
        let met = workload.pauses();
        met.iter().for_each(|pause| pauses.add(*pause, 1));
        let written = workload
            .stop()
            .await
            .or_fail(Exit::Unfinished, || "a writer failed".into())?;
        let anomalies = !written.anomalies.is_empty();
        let log = joined(past.log, written);

        show("Reading every user's rows at all sites, against the writers' log ...")?;
        let residences = Residences::read(self.stage).await?;
        let verdict = check(&self.stage.shop_sites(), &log, |user| {
            residences.residence(user)
        })
        .await
        .or_fail(Exit::Unreached, || "cannot read the sites".into())?;
        let new = |count: fn(&Verdict) -> usize| {
            count(&verdict).saturating_sub(count(&past.found)) as u64
        };
        let counts = DemoPhase {
            name: self.phase.to_owned(),
            service: Vec::new(),
            moved: residences.moved_since(&before),
            seconds,
            pause_ms: pauses.shown(),
            writes_acknowledged: acknowledged as u64,
            writes_lost: new(|verdict| verdict.lost),
            writes_duplicated: new(|verdict| verdict.duplicated),
            writes_misplaced: new(|verdict| verdict.misplaced),
        };
        Ok(Played {
            counts,
            figures: Figures {
                pauses: met.len(),
                writes_checked: verdict.acknowledged,
            },
            complaints: self.complaints(applied, &residences, &verdict, anomalies),
            past: Past {
                residences,
                log: Some(log),
                found: verdict,
            },
        })
    }

    async fn apply(&self) -> Outcome {
        let wanted = Apply {
            phase: Some(self.phase.to_owned()),
            users: None,
            site: None,
            yes: true,
            json: Json { json: false },
        };
        apply::unsealed(self.config, &wanted).await
    }

    fn workload(&self, residences: &Residences) -> WorkloadOptions {
        let users = self.stage.users().iter().map(|(key, _)| UserSpec {
            key: *key,
            first_home: residences.home(*key).to_owned(),
        });
        WorkloadOptions {
            sites: self.stage.shop_sites(),
            users: users.collect(),
            writers: WRITERS,
            think: THINK,
            isolations: Isolation::ALL.to_vec(),
            ids: Some(Arc::clone(self.ids)),
            ..WorkloadOptions::default()
        }
    }

    fn complaints(
        &self,
        applied: Exit,
        residences: &Residences,
        verdict: &Verdict,
        anomalies: bool,
    ) -> Vec<String> {
        let mut complaints = Vec::new();
        if applied != Exit::Done {
            complaints.push("not everybody moved: see above who was set aside, and why".to_owned());
        }
        if !residences.unclear.is_empty() {
            let users = residences.unclear.len();
            complaints.push(format!("{users} users do not live at exactly one site"));
        }
        if !verdict.is_clean() || anomalies {
            let all = verdict.details.len();
            complaints.extend(verdict.details.iter().take(FINDINGS_MAX).cloned());
            if all > FINDINGS_MAX {
                complaints.push(format!("and {} more findings", all - FINDINGS_MAX));
            }
        }
        let of_phase = |complaint| format!("{}: {complaint}", self.phase);
        complaints.into_iter().map(of_phase).collect()
    }
}

/// One log of everything: the users are the same, and what the second one found at its beginning is what
/// the first one left.
fn joined(earlier: Option<Log>, written: Log) -> Log {
    match earlier {
        None => written,
        Some(mut log) => {
            log.entries.extend(written.entries);
            log.anomalies.extend(written.anomalies);
            log
        }
    }
}

async fn more_writes(workload: &Workload) -> Outcome<()> {
    let goal = workload.acknowledged() + WRITES_AROUND;
    testbed::wait_until("the writers wrote", PATIENCE, async || {
        Ok(workload.acknowledged() >= goal)
    })
    .await
    .or_fail(Exit::Unfinished, || "the writers cannot write".into())
}
