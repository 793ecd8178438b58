//! The merge of copy and stream equals serial replay, whatever interleaves with whatever.
//!
//! A small source database with snapshots, row locks, transactions that wait between their commit record and
//! being seen, and two chunks that are enrolled, copied and followed by a process that dies now and then. What decides
//! is the real thing: assembler, spool format, snapshot, and the rule beside which this stands.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};

mod follower;
mod source;

use follower::Follower;
use source::Source;

/// The users of one copying attempt each; user 3 stays.
const GROUPS: [&[u8]; 2] = [&[0, 1], &[2]];

/// A mistake planted in what the rule is told, or in what is done with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// A commit *at* the position counts as above it.
    AtThePosition,
    /// The snapshot of a chunk that streams is ignored.
    WithoutSnapshot,
    /// Transactions that ran while the snapshot was taken count as seen.
    RunningCountAsSeen,
    /// Only what ended before the oldest running transaction counts as seen.
    EndedCountAsUnseen,
    /// What the snapshot saw is not left out of the spool.
    SpoolUnsorted,
    /// Rows and position are written apart.
    PositionApart,
    /// The slot is confirmed before the rows are written.
    ConfirmedFirst,
    /// The slot begins when the first chunk is copied.
    SlotLate,
    /// The snapshot is taken without waiting for older writers.
    NoBarrier,
    /// The stream's 32-bit ids are taken for full ones.
    Narrow,
}

const WRONG: [Wrong; 10] = [
    Wrong::AtThePosition,
    Wrong::WithoutSnapshot,
    Wrong::RunningCountAsSeen,
    Wrong::EndedCountAsUnseen,
    Wrong::SpoolUnsorted,
    Wrong::PositionApart,
    Wrong::ConfirmedFirst,
    Wrong::SlotLate,
    Wrong::NoBarrier,
    Wrong::Narrow,
];

/// What is to happen, as three numbers a step; what cannot happen then is passed over.
type Script = Vec<[u8; 4]>;

fn script() -> impl Strategy<Value = (u8, Script)> {
    (
        any::<u8>(),
        proptest::collection::vec(any::<[u8; 4]>(), 0..200),
    )
}

/// Plays a script to its end.
///
/// # Errors
/// What differs from serial replay, or could not be applied.
fn play(wrong: Wrong, (start, script): &(u8, Script)) -> Result<Seen, String> {
    let mut source = Source::new(*start);
    let mut follower = Follower::new(wrong);
    for &[what, who, which, how] in script {
        let transaction = usize::from(who % 4);
        match what % 40 {
            0..=1 => source.begin(transaction, how % 4 == 0),
            2..=13 => source.write(transaction, which, how),
            14..=16 => source.record_commit(transaction),
            17..=19 => source.end(transaction),
            20 => source.abort(transaction),
            21..=22 => follower.enrol(&mut source, usize::from(who % 2)),
            23..=26 => follower.snapshot(&source, usize::from(who % 2)),
            27..=28 => follower.copied(usize::from(who % 2)),
            29..=31 => follower.drain(usize::from(who % 2))?,
            32..=36 => follower.stream(&source, 1 + usize::from(how % 4), which)?,
            37..=38 => follower.confirm(),
            _ => follower.crash(&mut source),
        }
    }
    source.finish();
    let seen = follower.finish(&mut source)?;
    for (group, users) in GROUPS.iter().enumerate() {
        for user in *users {
            if follower.is_spoilt(group, *user) {
                if source.handovers == 0 {
                    return Err(format!("user {user} is sent back without a cause"));
                }
                continue;
            }
            let (here, there) = (source.rows_of(*user), follower.rows_of(*user));
            if here != there {
                return Err(format!("user {user} has {there:?} instead of {here:?}"));
            }
        }
    }
    Ok(seen)
}

/// What a script made happen, so that a test can say that it tests something.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Changes applied straight from the stream.
    streamed: usize,
    /// Changes applied from the spool.
    drained: usize,
    /// Transactions left out because a snapshot saw them.
    left_out: usize,
    /// Transactions read again after a crash.
    again: usize,
}

fn cases() -> u32 {
    let wanted = std::env::var("DOMICILE_CASES").ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

#[test]
fn copy_and_stream_meet_without_gap_or_overlap() {
    let mut total = Seen::default();
    let mut runner = TestRunner::new(Config {
        cases: cases(),
        failure_persistence: None,
        ..Config::default()
    });
    let result = {
        let total = std::cell::RefCell::new(&mut total);
        runner.run(&script(), |script| {
            let seen = play(Wrong::Nothing, &script).map_err(TestCaseError::fail)?;
            let mut total = total.borrow_mut();
            total.streamed += seen.streamed;
            total.drained += seen.drained;
            total.left_out += seen.left_out;
            total.again += seen.again;
            Ok(())
        })
    };
    if let Err(error) = result {
        panic!("{error}");
    }
    let least = cases() as usize / 10;
    let counts = [total.streamed, total.drained, total.left_out, total.again];
    assert!(counts.iter().all(|count| *count >= least), "{total:?}");
}

#[test]
fn every_planted_mistake_is_caught() {
    let mut runner = TestRunner::deterministic();
    let mut left = WRONG.to_vec();
    for _ in 0..6_000 {
        let script = script().new_tree(&mut runner).expect("a script").current();
        left.retain(|wrong| play(*wrong, &script).is_ok());
        if left.is_empty() {
            return;
        }
    }
    panic!("{left:?} pass every script");
}
