//! Tests of the geometry, which compare it with a search over all orders.

use super::*;

/// Chooses by trying every order, in the words of the header.
fn naive(size: usize, alignment: usize, objects: usize) -> u8 {
    let stride = size.next_multiple_of(alignment);
    let usual = if stride <= 512 {
        8
    } else if stride < 4096 {
        4
    } else {
        1
    };
    let plans = |orders: u8| {
        (0..orders).filter_map(move |order| {
            let bytes = 4096_usize << order;
            let all = (bytes / stride).min(FreeWord::MAX_OBJECTS);
            let metadata = |objects: usize| {
                let link = if objects <= 254 { 1 } else { 2 };
                64 + if objects <= 12 { 0 } else { (objects * link).div_ceil(64) * 64 }
            };
            let within = (1..=all).rev().find(|n| n * stride + metadata(*n) <= bytes);
            let (objects, used) = match within {
                Some(n) if (n == all && bytes - n * stride < 4096) || stride <= 512 => {
                    (n, n * stride + metadata(n))
                }
                _ => (all, all * stride),
            };
            (objects > 0 && alignment <= bytes).then_some((order, objects, bytes - used, bytes))
        })
    };
    let largest = plans(LARGEST_ORDER + 1).find(|(order, ..)| *order == LARGEST_ORDER);
    let enough = match largest {
        Some((_, most, ..)) if stride < 4096 => usual.max(objects.min(most)),
        _ => usual,
    };
    let good = |fraction: usize| {
        plans(LARGEST_ORDER + 1)
            .find(|(_, n, left, bytes)| *n >= enough && left * fraction <= *bytes)
    };
    let chosen = [20, 8, 4, 2].into_iter().find_map(good).or_else(|| plans(19).next());
    chosen.map(|settings| settings.0).expect("every object fits somewhere")
}

#[test]
fn the_order_equals_trying_every_order() {
    for alignment in (0..=13).map(|shift| 1_usize << shift) {
        // Every size at the usual alignments; at the others a stride that meets all residues.
        let every = if alignment <= 16 { 1 } else { 37 };
        for size in (1..=32 << 10).step_by(every) {
            let settings = Geometry::new(size, alignment, 64).expect("a good size");
            assert_eq!(
                settings.order().get(),
                naive(size, alignment, 0),
                "{size} aligned to {alignment}"
            );
        }
    }
}

/// Mutation that it catches: objects that the largest order does not hold leave no order but the
/// lowest one.
#[test]
fn slabs_have_at_least_the_objects_asked_for_where_the_largest_order_holds_them() {
    for alignment in [1, 8, 64, 512] {
        for size in (1..=5000).step_by(if alignment == 8 { 1 } else { 7 }) {
            for objects in [0, 5, 16, 32, 100] {
                let cut = Geometry::with_objects(size, alignment, 64, objects).expect("a size");
                let said = (objects, size, alignment, cut);
                assert_eq!(cut.order().get(), naive(size, alignment, objects), "{said:?}");
                assert!(cut.is_inside() || cut.capacity() <= MAX_OUTSIDE, "{said:?}");
                let largest = Geometry::at_order(size, alignment, 64, LARGEST_ORDER);
                if size.next_multiple_of(alignment) < PAGE_SIZE {
                    let most = largest.expect("several objects fit").capacity();
                    assert!(cut.capacity() >= objects.min(most), "{said:?}");
                } else {
                    assert_eq!(Geometry::new(size, alignment, 64), Ok(cut), "{said:?}");
                }
            }
        }
    }
}

#[test]
fn objects_and_bookkeeping_never_overlap_and_are_aligned() {
    for line in [32, 64, 128] {
        for alignment in (0..=12).map(|shift| 1_usize << shift) {
            for size in (1..20_000).step_by(61) {
                let settings = Geometry::new(size, alignment, line).expect("a good size");
                let last = settings.colour_offset(settings.colours() - 1);
                let end = last + settings.capacity() * settings.stride();
                let limit = settings.bookkeeping_offset().unwrap_or(settings.slab_bytes());
                assert!(settings.capacity() >= 1 && end <= limit, "I1: {size}, {alignment}");
                assert_eq!(settings.stride() % alignment, 0, "I2");
                assert_eq!(settings.colour_offset(1) % alignment, 0, "I2");
                assert!(settings.capacity() <= FreeWord::MAX_OBJECTS);
            }
        }
    }
}

#[test]
fn every_line_size_keeps_objects_aligned_and_inside() {
    let lines = [0, 1, 3, 24, 33, 48, 63, 65, 96, 100, 4095, 4097, 1 << 40, usize::MAX];
    for line in lines {
        for alignment in (0..=22).map(|shift| 1_usize << shift) {
            for size in [1, 24, 100, 160, 640, 700, 1500, 5000, 40_000] {
                let settings = Geometry::new(size, alignment, line).expect("a good size");
                let case = (size, alignment, line, settings);
                assert_eq!(settings.colour_step() % alignment, 0, "I2: {case:?}");
                let limit = settings.bookkeeping_offset().unwrap_or(settings.slab_bytes());
                for colour in 0..settings.colours() {
                    let first = settings.colour_offset(colour);
                    let end = first + settings.capacity() * settings.stride();
                    assert!(first % alignment == 0 && end <= limit, "I1, I2: {case:?}");
                }
                let lower = Order::all().filter_map(|order| settings.at_lower_order(order));
                for lower in lower {
                    assert_eq!(lower.colour_offset(1) % alignment, 0, "I2: {case:?}");
                    assert_eq!(lower.slab_bytes() % alignment, 0, "I2: {case:?}");
                }
            }
        }
    }
}

#[test]
fn bad_alignments_have_no_cut_at_any_order() {
    for alignment in [0, 3, 24, 48, usize::MAX] {
        let expected = Err(GeometryError::NotPowerOfTwo { alignment });
        assert_eq!(Geometry::new(64, alignment, 64), expected);
        let at = |order: Order| Geometry::at_order(64, alignment, 64, order.get());
        assert!(Order::all().all(|order| at(order).is_none()), "{alignment}");
    }
    assert_eq!(Geometry::at_order(usize::MAX, 64, 64, 3), None);
    assert_eq!(Geometry::at_order(64, 64, 64, u8::MAX), None);
}

#[test]
fn whole_pages_that_are_left_over_are_touched_by_nothing() {
    for size in (4097..=32 << 10).step_by(8) {
        let settings = Geometry::new(size, 8, 64).expect("a good size");
        let objects = settings.capacity() * settings.stride();
        let last = settings.colour_offset(settings.colours() - 1);
        assert_eq!((last + objects).div_ceil(4096), objects.div_ceil(4096), "{size}");
        let spare = settings.slab_bytes() - objects >= 4096;
        assert!(!spare || settings.bookkeeping_offset().is_none(), "{size}");
    }
}

#[test]
fn a_lower_order_is_cut_as_if_it_had_been_asked_for() {
    for (size, alignment) in [(640, 8), (1280, 64), (5888, 64), (104, 8), (9000, 4096)] {
        let best = Geometry::new(size, alignment, 64).expect("a good size");
        for order in Order::all().take_while(|order| *order < best.order()) {
            let expected = Geometry::at_order(size, alignment, 64, order.get());
            assert_eq!(best.at_lower_order(order), expected, "{size} in order {order:?}");
        }
    }
}

#[test]
fn all_colours_come_round() {
    for size in [640, 1280, 3776, 9344, 20] {
        let settings = Geometry::new(size, 8, 64).expect("a good size");
        let mut colour = 0;
        for round in 1..=settings.colours() {
            colour = settings.next_colour(colour);
            assert_eq!(colour == 0, round == settings.colours(), "{size} bytes, round {round}");
        }
    }
}

#[test]
fn sizes_at_both_ends_are_as_documented() {
    assert_eq!(Geometry::new(0, 8, 64), Err(GeometryError::ZeroSize));
    assert!(Geometry::new(1, 1, 64).is_ok());
    let largest = Geometry::new(LARGEST_SIZE, 8, 64).expect("the largest is allowed");
    assert_eq!((largest.capacity(), largest.slab_bytes()), (1, LARGEST_SIZE));
    for size in [LARGEST_SIZE + 1, isize::MAX as usize, usize::MAX] {
        assert_eq!(Geometry::new(size, 8, 64), Err(GeometryError::TooLarge { size, alignment: 8 }));
    }
    let alignment = 2 * LARGEST_SIZE;
    assert_eq!(
        Geometry::new(1, alignment, 64),
        Err(GeometryError::TooLarge { size: 1, alignment })
    );
    assert_eq!(Geometry::new(1, 3, 64), Err(GeometryError::NotPowerOfTwo { alignment: 3 }));
    assert_eq!(Geometry::new(1, 0, 64), Err(GeometryError::NotPowerOfTwo { alignment: 0 }));
}
