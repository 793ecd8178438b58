use super::*;

/// The names of the events, in the order of [`matching`].
const EVENTS: [&str; 20] = [
    "create",
    "enrol",
    "withdraw",
    "fence",
    "reopen",
    "offer",
    "accepted",
    "refused",
    "erased",
    "forgotten",
    "begin",
    "accept",
    "clear",
    "cleared",
    "overtaken",
    "miss",
    "learn",
    "reclaim",
    "take up",
    "cede",
];

/// State by state, the state after each event that fits it; `-` where the step is illegal.
#[rustfmt::skip]
const TABLE: [(&str, [&str; 20]); 9] = [
    ("unknown",  ["settled", "-", "-", "-", "-", "-", "-", "-", "-", "-", "arriving", "-", "-", "-", "-", "lost", "departed", "-", "-", "-"]),
    ("settled",  ["settled", "moving", "-", "-", "-", "-", "-", "-", "-", "settled", "-", "-", "-", "-", "departed", "lost", "-", "-", "-", "-"]),
    ("moving",   ["moving", "-", "settled", "fenced", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "departed", "lost", "-", "-", "-", "-"]),
    ("fenced",   ["-", "-", "-", "-", "moving", "offered", "-", "-", "-", "-", "-", "-", "-", "-", "departed", "lost", "-", "-", "-", "-"]),
    ("offered",  ["-", "-", "-", "-", "-", "-", "departed", "moving", "-", "-", "-", "-", "-", "-", "departed", "lost", "-", "settled", "-", "-"]),
    ("departed", ["-", "-", "-", "-", "-", "-", "-", "-", "departed", "-", "arriving", "-", "-", "-", "-", "lost", "departed", "-", "-", "-"]),
    ("arriving", ["-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "arriving", "settled", "clearing", "-", "-", "lost", "arriving", "-", "-", "-"]),
    ("clearing", ["-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "departed", "-", "lost", "clearing", "-", "-", "-"]),
    ("lost",     ["-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "departed", "lost", "-", "-", "settled", "departed"]),
];

const EPOCH: Epoch = Epoch(5);
const SEEN: Epoch = Epoch(7);
const ATTEMPT: Attempt = Attempt(3);

fn there() -> SiteName {
    "singapore".into()
}

fn batch() -> BatchId {
    "batch".into()
}

fn kept() -> Option<Kept> {
    Some(Kept {
        to: "california".into(),
        epoch: Epoch(4),
    })
}

fn record(state: State) -> Resident {
    Resident {
        state,
        seen: SEEN,
        attempt_seen: ATTEMPT,
    }
}

/// One record for each row of [`TABLE`].
fn records() -> [Option<Resident>; 9] {
    let (epoch, attempt, to, from) = (EPOCH, ATTEMPT, there(), there());
    [
        None,
        Some(record(State::Settled { epoch })),
        Some(record(State::Moving {
            epoch,
            to: to.clone(),
            attempt,
        })),
        Some(record(State::Fenced {
            epoch,
            to: to.clone(),
            batch: batch(),
            attempt,
        })),
        Some(record(State::Offered {
            epoch,
            to: to.clone(),
            batch: batch(),
            attempt,
        })),
        Some(record(State::Departed {
            to,
            epoch,
            erased: false,
        })),
        Some(record(State::Arriving {
            from: from.clone(),
            attempt,
            kept: kept(),
        })),
        Some(record(State::Clearing {
            from,
            attempt,
            kept: kept(),
        })),
        Some(record(State::Lost { epoch })),
    ]
}

fn offered() -> Resident {
    records()[4].clone().expect("the fifth row")
}

/// One event for each column of [`TABLE`], fitting the records wherever one can fit.
fn matching() -> [Event; 20] {
    let (to, from, batch, attempt, next) = (there(), there(), batch(), ATTEMPT, ATTEMPT.next());
    [
        Event::Create,
        Event::Enrol { to, attempt: next },
        Event::Withdraw { attempt },
        Event::Fence {
            attempt,
            batch: batch.clone(),
        },
        Event::Reopen {
            batch: batch.clone(),
        },
        Event::Offer {
            batch: batch.clone(),
        },
        Event::Accepted {
            batch: batch.clone(),
        },
        Event::Refused {
            batch: batch.clone(),
            named: false,
            highest: Epoch(9),
        },
        Event::Erased { epoch: EPOCH },
        Event::Forgotten { epoch: EPOCH },
        Event::Begin {
            from: from.clone(),
            attempt: next,
        },
        Event::Accept {
            from,
            attempt,
            epoch: SEEN.next(),
        },
        Event::Clear {
            attempt,
            epoch: Some(Epoch(8)),
        },
        Event::Cleared { attempt },
        Event::Overtaken {
            to: there(),
            epoch: SEEN.next(),
        },
        Event::Miss { epoch: SEEN.next() },
        Event::Learn {
            to: there(),
            epoch: SEEN.next(),
        },
        Event::Reclaim { batch, round: 1 },
        Event::TakeUp,
        Event::Cede { to: there() },
    ]
}

/// Events that differ from those of [`matching`] in one number or name, and so fit nothing.
fn strays() -> Vec<Event> {
    let other = || BatchId::from("other");
    let elsewhere = || SiteName::from("mumbai");
    let mut strays = vec![
        Event::Reopen { batch: other() },
        Event::Offer { batch: other() },
        Event::Accepted { batch: other() },
        Event::Reclaim {
            batch: other(),
            round: 1,
        },
        Event::Refused {
            batch: other(),
            named: true,
            highest: Epoch(9),
        },
        Event::Accept {
            from: elsewhere(),
            attempt: ATTEMPT,
            epoch: SEEN.next(),
        },
        Event::Accept {
            from: there(),
            attempt: ATTEMPT,
            epoch: SEEN,
        },
    ];
    strays.push(Event::Overtaken {
        to: there(),
        epoch: Epoch(4),
    });
    strays.push(Event::Miss { epoch: SEEN });
    strays.push(Event::Learn {
        to: there(),
        epoch: SEEN,
    });
    for epoch in [Epoch(4), Epoch(6)] {
        strays.push(Event::Erased { epoch });
        strays.push(Event::Forgotten { epoch });
    }
    for attempt in [Attempt(2), ATTEMPT] {
        strays.push(Event::Enrol {
            to: there(),
            attempt,
        });
    }
    for attempt in [Attempt(2), Attempt(4)] {
        strays.extend([
            Event::Withdraw { attempt },
            Event::Fence {
                attempt,
                batch: batch(),
            },
            Event::Accept {
                from: there(),
                attempt,
                epoch: SEEN.next(),
            },
            Event::Clear {
                attempt,
                epoch: None,
            },
            Event::Cleared { attempt },
        ]);
    }
    strays
}

#[test]
fn who_is_erased_at_home_lives_on_under_an_epoch_above_all_seen() {
    let settled = record(State::Settled { epoch: EPOCH });
    let next = step(Some(&settled), &Event::Forgotten { epoch: EPOCH }).unwrap();
    let epoch = SEEN.next();
    assert_eq!(next.state, State::Settled { epoch });
    assert_eq!(next.seen, epoch);
}

#[test]
fn every_state_takes_the_events_of_the_table_and_no_others() {
    for ((name, row), record) in TABLE.iter().zip(records()) {
        let record = record.as_ref();
        assert_eq!(record.map_or("unknown", |r| r.state.name()), *name);
        for ((expected, event), column) in row.iter().zip(matching()).zip(EVENTS) {
            assert_eq!(event.name(), column);
            match step(record, &event) {
                Ok(next) => assert_eq!(next.state.name(), *expected, "{name}, {column}"),
                Err(illegal) => {
                    assert_eq!("-", *expected, "{name}, {column}");
                    assert_eq!((illegal.state, illegal.event), (*name, column));
                }
            }
        }
    }
}

#[test]
fn what_is_meant_for_another_attempt_batch_epoch_or_source_fits_no_record() {
    for record in records().iter().flatten() {
        for event in strays() {
            assert!(
                step(Some(record), &event).is_err(),
                "{} took {event:?}",
                record.state.name()
            );
        }
    }
}

#[test]
fn an_attempt_begins_only_where_a_newer_one_was_never_seen_and_no_other_source_arrives() {
    for record in records().iter().flatten() {
        for attempt in [Attempt(2), ATTEMPT] {
            let old = Event::Begin {
                from: there(),
                attempt,
            };
            assert!(step(Some(record), &old).is_err(), "{}", record.state.name());
        }
    }
    let arriving = records()[6].clone();
    let other = Event::Begin {
        from: "mumbai".into(),
        attempt: ATTEMPT.next(),
    };
    assert!(step(arriving.as_ref(), &other).is_err());
}

#[test]
fn nothing_seen_is_ever_forgotten() {
    for record in records().iter().flatten() {
        for event in matching() {
            if let Ok(next) = step(Some(record), &event) {
                assert!(next.seen >= record.seen, "{event:?}");
                assert!(next.attempt_seen >= record.attempt_seen, "{event:?}");
            }
        }
    }
}

#[test]
fn what_is_learnt_of_a_user_is_seen_and_changes_nothing_else() {
    for record in records().iter().flatten() {
        let learn = Event::Learn {
            to: there(),
            epoch: SEEN.next(),
        };
        if let Ok(next) = step(Some(record), &learn) {
            let seen = SEEN.next();
            assert_eq!(
                next,
                Resident {
                    seen,
                    ..record.clone()
                }
            );
        }
    }
}

#[test]
fn fences_and_reopenings_take_an_epoch_above_every_one_seen() {
    let [_, _, moving, fenced, ..] = records();
    let [_, _, _, fence, reopen, ..] = matching();
    for (record, event) in [(moving, fence), (fenced, reopen)] {
        let next = step(record.as_ref(), &event).expect("legal");
        let (State::Fenced { epoch, .. } | State::Moving { epoch, .. }) = next.state else {
            panic!("fenced or moving, not {next:?}");
        };
        assert_eq!((epoch, next.seen), (SEEN.next(), SEEN.next()));
    }
}

#[test]
fn a_refusal_settles_the_users_it_names_and_lets_the_others_move_above_its_highest_epoch() {
    let refused = |named, highest| Event::Refused {
        batch: batch(),
        named,
        highest,
    };
    let named = step(Some(&offered()), &refused(true, Epoch(9))).expect("legal");
    assert_eq!(named.state, State::Settled { epoch: Epoch(10) });
    let other = step(Some(&offered()), &refused(false, Epoch(2))).expect("legal");
    let moving = State::Moving {
        epoch: SEEN.next(),
        to: there(),
        attempt: ATTEMPT,
    };
    assert_eq!(other.state, moving);
}

#[test]
fn who_is_reclaimed_lives_here_above_whatever_the_lost_target_made_of_him_and_no_answer_changes_that()
 {
    let reclaim = Event::Reclaim {
        batch: batch(),
        round: 1,
    };
    let here = step(Some(&offered()), &reclaim).expect("legal");
    let State::Settled { epoch } = here.state else {
        panic!("settled, not {here:?}");
    };
    assert_eq!(here.seen, epoch);
    // The target accepted, and fenced and reopened him again and again.
    let accepted = Resident {
        state: State::Settled { epoch: EPOCH },
        seen: EPOCH,
        attempt_seen: ATTEMPT,
    };
    let (mut there, to, batch) = (accepted, there(), batch());
    for n in 4..1_000 {
        let attempt = Attempt(n);
        let to = to.clone();
        for event in [
            Event::Enrol { to, attempt },
            Event::Fence {
                attempt,
                batch: batch.clone(),
            },
            Event::Reopen {
                batch: batch.clone(),
            },
            Event::Withdraw { attempt },
        ] {
            there = step(Some(&there), &event).expect("legal");
        }
    }
    let tiding = crate::tidings::Tiding {
        home: "beijing".into(),
        epoch,
    };
    let heard = crate::tidings::hear(Some(&there), &to, true, &tiding).expect("it has to know");
    let there = step(Some(&there), &heard).expect("legal");
    assert!(matches!(there.state, State::Departed { .. }));
    for late in [
        Event::Accepted {
            batch: batch.clone(),
        },
        Event::Refused {
            batch: batch.clone(),
            named: true,
            highest: EPOCH,
        },
        Event::Reclaim { batch, round: 1 },
    ] {
        assert!(step(Some(&here), &late).is_err(), "{late:?}");
    }
}

#[test]
fn a_later_round_of_reclaiming_is_above_an_earlier_one_whatever_the_epochs_were() {
    let reclaimed = |epoch, round| {
        let state = State::Offered {
            epoch: Epoch(epoch),
            to: there(),
            batch: batch(),
            attempt: ATTEMPT,
        };
        let reclaim = Event::Reclaim {
            batch: batch(),
            round,
        };
        step(Some(&record(state)), &reclaim).expect("legal").seen
    };
    assert!(reclaimed(9, 2) > reclaimed(1_000_000, 1));
    // One who was reclaimed before leaps again, though this site was not told of the round.
    let before = reclaimed(9, 5);
    assert!(reclaimed(before.0 + 3, 1).0 > before.0 + 1_000_000_000);
}

#[test]
fn the_accepted_epoch_is_the_one_offered() {
    let event = Event::Accepted { batch: batch() };
    let departed = step(Some(&offered()), &event).expect("legal");
    let pointer = State::Departed {
        to: there(),
        epoch: EPOCH,
        erased: false,
    };
    assert_eq!(departed.state, pointer);
}

#[test]
fn a_cancelled_arrival_restores_the_pointer_it_replaced() {
    let departed = records()[5].clone().expect("the sixth row");
    let begin = Event::Begin {
        from: "mumbai".into(),
        attempt: Attempt(4),
    };
    let clear = Event::Clear {
        attempt: Attempt(4),
        epoch: Some(Epoch(11)),
    };
    let cleared = Event::Cleared {
        attempt: Attempt(4),
    };
    let end = [begin, clear, cleared]
        .iter()
        .fold(departed, |record, event| {
            step(Some(&record), event).expect("legal")
        });
    let pointer = State::Departed {
        to: there(),
        epoch: EPOCH,
        erased: true,
    };
    assert_eq!(
        (end.state, end.seen, end.attempt_seen),
        (pointer, Epoch(11), Attempt(4))
    );
}

#[test]
fn a_cancelled_first_arrival_points_to_its_source() {
    let begin = Event::Begin {
        from: there(),
        attempt: ATTEMPT,
    };
    let clear = Event::Clear {
        attempt: ATTEMPT,
        epoch: Some(Epoch(2)),
    };
    let cleared = Event::Cleared { attempt: ATTEMPT };
    let arriving = step(None, &begin).expect("legal");
    let clearing = step(Some(&arriving), &clear).expect("legal");
    let end = step(Some(&clearing), &cleared).expect("legal");
    let pointer = State::Departed {
        to: there(),
        epoch: Epoch(2),
        erased: true,
    };
    assert_eq!(end.state, pointer);
}

#[test]
fn a_restarted_arrival_keeps_what_the_first_replaced() {
    let arriving = records()[6].clone();
    let again = Event::Begin {
        from: there(),
        attempt: ATTEMPT.next(),
    };
    let next = step(arriving.as_ref(), &again).expect("legal");
    let expected = State::Arriving {
        from: there(),
        attempt: ATTEMPT.next(),
        kept: kept(),
    };
    assert_eq!(next.state, expected);
}

#[test]
fn creation_changes_nothing_for_somebody_who_lives_here() {
    for record in &records()[1..3] {
        let next = step(record.as_ref(), &Event::Create).expect("legal");
        assert_eq!(Some(next), *record);
    }
}

#[test]
fn only_the_home_is_open_and_only_until_it_is_fenced() {
    let faces = records().map(|r| r.map(|r| (r.state.is_home(), r.state.is_open())));
    let (open, closed, away) = (
        Some((true, true)),
        Some((true, false)),
        Some((false, false)),
    );
    assert_eq!(
        faces,
        [None, open, open, closed, closed, away, away, away, away]
    );
}
