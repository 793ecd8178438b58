//! What one site knows of one user, and the steps by which that changes.

use model::fault::{Bug, planted};
use model::{Attempt, BatchId, Epoch, SiteName};
use thiserror::Error;

/// The record of one user at one site. Once written it is never deleted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resident {
    /// Where the user stands here.
    pub state: State,
    /// The highest epoch that this site has seen of the user, in its own records or in an answer.
    pub seen: Epoch,
    /// The highest copying attempt that this site has seen of the user.
    pub attempt_seen: Attempt,
}

/// Where a user stands at a site. Every variant says who sets it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Lives here. Set by creation, by acceptance, by withdrawal, by a refusal that names the user, and by whoever reclaims him.
    Settled {
        /// The epoch of his living here.
        epoch: Epoch,
    },
    /// Lives here and is being copied. Set by enrolment, and when a fence is given up.
    Moving {
        /// His epoch.
        epoch: Epoch,
        /// Where he goes.
        to: SiteName,
        /// The copying attempt.
        attempt: Attempt,
    },
    /// Home, and closed: no write commits. Set by the fence. The source may still reopen alone.
    Fenced {
        /// The epoch that he will have at the target.
        epoch: Epoch,
        /// Where he goes.
        to: SiteName,
        /// The batch in which he goes.
        batch: BatchId,
        /// The copying attempt.
        attempt: Attempt,
    },
    /// Offered to the target: only its answer may change this. Set before anything is sent.
    Offered {
        /// The epoch that he will have at the target.
        epoch: Epoch,
        /// Where he goes.
        to: SiteName,
        /// The batch in which he goes.
        batch: BatchId,
        /// The copying attempt.
        attempt: Attempt,
    },
    /// Lives elsewhere; kept for ever as the forwarding pointer. Set by the target's acceptance, and where
    /// an arrival came to nothing.
    Departed {
        /// Where he went.
        to: SiteName,
        /// His epoch there, as far as known here.
        epoch: Epoch,
        /// Whether his old rows here are gone.
        erased: bool,
    },
    /// Being copied to here. Set by the target at the beginning of an attempt.
    Arriving {
        /// Where he lives.
        from: SiteName,
        /// The copying attempt.
        attempt: Attempt,
        /// The record that this one replaced.
        kept: Option<Kept>,
    },
    /// What was copied to here is being deleted. Set by refusal and cancellation.
    Clearing {
        /// Where he lives.
        from: SiteName,
        /// The copying attempt.
        attempt: Attempt,
        /// The record that `Arriving` replaced.
        kept: Option<Kept>,
    },
    /// A peer knows more of him than this site, which went back in time: closed until resolved. Set by a peer's word.
    Lost {
        /// The epoch that the peer names.
        epoch: Epoch,
    },
}

/// The forwarding pointer that `Arriving` replaced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kept {
    /// Where he had gone.
    pub to: SiteName,
    /// His epoch there.
    pub epoch: Epoch,
}

/// How many epochs a round of [reclaiming](Event::Reclaim) has. The target that is gone may have accepted the user, and fenced and
/// reopened him any number of times, of which nobody was told: should it come back, it must find that he lives here since later. Fences of one user
/// within one round cannot reach this: one each millisecond would take seven weeks. Whole numbers that the ledger writes have room for two million rounds.
const ROUND: i64 = 1 << 32;

/// Something that changes a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The user's row was created here.
    Create,
    /// The source takes the user into an attempt.
    Enrol {
        /// Where he goes.
        to: SiteName,
        /// The attempt; above every one seen.
        attempt: Attempt,
    },
    /// The source gives an attempt up.
    Withdraw {
        /// The attempt.
        attempt: Attempt,
    },
    /// The source closes the user.
    Fence {
        /// The attempt.
        attempt: Attempt,
        /// The batch in which he goes.
        batch: BatchId,
    },
    /// The source gives a fence up that it has not offered.
    Reopen {
        /// The batch.
        batch: BatchId,
    },
    /// The source commits itself to the target's answer.
    Offer {
        /// The batch.
        batch: BatchId,
    },
    /// The target's answer: accepted.
    Accepted {
        /// The batch.
        batch: BatchId,
    },
    /// The target's answer: refused.
    Refused {
        /// The batch.
        batch: BatchId,
        /// Whether the refusal names this user; others may go again at once.
        named: bool,
        /// The highest epoch of the user that the target has seen.
        highest: Epoch,
    },
    /// The user's old rows here were erased.
    Erased {
        /// The epoch of the receipt.
        epoch: Epoch,
    },
    /// All his rows at his home were erased, as is his right.
    Forgotten {
        /// The epoch at which he lived here.
        epoch: Epoch,
    },
    /// The target makes ready for an attempt.
    Begin {
        /// Where he lives.
        from: SiteName,
        /// The attempt; above every one seen.
        attempt: Attempt,
    },
    /// The target accepts: the user lives here from now on.
    Accept {
        /// Where he lived.
        from: SiteName,
        /// The attempt.
        attempt: Attempt,
        /// His epoch; above every one seen.
        epoch: Epoch,
    },
    /// The target refuses the user, or learns that the attempt was given up.
    Clear {
        /// The attempt.
        attempt: Attempt,
        /// The epoch that the refused handoff named, if there was one.
        epoch: Option<Epoch>,
    },
    /// What was copied is deleted.
    Cleared {
        /// The attempt.
        attempt: Attempt,
    },
    /// A peer's word: the user lives elsewhere. This site went back in time, and took him for its own.
    Overtaken {
        /// Where he lives.
        to: SiteName,
        /// Since this epoch; not below his own here.
        epoch: Epoch,
    },
    /// A peer's word: the user came to live here. This site went back in time, and does not know it.
    Miss {
        /// His epoch here; above every one seen.
        epoch: Epoch,
    },
    /// A peer's word, kept while the site is not open: he does not live here. Nothing else is left of it here, should the site have gone back
    /// to before he came through.
    Learn {
        /// Where he lives.
        to: SiteName,
        /// Since this epoch; above every one seen.
        epoch: Epoch,
    },
    /// Two operators' word about an offer: its target is destroyed, and will not answer. He lives here, by what stands here.
    Reclaim {
        /// The batch.
        batch: BatchId,
        /// The round of reclaiming: above every one that any other site has reclaimed in.
        round: i64,
    },
    /// An operator's word about a lost user: what stands here is his.
    TakeUp,
    /// An operator's word about a lost user: he lives at that site, by what stands there.
    Cede {
        /// That site.
        to: SiteName,
    },
}

/// A step that the record does not allow.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a user who is {state} here cannot take the step {event}")]
pub struct Illegal {
    /// The state's name, `unknown` where there is no record.
    pub state: &'static str,
    /// The event's name.
    pub event: &'static str,
}

// === impl State ===

impl State {
    /// The state's name, as stored and shown.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Settled { .. } => "settled",
            Self::Moving { .. } => "moving",
            Self::Fenced { .. } => "fenced",
            Self::Offered { .. } => "offered",
            Self::Departed { .. } => "departed",
            Self::Arriving { .. } => "arriving",
            Self::Clearing { .. } => "clearing",
            Self::Lost { .. } => "lost",
        }
    }

    /// Whether this site is the user's home.
    pub fn is_home(&self) -> bool {
        match self {
            Self::Settled { .. }
            | Self::Moving { .. }
            | Self::Fenced { .. }
            | Self::Offered { .. } => true,
            Self::Departed { .. }
            | Self::Arriving { .. }
            | Self::Clearing { .. }
            | Self::Lost { .. } => false,
        }
    }

    /// Whether an application's write for the user may commit here.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Settled { .. } | Self::Moving { .. } => true,
            Self::Fenced { .. }
            | Self::Offered { .. }
            | Self::Departed { .. }
            | Self::Arriving { .. }
            | Self::Clearing { .. }
            | Self::Lost { .. } => false,
        }
    }
}

// === impl Event ===

impl Event {
    /// The event's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Enrol { .. } => "enrol",
            Self::Withdraw { .. } => "withdraw",
            Self::Fence { .. } => "fence",
            Self::Reopen { .. } => "reopen",
            Self::Offer { .. } => "offer",
            Self::Accepted { .. } => "accepted",
            Self::Refused { .. } => "refused",
            Self::Erased { .. } => "erased",
            Self::Forgotten { .. } => "forgotten",
            Self::Begin { .. } => "begin",
            Self::Accept { .. } => "accept",
            Self::Clear { .. } => "clear",
            Self::Cleared { .. } => "cleared",
            Self::Overtaken { .. } => "overtaken",
            Self::Miss { .. } => "miss",
            Self::Learn { .. } => "learn",
            Self::Reclaim { .. } => "reclaim",
            Self::TakeUp => "take up",
            Self::Cede { .. } => "cede",
        }
    }
}

// === impl Resident ===

impl Resident {
    /// Someone who has lived here since before Domicile was installed and has no record yet.
    pub fn adopted() -> Self {
        Self {
            state: State::Settled { epoch: Epoch(0) },
            seen: Epoch(0),
            attempt_seen: Attempt(0),
        }
    }

    /// The epoch that the next fence or reopening takes: above the record's own and above every one that an
    /// answer has named.
    fn next_epoch(&self, own: Epoch) -> Epoch {
        if planted(Bug::EpochReuse) {
            return own;
        }
        own.max(self.seen).next()
    }

    /// Not here: what rows of his stand here are nobody's word.
    fn overtaken(&self, to: &SiteName, epoch: Epoch) -> Self {
        self.with(State::Departed {
            to: to.clone(),
            epoch,
            erased: false,
        })
    }

    fn with(&self, state: State) -> Self {
        let epoch = match &state {
            State::Settled { epoch }
            | State::Moving { epoch, .. }
            | State::Fenced { epoch, .. }
            | State::Offered { epoch, .. }
            | State::Departed { epoch, .. }
            | State::Lost { epoch } => *epoch,
            State::Arriving { .. } | State::Clearing { .. } => self.seen,
        };
        Self {
            state,
            seen: self.seen.max(epoch),
            attempt_seen: self.attempt_seen,
        }
    }
}

/// The record after `event`; `None` stands for a site that has no record and at which the user does not live.
///
/// Pure and total: a step that the record does not allow is [`Illegal`], never a guess. The caller writes the
/// result on the condition that the record is still the one given here.
pub fn step(record: Option<&Resident>, event: &Event) -> Result<Resident, Illegal> {
    let illegal = || Illegal {
        state: record.map_or("unknown", |r| r.state.name()),
        event: event.name(),
    };
    let Some(record) = record else {
        return match event {
            Event::Create => Ok(Resident {
                state: State::Settled { epoch: Epoch(1) },
                seen: Epoch(1),
                attempt_seen: Attempt(0),
            }),
            Event::Begin { from, attempt } => Ok(Resident {
                state: State::Arriving {
                    from: from.clone(),
                    attempt: *attempt,
                    kept: None,
                },
                seen: Epoch(0),
                attempt_seen: *attempt,
            }),
            Event::Miss { epoch } => Ok(Resident {
                state: State::Lost { epoch: *epoch },
                seen: *epoch,
                attempt_seen: Attempt(0),
            }),
            // Nothing of his stands here.
            Event::Learn { to, epoch } => Ok(Resident {
                state: State::Departed {
                    to: to.clone(),
                    epoch: *epoch,
                    erased: true,
                },
                seen: *epoch,
                attempt_seen: Attempt(0),
            }),
            _ => Err(illegal()),
        };
    };
    let next = match (&record.state, event) {
        // Creation over a record changes nothing where he lives and is open.
        (State::Settled { .. } | State::Moving { .. }, Event::Create) => record.clone(),

        (State::Settled { epoch }, Event::Enrol { to, attempt })
            if *attempt > record.attempt_seen =>
        {
            Resident {
                attempt_seen: *attempt,
                ..record.with(State::Moving {
                    epoch: *epoch,
                    to: to.clone(),
                    attempt: *attempt,
                })
            }
        }
        (State::Moving { epoch, attempt, .. }, Event::Withdraw { attempt: given })
            if attempt == given =>
        {
            record.with(State::Settled { epoch: *epoch })
        }
        (
            State::Moving { epoch, to, attempt },
            Event::Fence {
                attempt: given,
                batch,
            },
        ) if attempt == given => record.with(State::Fenced {
            epoch: record.next_epoch(*epoch),
            to: to.clone(),
            batch: batch.clone(),
            attempt: *attempt,
        }),
        (
            State::Fenced {
                epoch,
                to,
                batch,
                attempt,
            },
            Event::Reopen { batch: given },
        ) if batch == given => record.with(State::Moving {
            epoch: record.next_epoch(*epoch),
            to: to.clone(),
            attempt: *attempt,
        }),
        (
            State::Offered {
                epoch,
                to,
                batch,
                attempt,
            },
            Event::Reopen { batch: given },
        ) if batch == given && planted(Bug::AbortFromOffered) => record.with(State::Moving {
            epoch: record.next_epoch(*epoch),
            to: to.clone(),
            attempt: *attempt,
        }),
        (
            State::Fenced {
                epoch,
                to,
                batch,
                attempt,
            },
            Event::Offer { batch: given },
        ) if batch == given => record.with(State::Offered {
            epoch: *epoch,
            to: to.clone(),
            batch: batch.clone(),
            attempt: *attempt,
        }),
        (
            State::Offered {
                epoch, to, batch, ..
            },
            Event::Accepted { batch: given },
        ) if batch == given => record.with(State::Departed {
            to: to.clone(),
            epoch: *epoch,
            erased: false,
        }),
        (
            State::Offered {
                epoch,
                to,
                batch,
                attempt,
            },
            Event::Refused {
                batch: given,
                named,
                highest,
            },
        ) if batch == given => {
            let told = Resident {
                seen: record.seen.max(*highest),
                ..record.clone()
            };
            let epoch = told.next_epoch(*epoch);
            told.with(if *named || planted(Bug::RefusedThroughSettled) {
                State::Settled { epoch }
            } else {
                State::Moving {
                    epoch,
                    to: to.clone(),
                    attempt: *attempt,
                }
            })
        }
        (
            State::Offered { epoch, batch, .. },
            Event::Reclaim {
                batch: given,
                round,
            },
        ) if batch == given => {
            let own = record.seen.max(*epoch).0 / ROUND;
            let round = own.saturating_add(1).max(*round);
            record.with(State::Settled {
                epoch: Epoch(round.saturating_mul(ROUND)),
            })
        }
        (State::Departed { to, epoch, .. }, Event::Erased { epoch: given }) if epoch == given => {
            record.with(State::Departed {
                to: to.clone(),
                epoch: *epoch,
                erased: true,
            })
        }

        // He has no rows any more, and still lives nowhere else: under a new epoch, so that whoever knew him at the old one
        // does not take what may be created under his key later for him.
        (State::Settled { epoch }, Event::Forgotten { epoch: given }) if epoch == given => record
            .with(State::Settled {
                epoch: record.next_epoch(*epoch),
            }),

        (State::Departed { to, epoch, .. }, Event::Begin { from, attempt })
            if *attempt > record.attempt_seen =>
        {
            let kept = Kept {
                to: to.clone(),
                epoch: *epoch,
            };
            let kept = (!planted(Bug::ForgetKept)).then_some(kept);
            Resident {
                attempt_seen: *attempt,
                ..record.with(State::Arriving {
                    from: from.clone(),
                    attempt: *attempt,
                    kept,
                })
            }
        }
        // A restarted attempt of the same source; the copy deletes first what the old one left.
        (
            State::Arriving { from, kept, .. },
            Event::Begin {
                from: given,
                attempt,
            },
        ) if from == given && *attempt > record.attempt_seen => Resident {
            attempt_seen: *attempt,
            ..record.with(State::Arriving {
                from: from.clone(),
                attempt: *attempt,
                kept: kept.clone(),
            })
        },
        (
            State::Arriving { from, attempt, .. },
            Event::Accept {
                from: given_from,
                attempt: given,
                epoch,
            },
        ) if from == given_from && attempt == given && *epoch > record.seen => {
            record.with(State::Settled { epoch: *epoch })
        }
        (
            State::Arriving {
                from,
                attempt,
                kept,
            },
            Event::Clear {
                attempt: given,
                epoch,
            },
        ) if attempt == given => {
            let told = Resident {
                seen: record.seen.max(epoch.unwrap_or_default()),
                ..record.clone()
            };
            told.with(State::Clearing {
                from: from.clone(),
                attempt: *attempt,
                kept: kept.clone(),
            })
        }
        (
            State::Clearing {
                from,
                attempt,
                kept,
            },
            Event::Cleared { attempt: given },
        ) if attempt == given => record.with(match kept {
            Some(kept) => State::Departed {
                to: kept.to.clone(),
                epoch: kept.epoch,
                erased: true,
            },
            None => State::Departed {
                to: from.clone(),
                epoch: record.seen,
                erased: true,
            },
        }),

        // This database went back in time (see [`crate::tidings`]).
        (
            State::Settled { epoch: own }
            | State::Moving { epoch: own, .. }
            | State::Fenced { epoch: own, .. }
            | State::Lost { epoch: own },
            Event::Overtaken { to, epoch },
        ) if own <= epoch => record.overtaken(to, *epoch),
        (State::Offered { epoch: own, .. }, Event::Overtaken { to, epoch }) if own < epoch => {
            record.overtaken(to, *epoch)
        }
        (_, Event::Miss { epoch }) if record.seen < *epoch => {
            record.with(State::Lost { epoch: *epoch })
        }
        (
            State::Departed { .. } | State::Arriving { .. } | State::Clearing { .. },
            Event::Learn { epoch, .. },
        ) if record.seen < *epoch => Resident {
            seen: *epoch,
            ..record.clone()
        },
        (State::Lost { epoch }, Event::TakeUp) => record.with(State::Settled {
            epoch: record.next_epoch(*epoch),
        }),
        (State::Lost { epoch }, Event::Cede { to }) => {
            record.overtaken(to, record.next_epoch(*epoch))
        }
        _ => return Err(illegal()),
    };
    Ok(next)
}

#[cfg(test)]
mod tests;
