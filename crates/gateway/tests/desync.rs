//! Requests that were bent at random, each followed by another, some with a third in their bodies: of whatever the gateway takes for a request the
//! client gets one answer, and an application that believes everything hears no other. `DOMICILE_CASES` sets how many pairs; `just desync` runs a hundred thousand.

mod support;

use gateway::site::Stand;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use support::{PATIENCE, world};
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

#[tokio::test]
async fn the_application_hears_what_the_gateway_has_answered_and_nothing_else() {
    let cases = std::env::var("DOMICILE_CASES").ok();
    let cases: u64 = cases.map_or(CASES, |text| text.parse().unwrap());
    let [beijing, _singapore] = world().await;
    beijing.records.set("1", Stand::Here { epoch: 1 });
    let mut answered = 0;
    for seed in 0..cases {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = bent(&mut rng);
        bytes.extend_from_slice(b"GET /second HTTP/1.1\r\nhost: a\r\n\r\n");
        let mut stream = TcpStream::connect(beijing.clients).await.unwrap();
        // The gateway may have closed before it has all of it.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answers = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answers)).await;
        assert!(
            read.is_ok(),
            "seed {seed}: the gateway neither answers nor closes"
        );
        answered += answers
            .windows(OK.len())
            .filter(|window| *window == OK)
            .count();
        let heard = beijing.application.heard.lock().unwrap().len();
        let shown = String::from_utf8_lossy(&bytes);
        assert_eq!(heard, answered, "seed {seed}: {shown:?}");
    }
    // What an application hears late it hears by the time that another one was served.
    assert_eq!(beijing.get("1", "/last").await.status, 200);
    assert_eq!(beijing.application.heard().len(), answered + 1);
    println!("{cases} pairs, {answered} requests passed");
    // It would be easy to let nothing pass.
    assert!(answered as u64 > cases / 4, "{answered} of {cases} pairs");
}
