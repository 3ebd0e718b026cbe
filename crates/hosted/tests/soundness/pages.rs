//! Pages: hooks that panic, and sizes of the space.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hosted::Pages;
use page_frame::{Order, PAGE_SIZE, PageSource};

/// A hook that panics runs outside the fork lock, when the block is free.
#[test]
fn a_trim_hook_that_panics_leaves_the_pages_whole() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let hook = |_| {
        CALLS.fetch_add(1, Ordering::Relaxed);
        panic!("at the end of an interval");
    };
    let pages = Pages::with_space(1 << 30).expect("address space").with_trim_hook(hook);
    let pages = pages.with_purge_delay(Duration::from_millis(20));
    let order = Order::new(9).expect("small");
    let blocks: Vec<_> = (0..40).map(|_| pages.allocate(order).expect("2 MiB")).collect();
    for block in blocks {
        // SAFETY: from these pages, and not used.
        let _ = catch_unwind(AssertUnwindSafe(|| unsafe { pages.free(block) }));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(CALLS.load(Ordering::Relaxed) > 0);
    // An allocation may panic too, and then has allocated nothing.
    let allocate = || catch_unwind(AssertUnwindSafe(|| pages.allocate(order).expect("2 MiB")));
    let again: Vec<_> = std::iter::repeat_with(allocate).flatten().take(40).collect();
    let mut starts: Vec<_> = again.iter().map(|block| block.start()).collect();
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts.len(), 40, "each block came back once");
    assert_eq!(pages.idle_pages(), 0, "no block was lost");
    for block in again {
        // SAFETY: from these pages, and not used.
        let _ = catch_unwind(AssertUnwindSafe(|| unsafe { pages.free(block) }));
    }
}

/// Mutation seen to fail: no check of the size.
#[test]
fn a_space_is_a_power_of_two_and_the_smallest_is_a_page() {
    for bytes in [0, 1, PAGE_SIZE - 1, 3 * PAGE_SIZE, (65 << 20) + PAGE_SIZE, usize::MAX] {
        let refused = Pages::with_space(bytes).expect_err("no such space");
        assert_eq!(refused.number(), 22, "EINVAL for {bytes} bytes");
    }
    let pages = Pages::with_space(PAGE_SIZE).expect("a page of address space");
    let block = pages.allocate(Order::ZERO).expect("one page");
    assert!(pages.allocate(Order::ZERO).is_err());
    // SAFETY: from these pages, and not used.
    unsafe { pages.free(block) };
}
