//! Purging through the public interface: when the trim hook is called, and how many pages stay.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hosted::{Background, Pages, Purger};
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
fn the_trim_hook_is_called_at_falls_and_seldom_at_swings() {
    static FALLS: AtomicUsize = AtomicUsize::new(0);
    let falls = || FALLS.swap(0, Ordering::Relaxed);
    let pages = Pages::with_space(1 << 30).expect("address space");
    let pages = pages.with_trim_hook(|| _ = FALLS.fetch_add(1, Ordering::Relaxed));
    // 64 MiB are freed block by block: a fall at each sixth, until a sixth is less than 1 MiB.
    let blocks = take(&pages, 1024);
    free(&pages, blocks);
    let first = falls();
    assert!((15..=40).contains(&first), "{first} falls from 64 MiB to nothing");
    // Use that swings between 64 and 50 MiB rebounds, which two falls show.
    let mut blocks = take(&pages, 1024);
    falls();
    for _ in 0..20 {
        free(&pages, blocks.drain(800..).collect::<Vec<_>>());
        blocks.extend(take(&pages, 224));
    }
    let swings = falls();
    assert!(swings <= 2, "{swings} falls of a use that swings");
    // A program that ends still calls the hook.
    free(&pages, blocks);
    let last = falls();
    assert!(last >= 10, "{last} falls at the end");
}

/// Mutations that it catches:
/// - a hook called in each interval, or in none;
/// - the idle pages at the end of an interval in place of the fewest;
/// - a purge of all or none of them;
/// - a count of the fewest that is not reset.
#[test]
fn of_what_is_idle_for_an_interval_half_goes_and_what_is_used_stays() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let pages = Pages::with_space(1 << 30).expect("address space").without_purging();
    let pages = pages.with_trim_hook(|| _ = ASKED.fetch_add(1, Ordering::Relaxed));
    let blocks = take(&pages, 256);
    free(&pages, blocks);
    assert_eq!(pages.idle_pages(), 4096, "frees keep it");
    assert_eq!(pages.decay(), 0, "all of it was in use in the interval");
    // Used again and again: it stays, whatever the interval.
    for _ in 0..3 {
        let blocks = take(&pages, 256);
        free(&pages, blocks);
        assert_eq!(pages.decay(), 0);
    }
    assert_eq!(ASKED.load(Ordering::Relaxed), 0);
    let left: Vec<_> = (0..8)
        .map(|_| {
            pages.decay();
            pages.idle_pages()
        })
        .collect();
    assert_eq!(left, [2048, 1024, 512, 0, 0, 0, 0, 0], "the last area goes as a whole");
    assert_eq!(ASKED.load(Ordering::Relaxed), 8, "a program that sleeps");
    // Pages that were used in between stay: 16 MiB are idle at both ends, and were 12 at a time.
    let blocks = take(&pages, 256);
    free(&pages, blocks);
    pages.decay();
    let blocks = take(&pages, 64);
    free(&pages, blocks);
    assert_eq!((pages.decay(), pages.idle_pages()), (1536, 2560), "half of 12 MiB");
    assert_eq!((pages.decay(), pages.idle_pages()), (1536, 1024), "of 10, by areas");
    // Frees are no use.
    let blocks = take(&pages, 64);
    pages.decay();
    ASKED.store(0, Ordering::Relaxed);
    free(&pages, blocks);
    pages.decay();
    assert_eq!(ASKED.load(Ordering::Relaxed), 1);
}

/// Mutations that it catches: another limit for few pages; a purge of all pages above it.
#[test]
fn what_is_few_goes_at_once() {
    let pages = Pages::with_space(1 << 30).expect("address space").without_purging();
    // Every other block, so that what is free lies between pages in use.
    let mut blocks = take(&pages, 200);
    blocks.sort_by_key(|block| block.start().addr());
    let mut apart = Vec::new();
    let mut between = Vec::new();
    for (index, block) in blocks.into_iter().enumerate() {
        if index % 2 == 0 { apart.push(block) } else { between.push(block) }
    }
    let mut left_of = |blocks: usize| {
        free(&pages, apart.drain(..blocks));
        assert_eq!(pages.decay(), 0, "they were in use");
        [(); 2].map(|()| {
            pages.decay();
            pages.idle_pages()
        })
    };
    assert_eq!(left_of(4), [0, 0], "256 KiB");
    assert_eq!(left_of(5), [40, 0], "320 KiB");
    free(&pages, apart);
    free(&pages, between);
}

/// Returns what the system says of the thread of this process that has this name, if there is one.
fn thread_named(name: &str) -> Option<String> {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let said = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("status"));
    let mut all = threads.filter_map(|thread| said(thread.ok()?).ok());
    all.find(|status| status.lines().next() == Some(&format!("Name:\t{name}")))
}

/// Mutations that it catches:
/// - a thread that handles signals;
/// - a starting thread whose mask stays changed;
/// - no name;
/// - a stop that does not wake the thread;
/// - a thread that calls the function when it is woken;
/// - a stop that does not wait for the end.
#[test]
fn a_background_thread_takes_no_signals_and_stops_at_once() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let run = |runs: &'static AtomicUsize| _ = runs.fetch_add(1, Ordering::Relaxed);
    let start = |interval| Background::start(c"in the back", interval, &RUNS, run);
    let own_mask = || {
        // SAFETY: all zero is a value of it.
        let mut mask: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: changes nothing; the mask is ours.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask) };
        // SAFETY: ours.
        unsafe { libc::sigismember(&raw const mask, libc::SIGUSR1) }
    };
    let background = start(Duration::from_secs(10)).expect("a thread");
    assert_eq!(own_mask(), 0, "as before");
    let since = Instant::now();
    // A child has no such thread, and does not wait for it.
    // SAFETY: the child drops the value, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(background);
        // SAFETY: ends this process.
        unsafe { libc::_exit(7) };
    }
    let mut status = 0;
    // SAFETY: waits for the child, and no longer than it takes to end.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        if since.elapsed() > Duration::from_secs(8) {
            // SAFETY: a child of ours.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status:#x}");
    let status = thread_named("in the back").expect("it has a name");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).expect("a mask");
    let mask = u64::from_str_radix(mask, 16).expect("a number");
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGUSR1, libc::SIGTERM, libc::SIGCHLD] {
        assert_eq!(mask >> (signal - 1) & 1, 1, "signal {signal}");
    }
    let since = Instant::now();
    drop(background);
    assert!(since.elapsed() < Duration::from_secs(5), "woken: {:?}", since.elapsed());
    // A thread that has ended may be listed for a moment.
    while thread_named("in the back").is_some() {
        assert!(since.elapsed() < Duration::from_secs(5), "it has ended");
    }
    assert_eq!(RUNS.load(Ordering::Relaxed), 0, "no interval passed");
    // And in each interval it runs once.
    let (since, interval) = (Instant::now(), Duration::from_millis(20));
    let background = start(interval).expect("a thread");
    std::thread::sleep(interval * 10);
    drop(background);
    let intervals = since.elapsed().as_millis() / interval.as_millis();
    let runs = RUNS.load(Ordering::Relaxed);
    assert!(runs >= 1 && runs as u128 <= intervals, "{runs} in {intervals} intervals");
}

/// Mutations that it catches: a thread that never calls `decay`; a thread that is not stopped.
#[test]
fn the_thread_purges_and_stops() {
    let pages: &Pages =
        Box::leak(Box::new(Pages::with_space(1 << 30).expect("space").without_purging()));
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
