//! What became of a request whose connection between two gateways was lost.
//!
//! A connection between gateways is a *line*. The gateway that took it names it by a token before anything else is said, and remembers of it the
//! request that came last: HTTP/1.1 carries one at a time. Where a line is lost with a write under way, the gateway that sent it asks
//! over another line (`Lines::recall`), and gets the answer, or hears that the request was not executed; from then on it never will be,
//! even if it still comes out of the lost line. A gateway that knows nothing of a token (it is another process, or the line ended too long ago) says
//! that nothing is known.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::Notify;

/// How long is remembered what came of the last request of a line that has ended: longer than anybody asks for.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Lines that have ended, of which is remembered at once; beyond that the oldest are forgotten.
const ENDED_MAX: usize = 1024;

/// The largest answer that is remembered, in bytes.
pub(crate) const ANSWER_MAX: usize = 16 << 10;

/// A token and what ends it, on the wire.
pub(crate) const GREETING: usize = 33;

/// By which a line is known: 16 random bytes in hexadecimal digits. Nobody who is not told can ask for the answer.
pub(crate) type Token = Box<str>;

/// The lines that this gateway took, all threads'.
#[derive(Debug, Default)]
pub struct Lines(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    lines: HashMap<Token, Arc<Line>>,
    ended: VecDeque<(Token, Instant)>,
}

/// A line while its connection lasts.
#[derive(Debug)]
pub(crate) struct Open {
    lines: Arc<Lines>,
    pub line: Arc<Line>,
}

/// A line, as the gateway knows it that took it.
#[derive(Debug)]
pub(crate) struct Line {
    pub token: Token,
    at: Mutex<At>,
    changed: Notify,
}

#[derive(Debug)]
struct At {
    /// The number of the last request, counted from 1.
    number: u64,
    stage: Stage,
    /// Nothing that has not been executed by now is executed any more.
    cut: bool,
}

/// How far the last request is.
#[derive(Clone, Debug)]
enum Stage {
    /// It was not given to an application, or the application did not execute it.
    Waits,
    /// An application has it.
    Given,
    /// This was the answer.
    Answered(Bytes),
    /// There was none, or none that could be kept.
    Unknown,
}

/// What is known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recalled {
    /// Its answer.
    Answer(Bytes),
    /// It was not executed, and will not be.
    Never,
    /// Nothing.
    Unknown,
}

// === impl Lines ===

impl Lines {
    /// A new line; `None` where the system has no random bytes.
    pub(crate) fn open(self: &Arc<Self>) -> Option<Open> {
        use std::fmt::Write as _;
        let mut random = [0; 16];
        SystemRandom::new().fill(&mut random).ok()?;
        let mut token = String::with_capacity(2 * random.len());
        for byte in random {
            let _ = write!(token, "{byte:02x}");
        }
        let line = Arc::new(Line {
            token: token.into(),
            at: Mutex::new(At {
                number: 0,
                stage: Stage::Waits,
                cut: false,
            }),
            changed: Notify::new(),
        });
        let mut known = self.known();
        known.lines.insert(line.token.clone(), Arc::clone(&line));
        let lines = Arc::clone(self);
        Some(Open { lines, line })
    }

    /// The line has ended, and nothing comes out of it any more.
    fn ended(&self, line: &Line) {
        line.ends();
        let now = Instant::now();
        let mut known = self.known();
        let known = &mut *known;
        known.ended.push_back((line.token.clone(), now));
        while let Some((token, since)) = known.ended.front()
            && (known.ended.len() > ENDED_MAX || now.duration_since(*since) > REMEMBERED)
        {
            known.lines.remove(token);
            known.ended.pop_front();
        }
    }

    /// What became of the request of that number, waiting while an application has it.
    pub(crate) async fn recall(&self, token: &str, number: u64) -> Recalled {
        let Some(line) = self.known().lines.get(token).cloned() else {
            return Recalled::Unknown;
        };
        loop {
            let changed = line.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(recalled) = line.recall(number) {
                return recalled;
            }
            changed.await;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.lines.ended(&self.line);
    }
}

// === impl Line ===

impl Line {
    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come.
    pub fn comes(&self) {
        let mut at = self.at();
        at.number += 1;
        at.stage = Stage::Waits;
    }

    /// Whether the last request may be given to an application; from here on it may have been executed.
    pub fn gives(&self) -> bool {
        let mut at = self.at();
        if !at.cut {
            at.stage = Stage::Given;
        }
        !at.cut
    }

    /// The application said that it executed nothing.
    pub fn takes_back(&self) {
        self.becomes(Stage::Waits);
    }

    /// The application answered; `None`: not so that it could be kept.
    pub fn answered(&self, answer: Option<Bytes>) {
        self.becomes(answer.map_or(Stage::Unknown, Stage::Answered));
    }

    /// Whoever waits for an answer that was not given by now waits for nothing.
    fn ends(&self) {
        let mut at = self.at();
        at.cut = true;
        if let Stage::Given = at.stage {
            at.stage = Stage::Unknown;
        }
        drop(at);
        self.changed.notify_waiters();
    }

    fn becomes(&self, stage: Stage) {
        self.at().stage = stage;
        self.changed.notify_waiters();
    }

    /// `None` while an application has it.
    fn recall(&self, number: u64) -> Option<Recalled> {
        let mut at = self.at();
        if number < at.number {
            // Whoever sent another one had the answer to this.
            return Some(Recalled::Unknown);
        }
        if number > at.number {
            at.cut = true;
            return Some(Recalled::Never);
        }
        match &at.stage {
            Stage::Waits => {
                at.cut = true;
                Some(Recalled::Never)
            }
            Stage::Given => None,
            Stage::Answered(answer) => Some(Recalled::Answer(answer.clone())),
            Stage::Unknown => Some(Recalled::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> (Arc<Lines>, Open) {
        let lines = Arc::new(Lines::default());
        let open = lines.open().unwrap();
        (lines, open)
    }

    #[tokio::test]
    async fn who_was_told_never_is_never_executed() {
        let (lines, Open { line, .. }) = &opened();
        assert_eq!(line.token.len() + 1, GREETING);
        // Still under way when it is asked for.
        assert_eq!(lines.recall(&line.token, 1).await, Recalled::Never);
        line.comes();
        assert!(!line.gives());

        let (lines, Open { line, .. }) = &opened();
        line.comes();
        assert_eq!(lines.recall(&line.token, 1).await, Recalled::Never);
        assert!(!line.gives());

        let (lines, Open { line, .. }) = &opened();
        line.comes();
        assert!(line.gives());
        line.takes_back();
        assert_eq!(lines.recall(&line.token, 1).await, Recalled::Never);
        assert!(!line.gives());
    }

    #[tokio::test]
    async fn an_answer_is_waited_for_and_kept_for_a_while_after_the_line() {
        let (lines, open) = opened();
        let token = open.line.token.clone();
        open.line.comes();
        assert!(open.line.gives());
        let answers = async {
            tokio::task::yield_now().await;
            open.line.answered(Some(Bytes::from_static(b"yes")));
        };
        let (recalled, ()) = tokio::join!(lines.recall(&token, 1), answers);
        let yes = Recalled::Answer(Bytes::from_static(b"yes"));
        assert_eq!(recalled, yes);
        drop(open);
        assert_eq!(lines.recall(&token, 1).await, yes);
        for _ in 0..ENDED_MAX {
            drop(lines.open().unwrap());
        }
        assert_eq!(lines.recall(&token, 1).await, Recalled::Unknown);
        assert_eq!(lines.0.lock().unwrap().lines.len(), ENDED_MAX);
    }

    #[tokio::test]
    async fn what_was_not_kept_is_unknown() {
        let (lines, open) = opened();
        let token = open.line.token.clone();
        open.line.comes();
        assert!(open.line.gives());
        open.line.answered(None);
        assert_eq!(lines.recall(&token, 1).await, Recalled::Unknown);
        open.line.comes();
        assert_eq!(lines.recall(&token, 1).await, Recalled::Unknown);
        assert!(open.line.gives());
        let ends = async {
            tokio::task::yield_now().await;
            drop(open);
        };
        let (recalled, ()) = tokio::join!(lines.recall(&token, 2), ends);
        assert_eq!(recalled, Recalled::Unknown);
        assert_eq!(lines.recall("another", 1).await, Recalled::Unknown);
    }
}
