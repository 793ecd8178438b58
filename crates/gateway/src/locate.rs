//! Where a request goes: decided from memory where that knows, and by asking the home database once where it does not.

use model::{Market, UserKey};

use crate::doors::{Passing, Slot};
use crate::homes::{SiteId, UserHash};
use crate::site::{Gateway, Stand};

/// Whose request it is, as far as that matters for where it goes.
#[derive(Clone, Debug)]
pub struct Traveller {
    /// The service's number.
    pub service: u16,
    /// Who.
    pub user: UserKey,
    /// As memory knows him.
    pub hash: UserHash,
    /// His market, if the request says.
    pub market: Option<Market>,
}

/// What another gateway said of a user when it sent his request here, or sent it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// He lives here since this epoch.
    pub epoch: Option<i64>,
    /// The origin knows nothing of him: he is a newcomer, whom policy sends here.
    pub newcomer: bool,
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the application at this site.
    Here,
    /// To the gateway of another site.
    There {
        /// Which.
        site: SiteId,
        /// What is known.
        word: Word,
    },
    /// Nowhere before his door is open.
    Wait,
    /// Nowhere before an operator has looked.
    Lost,
    /// Nowhere: the home database cannot be asked.
    NotKnown,
}

impl Gateway {
    /// Where a request of `traveller` goes, about whom another gateway said `word` (nothing: a client brought it).
    pub async fn locate(&self, traveller: &Traveller, word: Word) -> Way {
        if self.doors.is_closed(traveller.hash) {
            return Way::Wait;
        }
        let Some(service) = self.services.get(usize::from(traveller.service)) else {
            return Way::NotKnown;
        };
        match service.homes.find(traveller.hash) {
            Some(home) if home.site == SiteId::NOWHERE => {}
            Some(home) if home.site == self.here => return Way::Here,
            // Another gateway knows something newer: that he came here.
            Some(home) if word.epoch.is_some_and(|epoch| epoch >= home.epoch) => {}
            Some(home) => {
                let (site, epoch) = (home.site, Some(home.epoch));
                let word = Word {
                    epoch,
                    newcomer: false,
                };
                return Way::There { site, word };
            }
            None if self.residents.is_native(traveller.service, &traveller.user) => {
                return Way::Here;
            }
            None => {}
        }
        self.ask(traveller, word).await
    }

    /// Asks the home database, and remembers.
    pub async fn ask(&self, traveller: &Traveller, word: Word) -> Way {
        let Traveller {
            service,
            user,
            hash,
            ..
        } = traveller;
        let Some(homes) = self.services.get(usize::from(*service)) else {
            return Way::NotKnown;
        };
        let homes = &homes.homes;
        let Ok(stand) = self.residents.look(*service, user.clone()).await else {
            return Way::NotKnown;
        };
        match stand {
            Stand::Here { epoch } => {
                homes.record(*hash, self.here, epoch);
                Way::Here
            }
            Stand::Closed => Way::Wait,
            Stand::Lost => Way::Lost,
            Stand::Elsewhere { site, epoch } => match self.site(&site) {
                Some(site) if site != self.here => {
                    homes.record(*hash, site, epoch);
                    let epoch = Some(epoch);
                    Way::There {
                        site,
                        word: Word {
                            epoch,
                            newcomer: false,
                        },
                    }
                }
                _ => Way::NotKnown,
            },
            Stand::Arriving { site, epoch } => match self.site(&site) {
                Some(site) if site != self.here => {
                    homes.hear(*hash, site, epoch);
                    Way::There {
                        site,
                        word: Word::default(),
                    }
                }
                _ => Way::NotKnown,
            },
            Stand::Unknown => self.newcomer(traveller, word),
        }
    }

    /// Lets a request of `traveller`, who was located here, pass to the application: if his door is open, he still lives here, and this
    /// gateway's word counts. All of it is looked at when the request stands in its `slot`: his door may have been closed and opened again since
    /// he was located, and he may live elsewhere by now; from here on whoever closes it waits for this request.
    pub fn admit<'a>(&self, slot: &'a Slot, traveller: &Traveller) -> (Way, Option<Passing<'a>>) {
        let Some(service) = self.services.get(usize::from(traveller.service)) else {
            return (Way::NotKnown, None);
        };
        let Some(passing) = self.doors.pass(slot, traveller.hash) else {
            return (Way::Wait, None);
        };
        match service.homes.find(traveller.hash) {
            Some(home) if home.site != self.here => return (Way::Wait, None),
            Some(_) | None => {}
        }
        match service.lease.stands() {
            true => (Way::Here, Some(passing)),
            false => (Way::NotKnown, None),
        }
    }

    /// Nobody here knows him. The origin knows everybody who lived there before there were records; whom it does not know is a newcomer,
    /// and belongs where policy sends his market.
    fn newcomer(&self, traveller: &Traveller, word: Word) -> Way {
        let service = usize::from(traveller.service);
        let Some(origin) = self.services.get(service).map(|service| service.origin) else {
            return Way::NotKnown;
        };
        if word.newcomer {
            return Way::Here;
        }
        if origin != self.here {
            return Way::There {
                site: origin,
                word: Word::default(),
            };
        }
        match self.newcomers(traveller.service, traveller.market.as_ref()) {
            site if site != self.here => Way::There {
                site,
                word: Word {
                    epoch: None,
                    newcomer: true,
                },
            },
            _ => Way::Here,
        }
    }
}
