//! The work of a CPU with an allocator: programs for any layer.

use std::collections::VecDeque;
use std::mem::{swap, take};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use testkit::Random;

/// Blocks that are handed over at once.
const BATCH: usize = 64;
/// CPUs whose threads make up a process.
const THREADS: usize = 4;
/// One in this number of a process' pages is of a file, and outlives it.
const FILE_PAGES: usize = 4;

/// An allocator of a layer.
pub trait Allocator: Send + Sync + 'static {
    /// A request.
    type Request: Copy + 'static;
    /// The result of a request.
    type Block: Send + 'static;

    /// Allocates a block.
    fn allocate(&self, request: Self::Request) -> Self::Block;
    /// Frees a block.
    fn free(&self, block: Self::Block);
    /// Frees blocks in this order, as one call where the allocator has one.
    fn free_many(&self, blocks: Vec<Self::Block>) {
        blocks.into_iter().for_each(|block| self.free(block));
    }
    /// Makes a block larger, and returns it; or frees it and returns a small one.
    fn grow(&self, block: Self::Block) -> Self::Block {
        block
    }
}

/// The order in which a bulk is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// The block allocated first is freed first.
    FirstFirst,
    /// The block allocated last is freed first.
    LastFirst,
    /// At random.
    AtRandom,
}

/// The work of each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Allocates a block and frees it.
    Pair,
    /// Allocates this number of blocks, and frees them.
    Bulk(usize, Freed),
    /// Holds this number of blocks, and replaces the last one.
    ReplaceLast(usize),
    /// Holds this number of blocks, and replaces one at random.
    Replace(usize),
    /// Allocates blocks for the next CPU, and frees those of the CPU before.
    HandOn,
    /// Holds this number of blocks, replaces one at random, and hands on one in eight.
    Serve(usize),
    /// Holds this number of blocks, and grows one at random.
    Grow(usize),
    /// Allocates blocks; a CPU that finds this number of them, of all CPUs, frees a quarter of
    /// them: those allocated first.
    Purge(usize),
    /// Allocates blocks for a process, together with other CPUs. The CPU that finds this number of
    /// them ends the process and frees its blocks, but those of files only after as many younger
    /// ones of all processes.
    Exit(usize),
}

/// What the CPUs share beside the allocator. The simulation counts none of it.
struct Common<B> {
    /// Blocks on the way to each CPU.
    mailboxes: Vec<Mutex<Vec<B>>>,
    /// The blocks of each process.
    processes: Vec<Mutex<Vec<B>>>,
    /// Blocks of all CPUs, in the order of their allocation.
    by_age: Mutex<VecDeque<B>>,
}

/// Locks `mutex`, whose value is whole also after a panic. No allocator is called with the lock
/// held: the CPUs of a simulation are in one thread.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Chooses what to ask for.
pub type Choose<A> = fn(&mut Random) -> <A as Allocator>::Request;

/// Returns a program for each of `cpus` CPUs. A call does a part of the work and returns how many
/// blocks it allocated and freed.
pub fn programs<A: Allocator>(
    allocator: &Arc<A>,
    shape: Shape,
    choose: Choose<A>,
    cpus: usize,
) -> Vec<Box<dyn FnMut() -> usize + Send>> {
    let empty = |count: usize| (0..count).map(|_| Mutex::default()).collect();
    let common = Arc::new(Common {
        mailboxes: empty(cpus),
        processes: empty(cpus.div_ceil(THREADS)),
        by_age: Mutex::default(),
    });
    let program = |cpu| {
        let worker = Worker {
            allocator: Arc::clone(allocator),
            choose,
            random: Random::new(5 + cpu as u64),
            held: Vec::new(),
            outgoing: Vec::new(),
            common: Arc::clone(&common),
            cpu,
        };
        worker.program(shape)
    };
    (0..cpus).map(program).collect()
}

/// The program of a CPU.
struct Worker<A: Allocator> {
    allocator: Arc<A>,
    choose: Choose<A>,
    random: Random,
    held: Vec<A::Block>,
    outgoing: Vec<A::Block>,
    common: Arc<Common<A::Block>>,
    cpu: usize,
}

impl<A: Allocator> Worker<A> {
    fn program(mut self, shape: Shape) -> Box<dyn FnMut() -> usize + Send> {
        match shape {
            Shape::Pair => Box::new(move || {
                let block = self.allocate();
                self.allocator.free(block);
                1
            }),
            Shape::Bulk(blocks, freed) => Box::new(move || self.bulk(blocks, freed)),
            Shape::ReplaceLast(count) => Box::new(move || self.replace(count, |_, held| held - 1)),
            Shape::Replace(count) => Box::new(move || self.replace(count, Random::below)),
            Shape::HandOn => Box::new(move || {
                self.outgoing = self.allocate_batch();
                self.hand_on();
                BATCH
            }),
            Shape::Serve(count) => Box::new(move || {
                if self.random.one_in(8) && self.held.len() == count {
                    let index = self.random.below(count);
                    let block = self.held.swap_remove(index);
                    self.outgoing.push(block);
                }
                if self.outgoing.len() == BATCH {
                    self.hand_on();
                }
                self.replace(count, Random::below)
            }),
            Shape::Purge(count) => Box::new(move || self.purge(count)),
            Shape::Exit(count) => Box::new(move || self.exit(count)),
            Shape::Grow(count) => Box::new(move || {
                if self.held.len() < count {
                    return self.replace(count, Random::below);
                }
                let index = self.random.below(count);
                let block = self.held.swap_remove(index);
                self.held.push(self.allocator.grow(block));
                1
            }),
        }
    }

    fn allocate(&mut self) -> A::Block {
        self.allocator.allocate((self.choose)(&mut self.random))
    }

    fn bulk(&mut self, blocks: usize, freed: Freed) -> usize {
        for _ in 0..blocks {
            let block = self.allocate();
            self.held.push(block);
        }
        match freed {
            Freed::FirstFirst => self.held.drain(..).for_each(|block| self.allocator.free(block)),
            Freed::LastFirst => {
                self.held.drain(..).rev().for_each(|block| self.allocator.free(block));
            }
            Freed::AtRandom => {
                while !self.held.is_empty() {
                    let index = self.random.below(self.held.len());
                    self.allocator.free(self.held.swap_remove(index));
                }
            }
        }
        blocks
    }

    /// Fills up to `count` blocks; once there are as many, replaces block number `which`.
    fn replace(&mut self, count: usize, which: fn(&mut Random, usize) -> usize) -> usize {
        let block = self.allocate();
        self.held.push(block);
        if self.held.len() > count {
            let index = which(&mut self.random, self.held.len());
            self.allocator.free(self.held.swap_remove(index));
        }
        1
    }

    /// Hands all outgoing blocks to the next CPU, and frees what the one before has sent.
    fn hand_on(&mut self) {
        let mailboxes = &self.common.mailboxes;
        let next = (self.cpu + 1) % mailboxes.len();
        lock(&mailboxes[next]).append(&mut self.outgoing);
        let mut incoming = Vec::new();
        swap(&mut *lock(&mailboxes[self.cpu]), &mut incoming);
        incoming.into_iter().for_each(|block| self.allocator.free(block));
    }

    fn allocate_batch(&mut self) -> Vec<A::Block> {
        (0..BATCH).map(|_| self.allocate()).collect()
    }

    /// Allocates blocks. From `count` blocks of all CPUs on, frees the oldest quarter.
    fn purge(&mut self, count: usize) -> usize {
        let young = self.allocate_batch();
        let old = {
            let mut by_age = lock(&self.common.by_age);
            by_age.extend(young);
            let freed = if by_age.len() >= count { count / 4 } else { 0 };
            by_age.drain(..freed).collect()
        };
        self.allocator.free_many(old);
        BATCH
    }

    /// Allocates blocks of a process. From `count` blocks on, ends the process.
    fn exit(&mut self, count: usize) -> usize {
        let blocks = self.allocate_batch();
        let ended = {
            let mut process = lock(&self.common.processes[self.cpu / THREADS]);
            process.extend(blocks);
            if process.len() >= count { take(&mut *process) } else { Vec::new() }
        };
        let (mut anonymous, mut file) = (Vec::new(), Vec::new());
        for (number, block) in ended.into_iter().enumerate() {
            let pages = if number % FILE_PAGES == 0 { &mut file } else { &mut anonymous };
            pages.push(block);
        }
        self.allocator.free_many(anonymous);
        let old = {
            let mut by_age = lock(&self.common.by_age);
            by_age.extend(file);
            let freed = by_age.len().saturating_sub(count);
            by_age.drain(..freed).collect()
        };
        self.allocator.free_many(old);
        BATCH
    }
}
