//! Threads as CPUs: masks that are never restored.

use hosted::Threads;
use page_frame::Cpu;

/// Masking is a safe call, so code may do it any number of times. A depth of eight bits would
/// overflow: a panic in debug builds, and elsewhere the thread would count as outside.
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
