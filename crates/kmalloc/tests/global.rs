//! A [`Global`] as the global allocator of this test program: the test harness, its threads and the
//! collections of the tests allocate from it.

use std::alloc::Layout;
use std::collections::BTreeMap;

use buddy::page_frame::DirectMap;
use buddy::{Buddy, Mode, ZeroedMemory};
use hosted::{Mapped, Threads};
use kmalloc::{Global, Kmalloc};
use slab::Registry;
use testkit::steps;

type Pages = Buddy<'static, DirectMap, Threads>;

#[global_allocator]
static HEAP: Global<(Pages, Threads)> = Global::new(|| {
    let frames = Mapped::reserve(2 << 30)?;
    let ranges = [frames.frames()];
    let layout = Pages::metadata_layout(&ranges, hosted::THREAD_SLOTS)?;
    let metadata = Mapped::reserve(layout.size())?;
    let map = frames.direct_map();
    // SAFETY: the mapping is fresh, so zero, page-aligned and not shared, and stays as long as
    // the allocator.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
    // SAFETY: the frames are a fresh mapping that no other code uses, and `map` covers it.
    let buddy = unsafe { Buddy::new_in(zeroed, &ranges, map, Threads, Mode::Cached) };
    std::mem::forget((frames, metadata));
    Ok(Kmalloc::new(Registry::new(buddy?, Threads)?))
});

#[test]
fn collections_of_many_threads_come_and_go() {
    let work = |seed: u64| {
        let mut random = testkit::Random::new(seed);
        let mut map = BTreeMap::new();
        for _ in 0..steps(20_000) {
            let key = random.below(2_000) as u64;
            let length = random.below(300);
            if random.one_in(3) {
                map.remove(&key);
            } else {
                map.insert(key, vec![key as u8; length]);
            }
        }
        for (key, bytes) in &map {
            assert!(bytes.iter().all(|byte| *byte == *key as u8));
        }
        map
    };
    // Maps are built in one thread and dropped in another.
    let maps: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8).map(|seed| scope.spawn(move || work(seed))).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect()
    });
    assert!(maps.iter().all(|map| map.len() > 500));
    drop(maps);
    let kmalloc = HEAP.get().expect("it has been used");
    kmalloc.validate().expect("consistent");
}

#[test]
fn impossible_requests_are_null_and_leave_everything_as_it_was() {
    let mut numbers: Vec<u8> = Vec::new();
    assert!(numbers.try_reserve(3 << 30).is_err(), "more than there is");
    assert!(numbers.try_reserve(isize::MAX as usize).is_err());
    numbers.extend([1, 2, 3]);
    assert!(numbers.try_reserve(isize::MAX as usize - 3).is_err());
    assert_eq!(numbers, [1, 2, 3]);
    let layout = Layout::from_size_align(1, 2 << 30).expect("a layout");
    // SAFETY: the layout is not empty.
    let start = unsafe { std::alloc::alloc(layout) };
    // `black_box`, as the compiler may remove an allocation that is only compared with null.
    assert!(std::hint::black_box(start).is_null());
}

#[test]
fn strings_grow_and_large_vectors_are_zero() {
    let mut text = String::new();
    for number in 0..steps(50_000) {
        text.push_str(&number.to_string());
    }
    let last = (steps(50_000) - 1).to_string();
    assert!(text.ends_with(&last) && text.starts_with("0123456789"));
    for _ in 0..3 {
        let mut zeros = vec![0_u64; 1 << 20];
        assert!(zeros.iter().all(|number| *number == 0));
        zeros.fill(u64::MAX);
    }
}
