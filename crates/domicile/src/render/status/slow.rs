//! What is slow about a running move, and why, in sentences. Pure.

use std::time::Duration;

use mover::activity::{Activity, Step, Trend, Wait};
use residency::steering::Wish;

use super::super::bytes;

/// A process that says nothing for this long hangs, or its machine does.
const SILENT: Duration = Duration::from_secs(10);
/// A lag below this is none: the server tells its position only now and then.
const LAG: u64 = 16 << 20;

/// What is known of a running move.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// What is wished of it.
    pub wish: Wish,
    /// What the process that carries it said last, and how long ago; none where no process does.
    pub said: Option<(&'a Activity, Duration)>,
    /// Whether some process moves users from there at all.
    pub office_held: bool,
    /// The WAL that the slot keeps back, and the cap.
    pub wal: Option<(u64, u64)>,
}

// === impl Known ===

impl Known<'_> {
    /// The move's state: `running`, `pausing`, `paused`, `aborting`, or `interrupted` where no process carries it.
    pub fn state(&self) -> &'static str {
        match (self.wish, self.said) {
            (Wish::Abort, _) => "aborting",
            (Wish::Pause, None) => "paused",
            (Wish::Pause, Some((activity, _))) if activity.paused() => "paused",
            (Wish::Pause, Some(_)) => "pausing",
            (Wish::Go, Some(_)) => "running",
            (Wish::Go, None) => "interrupted",
        }
    }

    /// Everything that keeps it from going as fast as it could.
    pub fn slow(&self) -> Vec<String> {
        let mut why = Vec::new();
        match self.said {
            Some((activity, age)) => {
                if age >= SILENT {
                    why.push(format!(
                        "its process has said nothing for {} s: what follows may be old",
                        age.as_secs()
                    ));
                }
                if self.state() == "paused" {
                    why.push("it holds still until `domicile resume`".to_owned());
                } else {
                    why.extend(waits(activity));
                }
            }
            None => why.push(self.not_carried()),
        }
        if let Some((kept, cap)) = self.wal
            && kept > cap / 2
        {
            why.push(format!(
                "the slot keeps back {} of WAL; at {} (limits.wal) the move is given up",
                bytes(kept),
                bytes(cap)
            ));
        }
        why
    }

    fn not_carried(&self) -> String {
        let what = match self.wish {
            Wish::Go if self.office_held => {
                return "another run moves users from there now: run apply when that has ended"
                    .to_owned();
            }
            Wish::Go => "not running; run apply to go on",
            Wish::Pause => "not running, and paused: `domicile resume`, then run apply to go on",
            Wish::Abort => "not running, and to be aborted: run `domicile abort` again",
        };
        match self.wal {
            Some(_) => format!("{what} (meanwhile the slot keeps all WAL back)"),
            None => what.to_owned(),
        }
    }
}

fn waits(activity: &Activity) -> Vec<String> {
    let mut why = Vec::new();
    if let Some(wait) = &activity.barrier {
        why.push(format!(
            "it has waited {} s for transactions that began before: {}",
            wait.seconds,
            who(wait)
        ));
    }
    if let Some(wait) = &activity.fence {
        why.push(format!(
            "a batch could not be closed in {} tries over {} s, as transactions of its users are open: {}",
            activity.fence_tries,
            wait.seconds,
            who(wait)
        ));
    }
    let lag = activity.lag_bytes.unwrap_or_default();
    let trend = match activity.lag_trend {
        Trend::Grows => ", and growing",
        Trend::Falls => ", and falling",
        Trend::Steady => "",
    };
    if let Some(seconds) = activity.behind {
        why.push(format!(
            "the target has been too far behind the change stream for {seconds} s: {} of log{trend}",
            bytes(lag)
        ));
    } else if lag >= LAG {
        why.push(format!(
            "the target is {} of log behind the change stream{trend}",
            bytes(lag)
        ));
    }
    if let Some(rate) = activity.rate
        && activity.copying == Step::Copying
    {
        why.push(format!("copying is throttled to {}/s", bytes(rate)));
    }
    why
}

fn who(wait: &Wait) -> String {
    match wait.who.as_slice() {
        [] => "they ended before they could be named".to_owned(),
        named => named.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(wish: Wish, said: Option<&Activity>) -> Known<'_> {
        Known {
            wish,
            said: said.map(|activity| (activity, Duration::ZERO)),
            office_held: said.is_some(),
            wal: None,
        }
    }

    #[test]
    fn a_move_that_nobody_carries_is_never_said_to_run() {
        assert_eq!(known(Wish::Go, None).state(), "interrupted");
        assert_eq!(
            known(Wish::Go, None).slow(),
            ["not running; run apply to go on"]
        );
        assert_eq!(known(Wish::Pause, None).state(), "paused");
        assert!(known(Wish::Pause, None).slow()[0].contains("resume"));
        let other = Known {
            office_held: true,
            ..known(Wish::Go, None)
        };
        assert!(other.slow()[0].starts_with("another run"));
    }

    #[test]
    fn it_is_paused_only_once_it_holds_still() {
        let handing = Activity {
            held: true,
            handing: Step::HandingOff,
            ..Activity::default()
        };
        assert_eq!(known(Wish::Pause, Some(&handing)).state(), "pausing");
        let still = Activity {
            handing: Step::Paused,
            ..handing
        };
        assert_eq!(known(Wish::Pause, Some(&still)).state(), "paused");
        assert_eq!(known(Wish::Go, Some(&still)).state(), "running");
    }

    #[test]
    fn whoever_holds_it_up_is_named() {
        let activity = Activity {
            copying: Step::Copying,
            rate: Some(1 << 20),
            barrier: Some(Wait {
                seconds: 7,
                who: vec!["process 12 of shop, open for 00:00:09".to_owned()],
            }),
            fence: Some(Wait {
                seconds: 3,
                who: Vec::new(),
            }),
            fence_tries: 4,
            behind: Some(5),
            lag_bytes: Some(32 << 20),
            lag_trend: Trend::Grows,
            ..Activity::default()
        };
        let silent = Known {
            said: Some((&activity, Duration::from_secs(30))),
            wal: Some((9, 10)),
            ..known(Wish::Go, Some(&activity))
        };
        let why = silent.slow();
        for (n, part) in [
            "nothing for 30 s",
            "process 12 of shop",
            "4 tries over 3 s",
            "32.0 MiB of log, and growing",
            "throttled to 1.0 MiB/s",
            "keeps back 9 B",
        ]
        .into_iter()
        .enumerate()
        {
            assert!(why[n].contains(part), "{why:?}");
        }
        assert_eq!(why.len(), 6);
        assert!(
            known(Wish::Go, Some(&Activity::default()))
                .slow()
                .is_empty()
        );
    }
}
