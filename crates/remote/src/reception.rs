//! The target's side: hears what sources say about moves to this site.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use daemon::{Hears, Soon, Topic, Unheard};
use link::{Peer, TransferId};
use model::{ServiceName, SiteName};
use mover::ask::Call;
use mover::failure::Failure;
use mover::far::Far as _;
use mover::host::Host;

use crate::intake::{Coming, part};
use crate::stay::Stay;
use crate::word::{PART_MAX, PURPOSES, Said, TOPIC, Word};

/// The home databases of this site, read when somebody comes: tables change.
pub trait Homes: Send + Sync {
    /// The home database of `service` as a target; the [`Failure`] is told to whoever asked.
    fn host<'a>(&'a self, service: &'a ServiceName) -> Soon<'a, Result<Host, Failure>>;

    /// What a source must know of it before it begins, in a form that this room does not read.
    fn describe<'a>(&'a self, service: &'a ServiceName) -> Soon<'a, Result<Vec<u8>, Failure>>;
}

/// Everybody who visits this site.
pub struct Reception {
    site: SiteName,
    homes: Arc<dyn Homes>,
    stays: Mutex<HashMap<(SiteName, ServiceName), Arc<Stay>>>,
    /// Descriptions that are too long for one answer, until they were given out or are asked for anew: the parts must be of one.
    described: Mutex<HashMap<(SiteName, ServiceName), Bytes>>,
    /// One visit begins at a time.
    beginning: tokio::sync::Mutex<()>,
}

// === impl Reception ===

impl Reception {
    /// Nobody is there yet.
    pub fn new(site: SiteName, homes: Arc<dyn Homes>) -> Self {
        Self {
            site,
            homes,
            stays: Mutex::default(),
            described: Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
        }
    }

    /// Ends every visit at `service`: this process does not lead it any more.
    pub fn close(&self, service: &ServiceName) {
        self.stays().retain(|(_, of), _| service != of);
        let mut described = self
            .described
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        described.retain(|(_, of), _| service != of);
    }

    /// Ends the visit of `site` at `service`, where there is one.
    pub fn end(&self, site: &SiteName, service: &ServiceName) {
        self.stays().remove(&(site.clone(), service.clone()));
    }

    /// Ends the visits of sources that nothing was heard of for a long time. To be called now and then.
    pub fn sweep(&self) {
        self.stays().retain(|(site, service), stay| {
            let silent = stay.is_silent();
            if silent {
                tracing::warn!(%site, %service, "a visit ends: nothing was heard of its source");
            }
            !silent
        });
    }

    fn stays(&self) -> MutexGuard<'_, HashMap<(SiteName, ServiceName), Arc<Stay>>> {
        self.stays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stay(&self, from: &SiteName, visit: u64) -> Option<Arc<Stay>> {
        let stays = self.stays();
        let mut of_his = stays.iter().filter(|((site, _), _)| site == from);
        let (_, stay) = of_his.find(|(_, stay)| stay.number == visit)?;
        stay.hear();
        Some(Arc::clone(stay))
    }

    async fn answer(&self, from: &Peer, word: Word) -> Said {
        let site = from.site();
        let left = || {
            Said::Failed(Failure::Left {
                site: self.site.clone(),
            })
        };
        match word {
            Word::Describe { service, from } => self.describe(site, service, from).await,
            Word::Visit { visit, call } => self.begin(site, visit, call).await,
            Word::Leave { visit } => {
                self.stays()
                    .retain(|(of, _), stay| of != site || stay.number != visit);
                Said::Taken
            }
            Word::Here { visit } => match self.stay(site, visit) {
                Some(_) => Said::Taken,
                None => left(),
            },
            Word::Line {
                visit,
                line,
                purpose,
            } => {
                let Some(stay) = self.stay(site, visit) else {
                    return left();
                };
                let Some(purpose) = PURPOSES.into_iter().find(|known| *known == purpose) else {
                    return self.disorder();
                };
                match stay.open(line, purpose).await {
                    Ok(true) => Said::Taken,
                    Ok(false) => self.disorder(),
                    Err(error) => Said::Failed(Failure::of(&error, &self.site)),
                }
            }
            Word::Over {
                visit,
                line,
                transfer,
            } => {
                let intake = self.stay(site, visit).and_then(|stay| stay.line(line));
                let Some(intake) = intake else { return left() };
                if !intake.wants_transfer() {
                    return Said::Taken;
                }
                match from.receive(TransferId(transfer)) {
                    Ok(transfer) => {
                        intake.over(transfer).await;
                        Said::Taken
                    }
                    Err(_) => left(),
                }
            }
            Word::Close { visit, line } => {
                if let Some(stay) = self.stay(site, visit) {
                    stay.close(line);
                }
                Said::Taken
            }
            Word::Ask {
                visit,
                line,
                number,
                answered,
                ask,
                wanted,
                from,
            } => {
                let intake = self.stay(site, visit).and_then(|stay| stay.line(line));
                let Some(intake) = intake else { return left() };
                let coming = Coming {
                    number,
                    answered,
                    ask,
                    wanted,
                    from,
                };
                intake.hear(coming).await
            }
            Word::Rest(service) => {
                if let Ok(host) = self.homes.host(&service).await {
                    // Best effort, and it may take long: nobody waits for it.
                    tokio::spawn(async move { host.rest().await });
                }
                Said::Taken
            }
        }
    }

    /// A part of the description of `service`.
    async fn describe(&self, to: &SiteName, service: ServiceName, from: u32) -> Said {
        let lock = || {
            let described = self.described.lock();
            described.unwrap_or_else(PoisonError::into_inner)
        };
        let key = (to.clone(), service);
        let whole = match from {
            0 => match self.homes.describe(&key.1).await {
                Ok(description) => Bytes::from(description),
                Err(failure) => return Said::Failed(failure),
            },
            _ => match lock().get(&key) {
                Some(description) => description.clone(),
                None => {
                    let site = self.site.clone();
                    return Said::Failed(Failure::Left { site });
                }
            },
        };
        let said = part(Some(&whole), from);
        // Only of what is described here: so there are few.
        if from == 0 && whole.len() > PART_MAX {
            lock().insert(key, whole);
        }
        said.unwrap_or_else(|| self.disorder())
    }

    async fn begin(&self, from: &SiteName, number: u64, call: Call) -> Said {
        // Everybody speaks for his own site alone.
        if call.from != *from {
            return self.disorder();
        }
        let _one = self.beginning.lock().await;
        if self.stay(from, number).is_some() {
            return Said::Taken;
        }
        let key = (from.clone(), call.service.clone());
        // The one before ends first: it holds the office.
        drop(self.stays().remove(&key));
        let host = match self.homes.host(&call.service).await {
            Ok(host) => host,
            Err(failure) => return Said::Failed(failure),
        };
        match host.visit(call).await {
            Ok(visit) => {
                self.stays().insert(key, Arc::new(Stay::new(number, visit)));
                Said::Taken
            }
            Err(error) => Said::Failed(Failure::of(&error, &self.site)),
        }
    }

    fn disorder(&self) -> Said {
        Said::Failed(Failure::Disorder {
            site: self.site.clone(),
        })
    }
}

impl Hears for Reception {
    fn topic(&self) -> Topic {
        TOPIC
    }

    fn hear(&self, from: Peer, body: Bytes) -> Soon<'_, Result<Bytes, Unheard>> {
        Box::pin(async move {
            let said = match postcard::from_bytes(&body) {
                Ok(word) => self.answer(&from, word).await,
                Err(_) => self.disorder(),
            };
            let said = postcard::to_stdvec(&said).map_err(|_| Unheard)?;
            Ok(said.into())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;
    use crate::word::Whole;

    /// Describes itself in so many bytes, each time in others.
    struct Long(usize, AtomicU8);

    impl Homes for Long {
        fn host<'a>(&'a self, _: &'a ServiceName) -> Soon<'a, Result<Host, Failure>> {
            Box::pin(async { Err(Failure::StreamGone) })
        }

        fn describe<'a>(&'a self, _: &'a ServiceName) -> Soon<'a, Result<Vec<u8>, Failure>> {
            let byte = self.1.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { Ok(vec![byte; self.0]) })
        }
    }

    fn reception(length: usize) -> Reception {
        Reception::new("singapore".into(), Arc::new(Long(length, AtomicU8::new(1))))
    }

    async fn next(reception: &Reception, whole: &mut Whole) -> Option<bool> {
        let from = whole.come().expect("it is short");
        let (to, service) = ("beijing".into(), "shop".into());
        match reception.describe(&to, service, from).await {
            Said::Part { bytes, whole: of } => {
                assert!(bytes.len() <= PART_MAX);
                whole.add(&bytes, of)
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_long_description_comes_in_parts_of_one_and_the_same() {
        for length in [0, 10, PART_MAX, PART_MAX + 1, 3 * PART_MAX + 7] {
            let reception = reception(length);
            let mut whole = Whole::default();
            let mut parts = 0;
            while !next(&reception, &mut whole).await.expect("they follow") {
                parts += 1;
            }
            assert_eq!(parts, length.saturating_sub(1) / PART_MAX);
            assert_eq!(whole.into_bytes(), vec![1; length]);
        }
        // Asked for again, it looks again, and gives the parts of that.
        let reception = reception(PART_MAX + 1);
        for byte in [1, 2] {
            let mut whole = Whole::default();
            assert_eq!(next(&reception, &mut whole).await, Some(false));
            assert_eq!(next(&reception, &mut whole).await, Some(true));
            assert_eq!(whole.into_bytes(), vec![byte; PART_MAX + 1]);
        }
        // Of what nobody began, or of what has been closed, there is no second part.
        let others = reception
            .describe(&"auckland".into(), "shop".into(), 5)
            .await;
        assert!(matches!(others, Said::Failed(Failure::Left { .. })));
        reception.close(&"shop".into());
        let closed = reception
            .describe(&"beijing".into(), "shop".into(), 5)
            .await;
        assert!(matches!(closed, Said::Failed(Failure::Left { .. })));
    }
}
