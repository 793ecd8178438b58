//! HTTP/2 from clients goes the same way.

mod support;

use bytes::Bytes;
use gateway::homes::SiteId;
use gateway::site::Stand;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::{PATIENCE, SITES, Site, until, world};
use tokio::net::TcpStream;

const HERE: Stand = Stand::Here { epoch: 5 };

async fn connect(site: &Site) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(site.clients).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &SendRequest<Full<Bytes>>, user: &str, body: Vec<u8>) -> (u16, String) {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let request = Request::builder()
        .method(method)
        .uri("http://shop/x")
        .header("x-user", user)
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let mut sender = sender.clone();
    sender.ready().await.unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn many_requests_of_one_connection_go_each_to_its_users_home() {
    let [beijing, singapore] = world().await;
    for user in 0..20 {
        let (home, away) = match user % 2 {
            0 => (&beijing, &singapore),
            _ => (&singapore, &beijing),
        };
        home.records.set(&user.to_string(), HERE);
        let site = SITES[user % 2].into();
        away.records
            .set(&user.to_string(), Stand::Elsewhere { site, epoch: 5 });
    }
    let sender = connect(&beijing).await;
    let asks = (0..20).map(|user: usize| {
        let sender = sender.clone();
        tokio::spawn(async move { ask(&sender, &user.to_string(), vec![7; user * 20_000]).await })
    });
    for (user, answered) in asks.collect::<Vec<_>>().into_iter().enumerate() {
        let (status, body) = answered.await.unwrap();
        assert_eq!(
            (status, body),
            (200, format!("{} /x {}", SITES[user % 2], user * 20_000))
        );
    }
}

#[tokio::test]
async fn who_is_closed_waits_and_holds_nobody_else_of_the_connection() {
    let [beijing, singapore] = world().await;
    beijing.records.set("1", HERE);
    beijing.records.set("2", HERE);
    let sender = connect(&beijing).await;
    let shut = beijing.gateway.doors.close(vec![beijing.hash("1")]);
    let waits = ask(&sender, "1", b"body".to_vec());
    let moves = async {
        until(|| beijing.gateway.doors.parked() == 1).await;
        assert_eq!(ask(&sender, "2", Vec::new()).await.1, "beijing /x 0");
        singapore.records.set("1", Stand::Here { epoch: 6 });
        beijing.homes().record(beijing.hash("1"), SiteId(1), 6);
        beijing.gateway.doors.open(&shut);
    };
    let waits = tokio::time::timeout(PATIENCE, waits);
    let (waited, ()) = tokio::join!(waits, moves);
    let (_, body) = waited.unwrap();
    assert_eq!(body, "singapore /x 4");
}

#[tokio::test]
async fn what_belongs_to_a_connection_is_refused() {
    let [beijing, _singapore] = world().await;
    let mut sender = connect(&beijing).await;
    sender.ready().await.unwrap();
    let request = Request::builder()
        .uri("http://shop/x")
        .header("host", "another")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 400);
    let request = Request::builder()
        .method("TRACE")
        .uri("http://shop/x")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 501);
    assert!(beijing.application.heard().is_empty());
}
