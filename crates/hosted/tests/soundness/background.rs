//! A thread whose owner is dropped while it runs. `tests/own_owner.rs` has the thread that drops
//! its own owner.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

#[test]
fn dropping_waits_until_the_function_has_returned() {
    static INSIDE: AtomicBool = AtomicBool::new(false);
    static ENTERED: AtomicUsize = AtomicUsize::new(0);
    let run = |inside: &'static AtomicBool| {
        inside.store(true, Ordering::SeqCst);
        ENTERED.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(50));
        inside.store(false, Ordering::SeqCst);
    };
    let background = Background::start(c"slow", INTERVAL, &INSIDE, run).expect("a thread");
    wait_for(|| ENTERED.load(Ordering::SeqCst) > 0);
    drop(background);
    assert!(!INSIDE.load(Ordering::SeqCst));
}

#[test]
fn the_longest_interval_never_passes() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let run = |calls: &'static AtomicUsize| _ = calls.fetch_add(1, Ordering::Relaxed);
    let background = Background::start(c"never", Duration::MAX, &CALLS, run).expect("a thread");
    std::thread::sleep(Duration::from_millis(20));
    drop(background);
    assert_eq!(CALLS.load(Ordering::Relaxed), 0);
}
