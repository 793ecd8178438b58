//! A path with a round-trip time: a relay that hands on what comes half a round trip later, in both directions.
//!
//! It ends TCP at both sides, so that it says nothing of what TCP makes of a long path or of loss; it delays what the two
//! daemons say to each other, which is what a pause is made of.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// How many pieces may be under way in one direction.
const UNDER_WAY: usize = 4_096;

/// The relay; its connections end with it.
pub(super) struct Path {
    pub(super) address: String,
    _tasks: JoinSet<()>,
}

// === impl Path ===

impl Path {
    /// Relays to `to`, with a round trip of `rtt`.
    pub(super) async fn open(to: String, rtt: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let to = to.clone();
                pipes.spawn(async move {
                    let Ok(far) = TcpStream::connect(to).await else {
                        return;
                    };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    tokio::select! {
                        () = carry(near_in, far_out, rtt / 2) => {}
                        () = carry(far_in, near_out, rtt / 2) => {}
                    }
                });
            }
        });
        Ok(Self {
            address,
            _tasks: tasks,
        })
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) {
    let (send, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let reading = async move {
        let mut piece = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            let due = Instant::now() + delay;
            if send.send((due, piece[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        while let Some((due, piece)) = under_way.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    // What was read still arrives.
    tokio::join!(reading, writing);
}
