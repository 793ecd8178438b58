//! The rule of numbers: what goes along a line is taken once and in order, however often and in whatever order it comes.

use std::collections::{BTreeMap, BTreeSet};

/// What has come along a line and cannot be taken yet.
#[derive(Debug)]
pub(crate) struct Order<T> {
    next: u64,
    waiting: BTreeMap<u64, T>,
}

/// Which numbers have come, as far as they may come again.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Below this the sender has his answers, and sends nothing again.
    floor: u64,
    numbers: BTreeSet<u64>,
}

// === impl Order ===

impl<T> Order<T> {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// Takes in what came under `number`; what came before under it stays.
    pub(crate) fn put(&mut self, number: u64, item: T) {
        if number >= self.next {
            self.waiting.entry(number).or_insert(item);
        }
    }

    /// The next in order, if it is there.
    pub(crate) fn pop(&mut self) -> Option<(u64, T)> {
        let item = self.waiting.remove(&self.next)?;
        self.next += 1;
        Some((self.next - 1, item))
    }

    /// The number that is wanted next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }
}

// === impl Seen ===

impl Seen {
    /// Forgets the numbers below `floor`: they do not come again.
    pub(crate) fn forget_below(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        self.numbers = self.numbers.split_off(&self.floor);
    }

    /// Takes note of `number`; says whether it is new.
    pub(crate) fn is_new(&mut self, number: u64) -> bool {
        number >= self.floor && self.numbers.insert(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_once_and_in_order() {
        let (mut order, mut seen) = (Order::new(), Seen::default());
        let mut taken = Vec::new();
        for number in [2, 0, 0, 2, 1, 1, 4, 0, 3, 4] {
            if seen.is_new(number) {
                order.put(number, ());
            }
            while let Some((number, ())) = order.pop() {
                taken.push(number);
            }
        }
        assert_eq!(taken, [0, 1, 2, 3, 4]);
        assert_eq!(order.next(), 5);
    }

    #[test]
    fn what_came_twice_is_taken_as_it_came_first() {
        let mut order = Order::new();
        order.put(0, "first");
        order.put(0, "second");
        assert_eq!(order.pop(), Some((0, "first")));
        order.put(0, "third");
        assert_eq!(order.pop(), None);
    }

    #[test]
    fn what_is_forgotten_is_not_new() {
        let mut seen = Seen::default();
        assert!(seen.is_new(3));
        seen.forget_below(4);
        seen.forget_below(2);
        assert!(!seen.is_new(3) && !seen.is_new(0));
        assert!(seen.is_new(4) && !seen.is_new(4));
    }
}
