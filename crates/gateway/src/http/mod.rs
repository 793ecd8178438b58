//! HTTP/1.1 as the gateway reads and writes it: strict, so that nobody behind it can take a message for another one.
//!
//! Lines, tokens and header fields are found by `httparse`; what this room adds is what a proxy must judge: where a message ends, and
//! what is refused because two readers could differ on it (RFC 9112 sections 6 and 11).

pub mod body;
pub mod head;
pub(crate) mod read;
pub mod respond;
pub mod response;
