//! The protocol by which a user changes home, as a pure state machine: no I/O, no clock.
//!
//! - [`record`]: what one site knows of one user, and how one [`Event`](record::Event) changes it.
//! - [`decision`]: the target's word on one batch, said once.
//! - [`erasure`]: how far an erasure has come, and what may be said of it.
//! - [`judge`]: what the target decides about a handoff from what it found.
//! - [`steps`]: the durable steps by name, for the tests of deaths.
//! - [`tidings`]: what a peer's word about a user's home changes here.
//!
//! The same functions run in the mover's transactions and under the model checker
//! (`tests/model.rs`). The table of DESIGN section 6 is the list of events:
//!
//! | step | where | event |
//! |---|---|---|
//! | begin | target | [`Begin`](record::Event::Begin) |
//! | enrol, withdraw | source | [`Enrol`](record::Event::Enrol), [`Withdraw`](record::Event::Withdraw) |
//! | fence, reopen | source | [`Fence`](record::Event::Fence), [`Reopen`](record::Event::Reopen) |
//! | offer | source | [`Offer`](record::Event::Offer) |
//! | accept | target | [`judge::judge`], then [`Accept`](record::Event::Accept) or [`Clear`](record::Event::Clear) |
//! | departed, refused | source | [`Accepted`](record::Event::Accepted), [`Refused`](record::Event::Refused) |
//! | cancel, clean up | target | [`Clear`](record::Event::Clear), [`Cleared`](record::Event::Cleared) |
//! | erase | source | [`Erased`](record::Event::Erased) |
//! | erase a user at his home | home | [`Forgotten`](record::Event::Forgotten) |
//! | a database went back | that site | [`tidings::hear`], then [`Overtaken`](record::Event::Overtaken) or [`Miss`](record::Event::Miss) |
//! | reclaim from a destroyed target | source | [`Reclaim`](record::Event::Reclaim) |
//! | resolve a lost user | that site | [`TakeUp`](record::Event::TakeUp) or [`Cede`](record::Event::Cede) |

pub mod decision;
pub mod erasure;
pub mod judge;
pub mod record;
pub mod steps;
pub mod tidings;
