//! Forks that do not happen: the guard releases the fork lock however it is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use hosted::{Forking, Pages};
use page_frame::{Order, PageSource};

/// One fork at a time: the tests share the fork lock.
static FORK: Mutex<()> = Mutex::new(());

/// Whether other threads get pages. They would wait for ever for a fork lock that stays held.
fn others_continue(pages: &Pages) -> bool {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let block = pages.allocate(Order::ZERO).expect("a page");
            // SAFETY: just allocated, and not used.
            unsafe { pages.free(block) };
        });
        other.join().is_ok()
    })
}

/// Mutation seen to fail: `Held` without `Drop` (the test hangs).
#[test]
fn a_fork_that_is_dropped_or_whose_begin_panics_lets_all_threads_continue() {
    let _alone = FORK.lock().unwrap_or_else(PoisonError::into_inner);
    let pages = Pages::with_space(1 << 30).expect("address space");
    // Another thread that has a number, so that the slots are frozen.
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let pages = &pages;
        let (ready, is_ready) = std::sync::mpsc::channel();
        scope.spawn(move || {
            assert!(others_continue(pages));
            page_frame::Cpu::pin(&hosted::Threads);
            ready.send(()).expect("the test waits");
            let _ = receiver.recv();
        });
        is_ready.recv().expect("the other thread is there");
        drop(Forking::begin(pages, || ()));
        assert!(others_continue(pages));
        let begin = || drop(Forking::begin(pages, || panic!("while the caches are frozen")));
        assert!(catch_unwind(AssertUnwindSafe(begin)).is_err());
        assert!(others_continue(pages));
        Forking::begin(pages, || ()).end_in_parent();
        assert!(others_continue(pages));
        drop(sender);
    });
}

#[test]
fn a_second_fork_of_the_same_thread_is_refused() {
    let _alone = FORK.lock().unwrap_or_else(PoisonError::into_inner);
    let pages = Pages::with_space(1 << 30).expect("address space");
    let forking = Forking::begin(&pages, || ());
    let second = catch_unwind(AssertUnwindSafe(|| drop(Forking::begin(&pages, || ()))));
    assert!(second.is_err());
    drop(forking);
    assert!(others_continue(&pages));
}
