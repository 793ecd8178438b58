//! The target's end of a line: puts what comes in order, gives it to the clerk, and keeps his answers until the source has
//! them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use link::Receiving;
use model::SiteName;
use mover::ask::Ask;
use mover::failure::Failure;
use mover::far::Asked;
use mover::host::Clerk;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::line::{Order, Seen};
use crate::word::{HEAD, LONG_MAX, PART_MAX, Said, Told, read_head};

/// How long a request waits for its answer before it is bid come again: so a peer that died is found out.
const WORKING: Duration = Duration::from_secs(10);

/// How many words may wait to be put in order.
const FED_MAX: usize = 64;

/// One line. Ends, with its clerk, when it is dropped.
pub(crate) struct Intake {
    site: SiteName,
    fed: mpsc::Sender<Fed>,
    kept: Arc<Mutex<Kept>>,
    task: AbortHandle,
    clerk: Mutex<Option<Clerk>>,
}

enum Fed {
    Word(u64, Ask, bool),
    Over(Receiving),
}

/// What is kept of a line.
#[derive(Default)]
struct Kept {
    seen: Seen,
    /// The answers, each empty until it is there.
    answers: BTreeMap<u64, watch::Sender<Option<Bytes>>>,
    /// Whether a transfer was named for it.
    has_transfer: bool,
    /// From this number on nobody takes anything any more.
    ended: Option<u64>,
}

/// An ask as it came along a line.
pub(crate) struct Coming {
    pub(crate) number: u64,
    pub(crate) answered: u64,
    pub(crate) ask: Option<Bytes>,
    pub(crate) wanted: bool,
    pub(crate) from: u32,
}

// === impl Intake ===

impl Intake {
    /// A line to a clerk of `site`.
    pub(crate) fn new(site: SiteName, (clerk, handle): (mpsc::Sender<Asked>, Clerk)) -> Self {
        let (fed, feed) = mpsc::channel(FED_MAX);
        let kept = Arc::<Mutex<Kept>>::default();
        let pump = Pump {
            site: site.clone(),
            clerk,
            kept: Arc::clone(&kept),
            order: Order::new(),
        };
        let task = tokio::spawn(pump.run(feed)).abort_handle();
        Self {
            site,
            fed,
            kept,
            task,
            clerk: Mutex::new(Some(handle)),
        }
    }

    /// Whether a transfer still has to be named.
    pub(crate) fn wants_transfer(&self) -> bool {
        !std::mem::replace(&mut lock(&self.kept).has_transfer, true)
    }

    /// What is long comes over `transfer`.
    pub(crate) async fn over(&self, transfer: Receiving) {
        // Nobody takes it where the line has ended: then every answer says so.
        let _ = self.fed.send(Fed::Over(transfer)).await;
    }

    /// Takes what came, unless it came before, and says what is to be said of it now.
    pub(crate) async fn hear(&self, coming: Coming) -> Said {
        let Coming {
            number,
            answered,
            ask,
            wanted,
            from,
        } = coming;
        if let Some(ask) = ask {
            let Ok(ask) = postcard::from_bytes::<Ask>(&ask) else {
                return self.disorder();
            };
            // Room first: once it counts as seen it must get there.
            match self.fed.reserve().await {
                Ok(room) => {
                    if lock(&self.kept).seen.is_new(number) {
                        room.send(Fed::Word(number, ask, wanted));
                    }
                }
                Err(_) if !wanted => return Said::Failed(left(&self.site)),
                Err(_) => {}
            }
        }
        let mut answer = {
            let mut kept = lock(&self.kept);
            kept.seen.forget_below(answered);
            kept.answers = kept.answers.split_off(&answered);
            if !wanted {
                return Said::Taken;
            }
            if number < answered {
                return self.disorder();
            }
            kept.answer(number, &self.site).subscribe()
        };
        let there = answer.wait_for(Option::is_some);
        match tokio::time::timeout(WORKING, there).await {
            Ok(Ok(bytes)) => part(bytes.as_ref(), from).unwrap_or_else(|| self.disorder()),
            Ok(Err(_)) => self.disorder(),
            Err(_) => Said::Working,
        }
    }

    /// Breaks off what the clerk is at. Whoever still waits here is told that nothing comes.
    pub(crate) fn end(&self) {
        self.task.abort();
        let mut clerk = self.clerk.lock().unwrap_or_else(PoisonError::into_inner);
        drop(clerk.take());
    }

    fn disorder(&self) -> Said {
        let site = self.site.clone();
        Said::Failed(Failure::Disorder { site })
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.end();
    }
}

// === impl Kept ===

impl Kept {
    /// The place of an answer; one that never comes says so.
    fn answer(&mut self, number: u64, site: &SiteName) -> &watch::Sender<Option<Bytes>> {
        let never = self.ended.is_some_and(|ended| number >= ended);
        self.answers.entry(number).or_insert_with(|| {
            let never = never.then(|| written(&Err(left(site))));
            watch::Sender::new(never)
        })
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn left(site: &SiteName) -> Failure {
    Failure::Left { site: site.clone() }
}

fn written(told: &Told) -> Bytes {
    postcard::to_stdvec(told).unwrap_or_default().into()
}

/// A part of an answer.
pub(crate) fn part(answer: Option<&Bytes>, from: u32) -> Option<Said> {
    let bytes = answer?;
    let start = from as usize;
    let end = bytes.len().min(start.checked_add(PART_MAX)?);
    Some(Said::Part {
        bytes: (start <= end).then(|| bytes.slice(start..end))?,
        whole: u32::try_from(bytes.len()).ok()?,
    })
}

/// Gives a clerk what is his, in order.
struct Pump {
    site: SiteName,
    clerk: mpsc::Sender<Asked>,
    kept: Arc<Mutex<Kept>>,
    order: Order<(Ask, bool)>,
}

// === impl Pump ===

impl Pump {
    async fn run(mut self, mut feed: mpsc::Receiver<Fed>) {
        self.pump(&mut feed).await;
        feed.close();
        // What was not given to the clerk is never answered.
        let next = self.order.next();
        let mut kept = lock(&self.kept);
        kept.ended = Some(next);
        for answer in kept.answers.range(next..).map(|(_, answer)| answer) {
            answer.send_if_modified(|answer| {
                let empty = answer.is_none();
                answer.get_or_insert_with(|| written(&Err(left(&self.site))));
                empty
            });
        }
    }

    async fn pump(&mut self, feed: &mut mpsc::Receiver<Fed>) {
        let mut long = None;
        // The number of a word of the transfer that is not in turn: then nothing more is read from there.
        let mut ahead = 0;
        loop {
            while let Some((number, (ask, wanted))) = self.order.pop() {
                if !self.give(number, ask, wanted).await {
                    return;
                }
            }
            let in_turn = ahead < self.order.next() || ahead == 0;
            tokio::select! {
                fed = feed.recv() => match fed {
                    None => return,
                    Some(Fed::Word(number, ask, wanted)) => self.order.put(number, (ask, wanted)),
                    Some(Fed::Over(transfer)) => long = Some(Long::new(transfer)),
                },
                word = Long::next(&mut long), if in_turn => match word {
                    Some((number, ask, wanted)) => {
                        ahead = number;
                        self.order.put(number, (ask, wanted));
                    }
                    None => {
                        tracing::debug!(site = %self.site, "a line's transfer ended before the line");
                        return;
                    }
                },
            }
        }
    }

    /// Says whether the clerk has taken it.
    async fn give(&self, number: u64, ask: Ask, wanted: bool) -> bool {
        let (answer, answered) = oneshot::channel();
        let answer = wanted.then_some(answer);
        if self.clerk.send(Asked { ask, answer }).await.is_err() {
            let kept = &mut lock(&self.kept);
            kept.answer(number, &self.site)
                .send_replace(Some(written(&Err(left(&self.site)))));
            return false;
        }
        if wanted {
            let (kept, site) = (Arc::clone(&self.kept), self.site.clone());
            tokio::spawn(async move {
                let told = match answered.await {
                    Ok(Ok(answer)) => Ok(answer),
                    Ok(Err(error)) => Err(Failure::of(&error, &site)),
                    Err(_) => Err(left(&site)),
                };
                let mut kept = lock(&kept);
                kept.answer(number, &site)
                    .send_replace(Some(written(&told)));
            });
        }
        true
    }
}

/// What comes over a transfer.
struct Long {
    transfer: Receiving,
    come: BytesMut,
}

// === impl Long ===

impl Long {
    fn new(transfer: Receiving) -> Self {
        let come = BytesMut::new();
        Self { transfer, come }
    }

    /// The next word; `None` where no more can come. Waits for ever without a transfer. May be dropped half-way.
    async fn next(long: &mut Option<Self>) -> Option<(u64, Ask, bool)> {
        let Some(long) = long else {
            return std::future::pending().await;
        };
        loop {
            if let Some(head) = long.come.first_chunk::<HEAD>() {
                let (number, wanted, length) = read_head(head);
                if length > LONG_MAX {
                    return None;
                }
                if long.come.len() >= HEAD + length {
                    long.come.advance(HEAD);
                    let body = long.come.split_to(length).freeze();
                    return Some((number, postcard::from_bytes(&body).ok()?, wanted));
                }
            }
            let bytes = long.transfer.next().await.ok()??;
            long.come.extend_from_slice(&bytes);
        }
    }
}
