//! Planted bugs and stopping points, for the tests that show that the checks catch them.
//!
//! Without the feature `planted-faults` everything here is constant and compiles to nothing. With it,
//! a test plants one bug for its own thread (`plant`), or a child process is told by environment:
//! `DOMICILE_BUG=name` plants a bug, `DOMICILE_STOP=point[:n]` ends the process with SIGKILL's effect
//! (abort, no clean-up) the n-th time it passes `point`, and `DOMICILE_HOLD=point[:n]=FILE` creates FILE
//! there and waits until somebody removes it. Where a point is `@ORDER`, it is the one whose name stands in the file ORDER, if
//! there is one, when it is passed next; the file is removed: so a process that runs can be told.

/// A bug that a test may plant. Each is a mistake that somebody made, or would make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// The guard reads the record with a plain SELECT and takes no lock.
    GuardPlainSelect,
    /// The guard looks at NEW only, so that an UPDATE may take a row from a user who left.
    GuardWithoutOld,
    /// Users are enrolled and copied before the replication slot exists.
    EnrolBeforeSlot,
    /// No barrier between enrolment and snapshot.
    NoBarrier,
    /// The barrier waits for transactions up to the enrolment's own id only.
    BarrierAtOwnId,
    /// The slot is confirmed before the changes are applied.
    AckBeforeApply,
    /// The stream position is written in another transaction than the rows.
    PositionApart,
    /// The source aborts a batch that it has already offered.
    AbortFromOffered,
    /// A refused user's record is deleted at the target.
    DeleteRecordOnRefusal,
    /// The target answers a question about a batch from the user's present state.
    AnswerFromState,
    /// An UPDATE or DELETE that finds no row is skipped.
    SkipMissingRow,
    /// Row hashes are combined with XOR.
    DigestXor,
    /// The handoff is accepted without comparing digests.
    AcceptUnverified,
    /// A fence uses the epoch that the record already has.
    EpochReuse,
    /// A refused user who goes again does so through `settled`.
    RefusedThroughSettled,
    /// Erasure does not look whether the user still lives elsewhere.
    EraseUnconditionally,
    /// Refusal and cancellation forget the record that `arriving` replaced.
    ForgetKept,
    /// The target accepts although a decision for the batch stands already.
    SecondDecision,
    /// Nobody looks whether the tables change while users move.
    SchemaUnwatched,
    /// Users are enrolled, or begin to arrive, without a look whether the guard stands.
    EnrolUnguarded,
    /// The guard is taken off without a look whether anybody is neither settled nor erased.
    RestUnsettled,
    /// Erased rows count as vacuumed after VACUUM alone, without new indexes and without a look at the files.
    VacuumAlone,
    /// Now and then an INSERT is not applied, and the handoff is accepted all the same: what is left is for
    /// a reader who trusts nobody to find.
    LoseRow,
    /// A site is opened after a restart without having heard its peers.
    OpenUncompared,
}

impl Bug {
    /// Every bug, with the name under which a child process is told of it.
    pub const ALL: &'static [(&'static str, Bug)] = &[
        ("guard-plain-select", Bug::GuardPlainSelect),
        ("guard-without-old", Bug::GuardWithoutOld),
        ("enrol-before-slot", Bug::EnrolBeforeSlot),
        ("no-barrier", Bug::NoBarrier),
        ("barrier-at-own-id", Bug::BarrierAtOwnId),
        ("ack-before-apply", Bug::AckBeforeApply),
        ("position-apart", Bug::PositionApart),
        ("abort-from-offered", Bug::AbortFromOffered),
        ("delete-record-on-refusal", Bug::DeleteRecordOnRefusal),
        ("answer-from-state", Bug::AnswerFromState),
        ("skip-missing-row", Bug::SkipMissingRow),
        ("digest-xor", Bug::DigestXor),
        ("accept-unverified", Bug::AcceptUnverified),
        ("epoch-reuse", Bug::EpochReuse),
        ("refused-through-settled", Bug::RefusedThroughSettled),
        ("erase-unconditionally", Bug::EraseUnconditionally),
        ("forget-kept", Bug::ForgetKept),
        ("second-decision", Bug::SecondDecision),
        ("schema-unwatched", Bug::SchemaUnwatched),
        ("enrol-unguarded", Bug::EnrolUnguarded),
        ("rest-unsettled", Bug::RestUnsettled),
        ("vacuum-alone", Bug::VacuumAlone),
        ("lose-row", Bug::LoseRow),
        ("open-uncompared", Bug::OpenUncompared),
    ];
}

#[cfg(not(feature = "planted-faults"))]
mod imp {
    use super::Bug;

    /// Whether `bug` is planted: never, in a build without the feature.
    #[inline(always)]
    pub const fn planted(_: Bug) -> bool {
        false
    }

    /// A place where a test may stop the process: nothing, in a build without the feature.
    #[inline(always)]
    pub const fn point(_: &str) {}

    /// Whether a test holds the process at a step: never, in a build without the feature.
    #[inline(always)]
    pub const fn is_held() -> bool {
        false
    }
}

#[cfg(feature = "planted-faults")]
mod imp {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::sync::{Mutex, OnceLock};

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    fn from_environment() -> Option<Bug> {
        static BUG: OnceLock<Option<Bug>> = OnceLock::new();
        *BUG.get_or_init(|| {
            let name = std::env::var("DOMICILE_BUG").ok()?;
            let found = Bug::ALL.iter().find(|(known, _)| *known == name);
            Some(
                found
                    .unwrap_or_else(|| panic!("DOMICILE_BUG={name}: no such bug"))
                    .1,
            )
        })
    }

    /// Whether `bug` is planted in this thread or, by the environment, in this process.
    pub fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug) || from_environment() == Some(bug)
    }

    /// Plants `bug` (or none) in this thread.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether a test holds the process at a step: what goes on beside it would be held in the middle, too, with whatever
    /// it has locked.
    pub fn is_held() -> bool {
        std::env::var_os("DOMICILE_HOLD").is_some()
    }

    /// Whether `name` stands in the file `order`. Whoever removes that is the only one.
    fn ordered(order: &str, name: &str) -> bool {
        let stands = std::fs::read_to_string(order).is_ok_and(|point| point == name);
        stands && std::fs::remove_file(order).is_ok()
    }

    /// A place where a test may stop or hold the process.
    pub fn point(name: &str) {
        static PASSED: OnceLock<Mutex<HashMap<String, u32>>> = OnceLock::new();
        let passed = {
            let mut passed = PASSED
                .get_or_init(Default::default)
                .lock()
                .expect("no panic inside");
            let count = passed.entry(name.to_owned()).or_default();
            *count += 1;
            *count
        };
        let here = |spec: &str| match (spec.strip_prefix('@'), spec.split_once(':')) {
            (Some(order), _) => ordered(order, name),
            (None, Some((point, n))) => point == name && n.parse() == Ok(passed),
            (None, None) => spec == name && passed == 1,
        };
        if let Ok(log) = std::env::var("DOMICILE_POINTS") {
            use std::io::Write;
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(log);
            if let Ok(mut file) = file {
                // In one piece: other threads pass points at the same time.
                let _ = file.write_all(format!("{name}:{passed}\n").as_bytes());
            }
        }
        if std::env::var("DOMICILE_STOP").is_ok_and(|spec| here(&spec)) {
            std::process::abort();
        }
        if let Ok(hold) = std::env::var("DOMICILE_HOLD")
            && let Some((spec, file)) = hold.split_once('=')
            && here(spec)
        {
            std::fs::write(file, name).expect("the test's hold file can be written");
            while std::path::Path::new(file).exists() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

#[cfg(feature = "planted-faults")]
pub use imp::plant;
pub use imp::{is_held, planted, point};
