//! Memory that goes back: when the caches are asked, and what is left.

use std::sync::atomic::{AtomicUsize, Ordering};

use std::time::{Duration, Instant};

use hosted::{Pages, Purger};
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

#[test]
fn of_what_is_idle_for_an_interval_half_goes_and_what_is_used_stays() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let pages = Pages::with_space(1 << 30).expect("address space").keeping();
    let pages = pages.with_fall_hook(|| _ = ASKED.fetch_add(1, Ordering::Relaxed));
    let blocks = take(&pages, 256);
    free(&pages, blocks);
    assert_eq!(pages.idle_pages(), 4096, "frees keep it");
    assert_eq!(pages.end_interval(), 0, "all of it was in use in the interval");
    // Used again and again: it stays, whatever the interval.
    for _ in 0..3 {
        let blocks = take(&pages, 256);
        free(&pages, blocks);
        assert_eq!(pages.end_interval(), 0);
    }
    assert_eq!(ASKED.load(Ordering::Relaxed), 0);
    let left: Vec<_> = (0..8)
        .map(|_| {
            pages.end_interval();
            pages.idle_pages()
        })
        .collect();
    assert_eq!(left, [2048, 1024, 512, 0, 0, 0, 0, 0], "the last area goes as a whole");
    assert!(ASKED.load(Ordering::Relaxed) >= 7, "a program that sleeps");
}

#[test]
fn the_thread_purges_and_stops() {
    let pages: &Pages = Box::leak(Box::new(Pages::with_space(1 << 30).expect("space").keeping()));
    let purger = Purger::start(pages, Duration::from_millis(10)).expect("a thread");
    let blocks = take(pages, 256);
    free(pages, blocks);
    let start = Instant::now();
    while pages.idle_pages() > 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "{} pages", pages.idle_pages());
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(purger);
    let blocks = take(pages, 10);
    free(pages, blocks);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(pages.idle_pages(), 160, "nobody purges any more");
}
