//! What the process that carries a move says of itself, for `status` in another process.

use serde::{Deserialize, Serialize};

/// What one half of a move is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Nothing: it waits for the other half, or has ended.
    #[default]
    Idle,
    /// Making the slot, which waits for open transactions.
    MakingSlot,
    /// Bringing into order what an earlier run left.
    Recovering,
    /// Enrolling users, and waiting for transactions that began before.
    Enrolling,
    /// Copying a chunk.
    Copying,
    /// Applying what was changed while a chunk was copied.
    CatchingUp,
    /// Handing batches off.
    HandingOff,
    /// Holding still, as told.
    Paused,
}

/// A wait that takes long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// For how long.
    pub seconds: u64,
    /// Who is waited for, where that is known: processes and prepared transactions.
    pub who: Vec<String>,
}

/// How the distance between the source's log and what is applied at the target changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trend {
    /// It does not, or it is not known yet.
    #[default]
    Steady,
    /// The target falls behind.
    Grows,
    /// The target catches up.
    Falls,
}

/// What a process that carries a move does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Activity {
    /// Whether it has heard that it is to hold still, or to end.
    pub held: bool,
    /// The half that copies.
    pub copying: Step,
    /// The half that hands off.
    pub handing: Step,
    /// Bytes copied a second, over the last ten seconds or so.
    pub bytes_per_second: u64,
    /// The throttle in force, in bytes a second.
    pub rate: Option<u64>,
    /// Bytes of the source's log that the target has not confirmed. What concerns no user who moves counts too.
    pub lag_bytes: Option<u64>,
    /// How that changes.
    pub lag_trend: Trend,
    /// Waiting for transactions that began before the slot or the enrolment.
    pub barrier: Option<Wait>,
    /// Fences that do not get in, since the last batch that did.
    pub fence: Option<Wait>,
    /// How often the fence was tried in vain since then.
    pub fence_tries: u32,
    /// For how long the target has been too far behind for any fence, in seconds.
    pub behind: Option<u64>,
}

// === impl Activity ===

impl Activity {
    /// As it was stored; what cannot be read counts as nothing said.
    pub fn deserialized(stored: &serde_json::Value) -> Self {
        Self::deserialize(stored).unwrap_or_default()
    }

    /// Whether it holds still: neither half does anything, and neither will before it is told to go on.
    pub fn paused(&self) -> bool {
        let still = |step| matches!(step, Step::Paused | Step::Idle);
        self.held && still(self.copying) && still(self.handing)
    }

    /// What it does, in a few words.
    pub fn words(&self) -> &'static str {
        if self.paused() {
            return "paused";
        }
        let barrier = if self.barrier.is_some() {
            "waiting for open transactions"
        } else {
            "enrolling"
        };
        let steps = [self.handing, self.copying];
        match (self.handing, self.copying) {
            _ if steps.contains(&Step::MakingSlot) => "making the slot",
            _ if steps.contains(&Step::Recovering) => "putting an earlier run in order",
            (Step::HandingOff, _) if self.behind.is_some() => "waiting for the target",
            (Step::HandingOff, _) if self.fence.is_some() => "waiting for writers to close a batch",
            (Step::HandingOff, Step::Copying) => "copying and handing off",
            (Step::HandingOff, _) => "handing off",
            (_, Step::Enrolling) => barrier,
            (_, Step::Copying) => "copying",
            _ if steps.contains(&Step::CatchingUp) => "catching up",
            _ => "between two steps",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(copying: Step, handing: Step) -> Activity {
        Activity {
            held: [copying, handing].contains(&Step::Paused),
            copying,
            handing,
            ..Activity::default()
        }
    }

    #[test]
    fn it_is_paused_only_when_both_halves_hold_still() {
        assert!(at(Step::Paused, Step::Paused).paused());
        assert!(at(Step::Idle, Step::Paused).paused());
        assert!(!at(Step::Paused, Step::HandingOff).paused());
        assert!(!at(Step::Enrolling, Step::Paused).paused());
        assert!(!at(Step::Idle, Step::Idle).paused());
        let gone_on = Activity {
            held: false,
            ..at(Step::Paused, Step::Paused)
        };
        assert!(!gone_on.paused());
    }

    #[test]
    fn the_wait_is_named_before_the_work() {
        assert_eq!(at(Step::Copying, Step::Idle).words(), "copying");
        assert_eq!(
            at(Step::Copying, Step::HandingOff).words(),
            "copying and handing off"
        );
        let waiting = Activity {
            barrier: Some(Wait::default()),
            ..at(Step::Enrolling, Step::Idle)
        };
        assert_eq!(waiting.words(), "waiting for open transactions");
        let behind = Activity {
            behind: Some(7),
            ..at(Step::Idle, Step::HandingOff)
        };
        assert_eq!(behind.words(), "waiting for the target");
    }

    #[test]
    fn an_activity_reads_back_and_an_unknown_shape_of_an_earlier_version_too() {
        let activity = at(Step::Paused, Step::Idle);
        let stored = serde_json::to_value(&activity).unwrap();
        assert_eq!(
            serde_json::from_value::<Activity>(stored).unwrap(),
            activity
        );
        let older = serde_json::json!({"copying": "copying"});
        assert_eq!(
            serde_json::from_value::<Activity>(older).unwrap().copying,
            Step::Copying
        );
    }
}
