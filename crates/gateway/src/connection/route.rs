//! Sends a request where it belongs, as often as it is told that this is elsewhere.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::SiteName;

use super::send::Sent;
use super::{After, Connection, Held};
use crate::exchange::Misdirected;
use crate::homes::SiteId;
use crate::http::read::say;
use crate::http::respond::Answer;
use crate::locate::{Way, Word};
use crate::pool::Place;
use crate::request::{HOPS_MAX, Request, Said};
use crate::site::Gateway;
use crate::who::Who;

/// How long to wait before an application whose guard refused is asked again, and before it is looked again for what cannot be known yet.
const REFUSED: Duration = Duration::from_millis(20);

impl Connection {
    /// Sends a request where it belongs, as often as it is told that this is elsewhere, within bounds.
    pub(super) async fn route(
        &mut self,
        request: &mut Request,
        mut held: Held,
        began: Instant,
    ) -> io::Result<After> {
        let thread = Rc::clone(&self.thread);
        let gateway = &*thread.gateway;
        let slot = Arc::clone(&self.slot);
        let mut said = request.said;
        let mut told = said.word;
        let parked_until = tokio::time::Instant::from_std(began) + gateway.limits.parking.time;
        loop {
            let (service, way, passing) = match &request.who {
                Who::Nobody { service, site } if *site == gateway.here => {
                    (*service, Way::Here, None)
                }
                Who::Nobody { service, site } => (
                    *service,
                    Way::There {
                        site: *site,
                        word: Word::default(),
                    },
                    None,
                ),
                Who::User(traveller) | Who::Named(traveller) => {
                    let way = gateway.locate(traveller, told).await;
                    let (way, passing) = match way {
                        Way::Here => gateway.admit(&slot, traveller),
                        elsewhere => (elsewhere, None),
                    };
                    (traveller.service, way, passing)
                }
            };
            let (place, word) = match way {
                Way::Here => (Place::Local(service), Word::default()),
                Way::There { site, word } if said.hops < HOPS_MAX => {
                    if self.peer.is_some() && said.can_resend {
                        return self.misdirect(request, held, site, word).await;
                    }
                    (Place::Peer(site.0), word)
                }
                Way::There { .. } => return self.give_up(held, request).await,
                Way::Lost => {
                    let answer =
                        Answer::new(503, "this user is closed until an operator has looked");
                    return self
                        .refuse(answer, request.head_only, self.must_end(request, &held))
                        .await;
                }
                Way::NotKnown if self.waits_for_word(parked_until).await => continue,
                Way::NotKnown => {
                    let answer = Answer::again("it cannot be said now where this user lives");
                    return self
                        .refuse(answer, request.head_only, self.must_end(request, &held))
                        .await;
                }
                Way::Wait => {
                    self.course.parked = true;
                    let bytes = self.onward.len() + self.body.len();
                    if wait(gateway, request, bytes, parked_until).await {
                        continue;
                    }
                    let answer = Answer::again("this user is changing home");
                    return self
                        .refuse(answer, request.head_only, self.must_end(request, &held))
                        .await;
                }
            };
            self.course.home = Some(match place {
                Place::Local(_) => gateway.here,
                Place::Peer(site) => SiteId(site),
            });
            if let Place::Peer(_) = place {
                said.hops += 1;
            }
            let onward = Said {
                hops: said.hops,
                word,
                can_resend: matches!(held, Held::Whole),
            };
            let sent = self.send(place, request, onward, &mut held).await;
            drop(passing);
            match sent? {
                Sent::Done(after) => return Ok(after),
                Sent::Refused(answer) => {
                    return self
                        .refuse(answer, request.head_only, self.must_end(request, &held))
                        .await;
                }
                // The path was lost, and may be again.
                Sent::Never if tokio::time::Instant::now() < parked_until => {}
                Sent::Never => return self.give_up(held, request).await,
                Sent::Again(says) if request.is_named_by(gateway, &says) => {
                    // As a request of his that has just come, but for the hop.
                    told = Word::default();
                    self.course.turns += 1;
                    said.hops += 1;
                }
                Sent::Again(says) => {
                    let (word, way) = self.learn(request, &says).await;
                    told = word;
                    self.course.turns += 1;
                    let local = matches!(place, Place::Local(_));
                    if local && way == Way::Wait {
                        // Fenced where no door was closed: the guard was the first to say so.
                        tokio::time::sleep(REFUSED).await;
                        if tokio::time::Instant::now() < parked_until {
                            continue;
                        }
                    }
                    // Every answer that sends it on counts, so that no two gateways can keep it between them.
                    said.hops += u8::from(local);
                    if said.hops > HOPS_MAX {
                        return self.give_up(held, request).await;
                    }
                }
            }
        }
    }

    /// Waits a little where it cannot be said where a user lives, as while the home database is started again; within the bounds of what may wait.
    async fn waits_for_word(&self, until: tokio::time::Instant) -> bool {
        let gateway = &*self.thread.gateway;
        let bytes = self.onward.len() + self.body.len();
        let Ok(_room) = gateway.doors.enter(bytes, gateway.limits.parking) else {
            return false;
        };
        tokio::time::sleep(REFUSED).await;
        tokio::time::Instant::now() < until
    }

    /// Draws the conclusion from a refusal to execute; gives what is known by it, and where the home database says that he is.
    async fn learn(&self, request: &Request, says: &Misdirected) -> (Word, Way) {
        let gateway = &*self.thread.gateway;
        let Some(traveller) = request.who.user() else {
            return (Word::default(), Way::Here);
        };
        let home = says
            .home
            .as_ref()
            .and_then(|home| gateway.site(&SiteName::from(home.as_str())));
        match (home, says.epoch) {
            (Some(site), Some(epoch)) if site != gateway.here => {
                if let Some(service) = gateway.services.get(usize::from(traveller.service)) {
                    service.homes.hear(traveller.hash, site, epoch);
                }
                let word = Word::default();
                (word, Way::There { site, word })
            }
            // He lives here, another gateway says; or the application's guard refused him. The home database knows.
            _ => {
                let way = gateway.ask(traveller, Word::default()).await;
                let word = Word {
                    epoch: says.epoch,
                    newcomer: says.newcomer && home == Some(gateway.here),
                };
                (word, way)
            }
        }
    }

    /// Tells a peer's gateway where the user lives.
    async fn misdirect(
        &mut self,
        request: &Request,
        held: Held,
        site: SiteId,
        word: Word,
    ) -> io::Result<After> {
        use std::io::Write as _;
        let gateway = &*self.thread.gateway;
        self.out.clear();
        let _ = write!(
            self.out,
            "HTTP/1.1 421 Misdirected Request\r\ncontent-length: 0\r\ndomicile-home: {}\r\n",
            gateway.name(site)
        );
        if let Some(epoch) = word.epoch {
            let _ = write!(self.out, "domicile-epoch: {epoch}\r\n");
        }
        if word.newcomer {
            self.out.extend_from_slice(b"domicile-newcomer: yes\r\n");
        }
        let end = self.must_end(request, &held);
        if end {
            self.out.extend_from_slice(b"connection: close\r\n");
        }
        self.out.extend_from_slice(b"\r\n");
        say(&mut self.stream, &self.out).await?;
        Ok(if end { After::End } else { After::Next })
    }

    async fn give_up(&mut self, held: Held, request: &Request) -> io::Result<After> {
        let answer = Answer::again("no site says that this user lives there");
        self.refuse(answer, request.head_only, self.must_end(request, &held))
            .await
    }
}

/// Waits until the user's door is open, within bounds; whether it is worth looking again.
async fn wait(
    gateway: &Gateway,
    request: &Request,
    bytes: usize,
    until: tokio::time::Instant,
) -> bool {
    let Some(traveller) = request.who.user() else {
        return false;
    };
    match gateway
        .doors
        .park(traveller.hash, bytes, gateway.limits.parking)
    {
        Err(_) => false,
        Ok(Some(mut parked)) => tokio::time::timeout_at(until, parked.opened())
            .await
            .is_ok(),
        // The database says so, and word of it has not come: soon.
        Ok(None) => {
            tokio::time::sleep(REFUSED / 10).await;
            tokio::time::Instant::now() < until
        }
    }
}
