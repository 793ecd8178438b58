//! Users in groups, and the batches of a chunk that are still to go.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use model::UserKey;

use crate::bonds::Bonds;
use crate::route::Route;

/// The first wait after a fence that did not get in; doubled each time, up to [`BACK_OFF_MAX`].
const BACK_OFF: Duration = Duration::from_millis(25);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Batches of a chunk that are still to go.
pub(crate) struct Queue {
    ready: VecDeque<Waiting>,
    /// Batches that must wait, with the time from which they may go.
    waiting: Vec<(Instant, Waiting)>,
}

/// A batch and how often it could not be closed.
pub(crate) struct Waiting {
    pub(crate) users: Vec<UserKey>,
    pub(crate) tries: u32,
}

// === impl Queue ===

impl Queue {
    pub(crate) fn of(batches: VecDeque<Vec<UserKey>>) -> Self {
        let ready = batches
            .into_iter()
            .map(|users| Waiting { users, tries: 0 })
            .collect();
        Self {
            ready,
            waiting: Vec::new(),
        }
    }

    pub(crate) fn at_once(&mut self, users: Vec<UserKey>) {
        if users.is_empty() {
            return;
        }
        self.ready.push_front(Waiting { users, tries: 0 });
    }

    pub(crate) fn later(&mut self, users: Vec<UserKey>, tries: u32) {
        let pause = (BACK_OFF * 2_u32.saturating_pow(tries.min(10))).min(BACK_OFF_MAX);
        self.waiting
            .push((Instant::now() + pause, Waiting { users, tries }));
    }

    /// A batch that may go now.
    pub(crate) fn due(&mut self) -> Option<Waiting> {
        let now = Instant::now();
        match self.waiting.iter().position(|(due, _)| *due <= now) {
            Some(n) => Some(self.waiting.swap_remove(n).1),
            None => self.ready.pop_front(),
        }
    }

    /// The next batch that may go: one whose pause is over, else one that is ready, else the first whose pause ends.
    pub(crate) async fn next(&mut self) -> Option<Waiting> {
        let first = (0..self.waiting.len()).min_by_key(|n| self.waiting[*n].0);
        match first {
            Some(n) if self.ready.is_empty() || self.waiting[n].0 <= Instant::now() => {
                let (due, waiting) = self.waiting.swap_remove(n);
                tokio::time::sleep_until(due.into()).await;
                Some(waiting)
            }
            _ => self.ready.pop_front(),
        }
    }
}

/// The users of a chunk in batches: bounded by users and by rows, a bigger user alone.
pub(crate) fn batches(
    users: &[(UserKey, u64)],
    bonds: &Bonds,
    route: &Route,
) -> VecDeque<Vec<UserKey>> {
    let (users_max, rows_max) = (route.bounds.batch_users.max(1), route.bounds.batch_rows);
    grouped(users, bonds, users_max, rows_max)
        .into_iter()
        .map(|group| group.into_iter().map(|(user, _)| user).collect())
        .collect()
}

/// Neighbours in groups of at most `users_max` users and `rows_max` rows; a bigger user alone. Neighbours who cannot
/// part count as one.
pub(crate) fn grouped(
    users: &[(UserKey, u64)],
    bonds: &Bonds,
    users_max: usize,
    rows_max: u64,
) -> Vec<Vec<(UserKey, u64)>> {
    let mut groups: Vec<Vec<(UserKey, u64)>> = Vec::new();
    let mut rows_in_last = 0;
    let together = |a: &(UserKey, u64), b: &(UserKey, u64)| {
        bonds
            .get(&a.0)
            .is_some_and(|company| bonds.get(&b.0) == Some(company))
    };
    for company in users.chunk_by(together) {
        let rows: u64 = company.iter().map(|(_, rows)| rows).sum();
        match groups.last_mut() {
            Some(last)
                if last.len() + company.len() <= users_max && rows_in_last + rows <= rows_max =>
            {
                last.extend_from_slice(company);
                rows_in_last += rows;
            }
            _ => {
                groups.push(company.to_vec());
                rows_in_last = rows;
            }
        }
    }
    groups
}

/// Two halves of a chunk that does not fit, to find the user at fault; that user, if he is alone.
pub(crate) fn halves(mut users: Vec<(UserKey, u64)>) -> Result<[Vec<(UserKey, u64)>; 2], UserKey> {
    match users.len() {
        1 => Err(users.remove(0).0),
        n => {
            let second = users.split_off(n / 2);
            Ok([users, second])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(rows: &[u64]) -> Vec<(UserKey, u64)> {
        rows.iter()
            .enumerate()
            .map(|(n, rows)| (UserKey::new(n.to_string()), *rows))
            .collect()
    }

    #[test]
    fn a_group_is_bounded_by_users_and_by_rows_and_a_big_user_goes_alone() {
        let sizes = |rows: &[u64]| -> Vec<usize> {
            let groups = grouped(&users(rows), &Bonds::new(), 3, 100);
            groups.iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(&[1, 1, 1, 1]), [3, 1]);
        assert_eq!(sizes(&[60, 60, 10]), [1, 2]);
        assert_eq!(sizes(&[500, 1, 500]), [1, 1, 1]);
        assert_eq!(sizes(&[]), [0; 0]);
    }

    #[test]
    fn who_cannot_part_is_not_parted() {
        let bonds: Bonds = ["2", "3"].map(|user| (UserKey::from(user), 1)).into();
        let groups = grouped(&users(&[1, 1, 1, 1]), &bonds, 3, 100);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn halving_ends_at_the_user_at_fault() {
        assert_eq!(halves(users(&[7])).unwrap_err(), UserKey::from("0"));
        let [first, second] = halves(users(&[1, 2, 3])).unwrap();
        assert_eq!((first.len(), second.len()), (1, 2));
    }
}
