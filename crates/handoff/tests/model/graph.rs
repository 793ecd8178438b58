//! The explored graph, kept to show that no state is stuck.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::world::World;

/// States met, which of them are quiet, and the steps that recovery alone can take.
#[derive(Default)]
pub struct Graph {
    met: HashSet<u64>,
    quiet: Vec<u64>,
    /// (to, from) of every step of recovery.
    back: Vec<(u64, u64)>,
}

impl Graph {
    pub fn meet(&mut self, world: &World, quiet: bool) -> u64 {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        let print = hasher.finish();
        if self.met.insert(print) && quiet {
            self.quiet.push(print);
        }
        print
    }

    pub fn recovers(&mut self, from: u64, to: u64) {
        self.back.push((to, from));
    }

    /// The number of states from which recovery alone reaches no quiet state.
    pub fn stuck(&self) -> usize {
        let mut into: HashMap<u64, Vec<u64>> = HashMap::new();
        for (to, from) in &self.back {
            into.entry(*to).or_default().push(*from);
        }
        let mut reached: HashSet<u64> = self.quiet.iter().copied().collect();
        let mut open = self.quiet.clone();
        while let Some(state) = open.pop() {
            for before in into.get(&state).into_iter().flatten() {
                if reached.insert(*before) {
                    open.push(*before);
                }
            }
        }
        self.met
            .iter()
            .filter(|state| !reached.contains(state))
            .count()
    }

    pub fn len(&self) -> usize {
        self.met.len()
    }
}
