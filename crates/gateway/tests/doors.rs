//! While a user changes home his requests wait, and then go where he went.

mod support;

use std::time::Duration;

use gateway::doors::Bounds;
use gateway::homes::SiteId;
use gateway::locate::{Traveller, Way, Word};
use gateway::site::{Limits, Stand};
use support::{NONCE, PATIENCE, SITES, until, world, world_with};

const HERE: Stand = Stand::Here { epoch: 5 };

#[tokio::test]
async fn who_waits_at_the_door_is_served_by_the_new_home() {
    let [beijing, singapore] = world().await;
    beijing.records.set("1", HERE);
    beijing.records.set("2", HERE);
    assert_eq!(beijing.get("1", "/x").await.body, "beijing /x 0");
    let shut = beijing.gateway.doors.close(vec![beijing.hash("1")]);
    assert_eq!(beijing.gateway.doors.drain(&shut, PATIENCE).await, 0);
    let reads = beijing.get("1", "/x");
    let writes = beijing.post("1", "/x", b"body");
    let large = vec![5; 200_000];
    let streams = beijing.post("1", "/x", &large);
    let remote = singapore.get("1", "/x");
    let moves = async {
        until(|| beijing.gateway.doors.parked() == 4).await;
        assert_eq!(
            beijing.get("2", "/x").await.body,
            "beijing /x 0",
            "others are not held"
        );
        let elsewhere = Stand::Elsewhere {
            site: SITES[1].into(),
            epoch: 6,
        };
        beijing.records.set("1", elsewhere);
        singapore.records.set("1", Stand::Here { epoch: 6 });
        beijing.homes().record(beijing.hash("1"), SiteId(1), 6);
        beijing.gateway.doors.open(&shut);
    };
    let (reads, writes, streams, remote, ()) = tokio::join!(reads, writes, streams, remote, moves);
    assert_eq!(reads.body, "singapore /x 0");
    assert_eq!(writes.body, "singapore /x 4");
    assert_eq!(streams.body, "singapore /x 200000");
    assert_eq!(remote.body, "singapore /x 0");
    assert_eq!(beijing.gateway.doors.parked(), 0);
    assert_eq!(beijing.application.heard().len(), 2);
}

#[tokio::test]
async fn the_door_is_closed_only_when_requests_under_way_have_ended() {
    let [beijing, _singapore] = world().await;
    beijing.records.set("1", HERE);
    let slow = beijing.post("1", "/gate", b"slow");
    let closes = async {
        until(|| beijing.application.count("/gate") == 1).await;
        let shut = beijing.gateway.doors.close(vec![beijing.hash("1")]);
        assert_eq!(
            beijing
                .gateway
                .doors
                .drain(&shut, Duration::from_millis(20))
                .await,
            1
        );
        beijing.application.gate.add_permits(1);
        assert_eq!(beijing.gateway.doors.drain(&shut, PATIENCE).await, 0);
        beijing.gateway.doors.open(&shut);
    };
    let (slow, ()) = tokio::join!(slow, closes);
    assert_eq!(slow.status, 200);
}

#[tokio::test]
async fn beyond_the_bounds_it_is_said_to_come_again() {
    let limits = Limits {
        parking: Bounds {
            requests: 1,
            bytes: 1 << 20,
            time: Duration::from_millis(50),
        },
        ..Limits::default()
    };
    let [beijing, _singapore] = world_with(limits).await;
    beijing.records.set("1", HERE);
    let shut = beijing.gateway.doors.close(vec![beijing.hash("1")]);
    for _ in 0..2 {
        let (one, two) = tokio::join!(beijing.get("1", "/x"), beijing.get("1", "/x"));
        for reply in [one, two] {
            assert_eq!(reply.status, 503);
            assert!(reply.head.contains("retry-after: 1"));
        }
    }
    beijing.gateway.doors.open(&shut);
    assert_eq!(beijing.get("1", "/x").await.status, 200);
    assert_eq!(beijing.application.heard().len(), 1);
}

#[tokio::test]
async fn a_write_that_the_guard_refused_is_sent_again_and_anything_else_is_not() {
    let [beijing, singapore] = world().await;
    beijing.records.set("1", HERE);
    assert_eq!(beijing.get("1", "/x").await.status, 200);
    // He has left, and nobody has told this gateway.
    let elsewhere = Stand::Elsewhere {
        site: SITES[1].into(),
        epoch: 6,
    };
    beijing.records.set("1", elsewhere);
    singapore.records.set("1", Stand::Here { epoch: 6 });
    *beijing.application.refusals.lock().unwrap() = vec![NONCE.to_owned()];
    assert_eq!(
        beijing.post("1", "/refuse", b"once").await.body,
        "singapore /refuse 4"
    );
    assert_eq!(beijing.application.count("/refuse"), 1);
    assert_eq!(singapore.application.count("/refuse"), 1);
    // What is large is not kept: the client is told to come again.
    beijing.homes().record(beijing.hash("3"), SiteId(0), 5);
    *beijing.application.refusals.lock().unwrap() = vec![NONCE.to_owned()];
    let reply = beijing.post("3", "/refuse", &[0; 200_000]).await;
    assert_eq!(reply.status, 503);
    assert!(reply.head.contains("retry-after: 1"));
    // An application's own 421 is its own.
    beijing.records.set("3", HERE);
    *beijing.application.refusals.lock().unwrap() = vec!["something else".to_owned()];
    assert_eq!(beijing.post("3", "/refuse", b"once").await.status, 421);
    // A connection that broke may have executed it.
    singapore.records.set("2", HERE);
    let reply = singapore.post("2", "/break", b"once").await;
    assert_eq!(reply.status, 502, "{reply:?}");
    assert_eq!(singapore.application.count("/break"), 1);
}

#[tokio::test]
async fn event_streams_and_sockets_end_where_their_user_changes_home() {
    let [beijing, _singapore] = world().await;
    beijing.records.set("1", HERE);
    let mut events = beijing.connect().await;
    events
        .send("GET /events HTTP/1.1\r\nhost: shop\r\nx-user: 1\r\n\r\n")
        .await;
    let mut socket = beijing.connect().await;
    socket
        .send("GET /socket HTTP/1.1\r\nhost: shop\r\nx-user: 1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await;
    let switched = socket.reply().await;
    assert_eq!(switched.status, 101);
    until(|| beijing.application.count("/events") == 1).await;
    let shut = beijing.gateway.doors.close(vec![beijing.hash("1")]);
    assert_eq!(beijing.gateway.doors.drain(&shut, PATIENCE).await, 0);
    let mut said = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut socket.stream, &mut said)
        .await
        .unwrap();
    // A close frame with the status 1012: come again.
    assert_eq!(said[..4], [0x88, 15, 0x03, 0xf4], "{said:?}");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn who_left_between_the_look_and_the_step_is_not_let_through() {
    let [beijing, _singapore] = world().await;
    beijing.records.set("1", HERE);
    let traveller = Traveller {
        service: 0,
        user: "1".into(),
        hash: beijing.hash("1"),
        market: None,
    };
    let gateway = &beijing.gateway;
    assert_eq!(gateway.locate(&traveller, Word::default()).await, Way::Here);
    let shut = gateway.doors.close(vec![traveller.hash]);
    assert_eq!(gateway.doors.drain(&shut, PATIENCE).await, 0);
    beijing.homes().record(traveller.hash, SiteId(1), 6);
    gateway.doors.open(&shut);
    let slot = gateway.doors.slot();
    let (way, passing) = gateway.admit(&slot, &traveller);
    assert_eq!(way, Way::Wait);
    assert!(passing.is_none());
    // What the home database said before that is not remembered after it.
    assert!(matches!(
        gateway.ask(&traveller, Word::default()).await,
        Way::Here
    ));
    assert_eq!(gateway.admit(&slot, &traveller).0, Way::Wait);
}
