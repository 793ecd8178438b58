//! The link: the authenticated, encrypted channel between two sites.
//!
//! Pure transport. It knows sites, pins, and messages as bytes; nothing of moves, users or databases. Two sites have one
//! **session**: a control connection for requests and notices, and several bulk connections over which **transfers** are
//! striped, compressed. All are TLS 1.3, both sides show a certificate, and each believes the keys in its own
//! configuration and nobody else. `docs/link.md` tells the whole: what it protects against, formats, limits, changing keys.
//!
//! What a caller must know:
//!
//! - A request whose connection ends has an **unknown outcome**. It is never sent again of itself: ask.
//! - A notice may be lost with its connection.
//! - A transfer survives broken connections, and gives each byte once and in order; it does not survive either process.
//!
//! Reading order: `trust` (who is believed), `hello`, `transfer` (the pure rules), `control` and `bulk` (the two kinds of
//! connections), `shared` (what they have in common), `dial` and `listen`.

mod backoff;
mod block;
mod bulk;
mod certificate;
mod control;
mod dial;
mod endpoint;
mod hello;
mod identity;
mod inbox;
mod listen;
mod message;
mod peer;
mod pin;
mod receiving;
mod sealed;
mod sending;
mod shared;
mod socket;
mod tls;
mod transfer;
mod trust;
mod wire;

pub use block::{BLOCK_MAX, RATIO_MAX, WINDOW_LOG_MAX};
pub use endpoint::{Dials, Endpoint, PeerSettings, Settings, StartError, who_dials};
pub use hello::FLOWS_MAX;
pub use identity::{Identity, IdentityError, NewKey, key_text};
pub use inbox::{Inbox, Incoming, Request, WAITING_MAX};
pub use message::BODY_MAX;
pub use peer::{Peer, RequestError, Traffic};
pub use pin::{Pins, PinsError};

pub use model::pin::{NotAPin, Pin};
pub use receiving::Receiving;
pub use sealed::{Purpose, Sealed};
pub use sending::Sending;
pub use shared::TRANSFERS_MAX;
pub use transfer::{TransferError, TransferId};
