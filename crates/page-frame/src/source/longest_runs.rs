//! `LongestRuns`: the length of the longest free run that begins in each word of a bitmap, in a
//! tree of maxima.
//!
//! # Concepts
//! A **leaf** is the length for one word of the bitmap, in one byte. Lengths above [`MOST`] count
//! as [`MOST`]. A **node** is a `usize` whose bytes are its children: leaves on the lowest level,
//! and on each level above it the maxima of nodes. So the root shows whether any run is long
//! enough. A search goes down from it to the first leaf that is. It compares all children of a node
//! at once: it adds 128 minus the wanted length to each, and the highest bit of the sum is set in
//! those that are at least that long.
//!
//! ```text
//! level 1, the root     | 9          | 127        | 0  ..
//! level 0               | 9 0 4 ..   | 0 127 0 .. | 0 0 ..
//! words of the bitmap     0 1 2        8 9 10
//! ```
//!
//! # Invariants
//! - I1: a child above level 0 is the largest byte of its node. Children without a node or a leaf
//!   are zero. So a search never leaves the tree.
//!
//! # Costs
//! A search and a change take O(levels): one level for each factor of 8 in the number of leaves, or
//! of 4 where a word has 32 bits. 4 MiB have four levels on machines of 64 bits.

use core::ptr::NonNull;

/// The length that stands for itself and every greater one.
pub(super) const MOST: usize = 127;

/// The number of children of a node.
const CHILDREN: usize = size_of::<usize>();
/// A node whose children are 1.
const ONES: usize = usize::MAX / 0xff;
/// The highest bit of each child.
const HIGHEST: usize = ONES << 7;

/// The lengths, in memory of the caller.
#[derive(Debug)]
pub(super) struct LongestRuns {
    /// The nodes, the root first and the lowest level last.
    nodes: NonNull<usize>,
    /// The index of the last leaf.
    last_leaf: usize,
    /// The first node of level 0.
    lowest: u32,
    /// The number of levels.
    levels: u32,
}

// SAFETY: by clause 1 of `new_in` only this value uses the nodes, so they move with it.
unsafe impl Send for LongestRuns {}

impl LongestRuns {
    /// Returns the size in bytes of the nodes for `leaves` leaves.
    pub(super) const fn bytes(leaves: usize) -> usize {
        let (nodes, _) = nodes_and_levels(leaves);
        nodes * size_of::<usize>()
    }

    /// Makes `leaves` leaves, at least one, all zero.
    ///
    /// # Safety
    /// 1. `nodes` is aligned for a `usize`, valid for reads and writes of
    ///    [`bytes(leaves)`](Self::bytes) bytes as long as the value lives, all zero, and not used
    ///    by other code.
    pub(super) const unsafe fn new_in(nodes: NonNull<usize>, leaves: usize) -> Self {
        let (count, levels) = nodes_and_levels(leaves);
        let last_leaf = leaves.saturating_sub(1);
        let lowest = (count - last_node(last_leaf, 0) - 1) as u32;
        Self { nodes, last_leaf, lowest, levels }
    }

    /// Returns the first leaf that is at least `least`, which is 1 to [`MOST`].
    #[inline(always)]
    pub(super) fn first(&self, least: usize) -> Option<usize> {
        assert!((1..=MOST).contains(&least), "a length beyond those of leaves");
        let hits = at_least(self.node(0), least);
        if hits == 0 {
            return None;
        }
        Some(self.descend(self.levels - 1, 0, child_of(0, hits), least))
    }

    /// Returns the first leaf from `leaf` on that is at least `least`, which is 1 to [`MOST`].
    pub(super) fn first_from(&self, leaf: usize, least: usize) -> Option<usize> {
        assert!((1..=MOST).contains(&least), "a length beyond those of leaves");
        let (mut level, mut first, mut child) = (0, self.lowest as usize, leaf);
        while child / CHILDREN <= last_node(self.last_leaf, level) {
            let node = child / CHILDREN;
            let hits = at_least(self.node(first + node), least);
            let hits = hits & usize::MAX << (child % CHILDREN * 8);
            if hits != 0 {
                return Some(self.descend(level, first, child_of(node, hits), least));
            }
            child = node + 1;
            level += 1;
            if level == self.levels {
                break;
            }
            first -= last_node(self.last_leaf, level) + 1;
        }
        None
    }

    /// Returns the first leaf below `child`, of the nodes of `level`, that is at least `least`. The
    /// child is at least `least`; the first node of its level is `first`.
    #[inline(always)]
    fn descend(&self, mut level: u32, mut first: usize, mut child: usize, least: usize) -> usize {
        while level > 0 {
            first += last_node(self.last_leaf, level) + 1;
            level -= 1;
            // By I1 there is a hit.
            child = child_of(child, at_least(self.node(first + child), least));
        }
        child
    }

    /// Returns the leaf.
    #[inline(always)]
    pub(super) fn leaf(&self, leaf: usize) -> usize {
        assert!(leaf <= self.last_leaf, "a leaf beyond the tree");
        let node = self.node(self.lowest as usize + leaf / CHILDREN);
        node >> (leaf % CHILDREN * 8) & 0xff
    }

    /// Sets the leaf to `length`, or to [`MOST`] if that is less.
    #[inline(always)]
    pub(super) fn set(&mut self, leaf: usize, length: usize) {
        assert!(leaf <= self.last_leaf, "a leaf beyond the tree");
        let (mut level, mut first, mut child) = (0, self.lowest as usize, leaf);
        let mut new = length.min(MOST);
        loop {
            let node = first + child / CHILDREN;
            let (old, changed) = replaced(self.node(node), child, new);
            self.set_node(node, changed);
            level += 1;
            if level == self.levels {
                return;
            }
            first -= last_node(self.last_leaf, level) + 1;
            child /= CHILDREN;
            // The root is written without a look at `old`: that takes less time than a branch
            // that cannot be predicted.
            if level + 1 < self.levels && old == new {
                return;
            }
            new = largest(changed);
        }
    }

    /// Sets the leaf to `length`, or to [`MOST`] if that is less, if the leaf is smaller.
    #[inline(always)]
    pub(super) fn raise(&mut self, leaf: usize, length: usize) {
        if self.leaf(leaf) < length.min(MOST) {
            self.set(leaf, length);
        }
    }

    /// Returns whether I1 holds. O(leaves).
    pub(super) fn is_right(&self) -> bool {
        let (mut level, mut first) = (0, self.lowest as usize);
        while level + 1 < self.levels {
            let nodes = last_node(self.last_leaf, level) + 1;
            let above = first - (last_node(self.last_leaf, level + 1) + 1);
            let padded = nodes.next_multiple_of(CHILDREN);
            let is_right = |child: usize| {
                let found = self.node(above + child / CHILDREN) >> (child % CHILDREN * 8) & 0xff;
                found == if child < nodes { largest(self.node(first + child)) } else { 0 }
            };
            if !(0..padded).all(is_right) {
                return false;
            }
            first = above;
            level += 1;
        }
        let last = self.node(self.lowest as usize + self.last_leaf / CHILDREN);
        last.checked_shr((self.last_leaf % CHILDREN + 1) as u32 * 8).unwrap_or(0) == 0
    }

    #[inline(always)]
    fn node(&self, index: usize) -> usize {
        debug_assert!(index <= self.lowest as usize + self.last_leaf / CHILDREN);
        // SAFETY: searches and changes go from nodes to their parents, and to the children that I1
        // allows, so it is one of the nodes.
        let node = unsafe { self.nodes.add(index) };
        // SAFETY: in bounds and initialised (clause 1 of `new_in`), and the value owns the nodes.
        unsafe { node.read() }
    }

    #[inline(always)]
    fn set_node(&mut self, index: usize, value: usize) {
        debug_assert!(index <= self.lowest as usize + self.last_leaf / CHILDREN);
        // SAFETY: as in `node`.
        let node = unsafe { self.nodes.add(index) };
        // SAFETY: in bounds, and `self` is exclusive.
        unsafe { node.write(value) };
    }
}

/// Returns the index in `level` of the last node, of a tree whose last leaf is `last_leaf`.
#[inline(always)]
const fn last_node(last_leaf: usize, level: u32) -> usize {
    last_leaf >> (CHILDREN.ilog2() * (level + 1))
}

/// Returns the number of all nodes for `leaves` leaves, and of the levels.
const fn nodes_and_levels(leaves: usize) -> (usize, u32) {
    let (mut nodes, mut levels) = (0, 0);
    loop {
        let last = last_node(leaves.saturating_sub(1), levels);
        nodes += last + 1;
        levels += 1;
        if last == 0 {
            return (nodes, levels);
        }
    }
}

/// Returns the highest bits of those children of `node` that are at least `least`.
#[inline(always)]
const fn at_least(node: usize, least: usize) -> usize {
    node.wrapping_add((0x80 - least) * ONES) & HIGHEST
}

/// Returns the index in its level of the first child of `node` in `hits`.
#[inline(always)]
const fn child_of(node: usize, hits: usize) -> usize {
    node * CHILDREN + hits.trailing_zeros() as usize / 8
}

/// Returns the child of `node` whose index in its level is `child`, and the node with `new` in its
/// place.
#[inline(always)]
const fn replaced(node: usize, child: usize, new: usize) -> (usize, usize) {
    let shift = child % CHILDREN * 8;
    let old = node >> shift & 0xff;
    (old, node ^ (old ^ new) << shift)
}

/// Returns the largest child of `node`.
#[inline(always)]
const fn largest(mut node: usize) -> usize {
    let mut distance = usize::BITS / 2;
    while distance >= 8 {
        let other = node >> distance;
        // Children of at most 127 do not borrow from each other.
        let difference = (node | HIGHEST) - other;
        let is_larger = difference & HIGHEST;
        node = other + (difference & (is_larger - (is_larger >> 7)));
        distance /= 2;
    }
    node & MOST
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{vec, vec::Vec};
    use testkit::Random;

    /// Mutations that it catches: a hit for a leaf that is one too small, a maximum of some of the
    /// children, and a search that begins at the wrong leaf or goes on beyond the last one.
    #[test]
    fn searches_find_the_first_leaf_that_is_large_enough() {
        for (seed, leaves) in [1, 2, 8, 9, 64, 65, 513, 5000].into_iter().enumerate() {
            let mut random = Random::new(seed as u64 + 1);
            let mut memory = vec![0_usize; LongestRuns::bytes(leaves) / size_of::<usize>()];
            let start = NonNull::new(memory.as_mut_ptr()).expect("a vector has an address");
            // SAFETY: clause 1: zero, aligned, and only used through the value.
            let mut longest = unsafe { LongestRuns::new_in(start, leaves) };
            let mut model: Vec<usize> = vec![0; leaves];
            for _ in 0..3000 {
                let (leaf, length) = (random.below(leaves), random.below(2 * MOST));
                if random.below(2) == 0 {
                    longest.set(leaf, length);
                    model[leaf] = length.min(MOST);
                } else if random.below(4) == 0 {
                    longest.raise(leaf, length);
                    model[leaf] = model[leaf].max(length.min(MOST));
                } else {
                    // Lengths become few, so that searches go far.
                    longest.set(leaf, 0);
                    model[leaf] = 0;
                }
                assert_eq!(longest.leaf(leaf), model[leaf]);
                assert!(longest.is_right(), "I1");
                let least = 1 + random.below(MOST);
                let from = random.below(leaves + 1);
                let first = |from: usize| (from..leaves).find(|leaf| model[*leaf] >= least);
                assert_eq!(longest.first(least), first(0), "{leaves} leaves, at least {least}");
                assert_eq!(longest.first_from(from, least), first(from), "from {from}");
            }
        }
    }
}
