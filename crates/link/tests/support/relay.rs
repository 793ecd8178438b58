//! A relay of bytes between the sites: connections through it can be cut, and new ones refused for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub struct Relay {
    address: String,
    /// How often was cut, and which connection; none: all.
    cuts: watch::Sender<(u64, Option<u64>)>,
    open: Arc<AtomicBool>,
    pub connections: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub async fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cuts = watch::Sender::new((0, None));
        let open = Arc::new(AtomicBool::new(true));
        let connections = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let (cut, is_open, counted) = (cuts.clone(), Arc::clone(&open), Arc::clone(&connections));
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                if !is_open.load(Ordering::SeqCst) {
                    continue;
                }
                let (mut cut, to) = (cut.subscribe(), to.clone());
                let before = cut.borrow().0;
                let own = counted.fetch_add(1, Ordering::SeqCst);
                pipes.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(to).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.wait_for(|(cuts, which)| *cuts > before && which.is_none_or(|n| n == own)) => {}
                    }
                });
            }
        });
        Self {
            address,
            cuts,
            open,
            connections,
            _tasks: tasks,
        }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Cuts every connection that stands.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts = (cuts.0 + 1, None));
    }

    /// Cuts the connection that came as number `which`, counted from 0.
    pub fn cut_one(&self, which: u64) {
        self.cuts
            .send_modify(|cuts| *cuts = (cuts.0 + 1, Some(which)));
    }

    /// Lets no new connection through, or lets them again.
    pub fn let_through(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
    }
}
