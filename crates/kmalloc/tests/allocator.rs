//! Collections of `allocator-api2` 0.2 and 0.4 over one allocator. They keep their content while
//! they grow, and all pages return to the source.

use std::alloc::Layout;
use std::mem::MaybeUninit;

use kmalloc::Kmalloc;
use page_frame::{Arena, Counted, PAGE_SIZE, SingleCpu};
use slab::Registry;

macro_rules! check_version {
    ($name:ident, $crate_name:ident) => {
        #[test]
        fn $name() {
            use $crate_name::alloc::Allocator;
            let mut memory = vec![MaybeUninit::uninit(); 2048 * PAGE_SIZE];
            let arena = Counted::new(Arena::new(&mut memory).expect("large enough"));
            let kmalloc = Kmalloc::new(Registry::new(&arena, SingleCpu::new()).expect("room"));
            let mut numbers = $crate_name::vec::Vec::new_in(&kmalloc);
            numbers.extend(0..100_000_u64);
            assert!(numbers.iter().copied().eq(0..100_000));
            numbers.truncate(10);
            numbers.shrink_to_fit();
            assert!(numbers.iter().copied().eq(0..10));
            let boxed = $crate_name::boxed::Box::new_in([7_u8; 100], &kmalloc);
            assert_eq!(boxed.iter().map(|byte| usize::from(*byte)).sum::<usize>(), 700);
            let layout =
                |bytes, alignment| Layout::from_size_align(bytes, alignment).expect("small");
            let (small, large) = (layout(24, 8), layout(5000, 64));
            let start = (&kmalloc).allocate_zeroed(small).expect("room").cast::<u8>();
            // SAFETY: allocated with this layout; only the new address is used.
            let grown = unsafe { (&kmalloc).grow_zeroed(start, small, large) }.expect("room");
            assert_eq!((grown.len(), grown.cast::<u8>().addr().get() % 64), (5000, 0));
            // SAFETY: ours, of that many bytes.
            assert!(unsafe { grown.as_ref() }.iter().all(|byte| *byte == 0));
            // SAFETY: grown above, of the larger layout.
            let shrunk = unsafe { (&kmalloc).shrink(grown.cast(), large, small) }.expect("room");
            // SAFETY: allocated with this layout.
            unsafe { (&kmalloc).deallocate(shrunk.cast(), small) };
            // An allocation of zero bytes is allowed.
            let none = (&kmalloc).allocate(layout(0, 1)).expect("room");
            // SAFETY: allocated with this layout.
            unsafe { (&kmalloc).deallocate(none.cast(), layout(0, 1)) };
            drop((numbers, boxed));
            kmalloc.validate().expect("consistent");
            kmalloc.shrink_all();
            drop(kmalloc);
            assert_eq!(arena.held_pages(), 0, "all pages are returned");
        }
    };
}

check_version!(version_02, allocator_api2_02);
check_version!(version_04, allocator_api2_04);
