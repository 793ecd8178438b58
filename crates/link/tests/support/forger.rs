//! Whoever speaks the protocol by hand: made from `docs/link.md`, not from the crate's code.
