//! Moves rows: the catalog and its classification, slot and stream, copy, decode, assemble, apply, digest,
//! delete.
//!
//! SQL about the application's tables stands here, and in `residency` for the guard, and nowhere else.

pub mod apply;
pub mod audit;
pub mod barred;
pub mod catalog;
pub mod census;
pub mod classify;
pub mod connect;
pub mod copy;
pub mod copy_rows;
pub mod delete;
pub mod digest;
mod error;
pub mod export;
pub mod foreign_keys;
pub mod horizon;
pub mod lsn;
pub mod markets;
pub mod names;
pub mod pace;
pub mod pgoutput;
pub mod plans;
pub mod preflight;
pub mod propose;
pub mod references;
pub mod replica;
pub mod scrub;
pub mod shape;
pub mod sharing;
pub mod slot;
pub mod snapshot;
pub mod standbys;
pub mod stream;
pub mod ties;
pub mod transaction;
pub mod users;
pub mod verify;

pub use error::{Error, Result, Said};
pub use residency::kept;
