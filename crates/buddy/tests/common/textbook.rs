//! The textbook: a set of free blocks for each order, split downwards, merged upwards, and counted.

use std::collections::BTreeSet;

#[derive(Clone)]
pub struct Textbook {
    free: Vec<BTreeSet<usize>>,
    pub splits: usize,
    pub merges: usize,
}

impl Textbook {
    /// One free block of order `largest`.
    pub fn new(largest: u8) -> Self {
        let mut free = vec![BTreeSet::new(); usize::from(largest) + 1];
        free[usize::from(largest)].insert(0);
        Self { free, splits: 0, merges: 0 }
    }

    pub fn free_counts(&self) -> Vec<usize> {
        self.free.iter().map(BTreeSet::len).collect()
    }

    pub fn allocate(&mut self, order: usize) -> Option<usize> {
        let found = (order..self.free.len()).find(|order| !self.free[*order].is_empty())?;
        let block = self.free[found].pop_first().expect("not empty");
        (order..found).for_each(|order| _ = self.free[order].insert(block + (1 << order)));
        self.splits += found - order;
        Some(block)
    }

    pub fn release(&mut self, mut block: usize, mut order: usize) {
        while order + 1 < self.free.len() && self.free[order].remove(&(block ^ (1 << order))) {
            block &= !(1 << order);
            order += 1;
            self.merges += 1;
        }
        self.free[order].insert(block);
    }
}
