//! Tests of the slab set, on slabs in plain memory.

extern crate std;

use core::sync::atomic::{AtomicU64, Ordering};
use std::boxed::Box;
use std::vec::Vec;

use super::*;
use crate::slabs::layout::links::MARK_CACHED;

/// The memory of one slab.
#[repr(C, align(4096))]
struct Pages([u8; 8192]);

/// Objects of 704 bytes in slabs of two pages: eleven, and five in a slab of one page.
const BEST: Geometry = match Geometry::at_order(704, 64, 64, 1) {
    Some(geometry) => geometry,
    None => panic!("several fit"),
};
const CAPACITY: usize = 11;
const SMALL_CAPACITY: usize = 5;

/// Slabs, freed when it is dropped.
#[derive(Default)]
struct Memory(Vec<(NonNull<SlabHeader>, NonNull<Pages>)>);

impl Memory {
    fn slab(&mut self, order: u8) -> NonNull<SlabHeader> {
        let order = page_frame::Order::new(order).expect("small");
        let geometry = if order == BEST.order() { Some(BEST) } else { BEST.at_lower_order(order) };
        let geometry = geometry.expect("objects fit");
        let pages = NonNull::from(Box::leak(Box::new(Pages([0; 8192]))));
        let header = SlabHeader::new(
            NonNull::dangling(),
            pages.cast(),
            0,
            &geometry,
            geometry.first_taken(),
        );
        let header = NonNull::from(Box::leak(Box::new(header)));
        self.0.push((header, pages));
        // SAFETY: clause 1 of `links`: just made for this geometry; up to twelve links lie in it.
        let links = unsafe { SlabHeader::links(header, &geometry) };
        // SAFETY: clause 1 of `chain_all`: the slab is ours, and has this capacity.
        unsafe { links.chain_all(geometry.capacity(), geometry.first_taken()) };
        header
    }

    /// Adds a slab to `set`.
    fn add(&mut self, set: &mut SlabSet, order: u8) -> NonNull<SlabHeader> {
        let header = self.slab(order);
        // SAFETY: clause 1: live, of this set only, and all its objects are free.
        unsafe { set.add(header, &BEST) };
        check(set);
        header
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for (header, pages) in self.0.drain(..) {
            // SAFETY: leaked by `slab`, and no set uses it any more.
            drop(unsafe { Box::from_raw(header.as_ptr()) });
            // SAFETY: as above.
            drop(unsafe { Box::from_raw(pages.as_ptr()) });
        }
    }
}

/// Grace periods that end when the test says so. Their tokens are 10, 20 and so on.
#[derive(Default)]
struct Periods {
    started: AtomicU64,
    ended: AtomicU64,
}

impl Periods {
    fn end_all(&self) {
        self.ended.store(self.started.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

// SAFETY: clause 1: the tests of this file read no object.
unsafe impl GracePeriods for Periods {
    fn start(&self) -> u64 {
        self.started.fetch_add(10, Ordering::Relaxed) + 10
    }

    fn has_ended(&self, token: u64) -> bool {
        self.ended.load(Ordering::Relaxed) >= token
    }
}

fn check(set: &SlabSet) {
    assert_eq!(set.violated_sum(&BEST), None);
}

fn list_of(header: NonNull<SlabHeader>) -> ListName {
    // SAFETY: the slab lives.
    let slab = unsafe { header.as_ref() };
    // SAFETY: clause 1: the test has one thread, so no other code changes it.
    unsafe { slab.list() }
}

fn take(set: &mut SlabSet, wanted: usize) -> Vec<NonNull<u8>> {
    let mut objects = Vec::new();
    let put = |place, object| {
        objects.truncate(place);
        objects.push(object);
    };
    let taken = set.take(&BEST, wanted, None, put, |_| panic!("links are not checked"));
    assert_eq!(taken, objects.len());
    check(set);
    objects
}

fn give(set: &mut SlabSet, header: NonNull<SlabHeader>, object: NonNull<u8>) {
    let mut chain = FreedChain::new(&BEST);
    // SAFETY: the slab is alive, and the object was taken from it.
    assert!(unsafe { chain.begin(header, object.addr().get(), &BEST) });
    // SAFETY: clause 1: the slab is one of the set, and the object is ours.
    unsafe { set.give(&mut chain, &BEST) };
    check(set);
}

#[test]
fn slabs_pages_and_bytes_are_counted() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    assert_eq!((set.slabs(), set.pages(&BEST), set.bytes(&BEST)), (0, 0, 0));
    for order in [1, 1, 0, 1, 0] {
        memory.add(&mut set, order);
    }
    assert_eq!((set.slabs(), set.empty_slabs(), set.pages(&BEST)), (5, 5, 8));
    assert_eq!((set.bytes(&BEST), set.grown(), set.shrunk()), (5 * 8192, 5, 0));
    for left in (2..5).rev() {
        let released = set.pop_empty(2, &BEST, None).expect("more than two are empty");
        assert_eq!(list_of(released), ListName::Nowhere);
        assert_eq!((set.slabs(), set.grown(), set.shrunk()), (left, 5, 5 - left));
        check(&set);
    }
    assert!(set.pop_empty(2, &BEST, None).is_none(), "two are kept");
    let left: usize = set
        .iter()
        .map(|header| {
            // SAFETY: in the set, so alive.
            unsafe { header.as_ref() }.pages()
        })
        .sum();
    assert_eq!(set.pages(&BEST), left);
}

#[test]
fn objects_come_from_the_fullest_slab_and_from_the_next_when_it_is_full() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    let first = memory.add(&mut set, 1);
    let objects = take(&mut set, 6);
    assert_eq!((objects.len(), list_of(first)), (6, ListName::Partial1));
    let empty = memory.add(&mut set, 1);
    assert_eq!(take(&mut set, 5).len(), 5);
    assert_eq!((list_of(first), list_of(empty)), (ListName::Full, ListName::Empty));
    assert_eq!(take(&mut set, 20).len(), CAPACITY, "fewer than wanted");
    assert_eq!(list_of(empty), ListName::Full);
    give(&mut set, first, objects[0]);
    assert_eq!(list_of(first), ListName::Partial0, "the first free makes it known");
    objects[1..].iter().for_each(|object| give(&mut set, first, *object));
    assert_eq!(list_of(first), ListName::Partial2);
    assert_eq!(take(&mut set, 3).len(), 3);
    assert_eq!((set.empty_slabs(), list_of(first)), (0, ListName::Partial1));
    let last = memory.add(&mut set, 1);
    assert_eq!(take(&mut set, 5).len(), 5, "three, and two of the eleven of the next slab");
    assert_eq!((list_of(first), list_of(last)), (ListName::Full, ListName::Partial3));
}

#[test]
fn a_slab_with_every_object_back_is_empty_again() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    let small = memory.add(&mut set, 0);
    let objects = take(&mut set, SMALL_CAPACITY);
    assert_eq!((objects.len(), list_of(small)), (SMALL_CAPACITY, ListName::Full));
    assert!(set.pop_empty(0, &BEST, None).is_none());
    objects.into_iter().for_each(|object| give(&mut set, small, object));
    assert_eq!(set.pop_empty(0, &BEST, None), Some(small));
}

#[test]
fn taken_objects_are_marked_each_once_and_others_are_not() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    let slab = memory.add(&mut set, 1);
    let taken = set.take(&BEST, 4, Some(MARK_CACHED), |_, _| (), |_| panic!("no link is broken"));
    // SAFETY: the slab lives.
    let links = unsafe { SlabHeader::links(slab, &BEST) };
    // SAFETY: clauses 1 and 2: an index of an object, and the test has one thread.
    let marks = (0..CAPACITY).map(|index| unsafe { links.read(index) });
    let marked = marks.filter(|link| *link == usize::from(MARK_CACHED)).count();
    assert_eq!((taken, marked), (4, 4));
    // The chain of the others is whole.
    assert_eq!(take(&mut set, 20).len(), CAPACITY - 4);
}

#[test]
fn pending_slabs_are_sorted_by_the_next_holder_of_the_lock() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    let pending = TakeAll::new();
    let slab = memory.add(&mut set, 1);
    let objects = take(&mut set, CAPACITY);
    let mut chain = FreedChain::new(&BEST);
    // SAFETY: the slab is alive, and the object was taken from it.
    assert!(unsafe { chain.begin(slab, objects[0].addr().get(), &BEST) });
    // SAFETY: clause 1 of the chain's `push`: the object is ours.
    assert_eq!(unsafe { chain.push() }, Pushed::First);
    // SAFETY: in no stack, and alive until it is taken.
    unsafe { pending.push(slab) };
    assert_eq!((list_of(slab), take(&mut set, 1).len()), (ListName::Full, 0));
    set.take_pending(&pending, &BEST);
    assert_eq!(list_of(slab), ListName::Partial0);
    assert!(pending.is_empty());
    assert_eq!(take(&mut set, 2), [objects[0]]);
}

#[test]
fn slabs_that_were_freed_to_without_the_lock_are_sorted_by_a_pass_over_all() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    let slabs = [(); 3].map(|()| memory.add(&mut set, 1));
    let objects = take(&mut set, CAPACITY - 1);
    let used = slabs.into_iter().find(|slab| list_of(*slab) == ListName::Partial0);
    let used = used.expect("one has a single free object");
    for object in objects {
        let mut chain = FreedChain::new(&BEST);
        // SAFETY: the slab is alive, and the object was taken from it.
        assert!(unsafe { chain.begin(used, object.addr().get(), &BEST) });
        // SAFETY: clause 1 of the chain's `push`: the object is ours.
        assert_eq!(unsafe { chain.push() }, Pushed::More);
    }
    assert_eq!((list_of(used), set.empty_slabs()), (ListName::Partial0, 2));
    set.sort_all(&BEST);
    check(&set);
    assert_eq!((list_of(used), set.empty_slabs()), (ListName::Empty, 3));
}

#[test]
fn aging_returns_the_minimum_of_empty_slabs_in_an_idle_set() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    for _ in 0..4 {
        memory.add(&mut set, 1);
    }
    assert_eq!(set.age(usize::MAX), Some(0), "the set had no slab at the last pass");
    assert_eq!(set.age(usize::MAX), Some(4));
    let objects = take(&mut set, 2 * CAPACITY);
    assert_eq!((set.empty_slabs(), set.age(usize::MAX)), (2, None), "the set is in use");
    assert_eq!(set.age(usize::MAX), Some(2));
    let [one, ..] = objects[..] else { panic!("objects were taken") };
    let slab = set.list(ListName::Full).iter().find(|slab| {
        // SAFETY: in the set, so alive.
        let slab = unsafe { slab.as_ref() };
        slab.index_of(&BEST, one.addr().get()).0 < CAPACITY
    });
    give(&mut set, slab.expect("its slab is full"), one);
    assert_eq!(set.age(usize::MAX), None, "a free is a use too");
    assert!(set.pop_empty(1, &BEST, None).is_some());
    memory.add(&mut set, 1);
    assert_eq!(
        (set.empty_slabs(), set.age(usize::MAX)),
        (2, Some(1)),
        "one at least, between the two"
    );
}

/// Mutations that it catches: a step that restarts the count before the last one; one that halves
/// the count of missed slabs too; a last step that does neither.
#[test]
fn steps_of_aging_return_together_what_one_pass_returns() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    set.note_released(4);
    for _ in 0..9 {
        memory.add(&mut set, 1);
    }
    let objects = take(&mut set, 2 * CAPACITY);
    _ = set.age(usize::MAX);
    assert_eq!((objects.len(), set.empty_slabs(), set.missed()), (2 * CAPACITY, 7, 4));
    memory.add(&mut set, 1);
    let mut step = || {
        let idle = set.age(3).expect("no object was taken or given");
        let released = (0..idle.min(3)).filter(|_| set.pop_empty(0, &BEST, None).is_some()).count();
        (idle, released, set.missed())
    };
    assert_eq!([step(), step(), step()], [(7, 3, 4), (4, 3, 4), (1, 1, 2)]);
    assert_eq!(set.empty_slabs(), 1, "it was added since the last pass");
    assert_eq!((set.age(1), set.missed()), (Some(1), 1), "all of them at once");
    assert_eq!((set.age(1), set.missed()), (Some(1), 0), "and the slab, which stayed, once more");
}

#[test]
fn released_slabs_that_are_fetched_again_are_missed_until_memory_is_short() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    memory.add(&mut set, 1);
    assert_eq!(set.missed(), 0, "none was released");
    set.note_released(2);
    for missed in [1, 2, 2] {
        memory.add(&mut set, 1);
        assert_eq!(set.missed(), missed);
    }
    set.note_released(1000);
    assert!(set.age(usize::MAX).is_some());
    assert_eq!(set.missed(), 1, "halved in an idle set");
    memory.add(&mut set, 1);
    assert_eq!(set.missed(), 1, "and those released before are forgotten");
    set.note_released(1);
    set.forget_missed();
    memory.add(&mut set, 1);
    assert_eq!(set.missed(), 0);
}

/// The numbers of slabs in `Empty` and in `Waiting`, and the token of those that wait.
fn waiting(set: &SlabSet) -> (usize, usize, Option<u64>) {
    check(set);
    let count = |name| set.list(name).count();
    assert_eq!(set.empty_slabs(), count(ListName::Empty) + count(ListName::Waiting));
    (count(ListName::Empty), count(ListName::Waiting), set.waiting_since())
}

#[test]
fn slabs_wait_together_for_a_grace_period_and_later_ones_for_the_next() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    let periods = Periods::default();
    let slabs = [(); 3].map(|()| memory.add(&mut set, 1));
    assert_eq!(waiting(&set), (3, 0, None));
    assert_eq!(set.pop_empty(3, &BEST, Some(&periods)), None);
    assert_eq!(waiting(&set), (3, 0, None), "three are kept, so none needs to wait");
    for _ in 0..2 {
        assert_eq!(set.pop_empty(0, &BEST, Some(&periods)), None, "the period has not ended");
        assert_eq!(waiting(&set), (0, 3, Some(10)), "one period for all");
    }
    let late = memory.add(&mut set, 1);
    set.sort_all(&BEST);
    assert_eq!(waiting(&set), (1, 3, Some(10)), "a slab that waits stays in its list");
    assert_eq!((set.empty_slabs(), set.age(usize::MAX)), (4, Some(0)));
    periods.end_all();
    for left in [2, 1, 0] {
        let released = set.pop_empty(1, &BEST, Some(&periods)).expect("its period has ended");
        assert!(slabs.contains(&released));
        assert_eq!(waiting(&set), (1, left, (left > 0).then_some(10)));
    }
    assert_eq!(set.pop_empty(1, &BEST, Some(&periods)), None, "one is kept");
    assert_eq!(set.pop_empty(0, &BEST, Some(&periods)), None, "a new period");
    assert_eq!(waiting(&set), (0, 1, Some(20)));
    periods.end_all();
    assert_eq!(set.pop_empty(0, &BEST, Some(&periods)), Some(late));
    assert_eq!(waiting(&set), (0, 0, None));
}

#[test]
fn a_slab_that_waits_gives_objects_and_waits_anew_when_it_is_empty_again() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    let periods = Periods::default();
    let slab = memory.add(&mut set, 1);
    assert_eq!(set.pop_empty(0, &BEST, Some(&periods)), None);
    let [object] = take(&mut set, 1)[..] else { panic!("the slab has objects") };
    assert_eq!((list_of(slab), waiting(&set)), (ListName::Partial3, (0, 0, None)));
    periods.end_all();
    give(&mut set, slab, object);
    assert_eq!(set.pop_empty(0, &BEST, Some(&periods)), None, "freed after the first period began");
    assert_eq!(waiting(&set), (0, 1, Some(20)));
}

#[test]
fn slabs_take_the_colours_in_turn_unless_the_cache_is_not_coloured() {
    let mut settings = CacheSettings::internal("coloured", 704, BEST);
    assert!(BEST.colours() > 2);
    let mut set = SlabSet::new();
    let colours: Vec<usize> = (0..BEST.colours()).map(|_| set.colour_of_next(&settings)).collect();
    assert_eq!((colours[0], colours[1]), (0, BEST.next_colour(0)));
    let mut sorted = colours;
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..BEST.colours()), "each once");
    settings.coloured = false;
    assert_eq!([(); 3].map(|()| set.colour_of_next(&settings)), [0; 3]);
}

#[test]
fn wrong_sums_are_found() {
    let (mut memory, mut set) = (Memory::default(), SlabSet::new());
    memory.add(&mut set, 0);
    set.missing_pages += 1;
    assert!(set.violated_sum(&BEST).is_some_and(|name| name.contains("missing pages")));
    set.missing_pages -= 1;
    set.fewest_empty = 1;
    check(&set);
    set.fewest_empty = 2;
    assert!(set.violated_sum(&BEST).is_some_and(|name| name.contains("minimum")));
}
