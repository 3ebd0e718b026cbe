//! Set-up of the static allocators: failures, races of the first requests, and the texts that they
//! print.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hosted::Threads;
use kmalloc::{Global, Heap, Kmalloc, SetUp};
use page_frame::{Arena, OutOfMemory, PAGE_SIZE};
use slab::{Off, Registry};

type System = (&'static Arena<'static>, Threads);

fn arena() -> Result<&'static Arena<'static>, OutOfMemory> {
    let memory = Vec::leak(vec![MaybeUninit::uninit(); 512 * PAGE_SIZE]);
    let arena = Arena::new(memory).map_err(|_| OutOfMemory)?;
    Ok(Box::leak(Box::new(arena)))
}

/// A set-up that fails at the first call, is slow from the second one on, and counts its calls.
#[derive(Default)]
struct Slow(AtomicUsize);

impl SetUp<System, Off> for Slow {
    fn set_up(&self) -> Result<Kmalloc<System>, OutOfMemory> {
        if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(OutOfMemory);
        }
        thread::sleep(Duration::from_millis(30));
        Ok(Kmalloc::new(Registry::new(arena()?, Threads)?))
    }
}

/// Mutations that it catches: a failed set-up leaves the state at "starting" (the next request
/// waits for ever); a caller that waited sets up again.
#[test]
fn a_failed_set_up_is_tried_again_and_of_racing_requests_one_sets_up() {
    let heap = Global::<System, Off, Slow>::new(Slow::default());
    let layout = Layout::new::<u64>();
    assert_eq!(format!("{heap:?}"), "Global { kmalloc: None, .. }");
    // SAFETY: the layout has a size.
    assert!(unsafe { heap.alloc(layout) }.is_null(), "the first set-up fails");
    assert!(heap.get().is_none());
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // SAFETY: the layout has a size.
                let start = unsafe { heap.alloc(layout) };
                assert!(!start.is_null());
                // SAFETY: allocated above with this layout.
                unsafe { heap.dealloc(start, layout) };
            });
        }
    });
    assert_eq!(heap.setup().0.load(Ordering::SeqCst), 2);
    let kmalloc = heap.get().expect("set up");
    assert_eq!(format!("{heap:?}"), format!("Global {{ kmalloc: Some({kmalloc:?}), .. }}"));
    kmalloc.validate().expect("consistent");
}

/// A set-up that ends only once another caller waits for it.
#[derive(Default)]
struct Awaited(AtomicUsize);

impl SetUp<System, Off> for Awaited {
    fn set_up(&self) -> Result<Kmalloc<System>, OutOfMemory> {
        while self.0.load(Ordering::SeqCst) < 3 {
            thread::yield_now();
        }
        Ok(Kmalloc::new(Registry::new(arena()?, Threads)?))
    }

    fn wait(&self, round: usize) {
        // One caller waits, so its rounds count up from zero.
        assert!(self.0.fetch_add(1, Ordering::SeqCst) == round);
        thread::yield_now();
    }
}

/// Mutations that it catches: a caller that spins instead of waiting as the set-up says (the test
/// hangs); rounds that do not count.
#[test]
fn a_caller_waits_for_another_one_as_the_set_up_says() {
    let heap = Global::<System, Off, Awaited>::new(Awaited::default());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| heap.kmalloc().expect("memory").validate().expect("consistent"));
        }
    });
    assert!(heap.setup().0.load(Ordering::SeqCst) >= 3);
}

/// Mutations that it catches: a `realloc` to zero bytes frees the old memory first; a `realloc` to
/// an impossible size frees the old memory.
#[test]
fn empty_and_impossible_layouts_keep_what_there_is() {
    let heap = Global::<System, Off, Slow>::new(Slow(AtomicUsize::new(1)));
    let (empty, layout) = (Layout::from_size_align(0, 8).expect("valid"), Layout::new::<u64>());
    // SAFETY: the trait does not allow it; the allocator serves it all the same.
    let start = unsafe { heap.alloc(empty) };
    assert!(!start.is_null() && start.addr() % 8 == 0);
    // SAFETY: as above, and a size that no layout has.
    assert!(unsafe { heap.realloc(start, empty, usize::MAX) }.is_null());
    // SAFETY: as above.
    let grown = unsafe { heap.realloc(start, empty, 8) };
    assert!(!grown.is_null());
    // SAFETY: eight bytes.
    unsafe { grown.write_bytes(7, 8) };
    // SAFETY: allocated above with this layout.
    let shrunk = unsafe { heap.realloc(grown, layout, 0) };
    assert!(!shrunk.is_null());
    // SAFETY: allocated above.
    unsafe { heap.dealloc(shrunk, empty) };
    heap.get().expect("set up").validate().expect("consistent");
}

/// Mutation that it catches: the start of a region at address zero is moved, and its size stays.
#[test]
fn a_heap_says_how_large_its_first_region_must_be() {
    // SAFETY: clause 1: the test is the only context.
    let heap = unsafe { Heap::for_one_context() };
    assert_eq!(format!("{heap:?}"), "Heap { kmalloc: None, .. }");
    for bytes in [0, 63, 64, 200] {
        // SAFETY: the heap refuses a region of this size, and does not use it.
        let error = unsafe { heap.add_region(ptr::null_mut(), bytes) }.expect_err("too small");
        assert_eq!((error.start(), error.bytes()), (0, bytes));
        let needed = error.needed();
        assert_eq!(
            error.to_string(),
            format!(
                "the region of {bytes} bytes at 0x0 is too small: the bytes of a page and metadata \
                 need {needed}, wherever they start"
            )
        );
        assert!(needed > PAGE_SIZE);
    }
    let memory = Vec::leak(vec![MaybeUninit::<u8>::uninit(); 64 * PAGE_SIZE]);
    // SAFETY: the memory is leaked.
    unsafe { heap.add_region(memory.as_mut_ptr().cast(), 64 * PAGE_SIZE) }.expect("large enough");
    let text = format!("{heap:?}");
    assert!(text.starts_with("Heap { kmalloc: Some(Kmalloc { pages_held: "), "{text}");
}

/// Adds leaked regions of growing size until one is large enough.
///
/// Mutation that it catches: `Heap::empty` makes another machine than the default (it does not
/// compile), or a heap that has memory.
#[test]
fn an_empty_heap_has_no_memory_and_says_what_a_first_region_needs() {
    let heap = Heap::<Threads>::empty();
    assert_eq!((heap.bytes(), heap.free_bytes()), (0, 0));
    assert!(heap.kmalloc().is_none());
    let mut reasons = Vec::new();
    for bytes in (64..).step_by(256) {
        let memory = Vec::leak(vec![MaybeUninit::<u8>::uninit(); bytes]);
        // SAFETY: the memory is leaked.
        let Err(error) = (unsafe { heap.add_region(memory.as_mut_ptr().cast(), bytes) }) else {
            break;
        };
        assert!(heap.kmalloc().is_none() && error.needed() > bytes, "{error}");
        let text = error.to_string();
        let (_, reason) = text.split_once(" is too small: ").expect("the reason follows");
        if reasons.last().is_none_or(|last| last != reason) {
            reasons.push(reason.to_owned());
        }
    }
    assert!(heap.bytes() > 0);
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].starts_with("the bytes of a page and metadata need "));
    assert!(reasons[1].starts_with("the first region of this machine's heap needs "));
}
