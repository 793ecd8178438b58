//! Each bug of the protocol is found, and by which property.
//!
//! Where a second line of defence hides a bug, it is planted together with the loss of that line, and it is
//! shown that either alone breaks nothing.

use std::collections::BTreeSet;

use model::fault::Bug;

use crate::audit;
use crate::check::violated;
use crate::rules::{Bounds, Sites, Slip};
use crate::{ONE_USER, THREE_SITES};

fn with(bounds: Bounds, bug: Bug, slip: Option<Slip>) -> BTreeSet<&'static str> {
    violated(Sites {
        bug: Some(bug),
        slip,
        ..Sites::new(bounds)
    })
}

fn slip(bounds: Bounds, slip: Slip) -> BTreeSet<&'static str> {
    violated(Sites {
        slip: Some(slip),
        ..Sites::new(bounds)
    })
}

/// Small enough to be explored whole when nothing is found, large enough for a refused batch to go again.
const SMALL: Bounds = Bounds {
    crashes: 0,
    refusals: false,
    ..ONE_USER
};

/// A user may go to a second site and on to a third, and a fourth `begin` may come to nothing.
const ONWARD: Bounds = Bounds {
    chunks: 3,
    writes: 0,
    refusals: false,
    operators: false,
    ..THREE_SITES
};

/// I1: the source reopens and the target accepts.
#[test]
fn abort_from_offered_breaks_i1() {
    let found = with(SMALL, Bug::AbortFromOffered, None);
    assert!(found.contains("I1"), "{found:?}");
}

/// I1: at the origin the lack of a record means that the user lives there.
#[test]
fn a_record_deleted_on_refusal_breaks_i1() {
    let found = with(SMALL, Bug::DeleteRecordOnRefusal, None);
    assert!(found.contains("I1"), "{found:?}");
}

/// Asked about the return journey, the first source still has its own offer open, counts as home for that, and
/// says that it accepted: then nobody is home.
#[test]
fn an_answer_from_the_present_state_leaves_no_home() {
    let found = with(SMALL, Bug::AnswerFromState, None);
    assert!(found.contains("one home"), "{found:?}");
}

/// I1: the user has moved on to a third site before the first asks, is not seen at the second, and is
/// reopened at the first.
#[test]
fn an_answer_from_the_present_state_breaks_i1() {
    let found = violated(Sites {
        bug: Some(Bug::AnswerFromState),
        watched: audit::I1,
        ..Sites::new(ONWARD)
    });
    assert!(found.contains("I1"), "{found:?}");
}

/// I4, at the fence itself. No user would ever arrive either, as no target takes an epoch twice.
#[test]
fn a_reused_epoch_breaks_i4() {
    let found = with(SMALL, Bug::EpochReuse, None);
    assert!(found.contains("I4"), "{found:?}");
}

/// I1: a writer who found the user settled commits after the fence.
#[test]
fn a_missing_barrier_breaks_i1() {
    let found = with(SMALL, Bug::NoBarrier, None);
    assert!(found.contains("I1"), "{found:?}");
}

/// I4: a site names a home under an epoch at which it has named another. Nothing is lost by it, but who
/// listens there cannot tell the newer word from the older.
#[test]
fn a_forgotten_record_breaks_i4() {
    let found = with(ONWARD, Bug::ForgetKept, None);
    assert!(found.contains("I4"), "{found:?}");
}

/// I2 and I6: a receipt of the first journey is acted on after the return.
#[test]
fn an_unconditional_erasure_breaks_i2() {
    let found = with(SMALL, Bug::EraseUnconditionally, None);
    assert!(found.contains("I2") && found.contains("I6"), "{found:?}");
}

/// I1, as a pair: alone, the attempt that follows has its own barrier; and the barrier may be left out where
/// the users never ceased to move.
#[test]
fn refused_through_settled_breaks_i1_where_the_barrier_is_not_repeated() {
    let bug = Bug::RefusedThroughSettled;
    assert_eq!(with(SMALL, bug, None), BTreeSet::new());
    assert_eq!(slip(SMALL, Slip::NoBarrierAfterRefusal), BTreeSet::new());
    let found = with(SMALL, bug, Some(Slip::NoBarrierAfterRefusal));
    assert!(found.contains("I1"), "{found:?}");
}

/// I1, as a pair: alone, the row that stands already stops the acceptance (in the database, its primary
/// key); and the row is never written twice where the judge looks at it first.
#[test]
fn a_second_decision_breaks_i1_where_the_row_is_overwritten() {
    let bug = Bug::SecondDecision;
    assert_eq!(with(SMALL, bug, None), BTreeSet::new());
    assert_eq!(slip(SMALL, Slip::DecisionOverwritten), BTreeSet::new());
    let found = with(SMALL, bug, Some(Slip::DecisionOverwritten));
    assert!(found.contains("I1"), "{found:?}");
}

/// I2, as a pair: alone, there is nothing wrong to be accepted; and a lost change alone is refused (see
/// `a_lost_change_alone_is_refused_by_the_digest`).
#[test]
fn an_unverified_acceptance_breaks_i2_where_a_change_is_lost() {
    let bug = Bug::AcceptUnverified;
    assert_eq!(with(SMALL, bug, None), BTreeSet::new());
    let found = with(SMALL, bug, Some(Slip::ChangeLost));
    assert!(found.contains("I2"), "{found:?}");
}
