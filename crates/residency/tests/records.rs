//! Offices, records and decisions when two want the same thing at the same time.

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result};
use handoff::decision::{Decision, Outcome};
use handoff::record::{Event, Resident, State};
use model::{Attempt, Epoch, UserKey};
use residency::office::Office;
use residency::records::{self, Change};
use residency::{Error, decisions};
use support::{ATTEMPT, Shape, Site, here, number, outcome, service, states, there};

fn begin(user: UserKey) -> Change {
    Change {
        user,
        event: Event::Begin {
            from: there(),
            attempt: Attempt(5),
        },
    }
}

#[tokio::test]
async fn an_office_is_held_by_one_living_session_and_lost_with_it() -> Result<()> {
    let site = Site::new().await?;
    let (first, second) = (site.mover().await?, site.mover().await?);
    let held = Office::take(&first, Office::DEPARTURES).await?;
    let refused = Office::take(&second, Office::DEPARTURES).await;
    assert!(matches!(refused, Err(Error::Office { .. })), "{refused:?}");
    // Another office is another matter.
    Office::take(&second, &Office::arrivals(&there())).await?;

    let mut third = site.mover().await?;
    held.hold(&third).await?;
    drop(first);
    testbed::wait_until("the office is free", Duration::from_secs(20), async || {
        Ok(Office::take(&second, Office::DEPARTURES).await.is_ok())
    })
    .await?;
    // The old process still has sessions, and changes nothing with them.
    let tx = third.transaction().await?;
    let lost = held.hold(&tx).await;
    assert!(matches!(lost, Err(Error::Office { .. })), "{lost:?}");
    Ok(())
}

#[tokio::test]
async fn an_office_changes_hands_only_between_transactions() -> Result<()> {
    let site = Site::new().await?;
    let (first, mut working, next) = (
        site.mover().await?,
        site.mover().await?,
        site.mover().await?,
    );
    let held = Office::take(&first, Office::DEPARTURES).await?;
    let tx = working.transaction().await?;
    held.hold(&tx).await?;
    drop(first);
    let pid = support::pid(&next).await?;
    let taking = tokio::spawn(async move {
        loop {
            match Office::take(&next, Office::DEPARTURES).await {
                // The old session may still be dying.
                Err(Error::Office { .. }) => tokio::task::yield_now().await,
                other => return other.map(|_| ()),
            }
        }
    });
    let watch = site.session("postgres").await?;
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
    );
    support::until(&watch, "the next one waits for the transaction", &waits).await?;
    assert!(!taking.is_finished());
    tx.commit().await?;
    taking.await??;
    assert!(held.hold(&working).await.is_err());
    Ok(())
}

#[tokio::test]
async fn an_illegal_step_of_one_leaves_nothing_of_all() -> Result<()> {
    let site = Site::new().await?;
    let mut mover = site.mover().await?;
    for (n, state) in (1..).zip(states()) {
        site.become_one(n, state).await?;
    }
    let events: Vec<Event> = vec![
        Event::Enrol {
            to: there(),
            attempt: ATTEMPT,
        },
        Event::Withdraw {
            attempt: Attempt(9),
        },
        Event::Fence {
            attempt: Attempt(9),
            batch: "m/9".into(),
        },
        Event::Reopen {
            batch: "m/9".into(),
        },
        Event::Offer {
            batch: "m/9".into(),
        },
        Event::Accepted {
            batch: "m/9".into(),
        },
        Event::Erased { epoch: Epoch(6) },
        Event::Accept {
            from: there(),
            attempt: ATTEMPT,
            epoch: Epoch(7),
        },
        Event::Clear {
            attempt: Attempt(9),
            epoch: None,
        },
        Event::Cleared {
            attempt: Attempt(9),
        },
    ];
    for (n, state) in (1..).zip(states()) {
        for event in &events {
            // A step that is allowed, and one that is not.
            let enrol = Event::Enrol {
                to: there(),
                attempt: Attempt(20),
            };
            let changes = [
                Change {
                    user: site.user(11),
                    event: enrol,
                },
                Change {
                    user: site.user(n),
                    event: event.clone(),
                },
            ];
            let tx = mover.transaction().await?;
            let changed = records::change(&tx, site.kind(), &changes, None).await;
            match changed {
                Err(Error::Illegal { user, .. }) => assert_eq!(user, site.user(n)),
                other => panic!("{} of a {} user: {other:?}", event.name(), state.name()),
            }
            tx.rollback().await?;
            let now = site.record(n).await?.context("a record")?;
            assert_eq!(now.state, state);
            assert_eq!(site.record(11).await?, Some(Resident::adopted()));
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_record_reads_back_as_it_was_written() -> Result<()> {
    let site = Site::new().await?;
    let more = [
        State::Departed {
            to: there(),
            epoch: Epoch(9),
            erased: true,
        },
        State::Arriving {
            from: there(),
            attempt: ATTEMPT,
            kept: None,
        },
    ];
    for state in states().into_iter().chain(more) {
        site.become_one(1, state.clone()).await?;
        let read = site.record(1).await?.context("a record")?;
        assert_eq!(
            (read.state, read.seen, read.attempt_seen),
            (state, Epoch(7), ATTEMPT)
        );
    }
    Ok(())
}

#[tokio::test]
async fn two_enrolments_of_a_user_without_a_record_do_not_both_count() -> Result<()> {
    let site = Site::new().await?;
    let (mut one, mut two) = (site.mover().await?, site.mover().await?);
    let first = one.transaction().await?;
    site.enrol(&first, &[1]).await?;
    let enrol = [Change {
        user: site.user(1),
        event: Event::Enrol {
            to: "oregon".into(),
            attempt: Attempt(2),
        },
    }];
    let kind = site.kind();
    let pid = support::pid(&two).await?;
    let second = tokio::spawn(async move {
        let tx = two.transaction().await?;
        let changed = records::change(&tx, kind, &enrol, None).await;
        tx.commit().await?;
        anyhow::Ok(changed)
    });
    let watch = site.session("postgres").await?;
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
    );
    support::until(&watch, "the second waits for the first", &waits).await?;
    first.commit().await?;
    let second = second.await??;
    assert!(matches!(second, Err(Error::Illegal { .. })), "{second:?}");
    let stands = site.record(1).await?.context("a record")?;
    assert_eq!(
        stands.state,
        State::Moving {
            epoch: Epoch(0),
            to: there(),
            attempt: ATTEMPT
        }
    );
    Ok(())
}

#[tokio::test]
async fn nobody_begins_to_arrive_over_somebody_who_is_being_created() -> Result<()> {
    for first_row in [
        "INSERT INTO customer VALUES (700, 'CN', 'x')",
        "INSERT INTO orders VALUES (7, 0, 700)",
    ] {
        let site = Site::shaped(Shape {
            is_origin: false,
            mark: Some(100),
            foreign_key: "DEFERRABLE INITIALLY DEFERRED",
            ..Shape::default()
        })
        .await?;
        let (app, mut mover) = (site.app().await?, site.mover().await?);
        app.batch_execute(&format!("BEGIN; {first_row}")).await?;
        let (kind, changes) = (site.kind(), [begin(site.user(700))]);
        let pid = support::pid(&mover).await?;
        let beginning = tokio::spawn(async move {
            let tx = mover.transaction().await?;
            let changed = records::change(&tx, kind, &changes, None).await;
            if changed.is_ok() {
                tx.commit().await?;
            }
            anyhow::Ok(changed)
        });
        let watch = site.session("postgres").await?;
        let waits = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
        );
        support::until(&watch, "the arrival waits for the creation", &waits).await?;
        app.batch_execute(
            "INSERT INTO customer VALUES (700, 'CN', 'x') ON CONFLICT DO NOTHING; COMMIT",
        )
        .await?;
        let changed = beginning.await??;
        assert!(matches!(changed, Err(Error::Illegal { .. })), "{changed:?}");
        assert_eq!(
            site.record(700).await?.context("a record")?.state.name(),
            "settled"
        );

        // And the other way round.
        let mover = site.mover().await?;
        records::change(&mover, site.kind(), &[begin(site.user(701))], None).await?;
        assert_eq!(
            outcome(&app, &first_row.replace("700", "701").replace("(7,", "(8,")).await,
            "DM421"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_key_in_another_spelling_is_the_same_user() -> Result<()> {
    let site = Site::shaped(Shape {
        key: "uuid",
        ..Shape::default()
    })
    .await?;
    let departed = states().swap_remove(4);
    site.become_one(10, departed.clone()).await?;
    let mover = site.mover().await?;
    let spelled = UserKey::new(site.user(10).as_str().to_uppercase().replace('-', ""));
    let found = records::lock(&mover, site.kind(), &[site.user(1), spelled]).await?;
    assert_eq!(found[0], Some(Resident::adopted()));
    assert_eq!(found[1].as_ref().context("a record")?.state, departed);
    Ok(())
}

#[tokio::test]
async fn a_decision_is_made_once_whoever_asks_at_the_same_time() -> Result<()> {
    let site = Site::new().await?;
    let (mut one, mut two) = (site.mover().await?, site.mover().await?);
    let refused = || Decision::Refused {
        named: vec![(site.user(1), "a reason".to_owned())],
        highest: Epoch(9),
    };
    for first_commits in [true, false] {
        let batch = model::BatchId::new(format!("m/{first_commits}"));
        let tx = one.transaction().await?;
        let first =
            decisions::decide(&tx, &service(), &batch, &here(), Decision::Accepted, None).await?;
        assert_eq!(first, Outcome::Decided(Decision::Accepted));
        let pid = support::pid(&two).await?;
        let watch = site.session("postgres").await?;
        let racing = async {
            let tx = two.transaction().await?;
            let second =
                decisions::decide(&tx, &service(), &batch, &here(), refused(), None).await?;
            tx.commit().await?;
            anyhow::Ok(second)
        };
        let ending = async {
            let waits = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
            );
            support::until(&watch, "the second waits for the first", &waits).await?;
            if first_commits {
                tx.commit().await?
            } else {
                tx.rollback().await?
            }
            anyhow::Ok(())
        };
        let (second, ended) = tokio::join!(racing, ending);
        ended?;
        let wanted = if first_commits {
            Outcome::Standing(Decision::Accepted)
        } else {
            Outcome::Decided(refused())
        };
        assert_eq!(second?, wanted);
        let stands = decisions::standing(&watch, &service(), &batch).await?;
        assert_eq!(stands.as_ref(), Some(wanted.word()));
    }
    assert_eq!(
        number(&one, "SELECT count(*) FROM domicile.decision").await?,
        2
    );
    Ok(())
}
