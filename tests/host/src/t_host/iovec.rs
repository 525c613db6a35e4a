// SPDX-License-Identifier: GPL-2.0

//! What transfers are made of.

use crate::arch::addr::Hva;
use crate::host::iovec::{IoVecCut, IoVecList};

#[test]
fn a_list_takes_what_fits_into_one_transfer() {
    let mut list = IoVecList::new().unwrap();
    let pieces = |n: u64, len: u64| (0..n).map(move |i| (Hva(i << 32), len));

    assert!(list.set(pieces(256, 1)) && list.all().bytes() == 256);
    assert!(!list.set(pieces(257, 1)), "more pieces than there is room for");
    assert!(list.set(pieces(1, 16 << 20)));
    assert!(!list.set(pieces(2, (8 << 20) + 1)), "more bytes than one transfer has");
    assert!(!list.set([(Hva(0), 1), (Hva(0), u64::MAX)].into_iter()), "so many that their sum wraps");
}

#[test]
fn transfers_in_one_list_have_each_their_own_pieces() {
    let mut list = IoVecList::new().unwrap();
    let first = list.add([(Hva(0x1000), 1), (Hva(0x2000), 2)].into_iter()).unwrap();
    let second = list.add([(Hva(0x3000), 4)].into_iter()).unwrap();

    let of = |range| list.of(range).iov().iter().map(|piece| (piece.base, piece.len)).collect::<Vec<_>>();
    assert_eq!((of(first), first.bytes()), (vec![(0x1000, 1), (0x2000, 2)], 3));
    assert_eq!((of(second), second.bytes()), (vec![(0x3000, 4)], 4));
    assert_eq!(list.room(), 253);

    list.clear();
    assert!(list.of(second).iov().is_empty(), "what was cleared is nothing");
}

proptest::proptest! {
    /// However pieces are cut, their parts are the same bytes in the same order.
    #[test]
    fn cut_pieces_are_the_same_bytes(
        pieces in proptest::collection::vec((0u64..1000, 1u64..50), 0..12),
        most in proptest::collection::vec(1u64..60, 1..40),
    ) {
        let bytes = |pieces: &[(u64, u64)]| -> Vec<u64> { pieces.iter().flat_map(|(at, n)| *at..at + n).collect() };
        let mut cut = IoVecCut::new(pieces.iter().map(|(at, n)| (Hva(*at), *n)));
        let mut parts = Vec::new();
        for most in most.iter().cycle() {
            let Some((at, n)) = cut.next(*most) else { break };
            proptest::prop_assert!(n != 0 && n <= *most);
            parts.push((at.0, n));
        }

        proptest::prop_assert_eq!(bytes(&parts), bytes(&pieces));
    }
}
