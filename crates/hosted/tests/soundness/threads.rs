//! Threads as CPUs: masks that are never restored.

use hosted::Threads;
use page_frame::Cpu;

/// Masking is safe, so that it may be done any number of times; a depth of eight bits would run
/// over, in debug builds by a panic, and elsewhere it would read as outside.
///
/// Mutation seen to fail: a depth of a byte.
#[test]
fn a_thread_may_mask_more_often_than_a_byte_counts_and_restore_in_any_order() {
    std::thread::spawn(|| {
        assert!(Threads.pin().is_some());
        let states: Vec<_> = (0..1000).map(|_| Threads.mask_interrupts()).collect();
        for state in states {
            // SAFETY: from this thread, and restored once.
            unsafe { Threads.restore_interrupts(state) };
        }
    })
    .join()
    .expect("no panic");
}
