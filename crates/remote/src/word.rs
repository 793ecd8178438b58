//! What is said between two sites about moves. In postcard's form, which both read by the same types.

use bytes::Bytes;
use daemon::Topic;
use model::ServiceName;
use mover::ask::{Answer, Call};
use mover::failure::Failure;
use serde::{Deserialize, Serialize};

/// Moves' topic on the link.
pub const TOPIC: Topic = Topic(16);

/// What is longer goes over a transfer: a request must not hold up the requests behind it.
pub(crate) const INLINE_MAX: usize = 16 << 10;

/// The longest part of an answer that one response holds.
pub(crate) const PART_MAX: usize = 512 << 10;

/// What clerks are for, as their sessions are named. Nobody else's words name a session.
pub(crate) const PURPOSES: [&str; 6] = ["mover", "copier", "copy", "catch up", "ask", "verify"];

/// A request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// Who can be moved there, as the target itself says it, from this byte on; from the first one it looks anew. -> `Part`
    Describe {
        /// Of this service.
        service: ServiceName,
        /// From which byte on.
        from: u32,
    },
    /// A visit begins. -> `Taken`
    Visit {
        /// Its name, drawn by the caller.
        visit: u64,
        /// What it is.
        call: Call,
    },
    /// Its source lives. -> `Taken`
    Here {
        /// Which.
        visit: u64,
    },
    /// It ends. -> `Taken`
    Leave {
        /// Which.
        visit: u64,
    },
    /// A line begins. -> `Taken`
    Line {
        /// Of this visit.
        visit: u64,
        /// Its name, within the visit.
        line: u32,
        /// What for.
        purpose: String,
    },
    /// The large words of a line come over this transfer. -> `Taken`
    Over {
        /// The visit.
        visit: u64,
        /// The line.
        line: u32,
        /// The transfer.
        transfer: u64,
    },
    /// A line ends. -> `Taken`
    Close {
        /// The visit.
        visit: u64,
        /// The line.
        line: u32,
    },
    /// Something asked along a line. -> `Part`, `Working`; `Taken` where no answer is wanted
    Ask {
        /// The visit.
        visit: u64,
        /// The line.
        line: u32,
        /// Its number.
        number: u64,
        /// Below this everything is answered, and need not be kept.
        answered: u64,
        /// What is asked; `None` where it comes over the transfer, or came before.
        ask: Option<Bytes>,
        /// Whether an answer is wanted.
        wanted: bool,
        /// From which byte of the answer on.
        from: u32,
    },
    /// Nobody moves any more: the guard may rest. -> `Taken`
    Rest(ServiceName),
}

/// A response.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Said {
    /// It is done.
    Taken,
    /// The answer is not there yet: ask again.
    Working,
    /// A part of the answer, which is a [`Told`].
    Part {
        /// Its bytes.
        bytes: Bytes,
        /// The length of the whole.
        whole: u32,
    },
    /// It cannot be done.
    Failed(Failure),
}

/// An answer that comes in parts.
#[derive(Debug, Default)]
pub(crate) struct Whole(Vec<u8>);

// === impl Whole ===

impl Whole {
    /// How much there is: from there on it is asked for.
    pub(crate) fn come(&self) -> Option<u32> {
        u32::try_from(self.0.len()).ok()
    }

    /// Adds the next part of `whole` bytes. Says whether that was the last; `None` where it does not fit.
    pub(crate) fn add(&mut self, bytes: &[u8], whole: u32) -> Option<bool> {
        self.0.extend_from_slice(bytes);
        let whole = whole as usize;
        match self.0.len() {
            come if come == whole => Some(true),
            come if come < whole && !bytes.is_empty() => Some(false),
            _ => None,
        }
    }

    /// All of it.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// An answer to what was asked.
pub(crate) type Told = Result<Answer, Failure>;

/// The head of a word on a transfer: its number, whether an answer is wanted, its length.
pub(crate) const HEAD: usize = 8 + 1 + 4;

/// A description is at most so long: of some ten thousand tables.
pub(crate) const DESCRIPTION_MAX: u32 = 64 << 20;

/// A word on a transfer is at most so long: a transaction of the application's, or a chunk's user keys.
pub(crate) const LONG_MAX: usize = 1 << 30;

pub(crate) fn head(number: u64, wanted: bool, length: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&number.to_be_bytes());
    head[8] = u8::from(wanted);
    head[9..].copy_from_slice(&length.to_be_bytes());
    head
}

/// Number, whether an answer is wanted, length.
pub(crate) fn read_head(head: &[u8; HEAD]) -> (u64, bool, usize) {
    let [n0, n1, n2, n3, n4, n5, n6, n7, wanted, l0, l1, l2, l3] = *head;
    let number = u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    (number, wanted != 0, length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_must_follow_each_other_up_to_the_whole() {
        let mut whole = Whole::default();
        assert_eq!(whole.add(b"ab", 4), Some(false));
        assert_eq!(whole.come(), Some(2));
        assert_eq!(whole.add(b"cd", 4), Some(true));
        assert_eq!(whole.into_bytes(), b"abcd");
        assert_eq!(Whole::default().add(b"", 0), Some(true));
        assert_eq!(Whole::default().add(b"", 1), None);
        assert_eq!(Whole::default().add(b"ab", 1), None);
    }

    #[test]
    fn a_head_reads_as_it_was_written() {
        for (number, wanted, length) in [(0, false, 0), (u64::MAX, true, u32::MAX), (7, true, 1)] {
            let read = read_head(&head(number, wanted, length));
            assert_eq!(read, (number, wanted, length as usize));
        }
    }
}
