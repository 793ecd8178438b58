//! Requests that were bent at random, each followed by another, some with a third in their bodies: of whatever the gateway takes for a request the
//! client gets one answer, and an application that believes everything hears no other; and whatever server stands behind it, the next request gets its own answer.
//! `DOMICILE_CASES` sets how many pairs, `DOMICILE_SERVERS` before which servers; `just desync` runs a hundred thousand before four.

mod support;

use gateway::site::Limits;
use gateway::site::Stand;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use support::servers::Server;
use support::{PATIENCE, Site, world, world_before};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Pairs that run with the tests.
const CASES: u64 = 2_000;

/// What is a request only where the one before it has no body.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n";

/// How each of its answers begins.
const OK: &[u8] = b"HTTP/1.1 200";

const NAMES: [&str; 12] = [
    "Content-Length",
    "content-length",
    "Content-Length ",
    " Content-Length",
    "Content_Length",
    "Transfer-Encoding",
    "transfer-encoding",
    "Transfer-Encoding ",
    "Transfer_Encoding",
    "\tTransfer-Encoding",
    "X",
    "Connection",
];

const VALUES: [&str; 22] = [
    "chunked",
    "Chunked",
    "chunked, identity",
    "identity",
    "xchunked",
    "chunked\t",
    "\u{b}chunked",
    "gzip, chunked",
    "\"chunked\"",
    "+5",
    "-1",
    "0",
    "5",
    "5, 5",
    "5;5",
    "0x5",
    "5 5",
    "99999999999999999999",
    "close, content-length",
    "keep-alive",
    "",
    "1e1",
];

const ENDS: [&str; 8] = [
    "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n", "\r\n ",
];

const BYTES: [u8; 9] = [0, 9, 10, 11, 13, 32, 127, 128, b':'];

/// A request, bent in a few places.
fn bent(rng: &mut StdRng) -> Vec<u8> {
    let body = match rng.random_range(0..5) {
        0 => String::new(),
        1 => SMUGGLED.to_owned(),
        2 => format!("0\r\n\r\n{SMUGGLED}"),
        3 => format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len()),
        _ => format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}"),
    };
    let mut text = String::from("POST /first HTTP/1.1\r\nhost: a\r\n");
    let usual = format!("{}", body.len());
    for _ in 0..rng.random_range(0..4) {
        let name = NAMES.choose(rng).unwrap();
        let value = match rng.random_range(0..3) {
            0 => usual.as_str(),
            _ => VALUES.choose(rng).unwrap(),
        };
        let end = ENDS.choose(rng).unwrap();
        text.push_str(&format!("{name}: {value}{end}"));
    }
    text.push_str("\r\n");
    text.push_str(&body);
    let mut bytes = text.into_bytes();
    for _ in 0..rng.random_range(0..3) {
        let at = rng.random_range(0..bytes.len());
        let byte = *BYTES.choose(rng).unwrap();
        match rng.random_range(0..3) {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

fn cases() -> u64 {
    let cases = std::env::var("DOMICILE_CASES").ok();
    cases.map_or(CASES, |text| text.parse().unwrap())
}

/// A bent request, and another.
fn pair(seed: u64) -> Vec<u8> {
    let mut bytes = bent(&mut StdRng::seed_from_u64(seed));
    bytes.extend_from_slice(b"GET /second HTTP/1.1\r\nhost: a\r\n\r\n");
    bytes
}

/// Sends them in a connection of their own; how many answers of an application come back.
async fn answers(site: &Site, seed: u64, bytes: &[u8]) -> usize {
    let mut stream = TcpStream::connect(site.clients).await.unwrap();
    // The gateway may have closed before it has all of it.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answers = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answers)).await;
    assert!(
        read.is_ok(),
        "seed {seed}: the gateway neither answers nor closes"
    );
    let windows = answers.windows(OK.len());
    windows.filter(|window| *window == OK).count()
}

#[tokio::test]
async fn before_any_server_a_request_gets_its_own_answer() {
    let servers = std::env::var("DOMICILE_SERVERS").unwrap_or("hyper".to_owned());
    let cases = cases();
    for name in servers.split(',') {
        let server = Server::start(name).await;
        let [beijing, _singapore] = world_before(Limits::default(), Some(server.address)).await;
        beijing.records.set("1", Stand::Here { epoch: 1 });
        let mut answered = 0;
        for seed in 0..cases {
            let bytes = pair(seed);
            answered += answers(&beijing, seed, &bytes).await;
            // By the connection that the last of the pair came through, if it rests.
            let path = format!("/mark/{seed}");
            let mark = beijing.get("1", &path).await;
            let shown = String::from_utf8_lossy(&bytes);
            assert_eq!(mark.status, 200, "{name}, seed {seed}: {shown:?}");
            assert_eq!(
                mark.body,
                format!("GET {path} "),
                "{name}, seed {seed}: {shown:?}"
            );
        }
        println!("{name}: {cases} pairs, {answered} requests passed");
        assert!(answered as u64 > cases / 8, "{answered} of {cases} pairs");
    }
}

#[tokio::test]
async fn the_application_hears_what_the_gateway_has_answered_and_nothing_else() {
    let cases = cases();
    let [beijing, _singapore] = world().await;
    beijing.records.set("1", Stand::Here { epoch: 1 });
    let mut answered = 0;
    for seed in 0..cases {
        let bytes = pair(seed);
        answered += answers(&beijing, seed, &bytes).await;
        let heard = beijing.application.heard.lock().unwrap().len();
        let shown = String::from_utf8_lossy(&bytes);
        assert_eq!(heard, answered, "seed {seed}: {shown:?}");
    }
    // What an application hears late it hears by the time that another one was served.
    assert_eq!(beijing.get("1", "/last").await.status, 200);
    assert_eq!(beijing.application.heard().len(), answered + 1);
    println!("{cases} pairs, {answered} requests passed");
    // It would be easy to let nothing pass: as a rule it is about one for four pairs.
    assert!(answered as u64 > cases / 8, "{answered} of {cases} pairs");
}
