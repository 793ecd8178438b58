//! A move between two sites' daemons: what its two halves say to each other goes over the link.
//!
//! The source's side is [`Caller`], a [`Far`](mover::far::Far) like the one in the same process; the target's is [`Reception`], which
//! hears what peers ask and gives it to the same clerks. Between them:
//!
//! - A **visit** is one source's stay at one service of the target. A new one ends the one before: the source that comes is
//!   alive, and one that is cut off is fenced by the office's term.
//! - A **line** leads to one clerk. What goes along it is numbered, and each number is taken once and in order, however
//!   often it was sent: small words as requests, large ones and those without an answer over a transfer of its own, so that bulk never holds up what is small.
//! - A request whose connection ended is sent again under the same number, until the peer has been silent for
//!   [`PATIENCE`]. So a break of the link is a delay; a death of either process ends the visit, and the next run goes on
//!   from what is durable.
//!
//! Beside moves there are questions, each by itself, on a topic of its own: `question`. And sites tell each other of changes of home: `tidings`.
//!
//! Reading order: `word` (what is said), `line` (the rule of numbers, pure), `caller` and `carrier` (the source's side), `reception` and
//! `stay` and `intake` (the target's).

mod caller;
mod carrier;
pub mod figures;
mod intake;
mod line;
mod question;
mod reception;
mod stay;
mod tidings;
mod word;

use std::time::Duration;

pub use caller::Caller;
pub use question::{Answers, Asked, Asker, Coming, Passengers, Question, Questions, Told};
pub use reception::{Homes, Reception};
pub use tidings::{Distant, TIDINGS, Telling, Tells};
pub use word::TOPIC;

/// How long a peer may be silent before a visit is given up: longer than the link takes to find out that a connection is
/// dead and to make another.
pub const PATIENCE: Duration = Duration::from_secs(90);
