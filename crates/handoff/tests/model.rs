//! The handoff, checked exhaustively: every order of every step within a configuration's bounds.
//!
//! What runs here is the protocol itself: [`handoff::record::step`], [`handoff::judge::judge`],
//! [`handoff::judge::answer`] and [`handoff::decision::decide`]. The model adds what stands around them: the sites' rows, the writers of the
//! application, the copy, messages, crashes, operators.
//!
//! Modelled:
//! - Records with every state but `lost`; at the origin no record means someone who was there at adoption.
//! - Writers that pass the guard and commit later. One that found the user settled holds no lock, and only the
//!   barrier waits for him; one that found him moving holds the lock, and the fence waits for him.
//! - Chunks (enrol, barrier, snapshot, copy, withdraw) and batches (fence, reopen, offer, hand off, ask, answer).
//!   The target may find against any subset of a batch.
//! - Messages that are lost, doubled and reordered without bound: whatever was ever sent may arrive at any
//!   later time, any number of times, or never. `cancel` and the answer to the target's question about one who
//!   arrives are one message, as they have one effect.
//! - Crashes: the mover's memory (has the barrier been passed?) and the writers in flight are lost. The rest of a
//!   recovery (reopen what is fenced, ask about what is offered) may happen at any time anyway.
//! - Two operators who plan for the same user at once, each saying `begin` before he knows whether he can enrol.
//! - Return journeys and erasure, with receipts that are acted on late.
//!
//! Not modelled: the slot and the order of the stream (the changes after the snapshot arrive with the handoff,
//! whole), deletions and updates (rows are a growing set), restores and promotions (`lost`), COMMITs of unknown outcome
//! other than by lost answers, an erasure in several transactions, foreign keys other than as a
//! finding against a user, a creation after the beginning, policy, leases and the gateway.
//!
//! Nothing is stuck: from every state met, recovery alone ends with every user settled somewhere and nothing
//! unfinished elsewhere. Recovery may not begin anything, and may not count on messages sent earlier: only on such as
//! their sender would send in that very state.

#[path = "model/audit.rs"]
mod audit;
#[path = "model/check.rs"]
mod check;
#[path = "model/graph.rs"]
mod graph;
#[cfg(feature = "planted-faults")]
#[path = "model/planted.rs"]
mod planted;
#[path = "model/rules.rs"]
mod rules;
#[path = "model/source.rs"]
mod source;
#[path = "model/table.rs"]
mod table;
#[path = "model/taking.rs"]
mod taking;
#[path = "model/target.rs"]
mod target;
#[path = "model/world.rs"]
mod world;

use check::{holds, violated};
use rules::{Bounds, Sites, Slip};

/// One user, born at the first of two sites.
const ONE_USER: Bounds = Bounds {
    sites: 2,
    users: 1,
    chunks: 2,
    batches: 2,
    writes: 1,
    crashes: 1,
    refusals: true,
    operators: false,
    born_at: 0,
};

/// Two users in one chunk.
const TWO_USERS: Bounds = Bounds {
    users: 2,
    crashes: 0,
    ..ONE_USER
};

/// Three sites, and operators who plan without knowing of each other.
const THREE_SITES: Bounds = Bounds {
    sites: 3,
    crashes: 0,
    operators: true,
    ..ONE_USER
};

#[test]
fn one_user_goes_and_returns_in_three_attempts() {
    let bounds = Bounds {
        chunks: 3,
        ..ONE_USER
    };
    holds("one user, three attempts", Sites::new(bounds));
}

#[test]
fn one_user_goes_returns_and_goes_again() {
    let bounds = Bounds {
        chunks: 3,
        batches: 3,
        crashes: 0,
        refusals: false,
        ..ONE_USER
    };
    holds("one user, three journeys", Sites::new(bounds));
}

#[test]
fn one_user_goes_and_returns_under_two_writes() {
    let bounds = Bounds {
        writes: 2,
        ..ONE_USER
    };
    holds("one user, two writes", Sites::new(bounds));
}

#[test]
fn one_user_who_was_born_elsewhere_goes_to_the_origin_and_returns() {
    let bounds = Bounds {
        born_at: 1,
        ..ONE_USER
    };
    holds("one user, born elsewhere", Sites::new(bounds));
}

#[test]
fn any_subset_of_a_batch_is_refused_and_the_rest_goes_again() {
    let bounds = Bounds {
        chunks: 1,
        batches: 3,
        ..TWO_USERS
    };
    holds("two users, one attempt", Sites::new(bounds));
}

#[test]
fn a_refused_user_goes_again_by_a_new_attempt_while_the_other_is_under_way() {
    let bounds = Bounds {
        batches: 3,
        writes: 0,
        ..TWO_USERS
    };
    holds("two users, two attempts", Sites::new(bounds));
}

#[test]
fn two_operators_move_one_user_to_different_sites() {
    holds("three sites, two operators", Sites::new(THREE_SITES));
}

#[test]
fn two_operators_and_a_third_journey_between_three_sites() {
    let bounds = Bounds {
        chunks: 3,
        writes: 0,
        refusals: false,
        ..THREE_SITES
    };
    holds("three sites, three attempts", Sites::new(bounds));
}

/// Minutes long; run it after a change of the protocol: `cargo test -p handoff -- --ignored --nocapture`.
#[test]
#[ignore = "minutes long"]
fn all_at_once_and_deeper() {
    let three_journeys = Bounds {
        chunks: 3,
        batches: 3,
        ..ONE_USER
    };
    holds("one user, all", Sites::new(three_journeys));
    holds("two users, all", Sites::new(TWO_USERS));
    let writes = Bounds {
        chunks: 3,
        refusals: false,
        ..THREE_SITES
    };
    holds("three sites, all", Sites::new(writes));
}

// === mistakes of the mover, which the model makes itself ===

fn slip(bounds: Bounds, slip: Slip) -> Sites {
    Sites {
        slip: Some(slip),
        ..Sites::new(bounds)
    }
}

/// I2: a late `copy` overwrites the rows of somebody who lives here by now.
#[test]
fn a_copy_that_does_not_look_at_the_record_is_found() {
    let found = violated(slip(ONE_USER, Slip::CopyUnconditionally));
    assert!(found.contains("I2"), "{found:?}");
}

/// I2: a late `cancel` deletes the rows of somebody who lives here by now.
#[test]
fn a_clean_up_that_does_not_look_at_the_record_is_found() {
    let found = violated(slip(ONE_USER, Slip::ClearUnconditionally));
    assert!(found.contains("I2"), "{found:?}");
}

/// The digest is the second line of defence; see `planted` for both together.
#[test]
fn a_lost_change_alone_is_refused_by_the_digest() {
    let found = violated(slip(ONE_USER, Slip::ChangeLost));
    assert!(found.is_empty(), "{found:?}");
}
