//! The numbers in the book's chapter "Life of an allocation": one cold `kmalloc(100)` and its free,
//! counted.
#![cfg(not(loom))]

use buddy::{Buddy, Mode, ZeroedMemory};
use hosted::Mapped;
use kmalloc::{ClassIndex, Kmalloc};
use page_frame::{Counted, DirectMap, PAGE_SIZE, PageMap, SwitchedCpu, Tag};
use slab::{CacheStats, Registry};

type Pages<'a> = Buddy<'a, DirectMap, &'a SwitchedCpu>;

#[test]
fn the_numbers_of_the_chapter_hold() {
    let cpus = SwitchedCpu::new(4);
    let memory = Mapped::reserve(64 << 20).expect("address space");
    let ranges = [memory.frames()];
    let bytes = Pages::metadata_layout(&ranges, 4).expect("good frames").size();
    let metadata = Mapped::reserve(bytes).expect("address space");
    let map = memory.direct_map();
    // SAFETY: the mapping is fresh, so zero, page-aligned and not shared, and stays as long as
    // the allocator.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
    // SAFETY: the frames are a fresh mapping that no other code uses, and `map` covers it.
    let buddy = unsafe { Buddy::new_in(zeroed, &ranges, map, &cpus, Mode::Cached) };
    let pages = Counted::new(buddy.expect("good frames"));
    let kmalloc = Kmalloc::new(Registry::new(&pages, &cpus).expect("room"));
    let asked = || (pages.allocations(), pages.held_pages());
    let stats = |name: &str| {
        let mut found: Option<CacheStats> = None;
        kmalloc.registry().stats(|stats| {
            if stats.name.as_str() == name {
                found = Some(*stats);
            }
        });
        found.expect("there is such a cache")
    };
    assert_eq!(asked(), (1, 1), "the registry's own page");

    let start = kmalloc.kmalloc(100).expect("room");
    let class = ClassIndex::for_size(100).expect("small");
    assert_eq!((class.size(), class.index()), (112, 10), "step 1");
    assert_eq!(asked(), (3, 4), "steps 2 and 4: two pages for caches, one for the slab");
    let caches = stats("cache");
    assert_eq!((caches.object_size, caches.objects), (704, 11), "step 2");
    let slab = stats("kmalloc-112");
    assert_eq!((slab.objects_per_slab, slab.pages_per_slab), (35, 1), "step 4");
    assert_eq!(pages.tag(start.addr().get()), Tag::class(10).expect("a class"), "step 5");
    assert_eq!(start.addr().get() % PAGE_SIZE, 0, "step 6: the first object");
    let kept = 16_384 - 4 - pages.source().free_frames_count();
    assert_eq!(kept, 76, "step 4: 62 single frames in the buddy's CPU slot, and 7 blocks of two");

    // SAFETY: allocated in step 1.
    unsafe { kmalloc.kfree(Some(start)) };
    assert_eq!(asked(), (3, 4), "step 9: the empty slab is kept");
    assert_eq!(stats("kmalloc-112").objects_active, 0);

    let pair = || {
        let again = kmalloc.kmalloc(100).expect("room");
        // SAFETY: allocated a line above.
        unsafe { kmalloc.kfree(Some(again)) };
    };
    (0..3).for_each(|_| pair());
    assert_eq!(asked(), (3, 4), "eight misses without magazines");
    pair();
    assert_eq!(asked(), (4, 5), "after eight misses the slot gets a magazine");
    assert_eq!(stats("magazine-12").object_size, 112);
    assert_eq!(stats("kmalloc-112").objects_active, 6, "half a magazine");
    (0..1000).for_each(|_| pair());
    assert_eq!(asked(), (4, 5), "hits");

    kmalloc.shrink_all();
    assert_eq!(asked().1, 3, "the registry and the cache stay");
    drop(kmalloc);
    assert_eq!(asked().1, 0);
}
