//! A shop whose users' data Domicile moves: the reference application of tests, benchmarks and the
//! demo.
//!
//! It knows Domicile only as any application would: a write that is refused with SQLSTATE `40001`
//! is tried again, and one refused with `DM421` is tried at the site that the error's DETAIL names.
//!
//! - [`application`]: the shop behind HTTP.
//! - [`chinook`]: the public sample shop, 59 customers.
//! - [`generate`]: the same schema grown to any size.
//! - [`workload`]: writers that keep the shop busy and log every acknowledged write.
//! - [`check`]: compares all sites with that log and counts what was lost, duplicated or misplaced.

pub mod application;
pub mod check;
pub mod chinook;
pub mod generate;
pub mod log;
mod rows;
mod site;
pub mod workload;

pub use site::Site;
