//! The source's end of a line: numbers what is sent, and carries it: small words as requests, large ones over a transfer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use link::Sending;
use mover::ask::{Answer, Ask};
use mover::far::{Asked, Line};
use mover::{Error, Result};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::caller::Post;
use crate::word::{INLINE_MAX, Said, Told, Whole, Word, head};

/// How much may wait to be carried; whoever sends more waits.
const WAITING: usize = 32;

/// How many requests of one line may be under way: several lines share the 64 that a peer hears at once.
const TOGETHER: usize = 16;

/// The way to a clerk at another site.
pub(crate) fn line(post: Post, visit: u64, line: u32) -> Line {
    let (asks, sent) = mpsc::channel(WAITING);
    let site = post.site().clone();
    let carrier = Carrier {
        post: Arc::new(post),
        visit,
        line,
        next: 0,
        open: Arc::default(),
        failed: Arc::default(),
        together: Arc::new(Semaphore::new(TOGETHER)),
        transfer: None,
        unsent: false,
    };
    let (wanted, gone) = oneshot::channel::<()>();
    tokio::spawn(carrier.run(sent, gone));
    Line::new(site, asks, wanted)
}

/// Carries what is sent along one line, until nobody sends any more.
struct Carrier {
    post: Arc<Post>,
    visit: u64,
    line: u32,
    next: u64,
    /// The numbers of which it is not known that they arrived, or whose answers are wanted.
    open: Arc<Mutex<BTreeSet<u64>>>,
    /// Whether something that was told did not arrive: then nothing after it may.
    failed: Arc<AtomicBool>,
    together: Arc<Semaphore>,
    transfer: Option<Sending>,
    /// Whether something waits in the transfer for more to come.
    unsent: bool,
}

// === impl Carrier ===

impl Carrier {
    async fn run(mut self, mut sent: mpsc::Receiver<Asked>, gone: oneshot::Receiver<()>) {
        let mut requests = JoinSet::new();
        let carrying = async {
            while let Some(Asked { ask, answer }) = sent.recv().await {
                while requests.try_join_next().is_some() {}
                let failed = self.failed.load(Ordering::Relaxed);
                if failed || self.carry(ask, answer, &mut requests).await.is_none() {
                    break;
                }
            }
            // Nothing more is taken; what was asked before may still be answered, and say why.
            sent.close();
            while requests.join_next().await.is_some() {}
        };
        tokio::select! {
            () = carrying => {}
            _ = gone => {}
        }
        // Whoever still waits for an answer has gone, or hears that there is none.
        drop((sent, requests));
        let close = Word::Close {
            visit: self.visit,
            line: self.line,
        };
        let _ = self.post.once(&close).await;
    }

    /// `None` where the line cannot be used any more.
    async fn carry(
        &mut self,
        ask: Ask,
        answer: Option<oneshot::Sender<Result<Answer>>>,
        requests: &mut JoinSet<()>,
    ) -> Option<()> {
        let number = self.next;
        self.next += 1;
        let wanted = answer.is_some();
        let body: Bytes = postcard::to_stdvec(&ask).ok()?.into();
        drop(ask);
        let inline = if body.len() <= INLINE_MAX {
            // What stands in the transfer comes before it.
            if std::mem::take(&mut self.unsent) {
                self.transfer.as_mut()?.flush().await.ok()?;
            }
            Some(body)
        } else {
            let length = u32::try_from(body.len()).ok()?;
            let head = Bytes::copy_from_slice(&head(number, wanted, length));
            let transfer = self.transfer().await?;
            transfer.write(head).await.ok()?;
            transfer.write(body).await.ok()?;
            if wanted {
                transfer.flush().await.ok()?;
            }
            self.unsent = !wanted;
            None
        };
        if inline.is_none() && !wanted {
            return Some(());
        }
        self.open().insert(number);
        let room = Arc::clone(&self.together).acquire_owned().await.ok()?;
        let asking = Asking {
            post: Arc::clone(&self.post),
            visit: self.visit,
            line: self.line,
            open: Arc::clone(&self.open),
            number,
        };
        let failed = Arc::clone(&self.failed);
        requests.spawn(async move {
            match answer {
                Some(answer) => {
                    let told = asking.answered(inline).await;
                    let _ = answer.send(told);
                }
                None => {
                    if asking.taken(inline).await.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                }
            }
            drop(room);
        });
        Some(())
    }

    /// The transfer, which the target is told of when it is first wanted.
    async fn transfer(&mut self) -> Option<&mut Sending> {
        if self.transfer.is_none() {
            let transfer = self.post.peer.send().ok()?;
            let over = Word::Over {
                visit: self.visit,
                line: self.line,
                transfer: transfer.id().0,
            };
            match self.post.converse(&over).await {
                Ok(Said::Taken) => self.transfer = Some(transfer),
                _ => return None,
            }
        }
        self.transfer.as_mut()
    }

    fn open(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One word on its way.
struct Asking {
    post: Arc<Post>,
    visit: u64,
    line: u32,
    open: Arc<Mutex<BTreeSet<u64>>>,
    number: u64,
}

// === impl Asking ===

impl Asking {
    fn word(&self, ask: Option<Bytes>, wanted: bool, from: u32) -> Word {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = open.first().copied().unwrap_or(self.number);
        Word::Ask {
            visit: self.visit,
            line: self.line,
            number: self.number,
            answered: oldest.min(self.number),
            ask,
            wanted,
            from,
        }
    }

    /// Nothing of this number is sent again.
    fn arrived(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.number);
    }

    async fn taken(&self, ask: Option<Bytes>) -> Result<()> {
        match self.post.converse(&self.word(ask, false, 0)).await? {
            Said::Taken => {
                self.arrived();
                Ok(())
            }
            Said::Failed(failure) => Err(failure.into()),
            Said::Working | Said::Part { .. } => Err(self.post.disorder()),
        }
    }

    async fn answered(&self, ask: Option<Bytes>) -> Result<Answer> {
        let told = self.whole(ask).await;
        self.arrived();
        let told: Told = postcard::from_bytes(&told?).map_err(|_| self.post.disorder())?;
        told.map_err(Error::from)
    }

    async fn whole(&self, ask: Option<Bytes>) -> Result<Vec<u8>> {
        let mut come = Whole::default();
        // Once the target has it, it need not be sent again.
        let mut ask = ask;
        loop {
            let from = come.come().ok_or_else(|| self.post.disorder())?;
            let word = self.word(ask.clone(), true, from);
            match self.post.converse(&word).await? {
                Said::Working => ask = None,
                Said::Part { bytes, whole } => {
                    ask = None;
                    let all = come.add(&bytes, whole);
                    if all.ok_or_else(|| self.post.disorder())? {
                        return Ok(come.into_bytes());
                    }
                }
                Said::Failed(failure) => return Err(failure.into()),
                Said::Taken => return Err(self.post.disorder()),
            }
        }
    }
}
