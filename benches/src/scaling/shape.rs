//! The work of a CPU with an allocator: programs for any layer.

use std::mem::swap;
use std::sync::{Arc, Mutex, PoisonError};

use testkit::Random;

/// Blocks that are handed over at once.
const BATCH: usize = 64;

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
}

/// Blocks on the way to each CPU.
type Mailboxes<B> = Arc<[Mutex<Vec<B>>]>;

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
    let mailboxes: Mailboxes<A::Block> = (0..cpus).map(|_| Mutex::default()).collect();
    let program = |cpu| {
        let worker = Worker {
            allocator: Arc::clone(allocator),
            choose,
            random: Random::new(5 + cpu as u64),
            held: Vec::new(),
            outgoing: Vec::new(),
            mailboxes: Arc::clone(&mailboxes),
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
    mailboxes: Mailboxes<A::Block>,
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
                self.outgoing = (0..BATCH).map(|_| self.allocate()).collect();
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
        let next = (self.cpu + 1) % self.mailboxes.len();
        let lock = |cpu: usize| self.mailboxes[cpu].lock().unwrap_or_else(PoisonError::into_inner);
        lock(next).append(&mut self.outgoing);
        let mut incoming = Vec::new();
        swap(&mut *lock(self.cpu), &mut incoming);
        incoming.into_iter().for_each(|block| self.allocator.free(block));
    }
}
