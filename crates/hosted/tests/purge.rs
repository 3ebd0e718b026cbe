//! Purging through the public interface: when the trim hook is called, and how many pages stay.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hosted::{Background, Pages, Purger};
use page_frame::{Order, PageBlock, PageResize, PageSource};

/// Takes `count` blocks of 16 pages.
fn take(pages: &Pages, count: usize) -> Vec<PageBlock> {
    let order = Order::new(4).expect("16 pages");
    (0..count).map(|_| pages.allocate(order).expect("address space")).collect()
}

fn free(pages: &Pages, blocks: impl IntoIterator<Item = PageBlock>) {
    // SAFETY: from these pages, and not used any more.
    blocks.into_iter().for_each(|block| unsafe { pages.free(block) });
}

/// Mutations that it catches:
/// - a hook that is not called, or called by each free;
/// - a purge before the delay, of pages in use, or never.
#[test]
fn idle_pages_are_purged_after_the_delay_by_whoever_allocates_next() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let calls = || CALLS.swap(0, Ordering::Relaxed);
    let delay = Duration::from_millis(400);
    let pages = Pages::with_space(1 << 30).expect("address space");
    let pages = pages.with_trim_hook(|_| _ = CALLS.fetch_add(1, Ordering::Relaxed));
    let pages = pages.with_purge_delay(delay);
    let kept = take(&pages, 16);
    let blocks = take(&pages, 1024);
    let freed_at = Instant::now();
    free(&pages, blocks);
    let idle = pages.idle_pages();
    if freed_at.elapsed() < delay / 2 {
        assert_eq!((idle, calls()), (1024 * 16, 0), "before the first interval ends");
    }
    while pages.idle_pages() > 1024 {
        assert!(freed_at.elapsed() < Duration::from_secs(20), "{} pages", pages.idle_pages());
        let blocks = take(&pages, 1);
        free(&pages, blocks);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(freed_at.elapsed() >= delay, "after {:?}", freed_at.elapsed());
    let intervals = freed_at.elapsed().as_millis() / (delay / 2).as_millis();
    let calls = calls();
    assert!((2..=intervals as usize + 1).contains(&calls), "{calls} in {intervals} intervals");
    free(&pages, kept);
}

/// Mutations that it catches: the minimum of one interval in place of two; a purge of all that is
/// idle at the end of an interval.
#[test]
fn a_swing_within_the_delay_purges_nothing() {
    let pages = Pages::with_space(1 << 30).expect("address space").without_purging();
    let blocks = take(&pages, 256);
    free(&pages, blocks);
    assert_eq!(pages.idle_pages(), 4096, "frees keep it");
    for _ in 0..5 {
        assert_eq!(pages.decay(), 0, "all of it was in use in this interval or the last");
        assert_eq!(pages.decay(), 0);
        let blocks = take(&pages, 256);
        free(&pages, blocks);
    }
    // 64 of the 256 blocks are used again: the others go.
    for _ in 0..2 {
        pages.decay();
        let blocks = take(&pages, 64);
        free(&pages, blocks);
    }
    assert_eq!((pages.decay(), pages.idle_pages()), (3072, 1024));
    let left = [(); 4].map(|()| pages.decay());
    assert_eq!((left.iter().sum(), pages.idle_pages()), (1024, 0));
}

#[test]
fn a_run_that_shrinks_page_by_page_is_purged_by_mebibytes() {
    let pages = Pages::with_space(4 << 30).expect("address space");
    let all = (513 << 20) / page_frame::PAGE_SIZE;
    let run = pages.allocate_run(all, Order::ZERO).expect("three sections are free");
    let start = run.start();
    // SAFETY: all of the run, which the test owns.
    unsafe { start.write_bytes(1, 600 * page_frame::PAGE_SIZE) };
    let resident = |page: usize| {
        let mut there = 0_u8;
        // SAFETY: a page of the mapping, which lives; the byte is ours.
        let at = unsafe { start.add(page * page_frame::PAGE_SIZE) };
        // SAFETY: as above.
        let outcome = unsafe { libc::mincore(at.as_ptr().cast(), 1, &raw mut there) };
        outcome == 0 && there & 1 == 1
    };
    let _ = resident(0);
    // SAFETY: the run of that many pages is the test's.
    assert!(unsafe { pages.resize_run(start, all, all - 1) }, "within its sections");
    // SAFETY: as above.
    assert!(unsafe { pages.resize_run(start, all - 1, all) });
    assert!(resident(599), "pages below the tail stay");
    // SAFETY: allocated above, and not used any more.
    unsafe { pages.free_run(start, all) };
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
