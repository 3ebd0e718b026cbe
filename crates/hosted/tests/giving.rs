//! Memory that goes back: when the caches are asked, and what is left.

use std::sync::atomic::{AtomicUsize, Ordering};

use hosted::Pages;
use page_frame::{Order, PageBlock, PageSource};

/// Takes `count` blocks of 16 pages.
fn take(pages: &Pages, count: usize) -> Vec<PageBlock> {
    let order = Order::new(4).expect("16 pages");
    (0..count).map(|_| pages.allocate(order).expect("address space")).collect()
}

fn free(pages: &Pages, blocks: impl IntoIterator<Item = PageBlock>) {
    // SAFETY: from these pages, and not used any more.
    blocks.into_iter().for_each(|block| unsafe { pages.free(block) });
}

#[test]
fn the_hook_hears_of_falls_and_seldom_of_swings() {
    static FALLS: AtomicUsize = AtomicUsize::new(0);
    let falls = || FALLS.swap(0, Ordering::Relaxed);
    let pages = Pages::with_space(1 << 30).expect("address space");
    let pages = pages.with_fall_hook(|| _ = FALLS.fetch_add(1, Ordering::Relaxed));
    // 64 MiB that go bit by bit: at each sixth, until a sixth is less than a megabyte.
    let blocks = take(&pages, 1024);
    free(&pages, blocks);
    let first = falls();
    assert!((15..=40).contains(&first), "{first} falls from 64 MiB to nothing");
    // Use that swings between 64 and 50 MiB is known to swing after two falls.
    let mut blocks = take(&pages, 1024);
    falls();
    for _ in 0..20 {
        free(&pages, blocks.drain(800..).collect::<Vec<_>>());
        blocks.extend(take(&pages, 224));
    }
    let swings = falls();
    assert!(swings <= 2, "{swings} falls of a use that swings");
    // And what ends is heard of all the same.
    free(&pages, blocks);
    let last = falls();
    assert!(last >= 10, "{last} falls at the end");
}
