//! The same programs on one and two real threads: the validation of the simulation.
//!
//! Question: does throughput change from one CPU to two as it does in the simulation? The two
//! threads begin together, and each handles the same number of blocks. Times are CPU times of the
//! threads: they include spinning and waits for cache lines, and exclude waits for a core. On a
//! busy machine the threads hardly run at the same time, and the figures mean nothing.

use std::sync::Barrier;

use hosted::Threads;
use page_frame::{Cpu, CpuId};

use crate::measure::{CpuTime, median};
use crate::scaling::rows::{Contestant, Program, Row};

/// Slots for the threads: two, the harness's own, the unowned one of `Threads`, and a spare one.
const SLOTS: usize = 5;

/// The threads of the process that have one of the first numbers.
#[derive(Clone, Copy, Debug)]
struct TwoThreads;

// SAFETY: the clauses hold for `Threads`. A thread with a number from `SLOTS` on has no slot.
unsafe impl Cpu for TwoThreads {
    fn slots(&self) -> usize {
        SLOTS
    }

    fn pin(&self) -> Option<CpuId> {
        Threads.pin().filter(|id| id.index() < SLOTS)
    }

    unsafe fn unpin(&self) {}

    fn wait(&self, round: usize) {
        Threads.wait(round);
    }

    fn fence_all(&self) -> bool {
        Threads.fence_all()
    }
}

/// Returns how many times the throughput of one thread two threads have: the median of `rounds`.
///
/// # Panics
/// When a thread panics.
pub fn speedup(row: &Row, contestant: Contestant, blocks: usize, rounds: usize) -> f64 {
    let ratio = |_| {
        let [one, two] = [1, 2].map(|threads| block_ns(row, contestant, threads, blocks));
        2.0 * one / two
    };
    median((0..rounds).map(ratio).collect())
}

/// Returns the mean CPU time of a block, in nanoseconds.
fn block_ns(row: &Row, contestant: Contestant, threads: usize, blocks: usize) -> f64 {
    let programs = row.programs(contestant, TwoThreads, threads);
    let barrier = Barrier::new(threads);
    let work = |mut program: Program| {
        let mut repeat = |blocks: usize| {
            let mut done = 0;
            while done < blocks {
                done += program();
            }
            done
        };
        repeat(row.warm_blocks());
        barrier.wait();
        let start = CpuTime::now();
        let done = repeat(blocks);
        (done, start.elapsed_ns())
    };
    let outcomes: Vec<(usize, f64)> = std::thread::scope(|scope| {
        let start = |program| scope.spawn(|| work(program));
        let threads: Vec<_> = programs.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let blocks: usize = outcomes.iter().map(|(done, _)| done).sum();
    outcomes.iter().map(|(_, elapsed_ns)| elapsed_ns).sum::<f64>() / blocks as f64
}
