//! The rules of transfers, both ends.

use super::*;

fn block(number: u64) -> Packed {
    Packed::pack(TransferId(1), number, Bytes::from_static(b"x"), false).unwrap()
}

fn outgoing(blocks: u64) -> Outgoing {
    let mut outgoing = Outgoing::default();
    (0..blocks).for_each(|number| outgoing.push(block(number)));
    outgoing
}

fn sent(outgoing: &mut Outgoing, connection: u64) -> Vec<u64> {
    std::iter::from_fn(|| outgoing.take(connection))
        .map(|packed| packed.header.number)
        .collect()
}

fn bytes(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

#[test]
fn nothing_is_sent_before_there_is_a_window_nor_beyond_it() {
    let mut outgoing = outgoing(4);
    assert!(sent(&mut outgoing, 1).is_empty());
    outgoing.window(0, 3).unwrap();
    assert_eq!(sent(&mut outgoing, 1), [0, 1, 2]);
    outgoing.window(1, 4).unwrap();
    assert_eq!(sent(&mut outgoing, 1), [3]);
    assert_eq!(outgoing.held(), 3);
}

#[test]
fn what_was_on_a_broken_connection_is_sent_again_and_nothing_else() {
    let mut outgoing = outgoing(5);
    outgoing.window(0, 5).unwrap();
    for connection in [1, 2, 1, 2, 1] {
        outgoing.take(connection);
    }
    outgoing.window(1, 5).unwrap();
    assert_eq!(outgoing.lost(1), 2);
    assert_eq!(sent(&mut outgoing, 3), [2, 4]);
    assert_eq!(outgoing.lost(1), 0);
    outgoing.window(5, 5).unwrap();
    assert!(outgoing.settled());
}

#[test]
fn in_a_new_session_nothing_is_sent_before_the_receiver_has_said_what_he_has() {
    let mut outgoing = outgoing(4);
    outgoing.window(0, 4).unwrap();
    assert_eq!(sent(&mut outgoing, 1), [0, 1, 2, 3]);
    outgoing.lost(1);
    outgoing.resume();
    assert!(sent(&mut outgoing, 2).is_empty());
    outgoing.window(3, 4).unwrap();
    assert_eq!(sent(&mut outgoing, 2), [3]);
}

#[test]
fn an_old_window_changes_nothing_and_a_window_over_what_was_sent_is_refused() {
    let mut outgoing = outgoing(3);
    outgoing.window(2, 8).unwrap();
    outgoing.window(1, 4).unwrap();
    assert_eq!((outgoing.acked, outgoing.limit), (2, 8));
    assert_eq!(outgoing.window(4, 9), Err(Violation::NeverSent));
}

#[test]
fn a_slow_receivers_transfer_keeps_little_more_than_the_receiver_takes() {
    let mut outgoing = outgoing(RESERVED);
    assert!(!outgoing.has_room(100));
    outgoing.window(0, 2).unwrap();
    assert!(outgoing.has_room(100) && !outgoing.has_room(0));
    outgoing.push(block(RESERVED));
    outgoing.push(block(RESERVED + 1));
    assert!(!outgoing.has_room(100));
}

#[test]
fn blocks_are_handed_on_once_and_in_order_however_they_come() {
    // Every order of five blocks, each block twice.
    let mut orders = vec![Vec::new()];
    for number in 0..5_u64 {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<u64>| {
                (0..=order.len()).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, number);
                    order
                })
            })
            .collect();
    }
    assert_eq!(orders.len(), 120);
    for order in orders {
        let mut incoming = Incoming::default();
        incoming.grant(8, 8);
        let mut taken = Vec::new();
        for number in order.iter().flat_map(|number| [*number, *number]) {
            incoming.accept(number, bytes(number), number == 4).unwrap();
            taken.extend(std::iter::from_fn(|| incoming.take()));
        }
        assert_eq!(taken, (0..5).map(bytes).collect::<Vec<_>>(), "{order:?}");
        assert!(incoming.finished());
    }
}

#[test]
fn blocks_that_may_not_come_are_violations() {
    let mut incoming = Incoming::default();
    assert_eq!(
        incoming.accept(0, bytes(0), false),
        Err(Violation::BeyondWindow)
    );
    incoming.grant(4, 0);
    assert_eq!(
        incoming.accept(4, bytes(4), false),
        Err(Violation::BeyondWindow)
    );
    assert_eq!(incoming.accept(2, bytes(2), false), Ok(true));
    assert_eq!(
        incoming.accept(1, bytes(1), true),
        Err(Violation::BeyondLast)
    );
    assert_eq!(incoming.accept(2, bytes(2), true), Ok(false));
    assert_eq!(incoming.accept(0, bytes(0), false), Ok(true));
    assert_eq!(incoming.accept(0, bytes(0), false), Ok(false));
}

#[test]
fn memory_is_granted_up_to_the_share_and_only_where_it_is_free() {
    let mut incoming = Incoming::default();
    incoming.grant(64, 0);
    assert_eq!(incoming.granted(), RESERVED);
    incoming.grant(64, 10);
    assert_eq!(incoming.granted(), RESERVED + 10);
    incoming.grant(8, 100);
    assert_eq!(incoming.granted(), RESERVED + 10, "what is granted stays");
    incoming.grant(64, 100);
    assert_eq!(incoming.granted(), 64);
    incoming.accept(0, bytes(0), false).unwrap();
    incoming.take();
    assert_eq!(incoming.granted(), 63);
}

#[test]
fn the_sender_hears_at_once_of_the_first_window_and_of_the_end() {
    let mut incoming = Incoming::default();
    incoming.grant(40, 40);
    assert_eq!(incoming.tidings(false), Some((0, 40)));
    assert_eq!(incoming.tidings(false), None);
    for number in 0..9 {
        incoming.accept(number, bytes(number), false).unwrap();
    }
    assert_eq!(incoming.tidings(false), None);
    incoming.accept(9, bytes(9), false).unwrap();
    assert_eq!(incoming.tidings(false), Some((10, 40)));
    incoming.accept(10, bytes(10), true).unwrap();
    assert_eq!(incoming.tidings(false), Some((11, 40)));
    assert_eq!(incoming.tidings(true), Some((11, 40)));
}

/// Both ends and the path between them, driven by chance: blocks and windows are delayed and lost, connections and
/// sessions break, and what was lost on a connection may still come later.
struct Path {
    outgoing: Outgoing,
    incoming: Incoming,
    /// The bulk connections that stand, each with the blocks under way on it, in order.
    connections: Vec<(u64, VecDeque<Packed>)>,
    named: u64,
    /// Blocks that their sender has given up for lost, and that are not.
    late: Vec<Packed>,
    windows: VecDeque<(u64, u64)>,
    taken: Vec<Bytes>,
    most_held: u64,
}

const BLOCKS: u64 = 60;
const SHARE: u64 = 8;

impl Path {
    fn new() -> Self {
        let mut path = Self {
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            connections: Vec::new(),
            named: 0,
            late: Vec::new(),
            windows: VecDeque::new(),
            taken: Vec::new(),
            most_held: 0,
        };
        (0..3).for_each(|_| path.connect());
        path.hand_on(false);
        path
    }

    fn connect(&mut self) {
        self.connections.push((self.named, VecDeque::new()));
        self.named += 1;
    }

    fn push(&mut self) {
        let number = self.outgoing.number();
        if number < BLOCKS && self.outgoing.has_room(SHARE) {
            let last = number + 1 == BLOCKS;
            let block = Packed::pack(TransferId(1), number, bytes(number), last).unwrap();
            self.outgoing.push(block);
        }
    }

    fn send(&mut self, which: usize) {
        let (connection, under_way) = &mut self.connections[which];
        under_way.extend(self.outgoing.take(*connection));
    }

    fn arrive(&mut self, block: Option<Packed>) {
        let Some(block) = block else { return };
        let (header, content) = (block.header, block.unpack().unwrap());
        let accepted = self.incoming.accept(header.number, content, header.last);
        accepted.expect("an honest sender violates nothing");
        self.most_held = self.most_held.max(self.incoming.granted());
        self.windows.extend(self.incoming.tidings(false));
    }

    /// The application takes a block, if it will, and memory is granted.
    fn hand_on(&mut self, take: bool) {
        if take {
            self.taken.extend(self.incoming.take());
        }
        if !self.incoming.complete() {
            self.incoming.grant(SHARE, SHARE);
        }
        self.windows.extend(self.incoming.tidings(false));
    }

    fn hear(&mut self) {
        if let Some((next, limit)) = self.windows.pop_front() {
            self.outgoing.window(next, limit).unwrap();
        }
    }

    fn cut(&mut self, which: usize) {
        let (connection, under_way) = self.connections.remove(which);
        self.late.extend(under_way);
        self.outgoing.lost(connection);
        self.connect();
    }

    fn session(&mut self) {
        (0..3).for_each(|_| self.cut(0));
        self.windows.clear();
        self.outgoing.resume();
        self.windows.extend(self.incoming.tidings(true));
    }
}

#[test]
fn whatever_breaks_every_block_is_handed_on_once_and_in_order() {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    for seed in 0..1_000 {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut path = Path::new();
        for _ in 0..600 {
            let which = chance.random_range(0..3);
            match chance.random_range(0..100) {
                0..20 => path.push(),
                20..45 => path.send(which),
                45..70 => {
                    let block = path.connections[which].1.pop_front();
                    path.arrive(block);
                }
                70..80 => path.hand_on(true),
                80..90 => path.hear(),
                90..95 => {
                    let late = path.late.len();
                    let block =
                        (late > 0).then(|| path.late.swap_remove(chance.random_range(0..late)));
                    path.arrive(block);
                }
                95..97 => path.cut(which),
                97..98 => path.session(),
                _ => drop(path.late.pop()),
            }
        }
        // Once nothing breaks any more, it ends.
        for _ in 0..20 * BLOCKS {
            path.push();
            for which in 0..3 {
                path.send(which);
                let block = path.connections[which].1.pop_front();
                path.arrive(block);
            }
            path.hand_on(true);
            path.hear();
        }
        let expected: Vec<Bytes> = (0..BLOCKS).map(bytes).collect();
        assert_eq!(path.taken, expected, "seed {seed}");
        assert!(
            path.outgoing.settled() && path.incoming.finished(),
            "seed {seed}"
        );
        assert!(path.most_held <= SHARE, "seed {seed}");
    }
}
