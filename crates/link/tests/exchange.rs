//! What two sites that trust each other can do.
#![allow(missing_docs, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use link::{BODY_MAX, Incoming, RequestError, TransferError};
use support::{AWAY, HOME, PATIENCE, Pair, all, rows, soon};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_and_a_notice_arrives_in_both_directions() {
    let mut pair = Pair::new().await;
    for (from, to) in [(HOME, AWAY), (AWAY, HOME)] {
        let mut inbox = pair.inbox(to);
        let peer = if from == HOME {
            &pair.at_home
        } else {
            &pair.at_away
        }
        .clone();
        let body = rows(1, BODY_MAX);
        let asked = tokio::spawn({
            let body = body.clone();
            async move {
                peer.notify(Bytes::from_static(b"departed 17"))
                    .await
                    .unwrap();
                peer.request(body, PATIENCE).await
            }
        });
        let Some(Incoming::Notice(notice)) = soon(inbox.next()).await else {
            panic!("the notice comes first");
        };
        assert_eq!(notice, "departed 17");
        let Some(Incoming::Request(request)) = soon(inbox.next()).await else {
            panic!("then the request");
        };
        assert!(request.body == body);
        request
            .reply(Bytes::from_static(b"accepted"))
            .await
            .unwrap();
        assert_eq!(soon(asked).await.unwrap().unwrap(), "accepted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_come_whole_in_both_directions_at_once() {
    let pair = Pair::new().await;
    let mut transfers = JoinSet::new();
    for n in 0..6 {
        let (from, to) = match n % 2 {
            0 => (pair.at_home.clone(), pair.at_away.clone()),
            _ => (pair.at_away.clone(), pair.at_home.clone()),
        };
        // Also nothing, one byte, and lengths that end with and beside a block.
        let length = [0, 1, 262_144, 262_145, 3_000_000, 20_000_000][n as usize];
        transfers.spawn(async move {
            let content = rows(n, length);
            let mut sending = from.send().unwrap();
            let receiving = to.receive(sending.id()).unwrap();
            let received = tokio::spawn(all(receiving));
            for piece in content.chunks(100_000) {
                sending.write(content.slice_ref(piece)).await.unwrap();
            }
            sending.finish().await.unwrap();
            assert!(received.await.unwrap().unwrap() == content, "transfer {n}");
        });
    }
    while let Some(done) = soon(transfers.join_next()).await {
        done.unwrap();
    }
    let traffic = pair.at_away.traffic();
    assert_eq!(traffic.raw_sent, 1 + 262_145 + 20_000_000);
    assert!(traffic.wire_sent < traffic.raw_sent / 2, "{traffic:?}");
    assert_eq!(traffic.raw_received, 262_144 + 3_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_one_end_drops_fails_at_the_other() {
    let pair = Pair::new().await;
    let mut sending = pair.at_away.send().unwrap();
    let receiving = pair.at_home.receive(sending.id()).unwrap();
    drop(receiving);
    let failed = soon(async {
        loop {
            if let Err(why) = sending.write(rows(1, 100_000)).await {
                return why;
            }
        }
    });
    assert_eq!(failed.await, TransferError::Cancelled);

    let mut sending = pair.at_away.send().unwrap();
    let mut receiving = pair.at_home.receive(sending.id()).unwrap();
    sending.write(rows(2, 300_000)).await.unwrap();
    assert!(soon(receiving.next()).await.unwrap().is_some());
    drop(sending);
    assert_eq!(soon(receiving.next()).await, Err(TransferError::Abandoned));

    // A name that the sender never gave out, or no longer knows.
    let unknown = pair.at_away.send().unwrap().id();
    let mut receiving = pair.at_home.receive(unknown).unwrap();
    assert_eq!(soon(receiving.next()).await, Err(TransferError::Abandoned));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_nobody_takes_end_with_the_time_or_as_busy() {
    let mut pair = Pair::new().await;
    let inbox = pair.inbox(HOME);
    let brief = Duration::from_secs(2);
    let mut requests = JoinSet::new();
    for _ in 0..link::WAITING_MAX + 1 {
        let peer = pair.at_away.clone();
        requests.spawn(async move { peer.request(Bytes::new(), brief).await });
    }
    let (mut busy, mut unknown) = (0, 0);
    while let Some(ended) = soon(requests.join_next()).await {
        match ended.unwrap() {
            Err(RequestError::Busy) => busy += 1,
            Err(RequestError::OutcomeUnknown) => unknown += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((busy, unknown), (1, link::WAITING_MAX));
    drop(inbox);
    let long = Bytes::from(vec![0; BODY_MAX + 1]);
    let refused = pair.at_away.request(long, brief).await;
    assert_eq!(refused, Err(RequestError::TooLong(BODY_MAX + 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_holds_the_sender_up_and_memory_stays_bounded() {
    let pair = Pair::new().await;
    let mut sending = pair.at_away.send().unwrap();
    let mut receiving = pair.at_home.receive(sending.id()).unwrap();
    // All the sender can have under way: both ends' windows, what each keeps for itself, and what it gathers.
    let bound = 2 * (link::Settings::WINDOW + 4 * link::BLOCK_MAX) + link::BLOCK_MAX;
    let piece = rows(3, 1 << 20);
    let mut written = 0_usize;
    while let Ok(wrote) =
        tokio::time::timeout(Duration::from_millis(500), sending.write(piece.clone())).await
    {
        wrote.unwrap();
        written += piece.len();
        assert!(written <= bound, "{written} bytes are under way");
    }
    assert!(written > 16 << 20, "{written}");
    // The call that was dropped half-way is not forgotten: its content would have a hole.
    let after = sending.write(piece.clone()).await;
    assert_eq!(after, Err(TransferError::Interrupted));
    // The receiver was only slow.
    let mut read = 0;
    while read < written {
        read += soon(receiving.next()).await.unwrap().unwrap().len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn control_does_not_wait_behind_bulk() {
    let mut pair = Pair::new().await;
    let mut inbox = pair.inbox(HOME);
    let answering = tokio::spawn(async move {
        while let Some(Incoming::Request(request)) = inbox.next().await {
            request.reply(Bytes::new()).await.unwrap();
        }
    });
    let mut sending = pair.at_away.send().unwrap();
    let receiving = pair.at_home.receive(sending.id()).unwrap();
    let draining = tokio::spawn(all(receiving));
    let saturating = tokio::spawn(async move {
        let piece = rows(4, 1 << 20);
        for _ in 0..200 {
            sending.write(piece.clone()).await.unwrap();
        }
        sending.finish().await.unwrap();
    });
    let mut trips = Vec::new();
    while !saturating.is_finished() {
        let began = std::time::Instant::now();
        pair.at_away.request(Bytes::new(), PATIENCE).await.unwrap();
        trips.push(began.elapsed());
    }
    saturating.await.unwrap();
    assert_eq!(draining.await.unwrap().unwrap().len(), 200 << 20);
    answering.abort();
    trips.sort();
    let (median, longest) = (trips[trips.len() / 2], trips[trips.len() - 1]);
    println!(
        "control under bulk: {} round trips, median {median:?}, longest {longest:?}",
        trips.len()
    );
    // 64 MiB stand in the window: behind them a message would wait for a good part of a second.
    assert!(median < Duration::from_millis(50), "{median:?}");
}
