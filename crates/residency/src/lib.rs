//! Who lives here: the residency record and the guard; the only place where a home changes.
//!
//! Everything here is local to one home database. The record of a user changes only through
//! [`records::change`], which runs [`handoff::record::step`] on a row that it holds under lock.

pub mod audit;
pub mod barrier;
pub mod claims;
pub mod closings;
pub mod decisions;
pub mod door;
pub mod entries;
pub mod erasures;
mod error;
pub mod fence;
pub mod gateways;
pub mod guard;
pub mod inbound;
pub mod install;
pub mod journal;
pub mod kept;
pub mod left;
pub mod log;
mod need;
pub mod office;
pub mod policy;
pub mod reclaim;
pub mod records;
pub mod rest;
pub mod schema;
pub mod steering;
pub mod tidings;
pub mod traffic;
pub mod vitals;
pub mod watch;
pub mod whereabouts;
pub mod witness;

pub use error::{Error, Result};

/// The first half of every advisory lock key that Domicile takes, so that it meets no other program's.
pub const LOCK_CLASS: i32 = 0x446F_6D69;

/// Into how many stripes the users of a database are spread for locking. One bulk UPDATE over all moving
/// users takes at most so many entries of the shared lock table.
pub const STRIPES: i32 = 1024;
