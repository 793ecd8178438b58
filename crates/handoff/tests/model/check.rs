//! Runs the checker over one configuration.

use std::collections::BTreeSet;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::audit;
use crate::rules::Sites;
use crate::table::Kind;
use crate::world::{Action, Word, World};

impl Model for Sites {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.first()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.tries(world, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        self.take(world, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("I1", |_, w: &World| w.broken & audit::I1 == 0),
            Property::always("I2", |_, w: &World| w.broken & audit::I2 == 0),
            Property::always("I3", |_, w: &World| w.broken & audit::I3 == 0),
            Property::always("I4", |_, w: &World| w.broken & audit::I4 == 0),
            Property::always("I6", |_, w: &World| w.broken & audit::I6 == 0),
            Property::always("I8", |_, w: &World| w.broken & audit::I8 == 0),
            Property::always("one home", |_, w: &World| w.broken & audit::ONE_HOME == 0),
        ];
        if self.bug.is_some() || self.slip.is_some() {
            return properties;
        }
        properties.extend([
            Property::<Self>::sometimes("a user leaves and is erased", |sites, w| {
                let faces = sites.faces(w);
                let gone =
                    |site: usize| matches!(faces[site][0].kind, Kind::Departed { epoch: 1.., .. });
                (0..sites.bounds.sites)
                    .any(|s| gone(s) && w.places[s][0].rows == 0 && accepted(w) > 0)
            }),
            Property::<Self>::sometimes(
                "a refused batch is followed by an accepted one",
                |_, w| {
                    let refused = |word| matches!(word, Some(Word::Refused { .. }));
                    w.batches.iter().flatten().any(|b| refused(b.decision)) && accepted(w) > 0
                },
            ),
            Property::<Self>::sometimes("every write is acknowledged", |sites, w| {
                w.acknowledged[0].count_ones() as usize == 1 + sites.bounds.writes
            }),
        ]);
        if self.bounds.chunks > 1 && self.bounds.users == 1 {
            properties.push(Property::<Self>::sometimes(
                "a user comes home again",
                |sites, w| {
                    let born = sites.bounds.born_at;
                    sites.faces(w)[born][0].home && accepted(w) > 1
                },
            ));
        }
        if self.bounds.users > 1 {
            properties.push(Property::<Self>::sometimes(
                "one goes where the other is refused",
                |sites, w| {
                    let faces = sites.faces(w);
                    let settled = |site: usize, user: usize| {
                        matches!(faces[site][user].kind, Kind::Settled { .. })
                    };
                    let named = |word| matches!(word, Some(Word::Refused { named: 1.., .. }));
                    settled(0, 0)
                        && settled(1, 1)
                        && w.batches.iter().flatten().any(|b| named(b.decision))
                },
            ));
        }
        if self.bounds.sites > 2 {
            properties.push(Property::<Self>::sometimes(
                "a user goes on before the first source knows",
                |sites, w| {
                    let faces = sites.faces(w);
                    matches!(faces[0][0].kind, Kind::Offered { .. }) && faces[2][0].home
                },
            ));
        }
        properties
    }
}

fn accepted(world: &World) -> usize {
    let batches = world.batches.iter().flatten();
    batches
        .filter(|b| b.decision == Some(Word::Accepted))
        .count()
}

/// Explores everything within the bounds and expects every property to hold and nothing to be stuck.
pub fn holds(name: &str, sites: Sites) {
    let started = Instant::now();
    let checker = sites.checker().threads(1).spawn_bfs().join();
    println!(
        "{name}: {} states, {} steps, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    );
    show(&checker);
    assert!(checker.is_done(), "everything was explored");
    checker.assert_properties();
    let sites = checker.model();
    let first = sites.first();
    let mut graph = sites.graph.lock().expect("no panic inside");
    graph.meet(&first, true);
    assert_eq!(
        graph.len(),
        checker.unique_state_count(),
        "the graph holds every state"
    );
    assert_eq!(graph.stuck(), 0, "recovery alone ends every situation");
    println!(
        "{name}: nothing stuck, {:.1} s",
        started.elapsed().as_secs_f64()
    );
}

/// Explores until the first violation and returns the properties that it violates.
pub fn violated(sites: Sites) -> BTreeSet<&'static str> {
    let checker = sites
        .checker()
        .threads(1)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{:?} {:?}: {} states",
        checker.model().bug,
        checker.model().slip,
        checker.unique_state_count()
    );
    show(&checker);
    checker.discoveries().into_keys().collect()
}

fn show(checker: &impl Checker<Sites>) {
    for property in checker.model().properties() {
        let Some(path) = checker.discovery(property.name) else {
            continue;
        };
        if property.expectation.discovery_is_failure() {
            println!("{}: {:?}", property.name, path.into_actions());
        }
    }
}
