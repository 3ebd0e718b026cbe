//! Tests of the depot: its bounds, and the magazines that aging takes.

extern crate std;

use std::vec::Vec;

use super::*;

/// The class of magazines of four objects.
const FOUR: usize = 2;
/// The class of magazines of 60 objects.
const SIXTY: usize = CAPACITIES.len() - 1;

/// Memory for magazines, which have no destructor.
#[derive(Default)]
struct Memory(Vec<NonNull<[usize; 64]>>);

impl Memory {
    fn empty(&mut self, class: usize) -> Magazine {
        assert!(Magazine::bytes(CAPACITIES[class]) <= size_of::<[usize; 64]>());
        let memory = NonNull::from(std::boxed::Box::leak(std::boxed::Box::new([0; 64])));
        self.0.push(memory);
        // SAFETY: clause 1: fresh memory of the asserted size, aligned as a word is.
        unsafe { Magazine::new_in(memory.cast(), class) }
    }

    fn full(&mut self, class: usize) -> Magazine {
        let mut magazine = self.empty(class);
        while !magazine.is_full() {
            magazine.push(NonNull::dangling());
        }
        magazine
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for memory in self.0.drain(..) {
            // SAFETY: leaked by `empty`, and the test drops the depot first.
            drop(unsafe { std::boxed::Box::from_raw(memory.as_ptr()) });
        }
    }
}

/// Returns how many of `count` full magazines of four objects `depot` takes.
fn taken(depot: &mut Depot, memory: &mut Memory, count: usize) -> usize {
    let taken = (0..count).filter(|_| depot.offer(memory.full(FOUR)).is_none()).count();
    assert_eq!(depot.violated_invariant(), None);
    taken
}

/// Takes all magazines that were not needed since the last pass.
fn aged(depot: &mut Depot) -> [Chain; 2] {
    let (chains, next) = depot.age(0, &mut Work::unlimited());
    assert_eq!(next, 2, "the end");
    chains
}

/// A depot with room for eight objects.
fn for_eight() -> Depot {
    Depot::new(places_for(USUAL_ROOM, USUAL_ROOM / 8))
}

#[test]
fn the_room_is_32_kib_of_objects() {
    assert_eq!(places_for(USUAL_ROOM, 1024), 32);
    assert_eq!(places_for(USUAL_ROOM, (32 << 10) + 1), 0);
}

#[test]
fn a_full_stack_refuses_and_each_missed_magazine_makes_room_for_one_more() {
    let mut memory = Memory::default();
    let mut depot = for_eight();
    for room in 2..5 {
        assert_eq!(taken(&mut depot, &mut memory, 5), room);
        assert_eq!(depot.full_count(), room);
        assert_eq!(depot.full_objects(), depot.objects().count());
        for _ in 0..room {
            let magazine = depot.take_full(&mut None).expect("counted");
            assert!(magazine.is_full());
        }
        assert!(depot.take_full(&mut None).is_none(), "one refused magazine is missed");
        assert_eq!(depot.violated_invariant(), None);
    }
    // Nothing was refused since the stack was last found empty, besides those above.
    let mut unused = for_eight();
    assert!(unused.take_full(&mut None).is_none());
    assert_eq!(taken(&mut unused, &mut memory, 3), 2, "no magazine was refused, so none missed");
}

#[test]
fn a_refused_magazine_is_missed_once() {
    let mut memory = Memory::default();
    let mut depot = for_eight();
    assert_eq!(taken(&mut depot, &mut memory, 3), 2, "one is refused");
    for _ in 0..4 {
        _ = depot.take_full(&mut None);
    }
    assert_eq!(taken(&mut depot, &mut memory, 9), 3, "found empty twice, and refused once");
}

#[test]
fn the_largest_magazine_that_fits_no_room_is_refused() {
    let mut memory = Memory::default();
    let mut depot = Depot::new(places_for(USUAL_ROOM, USUAL_ROOM / 59));
    assert!(depot.offer(memory.full(SIXTY)).is_some(), "60 objects, and room for 59");
    let mut depot = Depot::new(places_for(USUAL_ROOM, USUAL_ROOM / 60));
    assert!(depot.offer(memory.full(SIXTY)).is_none(), "60 objects, and room for 60");
    assert!(depot.offer(memory.full(0)).is_some(), "no room is left");
}

#[test]
fn a_depot_without_places_takes_no_full_magazine_whatever_is_missed() {
    let mut memory = Memory::default();
    let mut depot = Depot::new(0);
    for _ in 0..3 {
        assert!(depot.offer(memory.full(FOUR)).is_some());
        assert!(depot.take_full(&mut None).is_none());
    }
    assert!(depot.offer(memory.empty(FOUR)).is_none(), "empty ones have room");
}

#[test]
fn empty_magazines_have_room_for_two_of_the_largest_or_as_many_places_as_full_ones() {
    let mut memory = Memory::default();
    let mut fitting = |places: usize| {
        let mut depot = Depot::new(places as u16);
        let fitting = (0..9).filter(|_| depot.offer(memory.empty(SIXTY)).is_none()).count();
        let taken = core::iter::from_fn(|| depot.take_empty());
        assert_eq!(taken.filter(|magazine| magazine.length() == 0).count(), fitting);
        assert_eq!(depot.violated_invariant(), None);
        fitting
    };
    assert_eq!([0, 119, 120, 121, 240].map(&mut fitting), [2, 2, 2, 2, 4]);
}

#[test]
fn a_full_magazine_is_exchanged_for_an_empty_one() {
    let mut memory = Memory::default();
    let mut depot = for_eight();
    let mut empty = Some(memory.empty(FOUR));
    assert!(depot.take_full(&mut empty).is_none() && empty.is_some(), "no full one, no exchange");
    assert!(depot.take_empty().is_none());
    assert!(depot.offer(memory.full(FOUR)).is_none());
    assert_eq!(depot.objects().count(), 4);
    assert!(depot.take_full(&mut empty).is_some() && empty.is_none());
    assert_eq!((depot.full_count(), depot.objects().count()), (0, 0));
    assert!(depot.take_empty().is_some_and(|empty| empty.length() == 0));
    // Without room, the empty magazine stays with the caller.
    for _ in 0..2 {
        assert!(depot.offer(memory.empty(SIXTY)).is_none());
    }
    let mut empty = Some(memory.empty(FOUR));
    assert!(depot.offer(memory.full(FOUR)).is_none());
    assert!(depot.take_full(&mut empty).is_some() && empty.is_some());
}

#[test]
fn aging_takes_the_minimum_held_since_the_last_pass() {
    let mut memory = Memory::default();
    let mut depot = Depot::new(places_for(USUAL_ROOM, USUAL_ROOM / 64));
    let count = |chains: [Chain; 2]| chains.map(|chain| chain.iter().count());
    assert_eq!(taken(&mut depot, &mut memory, 10), 10);
    assert!(depot.offer(memory.empty(FOUR)).is_none());
    assert_eq!(count(aged(&mut depot)), [0, 0], "the depot held none at the last pass");
    for _ in 0..3 {
        assert!(depot.take_full(&mut None).is_some());
    }
    assert_eq!(taken(&mut depot, &mut memory, 2), 2);
    assert_eq!(count(aged(&mut depot)), [7, 1], "seven at least, and the empty one");
    assert_eq!((depot.full_count(), depot.violated_invariant()), (2, None));
    assert_eq!(count(aged(&mut depot)), [2, 0]);
    assert_eq!(count(aged(&mut depot)), [0, 0]);
}

/// Mutations that it catches: a step that restarts the count, and so takes magazines that were
/// needed; one that takes more than its work allows; one without an end.
#[test]
fn steps_take_together_what_one_pass_takes() {
    let mut memory = Memory::default();
    let mut depot = Depot::new(places_for(USUAL_ROOM, USUAL_ROOM / 256));
    assert_eq!(taken(&mut depot, &mut memory, 50), 50);
    _ = aged(&mut depot);
    for _ in 0..3 {
        assert!(depot.take_full(&mut None).is_some());
    }
    assert_eq!(taken(&mut depot, &mut memory, 3), 3);
    assert!(depot.offer(memory.empty(FOUR)).is_none() && depot.offer(memory.empty(FOUR)).is_none());
    let mut step = || {
        let (chains, next) = depot.age(0, &mut Work::of_step());
        assert_eq!(depot.violated_invariant(), None);
        (chains.map(|chain| chain.iter().count()), next)
    };
    // 32 objects in magazines of four: 8 magazines a step, of the 47 that were not needed.
    for _ in 0..5 {
        assert_eq!(step(), ([8, 0], 0));
    }
    assert_eq!(step(), ([7, 0], 2), "no empty one was there at the last pass");
    assert_eq!(step(), ([3, 2], 2), "and then the next pass");
    assert!(depot.offer(memory.full(FOUR)).is_none());
    _ = aged(&mut depot);
    let mut work = Work::unlimited();
    work.spend(usize::MAX);
    assert!(depot.age(0, &mut work).1 == 0 && depot.full_count() == 1, "no work is left");
}

#[test]
fn aging_forgets_refused_magazines_and_takes_back_the_room_for_missed_ones() {
    let mut memory = Memory::default();
    let mut depot = for_eight();
    assert_eq!(taken(&mut depot, &mut memory, 3), 2, "one is refused");
    _ = aged(&mut depot);
    while depot.take_full(&mut None).is_some() {}
    assert_eq!(taken(&mut depot, &mut memory, 5), 2, "forgotten, so not missed");
    // Three are refused, and two of them missed.
    for room in [3, 4] {
        while depot.take_full(&mut None).is_some() {}
        assert_eq!(taken(&mut depot, &mut memory, 5), room);
    }
    _ = aged(&mut depot);
    // The stack held one magazine more than it needed.
    for _ in 0..3 {
        assert!(depot.take_full(&mut None).is_some());
    }
    assert_eq!(aged(&mut depot)[0].iter().count(), 1);
    assert_eq!(taken(&mut depot, &mut memory, 9), 3, "room for one of the two that were missed");
}

#[test]
fn taking_all_leaves_a_depot_as_it_was_at_the_start() {
    let mut memory = Memory::default();
    let mut depot = for_eight();
    assert_eq!(taken(&mut depot, &mut memory, 5), 2);
    while depot.take_full(&mut None).is_some() {}
    assert_eq!(taken(&mut depot, &mut memory, 5), 3);
    assert!(depot.offer(memory.empty(FOUR)).is_none());
    assert_eq!(depot.take_all().map(|chain| chain.iter().count()), [3, 1]);
    assert_eq!((depot.full_count(), depot.violated_invariant()), (0, None));
    assert!(depot.take_full(&mut None).is_none(), "forgets which were refused");
    assert_eq!(taken(&mut depot, &mut memory, 5), 2);
}

#[test]
fn a_stack_with_a_wrong_magazine_or_count_is_found() {
    let mut memory = Memory::default();
    let kinds = "depot: one stack has full magazines, and the other has empty ones";
    let counts = "depot: the counts of a stack are those of its magazines";
    let violated = |change: fn(&mut Depot, &mut Memory), memory: &mut Memory| {
        let mut depot = for_eight();
        assert_eq!(taken(&mut depot, memory, 1), 1);
        assert!(depot.offer(memory.empty(FOUR)).is_none());
        change(&mut depot, memory);
        depot.violated_invariant()
    };
    let mut found = |change| violated(change, &mut memory);
    assert_eq!(found(|_, _| ()), None);
    assert_eq!(found(|depot, _| depot.full.count = 0), Some(counts));
    assert_eq!(found(|depot, _| depot.empty.count = 2), Some(counts));
    assert_eq!(found(|depot, _| depot.full.places = 5), Some(counts));
    assert_eq!(found(|depot, _| depot.full.least = 2), Some(counts));
    assert_eq!(found(|depot, _| depot.full.least = 1), None);
    assert_eq!(found(|depot, memory| depot.full.chain.push(memory.full(FOUR))), Some(counts));
    assert_eq!(
        found(|depot, memory| {
            depot.full.chain.push(memory.empty(FOUR));
            (depot.full.count, depot.full.places) = (2, 8);
        }),
        Some(kinds)
    );
    assert_eq!(
        found(|depot, memory| {
            depot.empty.chain.push(memory.full(FOUR));
            (depot.empty.count, depot.empty.places) = (2, 8);
        }),
        Some(kinds)
    );
}
