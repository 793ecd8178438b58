//! The words that Domicile uses: names, epochs, policy, ownership, tables and plans.
//!
//! Nouns only. No I/O, no async, no clock: whatever reads a database, a file or the time lives in
//! another room and hands its findings over as values of these types.

mod causes;
pub mod fault;
mod ids;
pub mod ownership;
pub mod pin;
pub mod plan;
pub mod policy;
pub mod table;
pub mod way;

pub use causes::causes;
pub use ids::{
    Attempt, BatchId, Epoch, KEY_BYTES_MAX, KeyKind, Market, MoveId, ServiceName, SiteName, UserKey,
};
