//! What a site makes of a peer's word about a user's home.
//!
//! Sites tell each other who lives where. In the ordinary course such a word only repeats, later, what the two records
//! of a handoff say already. Where it does not, this site's database went back in time: it was restored from a
//! backup, or a standby was promoted that had missed a write. Then the peer knows more, and the user is closed here before he has two homes.

use model::{Epoch, SiteName};

use crate::record::{Event, Resident, State};

/// What a peer says of one user: he lives at `home`, since `epoch`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tiding {
    /// Where he lives.
    pub home: SiteName,
    /// Since this epoch.
    pub epoch: Epoch,
}

/// What `tiding` changes in the record of a user `here`; `None` where it says nothing that this site should have known.
///
/// A site that is not `open` may have gone back to before a user came through it, and keeps of whoever lives elsewhere since when he
/// does: else it would answer his old home that he never came, before that has heard where he went on to.
///
/// The record must have been read after the tiding was: a peer says nothing before this site has written its part.
pub fn hear(
    record: Option<&Resident>,
    here: &SiteName,
    open: bool,
    tiding: &Tiding,
) -> Option<Event> {
    let Tiding { home, epoch } = tiding;
    let seen = record.map_or(Epoch(-1), |record| record.seen);
    if home == here {
        return (seen < *epoch).then_some(Event::Miss { epoch: *epoch });
    }
    let overtaken = record.is_some_and(|record| match &record.state {
        State::Settled { epoch: own }
        | State::Moving { epoch: own, .. }
        | State::Fenced { epoch: own, .. } => own <= epoch,
        // At his very epoch his going is in doubt: the target's answer to that is the way out.
        State::Offered { epoch: own, .. } | State::Lost { epoch: own } => own < epoch,
        State::Departed { .. } | State::Arriving { .. } | State::Clearing { .. } => false,
    });
    let (to, epoch) = (home.clone(), *epoch);
    match overtaken {
        true => Some(Event::Overtaken { to, epoch }),
        false if !open && seen < epoch => Some(Event::Learn { to, epoch }),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use model::Attempt;

    use super::*;
    use crate::record::step;

    fn resident(state: State, seen: i64) -> Resident {
        Resident {
            state,
            seen: Epoch(seen),
            attempt_seen: Attempt(1),
        }
    }

    fn after(record: Option<&Resident>, home: &str, epoch: i64) -> Option<State> {
        after_at(record, true, home, epoch)
    }

    fn after_at(record: Option<&Resident>, open: bool, home: &str, epoch: i64) -> Option<State> {
        let tiding = Tiding {
            home: home.into(),
            epoch: Epoch(epoch),
        };
        let event = hear(record, &"here".into(), open, &tiding)?;
        Some(
            step(record, &event)
                .expect("what is heard can be done")
                .state,
        )
    }

    /// Every state of a user at epoch 5.
    fn states() -> Vec<State> {
        let (to, attempt) = (SiteName::from("there"), Attempt(1));
        let (epoch, batch) = (Epoch(5), model::BatchId::from("b"));
        vec![
            State::Settled { epoch },
            State::Moving {
                epoch,
                to: to.clone(),
                attempt,
            },
            State::Fenced {
                epoch,
                to: to.clone(),
                batch: batch.clone(),
                attempt,
            },
            State::Offered {
                epoch,
                to: to.clone(),
                batch,
                attempt,
            },
            State::Departed {
                to: to.clone(),
                epoch,
                erased: false,
            },
            State::Arriving {
                from: to.clone(),
                attempt,
                kept: None,
            },
            State::Clearing {
                from: to,
                attempt,
                kept: None,
            },
            State::Lost { epoch },
        ]
    }

    #[test]
    fn whoever_lives_elsewhere_by_a_peers_word_is_not_open_here() {
        for state in states() {
            for epoch in 3..8 {
                let record = resident(state.clone(), 5);
                let now = after(Some(&record), "there", epoch).unwrap_or(state.clone());
                let older = epoch < 5;
                assert!(!now.is_open() || older, "{state:?} hears {epoch}: {now:?}");
                // Nobody's word opens anybody, and old news change nothing.
                assert!(!now.is_open() || state.is_open());
                assert!(!older || now == state, "{state:?} hears {epoch}: {now:?}");
            }
        }
    }

    #[test]
    fn whom_a_peer_sent_here_and_nobody_here_knows_is_lost() {
        let lost = |epoch| {
            Some(State::Lost {
                epoch: Epoch(epoch),
            })
        };
        assert_eq!(after(None, "here", 0), lost(0));
        assert_eq!(after(None, "here", 4), lost(4));
        for state in states() {
            assert_eq!(after(Some(&resident(state.clone(), 5)), "here", 6), lost(6));
            assert_eq!(after(Some(&resident(state, 5)), "here", 5), None);
        }
    }

    #[test]
    fn an_offer_is_answered_by_its_target_alone() {
        let offered = resident(states()[3].clone(), 5);
        assert_eq!(after(Some(&offered), "there", 5), None);
        assert!(matches!(
            after(Some(&offered), "there", 6),
            Some(State::Departed { .. })
        ));
    }

    #[test]
    fn who_is_unknown_here_stays_unknown_when_he_lives_elsewhere_unless_the_site_may_have_gone_back()
     {
        assert_eq!(after(None, "there", 9), None);
        assert!(matches!(
            after_at(None, false, "there", 9),
            Some(State::Departed { erased: true, .. })
        ));
    }

    #[test]
    fn a_site_that_is_not_open_has_seen_whatever_it_is_told_and_opens_nobody() {
        for state in states() {
            for epoch in 3..8 {
                let tiding = Tiding {
                    home: "there".into(),
                    epoch: Epoch(epoch),
                };
                let record = resident(state.clone(), 5);
                let event = hear(Some(&record), &"here".into(), false, &tiding);
                let next = event.map(|event| step(Some(&record), &event).expect("it can be done"));
                let next = next.unwrap_or(record);
                assert!(
                    next.seen >= Epoch(epoch),
                    "{state:?} hears {epoch}: {next:?}"
                );
                assert!(!next.state.is_open() || state.is_open() && epoch < 5);
            }
        }
    }
}
