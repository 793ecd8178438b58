//! Whether a server's own write-ahead log can still hold what was written up to a position.
//!
//! A segment that is not needed any more is not removed: it is renamed, and waits under the name of a segment to come
//! with its old contents in it. So it is not enough that no file of an old name is there. Two looks are: once no file up to the
//! position's segment is there under its own name, the highest name of all is noted; whatever is old is in a file
//! up to that name. Once WAL is written beyond it, each of these files has been written over from its beginning to its
//! end (the rest of a segment that is left early is filled with zeros, since PostgreSQL 11).

/// What is in `pg_wal`. Segments by their numbers: the position divided by the segment's size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The timeline that is written.
    pub timeline: u32,
    /// The segment that is written.
    pub current: u64,
    /// All files that carry a segment's name, of whatever timeline.
    pub present: Vec<u64>,
}

/// How far the log has gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing is known yet. Set when the tables are clean.
    Waiting {
        /// The last segment that may hold something.
        last: u64,
    },
    /// No file has its old name any more. Set when that is seen.
    Leaving {
        /// The last segment that may have held something.
        last: u64,
        /// The highest name under which something old may wait.
        ceiling: u64,
        /// The timeline then: on another one, a segment may have been left half-way, and all begins again.
        timeline: u32,
    },
    /// All has been written over. Set when that is seen.
    Overwritten,
}

/// What the log still has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Segments that hold old WAL are kept.
    Kept {
        /// The oldest.
        oldest: u64,
        /// How many.
        segments: u64,
    },
    /// Files that held old WAL wait to be written over.
    Recycled {
        /// So many segments have to be written.
        segments: u64,
    },
}

/// The mark after a look, and what it waits for.
pub fn look(mark: Mark, seen: &Seen) -> (Mark, Option<Wait>) {
    match mark {
        Mark::Overwritten => (Mark::Overwritten, None),
        Mark::Waiting { last } => {
            let kept = seen.present.iter().copied().filter(|n| *n <= last);
            // The current segment is one of the files; should it not be listed, it counts all the same.
            if let Some(oldest) = kept
                .clone()
                .chain((seen.current <= last).then_some(seen.current))
                .min()
            {
                let segments = (kept.count() as u64).max(1);
                return (mark, Some(Wait::Kept { oldest, segments }));
            }
            let ceiling = seen.present.iter().copied().fold(seen.current, u64::max);
            let mark = Mark::Leaving {
                last,
                ceiling,
                timeline: seen.timeline,
            };
            let segments = ceiling + 1 - seen.current;
            (mark, Some(Wait::Recycled { segments }))
        }
        Mark::Leaving {
            last: _,
            ceiling,
            timeline,
        } if timeline != seen.timeline => {
            // Everything that there was then, whatever it holds by now, counts as old.
            let last = ceiling.max(seen.current);
            look(Mark::Waiting { last }, seen)
        }
        Mark::Leaving { ceiling, .. } if seen.current <= ceiling => {
            let segments = ceiling + 1 - seen.current;
            (mark, Some(Wait::Recycled { segments }))
        }
        Mark::Leaving { .. } => (Mark::Overwritten, None),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A server's `pg_wal`: by name, whether the file holds something old anywhere.
    struct Server {
        current: u64,
        files: BTreeMap<u64, bool>,
    }

    impl Server {
        fn seen(&self) -> Seen {
            Seen {
                timeline: 1,
                current: self.current,
                present: self.files.keys().copied().collect(),
            }
        }

        /// Goes on to the next segment: the one that is left has been written to its end.
        fn switch(&mut self) {
            self.files.insert(self.current, false);
            self.current += 1;
            self.files.entry(self.current).or_insert(false);
        }

        /// A checkpoint that keeps `keep` segments back and recycles the others up to `ahead` names on.
        fn checkpoint(&mut self, keep: u64, ahead: u64) {
            let old: Vec<u64> = self
                .files
                .range(..self.current.saturating_sub(keep))
                .map(|(n, _)| *n)
                .collect();
            for name in old {
                let holds = self.files.remove(&name).expect("it was listed");
                let highest = *self.files.keys().max().expect("the current one is there");
                if highest < self.current + ahead {
                    self.files.insert(highest + 1, holds);
                }
            }
        }
    }

    #[test]
    fn whatever_a_server_keeps_and_recycles_nothing_old_is_left_when_it_is_said() {
        let mut said = 0;
        for keep in 0..4 {
            for ahead in 0..6 {
                for every in 1..4 {
                    // Something old in the segments up to 9, and in files that wait already.
                    let files = (7..13).map(|n| (n, n != 11)).collect();
                    let mut server = Server { current: 9, files };
                    let mut mark = Mark::Waiting { last: 9 };
                    for round in 0..60 {
                        mark = look(mark, &server.seen()).0;
                        if mark == Mark::Overwritten {
                            assert!(
                                server.files.values().all(|old| !old),
                                "{keep} {ahead} {every} {round}"
                            );
                            said += 1;
                            break;
                        }
                        server.switch();
                        if round % every == 0 {
                            server.checkpoint(keep, ahead);
                        }
                    }
                }
            }
        }
        assert_eq!(said, 4 * 6 * 3);
    }

    #[test]
    fn kept_segments_are_named() {
        let seen = Seen {
            timeline: 1,
            current: 9,
            present: vec![3, 7, 8, 9, 10],
        };
        let mark = Mark::Waiting { last: 7 };
        let kept = Wait::Kept {
            oldest: 3,
            segments: 2,
        };
        assert_eq!(look(mark, &seen), (mark, Some(kept)));
    }

    #[test]
    fn on_another_timeline_all_begins_again() {
        let mark = Mark::Leaving {
            last: 3,
            ceiling: 9,
            timeline: 1,
        };
        let seen = Seen {
            timeline: 2,
            current: 12,
            present: vec![11, 12, 13],
        };
        assert_eq!(look(mark, &seen).0, Mark::Waiting { last: 12 });
    }
}
