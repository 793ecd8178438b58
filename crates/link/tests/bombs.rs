//! A peer with the right key that means ill (TESTS X14): the connection ends, the process and its memory do not notice.
#![allow(missing_docs, reason = "tests")]

mod support;

use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use link::{BLOCK_MAX, BODY_MAX, Peer, TransferId};
use support::forger::{Form, Papers, Wire, greet, hello};
use support::{AWAY, HOME, address, all, home, key, soon};
use tokio::io::AsyncWriteExt as _;

struct Villain {
    papers: Papers,
    address: String,
    session: u64,
}

impl Villain {
    async fn control(&mut self) -> Wire {
        self.session += 1;
        self.connect(None).await
    }

    async fn connect(&self, flow: Option<u16>) -> Wire {
        let mut wire = soon(self.papers.connect(&self.address)).await.unwrap();
        let hello = hello(AWAY, HOME, self.session, flow);
        let answer = soon(greet(&mut wire, hello)).await.unwrap();
        assert!(answer.contains("welcome"), "{answer}");
        wire
    }
}

/// A bulk frame, without its length.
fn block(
    transfer: u64,
    number: u64,
    length: usize,
    compressed: bool,
    last: bool,
    payload: &[u8],
) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u64(transfer);
    frame.put_u64(number);
    frame.put_u32(length as u32);
    frame.put_u8(compressed.into());
    frame.put_u8(last.into());
    frame.put_slice(payload);
    frame.freeze()
}

/// A control frame, without its length.
fn message(kind: u8, number: u64, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(kind);
    frame.put_u64(number);
    frame.put_slice(body);
    frame.freeze()
}

/// With its length.
fn framed(frame: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u32(frame.len() as u32);
    framed.put_slice(frame);
    framed.freeze()
}

fn compressed(content: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(content, 19).unwrap()
}

/// Random bytes in a frame that asks for 128 MiB of history.
fn long_history() -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&support::rows(1, 100_000)).unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

/// Throws bytes at a connection until it ends. What comes back meanwhile is counted by nobody.
async fn throw(wire: Wire, bytes: Bytes, times: usize) {
    let stream = wire.into_inner();
    let (mut read, mut write) = tokio::io::split(stream);
    let throwing = async {
        for _ in 0..times {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = write.flush().await;
        // It stays open from this side: only the other can end it.
        std::future::pending::<()>().await;
    };
    let ended = async {
        let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
    };
    soon(async {
        tokio::select! {
            () = ended => {}
            () = throwing => {}
        }
    })
    .await;
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

async fn session(peer: &Peer, number: u64) {
    while soon(peer.connected()).await != number {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_end_their_connection_and_nothing_else() {
    let (home_key, away_key) = (key(), key());
    let mut end = home(&home_key, &away_key).await;
    let _inbox = end.take_inbox(&AWAY.into()).unwrap();
    let peer = end.peer(&AWAY.into()).unwrap().clone();
    let mut villain = Villain {
        papers: Papers::new(&away_key, &Form::of(AWAY)),
        address: address(&end),
        session: 0,
    };
    let zeros = vec![0; 64 << 20];
    let bomb = compressed(&zeros);
    let nested = compressed(&compressed(&bomb));
    drop(zeros);
    let full = compressed(&vec![0; BLOCK_MAX]);
    let history = long_history();

    let id = TransferId(5);
    let receiving = peer.receive(id).unwrap();
    let mut control = villain.control().await;
    // The window comes unasked, and says how much may be sent.
    let window = soon(control.next()).await.unwrap().unwrap();
    assert_eq!(window[0], 6);
    let before = resident();

    let bulk: Vec<(&str, Bytes, usize)> = vec![
        (
            "64 MiB announced",
            framed(&block(5, 0, 64 << 20, true, false, &bomb)),
            1,
        ),
        (
            "64 MiB where a block is announced",
            framed(&block(5, 0, BLOCK_MAX, true, false, &bomb)),
            1,
        ),
        (
            "nested",
            framed(&block(5, 0, BLOCK_MAX, true, false, &nested)),
            1,
        ),
        (
            "a ratio beyond the cap",
            framed(&block(5, 0, BLOCK_MAX, true, false, &full)),
            1,
        ),
        (
            "128 MiB of history",
            framed(&block(5, 0, 100_000, true, false, &history)),
            1,
        ),
        (
            "more than announced",
            framed(&block(5, 0, 9, true, false, &compressed(&[7; 99]))),
            1,
        ),
        (
            "noise",
            framed(&block(5, 0, 9, true, false, b"no zstd frame at all")),
            1,
        ),
        ("frames of no length", framed(b""), 1_000_000),
        (
            "empty blocks",
            framed(&block(5, 0, 0, false, false, b"")),
            1_000_000,
        ),
        (
            "the last block of an unknown transfer",
            framed(&block(6, 0, 0, false, true, b"")),
            1_000_000,
        ),
        ("a frame of 4 GiB", Bytes::from_static(&[0xff; 4]), 1),
        (
            "a frame a little too long",
            Bytes::from(((22 + BLOCK_MAX + 1) as u32).to_be_bytes().to_vec()),
            1,
        ),
        (
            "a block beyond the window",
            framed(&block(5, 1 << 40, 1, false, false, b"x")),
            1,
        ),
    ];
    let mut worst = 0;
    for (what, bytes, times) in bulk {
        throw(villain.connect(Some(0)).await, bytes, times).await;
        worst = worst.max(resident().saturating_sub(before));
        println!("{what}: connection ended");
        assert_eq!(peer.session(), Some(1), "{what}: the session stands");
    }
    // The same block again and again: the first is taken, the others are dropped, and in the end the connection.
    let again = framed(&block(5, 0, 5, false, false, b"whole"));
    throw(villain.connect(Some(0)).await, again, 1_000_000).await;
    // The next connection works, and the transfer goes on from there.
    let mut honest = villain.connect(Some(0)).await;
    honest
        .send(block(5, 1, 1, false, true, b"!"))
        .await
        .unwrap();
    assert_eq!(soon(all(receiving)).await.unwrap(), b"whole!");

    let sending = peer.send().unwrap();
    let acked_too_much = message(6, sending.id().0, &[0xff; 16]);
    let control_bombs: Vec<(&str, Bytes, usize)> = vec![
        ("frames of no length", framed(b""), 1_000_000),
        ("a frame of 4 GiB", Bytes::from_static(&[0xff; 4]), 1),
        (
            "a body too long",
            Bytes::from(((9 + BODY_MAX + 1) as u32).to_be_bytes().to_vec()),
            1,
        ),
        ("an unknown kind", framed(&message(99, 0, b"")), 1),
        ("a heartbeat with a body", framed(&message(5, 0, b"x")), 1),
        (
            "heartbeats without end",
            framed(&message(5, 0, b"")),
            1_000_000,
        ),
        (
            "notices that nobody takes",
            framed(&message(4, 0, &[7; 100_000])),
            10_000,
        ),
        (
            "an acknowledgement of what was not sent",
            framed(&acked_too_much),
            1,
        ),
    ];
    let mut sessions = 1;
    for (what, bytes, times) in control_bombs {
        let wire = villain.control().await;
        sessions += 1;
        session(&peer, sessions).await;
        throw(wire, bytes, times).await;
        soon(peer.gone(sessions)).await;
        worst = worst.max(resident().saturating_sub(before));
        println!("{what}: session ended");
    }
    // Before the hello nothing longer than a hello is read.
    for bytes in [
        Bytes::from(vec![0, 0, 8, 0]),
        framed(b"no hello"),
        framed(b""),
    ] {
        let wire = soon(villain.papers.connect(&villain.address))
            .await
            .unwrap();
        throw(wire, bytes, 1).await;
    }
    println!("memory rose by {} KiB", worst >> 10);
    assert!(worst < 64 << 20, "{worst} bytes");
    let _control = villain.control().await;
    session(&peer, sessions + 1).await;
}
