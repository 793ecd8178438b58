//! What becomes of transfers and requests when the path breaks under them.
#![allow(missing_docs, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use link::{Endpoint, Incoming, Receiving, RequestError, Sending, TransferError};
use support::forger::{Form, Papers, greet, hello};
use support::{
    AWAY, HOME, PATIENCE, Pair, address, all, away, home, key, peer, rows, settings, soon,
};
use tokio::time::timeout;

const LENGTH: usize = 48 << 20;

async fn send(mut sending: Sending, content: Bytes) -> Result<(), TransferError> {
    for piece in content.chunks(700_001) {
        sending.write(content.slice_ref(piece)).await?;
    }
    sending.finish().await
}

/// Receives all, and does something each time that many bytes more have come.
async fn with_breaks(
    mut receiving: Receiving,
    every: usize,
    mut cut: impl AsyncFnMut(),
) -> Vec<u8> {
    let (mut got, mut next) = (Vec::new(), every);
    while let Some(bytes) = soon(receiving.next()).await.unwrap() {
        got.extend_from_slice(&bytes);
        if got.len() >= next {
            next += every;
            cut().await;
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_survives_that_all_its_connections_are_cut() {
    let (pair, relay) = Pair::relayed().await;
    let content = rows(1, LENGTH);
    let sending = pair.at_away.send().unwrap();
    let receiving = pair.at_home.receive(sending.id()).unwrap();
    let sent = tokio::spawn(send(sending, content.clone()));
    let mut cuts = 0;
    let got = with_breaks(receiving, LENGTH / 8, async || {
        cuts += 1;
        relay.cut().await;
    });
    assert!(got.await == content);
    soon(sent).await.unwrap().unwrap();
    let traffic = pair.at_away.traffic();
    println!("{cuts} cuts of all connections: {traffic:?}");
    assert!(cuts >= 7);
    // Each cut may cost what was under way, and no more than that: the transfer did not begin again.
    let under_way = support::RELAYED_WINDOW + 4 * link::BLOCK_MAX;
    let most = LENGTH + cuts * under_way;
    assert!(traffic.raw_sent <= most as u64, "{traffic:?}, over {most}");
    assert_eq!(pair.at_home.traffic().raw_received, LENGTH as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_connection_that_is_cut_comes_back_and_the_session_stands() {
    let (pair, relay) = Pair::relayed().await;
    let session = pair.at_away.session();
    let content = rows(2, LENGTH);
    let sending = pair.at_away.send().unwrap();
    let receiving = pair.at_home.receive(sending.id()).unwrap();
    let sent = tokio::spawn(send(sending, content.clone()));
    let mut which = 0;
    let got = with_breaks(receiving, LENGTH / 8, async || {
        // Number 0 is the control connection.
        which += 1;
        relay.cut_one(which).await;
    });
    assert!(got.await == content);
    soon(sent).await.unwrap().unwrap();
    assert_eq!(pair.at_away.session(), session);
    assert!(relay.connections() > 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_waits_while_there_is_no_path_and_goes_on_after() {
    let (pair, relay) = Pair::relayed().await;
    let content = rows(3, LENGTH / 4);
    let sending = pair.at_away.send().unwrap();
    let receiving = pair.at_home.receive(sending.id()).unwrap();
    relay.let_through(false);
    relay.cut().await;
    soon(pair.at_away.gone(1)).await;
    let sent = tokio::spawn(send(sending, content.clone()));
    let received = tokio::spawn(all(receiving));
    assert_eq!(
        pair.at_away.request(Bytes::new(), PATIENCE).await,
        Err(RequestError::NotConnected)
    );
    relay.let_through(true);
    assert!(soon(received).await.unwrap().unwrap() == content);
    soon(sent).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_way_when_the_path_breaks_has_an_unknown_outcome_and_is_not_sent_again() {
    let (mut pair, relay) = Pair::relayed().await;
    let mut inbox = pair.inbox(HOME);
    let session = soon(pair.at_away.connected()).await;
    let peer = pair.at_away.clone();
    let asked = tokio::spawn(async move {
        peer.request(Bytes::from_static(b"offer"), PATIENCE * 10)
            .await
    });
    let Some(Incoming::Request(request)) = soon(inbox.next()).await else {
        panic!("a request was sent");
    };
    relay.cut().await;
    assert_eq!(
        soon(asked).await.unwrap(),
        Err(RequestError::OutcomeUnknown)
    );
    soon(pair.at_away.gone(session)).await;
    assert!(soon(pair.at_away.connected()).await > session);
    // The answer has nowhere to go; the question does not come again, and the next one is the next thing that comes.
    let _ = request.reply(Bytes::from_static(b"too late")).await;
    let peer = pair.at_away.clone();
    let asked =
        tokio::spawn(async move { peer.request(Bytes::from_static(b"ask"), PATIENCE).await });
    let Some(Incoming::Request(request)) = soon(inbox.next()).await else {
        panic!("a request was sent");
    };
    assert_eq!(request.body, "ask");
    request
        .reply(Bytes::from_static(b"accepted"))
        .await
        .unwrap();
    assert_eq!(soon(asked).await.unwrap().unwrap(), "accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_there_was_no_path_is_told_afterwards() {
    let (pair, relay) = Pair::relayed().await;
    let mut sending = pair.at_away.send().unwrap();
    let receiving = pair.at_home.receive(sending.id()).unwrap();
    let mut given_up = pair.at_away.send().unwrap();
    let mut awaited = pair.at_home.receive(given_up.id()).unwrap();
    given_up.write(rows(5, 300_000)).await.unwrap();
    assert!(soon(awaited.next()).await.unwrap().is_some());
    relay.let_through(false);
    relay.cut().await;
    soon(pair.at_home.gone(1)).await;
    soon(pair.at_away.gone(1)).await;
    drop(receiving);
    drop(given_up);
    relay.let_through(true);
    let failed = soon(async {
        loop {
            if let Err(why) = sending.write(rows(4, 100_000)).await {
                return why;
            }
        }
    });
    assert_eq!(failed.await, TransferError::Cancelled);
    assert_eq!(soon(awaited.next()).await, Err(TransferError::Abandoned));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_does_not_survive_a_peer_that_was_started_anew() {
    let (home_key, away_key) = (key(), key());
    let home = home(&home_key, &away_key).await;
    let at = address(&home);
    let first = away(&away_key, &home_key, at.clone()).await;
    let at_home = home.peer(&AWAY.into()).unwrap().clone();
    soon(at_home.connected()).await;
    let mut outgoing = at_home.send().unwrap();
    let mut incoming = at_home
        .receive(first.peer(&HOME.into()).unwrap().send().unwrap().id())
        .unwrap();
    drop(first);
    let second = away(&away_key, &home_key, at).await;
    soon(second.peer(&HOME.into()).unwrap().connected()).await;
    let failed = soon(async {
        loop {
            if let Err(why) = outgoing.write(rows(6, 100_000)).await {
                return why;
            }
        }
    });
    assert_eq!(failed.await, TransferError::PeerRestarted);
    let ended = soon(incoming.next()).await.unwrap_err();
    assert!(matches!(
        ended,
        TransferError::PeerRestarted | TransferError::Abandoned
    ));
    drop(home);
    assert_eq!(at_home.send().map(drop), Err(TransferError::Closed));
}

/// Two seconds instead of thirty.
const SILENCE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_which_nobody_says_anything_stands() {
    let (home_key, away_key) = (key(), key());
    let mut listens = settings(HOME, &home_key, vec![peer(AWAY, &away_key, None)]);
    listens.listen = Some("127.0.0.1:0".into());
    listens.silence = SILENCE;
    let home = Endpoint::start(listens).await.unwrap();
    let peers = vec![peer(HOME, &home_key, Some(address(&home)))];
    let mut dials = settings(AWAY, &away_key, peers);
    dials.silence = SILENCE;
    let pair = Pair::join(home, Endpoint::start(dials).await.unwrap()).await;
    let sending = pair.at_away.send().unwrap();
    let receiving = pair.at_home.receive(sending.id()).unwrap();
    // Something was said, and then nothing more.
    soon(sending.finish()).await.unwrap();
    drop(receiving);
    let lost = timeout(SILENCE * 3, async {
        tokio::join!(pair.at_home.gone(1), pair.at_away.gone(1));
    });
    assert!(lost.await.is_err(), "the session did not stand");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_falls_silent_is_given_up() {
    let (home_key, away_key) = (key(), key());
    let mut listens = settings(HOME, &home_key, vec![peer(AWAY, &away_key, None)]);
    listens.listen = Some("127.0.0.1:0".into());
    listens.silence = SILENCE;
    let home = Endpoint::start(listens).await.unwrap();
    let papers = Papers::new(&away_key, &Form::of(AWAY));
    let mut wire = soon(papers.connect(&address(&home))).await.unwrap();
    soon(greet(&mut wire, hello(AWAY, HOME, 1, None)))
        .await
        .unwrap();
    // It keeps the connection open, and reads, and says nothing.
    let reading = async { while let Some(Ok(_)) = wire.next().await {} };
    soon(reading).await;
    soon(home.peer(&AWAY.into()).unwrap().gone(1)).await;
}
