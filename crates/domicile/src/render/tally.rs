//! What the events of a move add up to, and what can honestly be said of the time left. Pure.

use std::time::Duration;

use mover::event::Event;

use super::{bytes, count, seconds};
use crate::summary::{Pauses, SetAside, Summary};

/// The sum of the events so far, over all moves of one command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// The moves, in the order in which they began.
    pub moves: Vec<String>,
    /// Users to move, as the moves said when they began.
    pub users_planned: u64,
    /// Their rows; 0 where unknown.
    pub rows_planned: u64,
    /// Users copied; one who is copied again counts again.
    pub users_copied: u64,
    /// Rows copied, likewise.
    pub rows_copied: u64,
    /// Bytes copied, likewise.
    pub bytes_copied: u64,
    /// Users who have changed home.
    pub moved: u64,
    /// Their rows, as verified.
    pub rows_moved: u64,
    /// Users who stay, and why.
    pub set_aside: Vec<SetAside>,
    /// How long users were paused.
    pub pauses: Pauses,
}

impl Tally {
    /// Takes note of an event.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Started {
                r#move,
                users,
                rows,
                ..
            } => {
                self.moves.push(r#move.to_string());
                self.users_planned += users;
                self.rows_planned += rows;
            }
            Event::Copied { users, rows, bytes } => {
                self.users_copied += users;
                self.rows_copied += rows;
                self.bytes_copied += bytes;
            }
            Event::HandedOff {
                users, rows, pause, ..
            } => {
                self.moved += users;
                self.rows_moved += rows;
                self.pauses.add(*pause, *users);
            }
            Event::SetAside { user, reason } => self.set_aside.push(SetAside {
                user: user.to_string(),
                reason: reason.clone(),
            }),
            Event::Barrier { .. }
            | Event::Retried { .. }
            | Event::Paused { .. }
            | Event::Resumed { .. }
            | Event::Aborted { .. }
            | Event::Finished { .. } => {}
        }
    }

    /// Users who neither moved nor were set aside.
    pub fn left(&self) -> u64 {
        self.users_planned
            .saturating_sub(self.moved + self.set_aside.len() as u64)
    }

    /// The time left at the speed so far: that of copying or that of handing off, whichever takes longer.
    /// `None` until a batch has changed home: before that nobody knows.
    pub fn time_left(&self, elapsed: Duration) -> Option<Duration> {
        let at_speed = |done: u64, left: u64| match done {
            0 => None,
            _ => Some(elapsed.mul_f64(left as f64 / done as f64)),
        };
        let handing_off = at_speed(self.moved, self.left())?;
        let (copied, planned) = match self.rows_planned {
            0 => (self.users_copied, self.users_planned),
            rows => (self.rows_copied, rows),
        };
        let copying = at_speed(copied, planned.saturating_sub(copied)).unwrap_or_default();
        Some(handing_off.max(copying))
    }

    /// What has been copied: `12,000 of 52,000 rows, 1.2 MiB, 600.0 KiB/s`.
    pub fn copied_line(&self, bytes_per_second: Option<u64>) -> String {
        let of = match self.rows_planned {
            0 => String::new(),
            planned => format!(" of {}", count(planned)),
        };
        let rate = bytes_per_second.map_or(String::new(), |rate| format!(", {}/s", bytes(rate)));
        format!(
            "{}{of} rows, {}{rate}",
            count(self.rows_copied),
            bytes(self.bytes_copied)
        )
    }

    /// Who has moved: `640 of 2,400 users, 1 set aside, about 12 s left`.
    pub fn moved_line(&self, elapsed: Duration) -> String {
        let aside = match self.set_aside.len() {
            0 => String::new(),
            n => format!(", {} set aside", count(n as u64)),
        };
        let left = match self.time_left(elapsed) {
            _ if self.left() == 0 => String::new(),
            None => ", time left not known yet".to_owned(),
            Some(left) => format!(", about {} left", seconds(left)),
        };
        format!(
            "{} of {} users{aside}{left}",
            count(self.moved),
            count(self.users_planned)
        )
    }

    /// The summary. `verified` and `mismatches` come from the mover; several moves in one command are
    /// named together, with `,` between.
    pub fn summary(&self, elapsed: Duration, verified: bool, mismatches: u64) -> Summary {
        Summary {
            r#move: self.moves.join(","),
            moved: self.moved,
            set_aside: self.set_aside.clone(),
            rows: self.rows_moved,
            bytes: self.bytes_copied,
            seconds: (elapsed.as_secs_f64() * 1e3).round() / 1e3,
            pause_ms: self.pauses.shown(),
            verified,
            mismatches,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn started(users: u64, rows: u64) -> Event {
        Event::Started {
            r#move: "m1".into(),
            service: "shop".into(),
            from: "beijing".into(),
            to: "singapore".into(),
            users,
            rows,
            bytes: 0,
            resumed: false,
        }
    }

    pub fn copied(users: u64, rows: u64) -> Event {
        Event::Copied {
            users,
            rows,
            bytes: rows * 100,
        }
    }

    pub fn handed_off(users: u64, pause_ms: u64) -> Event {
        Event::HandedOff {
            batch: "b1".into(),
            users,
            rows: users * 10,
            pause: Duration::from_millis(pause_ms),
            fence: Duration::ZERO,
        }
    }

    fn tally(events: &[Event]) -> Tally {
        let mut tally = Tally::default();
        events.iter().for_each(|event| tally.note(event));
        tally
    }

    #[test]
    fn the_time_left_is_not_known_before_the_first_handoff() {
        let mut tally = tally(&[started(100, 1_000), copied(50, 500)]);
        let ten = Duration::from_secs(10);
        assert_eq!(tally.time_left(ten), None);
        assert_eq!(
            tally.moved_line(ten),
            "0 of 100 users, time left not known yet"
        );
        tally.note(&handed_off(20, 5));
        assert_eq!(tally.time_left(ten), Some(Duration::from_secs(40)));
        assert_eq!(tally.moved_line(ten), "20 of 100 users, about 40 s left");
    }

    #[test]
    fn copying_more_than_planned_does_not_go_below_zero() {
        let tally = tally(&[started(10, 100), copied(10, 300), handed_off(10, 5)]);
        assert_eq!(
            tally.time_left(Duration::from_secs(9)),
            Some(Duration::ZERO)
        );
        assert_eq!(tally.moved_line(Duration::from_secs(9)), "10 of 10 users");
        assert_eq!(
            tally.copied_line(Some(1 << 20)),
            "300 of 100 rows, 29.3 KiB, 1.0 MiB/s"
        );
    }

    #[test]
    fn the_summary_counts_what_happened() {
        let aside = Event::SetAside {
            user: "7".into(),
            reason: "too big".into(),
        };
        let tally = tally(&[started(3, 30), copied(3, 31), handed_off(2, 8), aside]);
        assert_eq!(tally.left(), 0);
        let summary = tally.summary(Duration::from_millis(1_500), true, 0);
        assert_eq!(
            (summary.r#move.as_str(), summary.moved, summary.rows),
            ("m1", 2, 20)
        );
        assert_eq!(
            (summary.bytes, summary.seconds, summary.pause_ms.p99),
            (3_100, 1.5, 8.0)
        );
        assert_eq!(summary.set_aside.len(), 1);
    }
}
