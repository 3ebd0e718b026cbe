//! The traits of the crate `x86_64`: frames of all three sizes, and misuse.

use std::alloc::{Layout, alloc, dealloc};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy::{GrowingBuddy, Mode, ZeroedMemory};
use page_frame::{DirectMap, FrameNumber, FrameRange, SingleCpu};
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, PageSize, PhysFrame, Size1GiB, Size2MiB, Size4KiB,
};

const FRAMES: usize = 2 << 18;

/// Takes and frees frames of size `S`: `expected` at a time.
fn cycle<S: PageSize>(mut frames: impl FrameAllocator<S> + FrameDeallocator<S>, expected: usize) {
    for _ in 0..2 {
        let taken: Vec<PhysFrame<S>> = std::iter::from_fn(|| frames.allocate_frame()).collect();
        assert_eq!(taken.len(), expected);
        let mut starts: Vec<_> = taken.iter().map(|frame| frame.start_address()).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts.len(), expected, "no frame twice");
        for frame in taken {
            // SAFETY: the frame came from these frames, and nothing is mapped there.
            unsafe { frames.deallocate_frame(frame) };
        }
    }
}

#[test]
fn frames_of_all_sizes_come_and_go() {
    let ranges = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(FRAMES))];
    let layout = buddy::FrameAllocator::<SingleCpu>::metadata_layout(&ranges, 1).expect("valid");
    let mut metadata = [(); 2].map(|()| vec![MaybeUninit::uninit(); layout.size() + 64]);
    let [first, second] = metadata.each_mut().map(|memory| ZeroedMemory::zero(memory));
    let numbers = buddy::FrameAllocator::new_in(first, &ranges, SingleCpu::new(), Mode::Cached);
    let numbers = numbers.expect("room");
    // SAFETY: this test accesses no frame.
    let map = unsafe { DirectMap::at_offset(1 << 40) };
    // SAFETY: clauses 1 and 2: as above.
    let buddy =
        unsafe { buddy::Buddy::new_in(second, &ranges, map, SingleCpu::new(), Mode::Cached) };
    let buddy = buddy.expect("room");
    cycle::<Size4KiB>(&numbers, FRAMES);
    cycle::<Size1GiB>(&numbers, FRAMES >> 18);
    cycle::<Size2MiB>(&buddy, FRAMES >> 9);
    cycle::<Size4KiB>(&buddy, FRAMES);
    numbers.drain();
    numbers.validate().expect("consistent");
    buddy.validate().expect("consistent");
}

/// Runs `test` with a growing buddy of two ranges of 600 frames each.
fn with_growing(test: impl FnOnce(&GrowingBuddy<DirectMap, SingleCpu>)) {
    const LAYOUT: Layout = match Layout::from_size_align(1200 << 12, 2 << 20) {
        Ok(layout) => layout,
        Err(_) => panic!("2 MiB is a power of two"),
    };
    // SAFETY: the layout is not empty.
    let memory = NonNull::new(unsafe { alloc(LAYOUT) }).expect("room");
    // SAFETY: the memory of 1200 frames from 512 on.
    let map = unsafe { DirectMap::from_root(memory, FrameNumber::new(512)) };
    let growing = GrowingBuddy::new(map, SingleCpu::new());
    for start in [512, 512 + 600] {
        let range = FrameRange::new(FrameNumber::new(start), FrameNumber::new(start + 600));
        // SAFETY: clauses 1 and 2: frames of the memory above, each range once.
        unsafe { growing.add(range) }.expect("room for the metadata");
    }
    test(&growing);
    // SAFETY: allocated above, and not used any more.
    unsafe { dealloc(memory.as_ptr(), LAYOUT) };
}

#[test]
fn frames_of_a_growing_buddy_come_from_all_ranges() {
    with_growing(|growing| {
        let free = growing.free_frames_count();
        assert!(free > 1100, "{free} of 1200");
        cycle::<Size4KiB>(growing, free);
        growing.drain();
        cycle::<Size2MiB>(growing, 1); // the second range has no frame at a multiple of 512
        growing.validate().expect("consistent");
    });
}

#[test]
#[should_panic(expected = "DoubleFree")]
fn a_double_free_in_a_growing_buddy_panics() {
    with_growing(|growing| {
        let mut mapper = growing;
        let frame: PhysFrame<Size4KiB> = mapper.allocate_frame().expect("free");
        for _ in 0..2 {
            // SAFETY: the second one is the bug that is tested; nothing is mapped there.
            unsafe { mapper.deallocate_frame(frame) };
        }
    });
}

#[test]
fn a_double_free_reaches_the_hook() {
    static FAULTS: AtomicUsize = AtomicUsize::new(0);
    let ranges = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(64))];
    let mut metadata = vec![MaybeUninit::uninit(); 1 << 17];
    let memory = ZeroedMemory::zero(&mut metadata);
    let frames = buddy::FrameAllocator::new_in(memory, &ranges, SingleCpu::new(), Mode::Cached);
    let frames = frames.expect("room").with_fault_hook(|_| {
        FAULTS.fetch_add(1, Ordering::Relaxed);
    });
    let mut mapper = &frames;
    let frame: PhysFrame<Size4KiB> = mapper.allocate_frame().expect("free");
    for _ in 0..2 {
        // SAFETY: the second one is the bug that is tested; nothing is mapped there.
        unsafe { mapper.deallocate_frame(frame) };
    }
    assert_eq!(FAULTS.load(Ordering::Relaxed), 1);
    frames.validate().expect("consistent");
}
