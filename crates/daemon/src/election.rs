//! Which offices a daemon goes for. Pure: `post` asks the databases.
//!
//! Link addresses stand for a site and not for a service, so the offices of all services should be with one daemon. Services
//! are taken in the order of their names: whoever has the first takes the others as well. Where an earlier service is with
//! another daemon, that one is in charge, and whoever has a later one gives it up. A database that is out of reach is passed
//! over: the other services need not stand still for it. (Two daemons of which each reaches another database can then lead
//! one service each, until one of them reaches both. That costs the link its peace, and no user anything: an office has
//! one holder, and link sessions are replaced whole.)

/// How one service's office stands, as this daemon knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// This daemon leads.
    Ours,
    /// Another one does.
    Others,
    /// The database is there; whose the office is has not been asked yet in this round.
    Unasked,
    /// The database is out of reach, or work under an earlier term has not ended: not to be asked.
    Shut,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Try to take this one.
    Try(usize),
    /// Give up all that this daemon has.
    Yield,
    /// Nothing more in this round.
    Rest,
}

/// The next step, given all standings in the order of names.
pub(crate) fn next(standings: &[Standing]) -> Step {
    for (n, standing) in standings.iter().enumerate() {
        match standing {
            // Whoever holds the earliest that can be reached is in charge, and takes what is free.
            Standing::Ours => {
                let unasked = standings.iter().position(|one| *one == Standing::Unasked);
                return unasked.map_or(Step::Rest, Step::Try);
            }
            Standing::Others => {
                let ours = standings[n..].contains(&Standing::Ours);
                return if ours { Step::Yield } else { Step::Rest };
            }
            Standing::Unasked => return Step::Try(n),
            Standing::Shut => {}
        }
    }
    Step::Rest
}

#[cfg(test)]
mod tests {
    use super::Standing::{Others, Ours, Shut, Unasked};
    use super::*;

    #[test]
    fn whoever_has_the_first_takes_the_others() {
        assert_eq!(next(&[Unasked, Unasked]), Step::Try(0));
        assert_eq!(next(&[Ours, Unasked]), Step::Try(1));
        assert_eq!(next(&[Ours, Others, Unasked]), Step::Try(2));
        assert_eq!(next(&[Ours, Others]), Step::Rest);
        assert_eq!(next(&[Ours, Ours]), Step::Rest);
    }

    #[test]
    fn whoever_finds_the_first_taken_stands_by() {
        assert_eq!(next(&[Others, Unasked]), Step::Rest);
        assert_eq!(next(&[Others, Ours]), Step::Yield);
        assert_eq!(next(&[Others, Shut, Ours]), Step::Yield);
        assert_eq!(next(&[]), Step::Rest);
    }

    #[test]
    fn what_cannot_be_reached_is_passed_over() {
        assert_eq!(next(&[Shut, Unasked]), Step::Try(1));
        assert_eq!(next(&[Shut, Others]), Step::Rest);
        assert_eq!(next(&[Shut, Ours]), Step::Rest);
        // It comes back, and is tried before what it would decide about.
        assert_eq!(next(&[Unasked, Ours]), Step::Try(0));
    }

    /// Two daemons take turns, from every pair of things that they may hold: in the end one of them has all.
    #[test]
    fn from_every_division_one_daemon_ends_with_all() {
        for start in 0..27_usize {
            let mut holder: Vec<usize> = (0..3).map(|n| start / 3_usize.pow(n) % 3).collect();
            for turn in 0..4 {
                // 0: nobody. The daemons are 1 and 2.
                let me = turn % 2 + 1;
                let mut known: Vec<_> = holder
                    .iter()
                    .map(|who| if *who == me { Ours } else { Unasked })
                    .collect();
                loop {
                    match next(&known) {
                        Step::Rest => break,
                        Step::Yield => {
                            for n in 0..3 {
                                if holder[n] == me {
                                    (holder[n], known[n]) = (0, Shut);
                                }
                            }
                            break;
                        }
                        Step::Try(n) if holder[n] == 0 => (holder[n], known[n]) = (me, Ours),
                        Step::Try(n) => known[n] = Others,
                    }
                }
            }
            assert!(
                holder == [1, 1, 1] || holder == [2, 2, 2],
                "{start}: {holder:?}"
            );
        }
    }
}
