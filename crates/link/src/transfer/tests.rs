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
