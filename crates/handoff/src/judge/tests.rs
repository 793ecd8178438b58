use super::*;

fn arriving(attempt: i64, seen: i64) -> Option<Resident> {
    Some(Resident {
        state: State::Arriving {
            from: "beijing".into(),
            attempt: Attempt(attempt),
            kept: None,
        },
        seen: Epoch(seen),
        attempt_seen: Attempt(attempt),
    })
}

/// Two users, each offered under epoch 5.
fn handoff() -> Handoff {
    Handoff {
        batch: "batch".into(),
        from: "beijing".into(),
        attempt: Attempt(3),
        users: vec![("1".into(), Epoch(5)), ("2".into(), Epoch(5))],
    }
}

fn complete() -> Findings {
    Findings {
        complete: true,
        against: Vec::new(),
    }
}

fn refusal(judgement: Judgement) -> (Vec<UserKey>, Epoch) {
    match judgement {
        Judgement::Refuse(Decision::Refused { named, highest }) => {
            (named.into_iter().map(|(user, _)| user).collect(), highest)
        }
        other => panic!("refused, not {other:?}"),
    }
}

#[test]
fn a_whole_batch_is_accepted_under_the_epochs_offered() {
    let records = [arriving(3, 0), arriving(3, 4)];
    let Judgement::Accept(list) = judge(&handoff(), &records, None, &complete()) else {
        panic!("accepted");
    };
    let settled = State::Settled { epoch: Epoch(5) };
    assert!(list.iter().all(|(_, record)| record.state == settled));
    assert_eq!(list.len(), 2);
}

#[test]
fn a_standing_decision_is_repeated_whatever_is_found() {
    let records = [arriving(3, 0), arriving(3, 0)];
    let refused = Decision::Refused {
        named: Vec::new(),
        highest: Epoch(0),
    };
    for standing in [Decision::Accepted, refused] {
        let judgement = judge(&handoff(), &records, Some(&standing), &complete());
        assert_eq!(judgement, Judgement::Repeat(standing));
    }
}

#[test]
fn a_finding_names_its_user_and_spares_the_other() {
    let records = [arriving(3, 0), arriving(3, 2)];
    let mut findings = complete();
    findings.against = vec![("2".into(), "a digest differs".into())];
    let judgement = judge(&handoff(), &records, None, &findings);
    assert_eq!(refusal(judgement), (vec!["2".into()], Epoch(2)));
}

#[test]
fn an_incomplete_copy_is_refused_and_names_nobody() {
    let records = [arriving(3, 0), arriving(3, 0)];
    let judgement = judge(&handoff(), &records, None, &Findings::default());
    assert_eq!(refusal(judgement), (vec![], Epoch(0)));
}

#[test]
fn an_epoch_too_low_is_refused_with_the_highest_and_names_nobody() {
    let records = [arriving(3, 0), arriving(3, 8)];
    let judgement = judge(&handoff(), &records, None, &complete());
    assert_eq!(refusal(judgement), (vec![], Epoch(8)));
}

#[test]
fn whoever_does_not_arrive_in_this_attempt_is_named() {
    let records = [arriving(4, 0), None];
    let judgement = judge(&handoff(), &records, None, &complete());
    assert_eq!(refusal(judgement), (vec!["1".into(), "2".into()], Epoch(0)));
}

#[test]
fn an_answer_repeats_the_decision_or_refuses_naming_nobody() {
    let records = [arriving(3, 6), None];
    let refused = Decision::Refused {
        named: Vec::new(),
        highest: Epoch(6),
    };
    assert_eq!(
        answer(Some(&Decision::Accepted), &records),
        Decision::Accepted
    );
    assert_eq!(answer(None, &records), refused);
}
