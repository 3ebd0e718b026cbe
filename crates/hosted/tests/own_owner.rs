//! A background thread that drops its own owner: the only test of its process, whose mapped pages
//! it counts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hosted::Background;

const INTERVAL: Duration = Duration::from_millis(2);

fn wait_for(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not come");
        std::thread::yield_now();
    }
}

/// Returns the pages of address space of the process.
fn mapped_pages() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number")
}

/// Returns the threads that the system has not ended. Their stacks are mapped.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("Linux").count()
}

/// The thread unmaps the shared page at its end: after the drop, and not never.
///
/// Mutations that it catches: a drop that unmaps the page (SIGSEGV); a drop that leaks it.
#[test]
fn a_thread_that_drops_its_own_owner_ends_and_leaves_nothing() {
    static OWNER: Mutex<Option<Background<AtomicUsize>>> = Mutex::new(None);
    static ENDED: AtomicUsize = AtomicUsize::new(0);
    struct AtEnd;
    impl Drop for AtEnd {
        fn drop(&mut self) {
            ENDED.fetch_add(1, Ordering::Release);
        }
    }
    std::thread_local!(static AT_END: AtEnd = const { AtEnd });
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let run = |calls: &'static AtomicUsize| {
        calls.fetch_add(1, Ordering::Relaxed);
        AT_END.with(|_| ());
        let owner = OWNER.lock().expect("no panic").take();
        drop(owner);
        // The thread runs for a while.
        std::thread::sleep(Duration::from_millis(1));
    };
    let (threads_before, mut before) = (threads(), 0);
    for round in 1..=300 {
        {
            let mut owner = OWNER.lock().expect("no panic");
            *owner = Some(Background::start(c"itself", INTERVAL, &CALLS, run).expect("a thread"));
        }
        wait_for(|| ENDED.load(Ordering::Acquire) == round);
        assert_eq!(CALLS.load(Ordering::Relaxed), round, "none after the drop");
        if round == 50 {
            wait_for(|| threads() == threads_before);
            before = mapped_pages();
        }
    }
    wait_for(|| threads() == threads_before);
    let after = mapped_pages();
    assert!(after < before + 150, "250 threads ended, and so did their pages: {before}, {after}");
}
