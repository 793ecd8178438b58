//! Whose requests wait, and who has one under way.
//!
//! A request takes its user's place in a [`Slot`] and then looks whether his door is closed; whoever closes a door closes it and then
//! looks at the slots. With a fence between the two on either side at least one sees the other, and no lock is taken where no door
//! is closed (Dekker's flags; Herlihy and Shavit, The Art of Multiprocessor Programming, section 2.6).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::homes::UserHash;

/// How often it is looked whether requests under way have ended. A door is closed for milliseconds.
const LOOK: Duration = Duration::from_millis(1);

/// The doors of one gateway.
#[derive(Debug, Default)]
pub struct Doors {
    /// How many users are closed: where nobody is, nobody looks further.
    count: AtomicUsize,
    /// A user may be closed more than once: he is, until each has been opened.
    closed: RwLock<HashMap<u64, Vec<Arc<Closing>>>>,
    slots: Mutex<Slots>,
    parked: AtomicUsize,
    parked_bytes: AtomicUsize,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests.
    pub requests: usize,
    /// Their bytes, heads and bodies.
    pub bytes: usize,
    /// For how long.
    pub time: Duration,
}

/// The door of some users, closed together.
#[derive(Debug)]
struct Closing {
    /// Sent once, when it is opened.
    opened: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Slots {
    all: Vec<Weak<Slot>>,
    /// The length at which slots of ended connections are let go of.
    prune: usize,
}

/// What one connection has under way: at most one request.
#[derive(Debug, Default)]
pub struct Slot {
    user: AtomicU64,
    leave: Notify,
}

/// A request under way; ends when it is dropped.
#[derive(Debug)]
pub struct Passing<'a> {
    slot: &'a Slot,
}

/// A place among those who wait; left when it is dropped.
#[derive(Debug)]
pub struct Room<'a> {
    doors: &'a Doors,
    bytes: usize,
}

/// A request that waits before a closed door.
#[derive(Debug)]
pub struct Parked<'a> {
    _room: Room<'a>,
    opened: watch::Receiver<bool>,
}

/// A closed door, as whoever closed it holds it. Opened by [`Doors::open`].
#[derive(Debug)]
pub struct Shut {
    users: Vec<UserHash>,
    closing: Arc<Closing>,
}

// === impl Doors ===

impl Doors {
    /// A slot for a connection.
    pub fn slot(&self) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.all.len() >= slots.prune {
            slots.all.retain(|slot| slot.strong_count() > 0);
            slots.prune = 64 + 2 * slots.all.len();
        }
        slots.all.push(Arc::downgrade(&slot));
        slot
    }

    /// Lets a request of `user` pass, or `None`: his door is closed.
    pub fn pass<'a>(&self, slot: &'a Slot, user: UserHash) -> Option<Passing<'a>> {
        slot.user.store(user.bits(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let passing = Passing { slot };
        // Acquire: whoever finds a door open that was closed before finds what was learnt meanwhile.
        match self.count.load(Ordering::Acquire) == 0 || self.closing(user).is_none() {
            true => Some(passing),
            false => None,
        }
    }

    /// Whether `user`'s door is closed.
    pub fn is_closed(&self, user: UserHash) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.closing(user).is_some()
    }

    fn closing(&self, user: UserHash) -> Option<Arc<Closing>> {
        let closed = self.closed.read().unwrap_or_else(PoisonError::into_inner);
        closed.get(&user.bits())?.last().map(Arc::clone)
    }

    /// A place for a request of `user` of so many bytes among those who wait: `Ok(None)` where his door is open by now, an error where too
    /// much waits already.
    pub fn park(
        &self,
        user: UserHash,
        bytes: usize,
        bounds: Bounds,
    ) -> Result<Option<Parked<'_>>, Full> {
        let Some(closing) = self.closing(user) else {
            return Ok(None);
        };
        Ok(Some(Parked {
            _room: self.enter(bytes, bounds)?,
            opened: closing.opened.subscribe(),
        }))
    }

    /// A place for a request of so many bytes among those who wait, whatever for; an error where too much waits already.
    pub fn enter(&self, bytes: usize, bounds: Bounds) -> Result<Room<'_>, Full> {
        let requests = self.parked.fetch_add(1, Ordering::Relaxed) + 1;
        let held = self.parked_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // Made first, so that what was added is taken back.
        let room = Room { doors: self, bytes };
        match requests > bounds.requests || held > bounds.bytes {
            true => Err(Full),
            false => Ok(room),
        }
    }

    /// How many requests wait.
    pub fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }

    /// Closes the doors of `users`. From its return on no new request of theirs passes; those under way may still be.
    pub fn close(&self, users: Vec<UserHash>) -> Shut {
        let closing = Arc::new(Closing {
            opened: watch::Sender::new(false),
        });
        let mut closed = self.closed.write().unwrap_or_else(PoisonError::into_inner);
        for user in &users {
            let all = closed.entry(user.bits()).or_default();
            all.push(Arc::clone(&closing));
        }
        self.count.store(closed.len(), Ordering::Release);
        drop(closed);
        fence(Ordering::SeqCst);
        // Connections that would go on for ever are told to end.
        self.passing(&users, |slot| slot.leave.notify_waiters());
        Shut { users, closing }
    }

    /// Waits until no request of theirs is under way, at most `patience`; returns how many still are.
    pub async fn drain(&self, shut: &Shut, patience: Duration) -> usize {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let mut left = 0;
            self.passing(&shut.users, |slot| {
                left += 1;
                slot.leave.notify_waiters();
            });
            if left == 0 || tokio::time::Instant::now() >= until {
                return left;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Opens the doors that were closed together; who waits goes on.
    pub fn open(&self, shut: &Shut) {
        let mut closed = self.closed.write().unwrap_or_else(PoisonError::into_inner);
        for user in &shut.users {
            if let Entry::Occupied(mut all) = closed.entry(user.bits()) {
                all.get_mut()
                    .retain(|closing| !Arc::ptr_eq(closing, &shut.closing));
                if all.get().is_empty() {
                    all.remove();
                }
            }
        }
        self.count.store(closed.len(), Ordering::Release);
        drop(closed);
        shut.closing.opened.send_replace(true);
    }

    /// Does something with every slot in which one of `users` is.
    fn passing(&self, users: &[UserHash], mut each: impl FnMut(&Slot)) {
        let wanted: HashSet<u64> = users.iter().map(|user| user.bits()).collect();
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in slots.all.iter().filter_map(Weak::upgrade) {
            if wanted.contains(&slot.user.load(Ordering::Relaxed)) {
                each(&slot);
            }
        }
    }
}

/// Too much waits already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

// === impl Slot ===

impl Slot {
    /// Returns when the door of whoever is under way here was closed, and this should end if it has no end of its own. May return
    /// late, never never: it is told again every millisecond.
    pub async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        // Release: whoever sees the slot empty sees that the request is over.
        self.slot.user.store(0, Ordering::Release);
    }
}

// === impl Parked ===

impl Parked<'_> {
    /// Returns when the door was opened; the request must look again where to go.
    pub async fn opened(&mut self) {
        // An error means that nobody can open it any more, which `Shut` rules out.
        let _ = self.opened.wait_for(|opened| *opened).await;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.doors.parked.fetch_sub(1, Ordering::Relaxed);
        self.doors
            .parked_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

// === impl Shut ===

impl Shut {
    /// Whose.
    pub fn users(&self) -> &[UserHash] {
        &self.users
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::homes::{Homes, SiteId};

    const BOUNDS: Bounds = Bounds {
        requests: 2,
        bytes: 100,
        time: Duration::from_secs(1),
    };

    fn users(n: usize) -> Vec<UserHash> {
        let homes = Homes::new(SiteId(0));
        (0..n).map(|user| homes.user(&user.to_string())).collect()
    }

    #[tokio::test]
    async fn a_closed_door_holds_its_users_back_and_nobody_else() {
        let (doors, all) = (Doors::default(), users(3));
        let slot = doors.slot();
        let shut = doors.close(vec![all[0], all[1]]);
        assert!(doors.pass(&slot, all[0]).is_none());
        assert!(doors.pass(&slot, all[2]).is_some());
        let mut parked = doors.park(all[0], 10, BOUNDS).unwrap().unwrap();
        assert_eq!(doors.parked(), 1);
        doors.open(&shut);
        parked.opened().await;
        drop(parked);
        assert!(doors.pass(&slot, all[0]).is_some());
        assert_eq!(doors.parked(), 0);
        assert!(doors.park(all[0], 10, BOUNDS).unwrap().is_none());
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_number_and_bytes() {
        let (doors, all) = (Doors::default(), users(1));
        let _shut = doors.close(all.clone());
        let first = doors.park(all[0], 60, BOUNDS).unwrap();
        assert_eq!(doors.park(all[0], 60, BOUNDS).unwrap_err(), Full);
        let second = doors.park(all[0], 1, BOUNDS).unwrap();
        assert_eq!(doors.park(all[0], 1, BOUNDS).unwrap_err(), Full);
        drop((first, second));
        assert!(doors.park(all[0], 100, BOUNDS).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_user_closed_twice_is_open_when_both_doors_are() {
        for order in [[0, 1], [1, 0]] {
            let (doors, all) = (Doors::default(), users(1));
            let shut = [doors.close(all.clone()), doors.close(all.clone())];
            doors.open(&shut[order[0]]);
            doors.open(&shut[order[0]]);
            assert!(doors.is_closed(all[0]));
            let mut waits = doors.park(all[0], 1, BOUNDS).unwrap().unwrap();
            doors.open(&shut[order[1]]);
            waits.opened().await;
            assert!(!doors.is_closed(all[0]));
        }
    }

    #[tokio::test]
    async fn draining_waits_for_those_under_way_and_tells_them() {
        let (doors, all) = (Doors::default(), users(2));
        let (mine, other) = (doors.slot(), doors.slot());
        let passing = doors.pass(&mine, all[0]).unwrap();
        let _elsewhere = doors.pass(&other, all[1]).unwrap();
        let shut = doors.close(vec![all[0]]);
        assert_eq!(doors.drain(&shut, Duration::ZERO).await, 1);
        let left = async {
            mine.told_to_leave().await;
            drop(passing);
        };
        let (left, ()) = tokio::join!(doors.drain(&shut, Duration::from_secs(60)), left);
        assert_eq!(left, 0);
    }

    /// Either the request sees the closed door, or whoever closed it sees the request.
    #[test]
    fn nobody_slips_through_while_the_door_closes() {
        let all = users(1);
        for _ in 0..2000 {
            let doors = Doors::default();
            let slot = doors.slot();
            let start = std::sync::Barrier::new(2);
            let (passed, seen) = std::thread::scope(|scope| {
                let passes = scope.spawn(|| {
                    start.wait();
                    doors.pass(&slot, all[0]).map(std::mem::forget).is_some()
                });
                start.wait();
                let shut = doors.close(all.clone());
                let mut seen = false;
                doors.passing(&shut.users, |_| seen = true);
                (passes.join().unwrap(), seen)
            });
            assert!(!passed || seen);
        }
    }
}
