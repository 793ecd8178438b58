//! The ledger: what a site writes down so that it cannot be taken back unseen, and what anyone can check of it offline.
//!
//! Pure: no I/O, no database, and no clock but what is passed in. An [`entry`] has one canonical text; the texts are the leaves
//! of a Merkle [`tree`] (RFC 6962); a [`head`] names size and root of the tree, signed by the site and countersigned by its
//! peers as a [`note`] of C2SP's formats; a [`witness`] signs only what continues what it signed before. A [`bundle`] carries a
//! whole ledger, a [`proof`] what it says of one user, a [`receipt`] of one erasure; all are checked against [`pins`](key::Pins) alone.
//! What is [`destroyed`] is stated by operators, in the form of a note too.

pub mod bundle;
pub mod destroyed;
pub mod entry;
mod finding;
pub mod head;
pub mod key;
pub mod keyring;
pub mod note;
pub mod proof;
pub mod receipt;
mod statement;
pub mod tree;
mod verify;
pub mod witness;

pub use finding::{Finding, Kind};
