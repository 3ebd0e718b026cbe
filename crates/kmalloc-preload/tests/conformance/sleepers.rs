//! More threads than CPU slots, most of which sleep.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::Check;
use crate::End::Well;
use crate::calls::{free, malloc};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "sleeping_threads_do_not_slow_others_down", run: sixty_four, ends: Well },
    Check { name: "hundreds_of_threads_share_slots", run: three_hundred, ends: Well },
];

/// Returns the CPU time of the running thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Replaces small objects; returns the CPU time of that.
fn replace_many() -> Duration {
    let mut held = [std::ptr::null_mut(); 32];
    let before = cpu_time();
    for round in 0..200_000_usize {
        let place = &mut held[round.wrapping_mul(7919) % 32];
        free(*place);
        *place = malloc(16 + round % 256);
    }
    let after = cpu_time();
    held.into_iter().for_each(free);
    after - before
}

/// Returns the least CPU time of eight threads that allocate at the same time, beside `sleepers`
/// threads that have allocated and sleep.
fn work_beside(sleepers: usize) -> Duration {
    let (are_asleep, is_over) = (Barrier::new(sleepers + 1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..sleepers {
            let sleeps = || {
                free(malloc(100));
                are_asleep.wait();
                while !is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(50));
                }
            };
            std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn_scoped(scope, sleeps)
                .expect("room for a thread");
        }
        are_asleep.wait();
        let workers: Vec<_> = (0..8).map(|_| scope.spawn(replace_many)).collect();
        let times = workers.into_iter().map(|worker| worker.join().expect("no panic"));
        let least = times.min().expect("eight workers");
        is_over.store(true, Ordering::Relaxed);
        least
    })
}

/// Mutation that it catches: 64 numbers.
fn sixty_four() {
    let (alone, beside) = (work_beside(0), work_beside(64));
    assert!(beside < 4 * alone, "{alone:?} alone, {beside:?} beside 64 sleepers");
}

/// Mutation that it catches: threads without a number that borrow none.
fn three_hundred() {
    let (alone, beside) = (work_beside(0), work_beside(300));
    assert!(beside < 10 * alone, "{alone:?} alone, {beside:?} beside 300 sleepers");
}
