//! Two threads that serve requests and free some of each other's memory, as in a server with a
//! queue between its workers.
//!
//! A request takes eight buffers of 16 to 2,048 bytes. Each thread has 64 requests in progress. A
//! new request ends one of them, chosen at random: its own thread frees seven of the buffers, and
//! the other thread gets the eighth in a batch and frees it.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::{Mutex, PoisonError};

use testkit::Random;

use crate::measure::cpu_time_of_two;
use crate::memory::requests::{allocate, free, layout, log_uniform};

const BUFFERS: usize = 8;
const UNDER_WAY: usize = 64;
const REQUESTS: usize = 25_000;
/// Buffers that are handed over at once.
const BATCH: usize = 64;

/// Memory and its layout.
struct Buffer(*mut u8, Layout);

// SAFETY: memory of an allocator that both threads share; whoever has the value owns it.
unsafe impl Send for Buffer {}

/// Returns the CPU time of both threads per buffer, in nanoseconds.
pub(crate) fn run<A: GlobalAlloc + Sync>(allocator: &A) -> f64 {
    let boxes = [Mutex::new(Vec::new()), Mutex::new(Vec::new())];
    let mean_ns = cpu_time_of_two(|which| serve(allocator, which, &boxes));
    boxes.iter().for_each(|mailbox| free_all(allocator, take(mailbox)));
    mean_ns
}

fn serve<A: GlobalAlloc>(allocator: &A, which: usize, boxes: &[Mutex<Vec<Buffer>>; 2]) -> usize {
    let mut random = Random::new(37 + which as u64);
    let mut under_way: Vec<Vec<Buffer>> =
        (0..UNDER_WAY).map(|_| Vec::with_capacity(BUFFERS)).collect();
    let mut outgoing = Vec::with_capacity(BATCH);
    for _ in 0..REQUESTS {
        let request = &mut under_way[random.below(UNDER_WAY)];
        outgoing.extend(request.pop());
        free_all(allocator, request.drain(..));
        request.extend((0..BUFFERS).map(|_| {
            let layout = layout(log_uniform(&mut random, 16, 2048), 8);
            Buffer(allocate(allocator, layout), layout)
        }));
        if outgoing.len() == BATCH {
            let mut theirs = boxes[1 - which].lock().unwrap_or_else(PoisonError::into_inner);
            theirs.append(&mut outgoing);
            drop(theirs);
            free_all(allocator, take(&boxes[which]));
        }
    }
    free_all(allocator, outgoing);
    under_way.into_iter().for_each(|request| free_all(allocator, request));
    REQUESTS * BUFFERS
}

fn take(mailbox: &Mutex<Vec<Buffer>>) -> Vec<Buffer> {
    std::mem::take(&mut *mailbox.lock().unwrap_or_else(PoisonError::into_inner))
}

fn free_all<A: GlobalAlloc>(allocator: &A, buffers: impl IntoIterator<Item = Buffer>) {
    buffers.into_iter().for_each(|Buffer(start, layout)| free(allocator, start, layout));
}
