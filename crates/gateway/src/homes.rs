//! Who lives where, in memory: a hint for everybody but for those of whom this site's own database said it.
//!
//! Twelve bytes a slot, together, as each is a miss of the cache: a fingerprint of 64 bits under a key of this process, and one word with the
//! site, the epoch and whose word it is. Shards grow one at a time, by a fifth, so that three quarters to nine tenths of the slots are used and growing needs no
//! second copy of the whole: at most 16 bytes a user. Two users of one fingerprint (of 10 million users some pair has it once in
//! 370,000 processes) share a hint, and the wrong site's answer sends their requests on.
//!
//! Linear probing: Knuth, The Art of Computer Programming, volume 3, section 6.4, algorithm L.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{PoisonError, RwLock};

use siphasher::sip::SipHasher13;

/// A site, by its place in the gateway's list of sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub u8);

impl SiteId {
    /// No site that can be named: of whom this is the home, the home database must be asked each time.
    pub const NOWHERE: Self = Self(127);

    /// The most sites: a slot has seven bits, and one number is [`NOWHERE`](Self::NOWHERE).
    pub const MAX: usize = 127;
}

/// A user, as his service's map knows him: nothing of his key can be read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserHash(u64);

/// Where a user lives, as far as is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The site.
    pub site: SiteId,
    /// Since this epoch.
    pub epoch: i64,
    /// Whether this site's own database said so, and not a peer.
    pub own: bool,
}

/// Of one service's users to their homes.
#[derive(Debug)]
pub struct Homes {
    key: (u64, u64),
    here: SiteId,
    shards: Box<[RwLock<Shard>]>,
    /// Epochs that a slot has no room for: after a destroyed site was given up they begin at 2^32.
    large: RwLock<HashMap<u64, i64>>,
}

const SHARDS_LOG: u32 = 10;
/// Full slots of a hundred before a shard grows.
const FULL: usize = 90;
/// A first allocation of a shard, in slots.
const FIRST: usize = 8;

const OWN: u32 = 1 << 31;
const SITE: u32 = 24;
const EPOCH: u32 = (1 << SITE) - 1;

#[derive(Debug, Default)]
struct Shard {
    used: usize,
    slots: Box<[Slot]>,
}

/// A fingerprint in two halves (both 0: empty), and the word: not aligned to eight bytes, so that twelve are enough.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    fingerprint: [u32; 2],
    word: u32,
}

// === impl UserHash ===

impl UserHash {
    /// Never 0.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

// === impl Homes ===

impl Homes {
    /// Of the gateway at `here`; knows nobody.
    pub fn new(here: SiteId) -> Self {
        let random = || RandomState::new().build_hasher().finish();
        Self {
            key: (random(), random()),
            here,
            shards: (0..1 << SHARDS_LOG).map(|_| RwLock::default()).collect(),
            large: RwLock::default(),
        }
    }

    /// The user `key`.
    pub fn user(&self, key: &str) -> UserHash {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(key.as_bytes());
        UserHash(hasher.finish().max(1))
    }

    /// Forgets everybody: the database went back, or somebody else's took its place.
    pub fn forget(&self) {
        for shard in &self.shards {
            *shard.write().unwrap_or_else(PoisonError::into_inner) = Shard::default();
        }
        let mut large = self.large.write();
        large
            .as_mut()
            .map_or_else(|error| error.get_mut().clear(), |large| large.clear());
    }

    /// Where `user` lives.
    pub fn find(&self, user: UserHash) -> Option<Home> {
        let shard = self
            .shard(user)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let word = shard.find(user.0)?;
        drop(shard);
        Some(self.home(user, word))
    }

    /// What another site says: believed where this site's own database did not say that he lives here, and nobody said anything newer.
    pub fn hear(&self, user: UserHash, site: SiteId, epoch: i64) {
        self.put(
            user,
            Home {
                site,
                epoch,
                own: false,
            },
            |before| {
                let here = before.own && before.site == self.here;
                !here && before.epoch < epoch && site != self.here
            },
        );
    }

    /// What this site's own database says: believed over any peer that he lives here, and otherwise where it is not older.
    pub fn record(&self, user: UserHash, site: SiteId, epoch: i64) {
        self.put(
            user,
            Home {
                site,
                epoch,
                own: true,
            },
            |before| before.epoch <= epoch || !before.own && site == self.here,
        );
    }

    /// How many users are known.
    pub fn len(&self) -> usize {
        let shards = self.shards.iter();
        let used = |shard: &RwLock<Shard>| shard.read().map_or(0, |shard| shard.used);
        shards.map(used).sum()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, user: UserHash) -> &RwLock<Shard> {
        &self.shards[(user.0 >> (64 - SHARDS_LOG)) as usize]
    }

    fn home(&self, user: UserHash, word: u32) -> Home {
        let epoch = match word & EPOCH {
            EPOCH => {
                let large = self.large.read().unwrap_or_else(PoisonError::into_inner);
                large.get(&user.0).copied().unwrap_or(i64::from(EPOCH))
            }
            small => i64::from(small),
        };
        Home {
            site: SiteId(((word & !OWN) >> SITE) as u8),
            epoch,
            own: word & OWN != 0,
        }
    }

    fn put(&self, user: UserHash, home: Home, over: impl Fn(Home) -> bool) {
        let mut shard = self
            .shard(user)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if shard
            .find(user.0)
            .is_some_and(|word| !over(self.home(user, word)))
        {
            return;
        }
        let small = u32::try_from(home.epoch)
            .ok()
            .filter(|epoch| *epoch < EPOCH);
        if small.is_none() {
            let mut large = self.large.write().unwrap_or_else(PoisonError::into_inner);
            large.insert(user.0, home.epoch);
        }
        let word = u32::from(home.site.0) << SITE | small.unwrap_or(EPOCH);
        shard.put(user.0, word | if home.own { OWN } else { 0 });
    }
}

// === impl Slot ===

impl Slot {
    fn new(fingerprint: u64, word: u32) -> Self {
        let fingerprint = [fingerprint as u32, (fingerprint >> 32) as u32];
        Self { fingerprint, word }
    }

    fn fingerprint(self) -> u64 {
        let [low, high] = self.fingerprint;
        u64::from(high) << 32 | u64::from(low)
    }
}

// === impl Shard ===

impl Shard {
    /// The slot of `fingerprint`, or the empty one where it would stand; none where there are no slots.
    fn slot(&self, fingerprint: u64) -> Option<usize> {
        let slots = self.slots.len();
        // The bits that did not choose the shard, scaled to the number of slots.
        let rest = fingerprint << SHARDS_LOG;
        let mut at = ((u128::from(rest) * slots as u128) >> 64) as usize;
        // There is always an empty slot: a shard grows before it is full.
        for _ in 0..slots {
            match self.slots[at].fingerprint() {
                0 => return Some(at),
                there if there == fingerprint => return Some(at),
                _ => at = if at + 1 == slots { 0 } else { at + 1 },
            }
        }
        None
    }

    fn find(&self, fingerprint: u64) -> Option<u32> {
        let slot = self.slots[self.slot(fingerprint)?];
        (slot.fingerprint() == fingerprint).then_some(slot.word)
    }

    fn put(&mut self, fingerprint: u64, word: u32) {
        if (self.used + 1) * 100 > self.slots.len() * FULL {
            let slots = FIRST.max(self.slots.len() * 6 / 5);
            let old = std::mem::replace(&mut self.slots, vec![Slot::default(); slots].into());
            self.used = 0;
            for slot in old.iter().filter(|slot| slot.fingerprint() != 0) {
                self.set(slot.fingerprint(), slot.word);
            }
        }
        self.set(fingerprint, word);
    }

    fn set(&mut self, fingerprint: u64, word: u32) {
        if let Some(at) = self.slot(fingerprint) {
            self.used += usize::from(self.slots[at].fingerprint() == 0);
            self.slots[at] = Slot::new(fingerprint, word);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: SiteId = SiteId(0);

    fn home(site: u8, epoch: i64, own: bool) -> Option<Home> {
        let site = SiteId(site);
        Some(Home { site, epoch, own })
    }

    #[test]
    fn a_peer_moves_nobody_who_lives_here_and_old_news_moves_nobody() {
        let homes = Homes::new(HERE);
        let user = homes.user("7");
        assert_eq!(homes.find(user), None);
        homes.hear(user, SiteId(1), 5);
        homes.hear(user, SiteId(2), 4);
        assert_eq!(homes.find(user), home(1, 5, false));
        homes.record(user, HERE, 3);
        homes.hear(user, SiteId(2), i64::MAX);
        assert_eq!(homes.find(user), home(0, 3, true));
        homes.record(user, SiteId(1), 9);
        homes.record(user, HERE, 8);
        assert_eq!(homes.find(user), home(1, 9, true));
        homes.hear(user, HERE, 12);
        assert_eq!(
            homes.find(user),
            home(1, 9, true),
            "a peer says of nobody that he is here"
        );
        homes.hear(user, SiteId(2), 10);
        assert_eq!(homes.find(user), home(2, 10, false));
        assert_ne!(
            Homes::new(HERE).user("7"),
            user,
            "each map has a key of its own"
        );
        homes.forget();
        assert_eq!((homes.find(user), homes.len()), (None, 0));
    }

    #[test]
    fn epochs_beyond_a_slot_are_kept_whole() {
        let homes = Homes::new(HERE);
        let user = homes.user("7");
        for epoch in [i64::from(EPOCH) - 1, i64::from(EPOCH), 3 << 32, i64::MAX] {
            homes.record(user, SiteId(127), epoch);
            assert_eq!(homes.find(user), home(127, epoch, true));
        }
    }

    #[test]
    fn a_user_takes_at_most_sixteen_bytes() {
        let homes = Homes::new(HERE);
        for user in 0..200_000 {
            homes.record(homes.user(&user.to_string()), SiteId(1), 2);
        }
        let slots = |shard: &RwLock<Shard>| shard.read().unwrap().slots.len();
        let slots: usize = homes.shards.iter().map(slots).sum();
        assert_eq!(homes.len(), 200_000);
        assert!(slots * 12 <= 16 * homes.len(), "{slots} slots");
    }

    proptest! {
        #[test]
        fn it_says_what_a_map_would_say(puts in prop::collection::vec((0u32..300, 0u8..3, 0i64..50), 0..1500)) {
            let homes = Homes::new(SiteId(9));
            let mut model: HashMap<u32, (u8, i64)> = HashMap::new();
            for (user, site, epoch) in puts {
                // One shard, so that it is full and grows.
                let hash = UserHash(u64::from(user) + 1);
                homes.record(hash, SiteId(site), epoch);
                let before = model.entry(user).or_insert((site, epoch));
                if before.1 <= epoch {
                    *before = (site, epoch);
                }
            }
            prop_assert_eq!(homes.len(), model.len());
            for (user, (site, epoch)) in model {
                prop_assert_eq!(homes.find(UserHash(u64::from(user) + 1)), home(site, epoch, true));
            }
        }
    }
}
