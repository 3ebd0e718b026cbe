//! The free word: a slab's free objects, in one atomic word.
//!
//! # Concepts
//! The free objects of a slab form a stack linked by index. The word holds its head, its length,
//! whether the slab is **known** to the cache's slab set, and a tag that changes with every
//! exchange:
//!
//! ```text
//! bit   0..16        16..32       32      33..64     (32-bit targets: 0..13, 13..26, 26, 27..32)
//!     | head index | free count | known | tag      |
//! ```
//!
//! A slab whose objects are all taken is unknown: the set does not look for objects in it. The CPU
//! that frees the first of them makes it known again.
//!
//! # Invariants
//! - I1: `free` objects are reachable from `head` through the links, each once.
//! - I2: a slab with free objects is known. The push that frees the first one sets `known`. Its
//!   caller alone gets [`Pushed::First`], and puts the slab on the pending stack, or sorts it into
//!   the set under the set lock.
//! - I3: a slab is released only when the holder of the set lock sees all objects free **and** the
//!   slab is neither pending nor about to be. So no CPU is between a push and the pending stack
//!   when the pages are released.
//!
//! # Concurrency
//! Any CPU pushes. Pops happen under the slab set's lock, one at a time. So no index at the head
//! can be popped and pushed again between a pop's load and its exchange; the tag only guards
//! against a caller without the lock. A push's Release publishes the link and the object's content
//! to the pop's Acquire.

use page_frame::sync::{AtomicUsize, Ordering};

const INDEX_BITS: u32 = if usize::BITS >= 64 { 16 } else { 13 };
const INDEX: usize = (1 << INDEX_BITS) - 1;
const KNOWN: usize = 1 << (2 * INDEX_BITS);
const TAG: usize = KNOWN << 1;

/// The state of a slab's free objects.
#[derive(Debug)]
pub struct FreeWord(AtomicUsize);

/// The result of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the slab is lost if `First` is ignored"]
pub enum Pushed {
    /// The slab had no free object: the caller alone puts it on the pending stack, or sorts it into
    /// the set.
    First,
    /// The slab is known already.
    More,
}

/// The result of a pop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Popped {
    /// The object's index.
    pub index: usize,
    /// Whether no object is left: the slab is now unknown, and the caller moves it to the list of
    /// full slabs. The caller cannot load the word for this: a push may already have made the slab
    /// known again.
    pub is_last: bool,
}

/// Objects that a pop took together, linked as they were in the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoppedChain {
    /// The index of the first one; its link leads to the next.
    pub head: usize,
    /// How many there are, at least one.
    pub count: usize,
    /// As [`Popped::is_last`].
    pub is_last: bool,
}

/// A free word as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The index of the free object on top; meaningless when no object is free.
    pub head: usize,
    /// How many objects are free.
    pub free: usize,
    /// Whether the slab is known: in a list of slabs with free objects, on the pending stack, or
    /// about to be put there.
    pub is_known: bool,
}

impl FreeWord {
    /// The maximum number of objects of a slab.
    pub const MAX_OBJECTS: usize = INDEX;

    page_frame::const_unless_loom! {
        /// Makes the word of a known slab with `free` free objects, the first of them at index
        /// `head`.
        ///
        /// # Panics
        /// When either number does not fit.
        pub fn new(head: usize, free: usize) -> Self {
            assert!(head <= INDEX && free <= INDEX, "index and count fit the word");
            Self(AtomicUsize::new(pack(head, free, KNOWN, 0)))
        }
    }

    /// Returns the word as it is at this moment.
    pub fn load(&self) -> Seen {
        // Acquire: pairs with the Release of `push`: a CPU that sees an object free sees its
        // content too.
        unpack(self.0.load(Ordering::Acquire))
    }

    /// Pushes the object at `index`. `link` writes its argument as the object's link; it may be
    /// called more than once.
    pub fn push(&self, index: usize, link: impl Fn(usize)) -> Pushed {
        self.push_chain(index, 1, link)
    }

    /// Pushes `count` objects in one exchange: `head` and those that its links lead to. `link`
    /// writes its argument as the link of the last of them; it may be called more than once.
    ///
    /// The function is safe, as the word holds only numbers: a wrong `head` or `count` corrupts
    /// this word alone.
    ///
    /// # Panics
    /// When `head` is not below [`MAX_OBJECTS`](Self::MAX_OBJECTS), or `count` is zero or above
    /// that.
    pub fn push_chain(&self, head: usize, count: usize, link: impl Fn(usize)) -> Pushed {
        assert!(head < Self::MAX_OBJECTS && count > 0 && count <= Self::MAX_OBJECTS);
        // Relaxed: only the exchange publishes.
        let mut old = self.0.load(Ordering::Relaxed);
        loop {
            let seen = unpack(old);
            link(seen.head);
            let new = pack(head, seen.free + count, KNOWN, next_tag(old));
            // Release: pairs with the Acquire in `pop_chain` and `load`; publishes the links and
            // the objects. Acquire: keeps the chain of earlier pushes.
            match self.0.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if seen.is_known => return Pushed::More,
                Ok(_) => return Pushed::First,
                Err(found) => old = found,
            }
        }
    }

    /// Pops the object on top; `next` returns the link of the object at its argument. Popping the
    /// last one makes the slab unknown.
    ///
    /// Only the holder of the slab set's lock may call it.
    pub fn pop(&self, next: impl Fn(usize) -> usize) -> Option<Popped> {
        let PoppedChain { head, is_last, .. } = self.pop_chain(1, next, |_, _| ())?;
        Some(Popped { index: head, is_last })
    }

    /// Pops up to `most` objects, at least one, in one exchange. Calls `put` with the number of
    /// each, from 0, and its index; a later call for the same number replaces the earlier one.
    /// `next` and the lock are as for [`pop`](Self::pop).
    ///
    /// While the caller holds the lock, pushes only add objects on top, and the links of the others
    /// do not change. So the new head that the walk over the links finds is right, or the exchange
    /// fails.
    ///
    /// # Panics
    /// When `most` is zero.
    pub fn pop_chain(
        &self,
        most: usize,
        next: impl Fn(usize) -> usize,
        mut put: impl FnMut(usize, usize),
    ) -> Option<PoppedChain> {
        assert!(most > 0, "a chain has an object");
        // Acquire: pairs with the Release in `push_chain`; the links that `next` reads were written
        // before.
        let mut old = self.0.load(Ordering::Acquire);
        loop {
            let seen = unpack(old);
            if seen.free == 0 {
                return None;
            }
            let count = seen.free.min(most);
            let is_last = count == seen.free;
            let mut head = seen.head;
            for place in 0..count - 1 {
                put(place, head);
                head = next(head);
            }
            put(count - 1, head);
            head = if is_last { 0 } else { next(head) };
            let known = if is_last { 0 } else { KNOWN };
            let new = pack(head, seen.free - count, known, next_tag(old));
            // AcqRel: as in `push_chain`; on failure Acquire, for the link of the new head.
            match self.0.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(PoppedChain { head: seen.head, count, is_last }),
                Err(found) => old = found,
            }
        }
    }

    /// Forgets all free objects of a known slab, whose links have been overwritten, and makes it
    /// unknown.
    ///
    /// Only the holder of the slab set's lock may call it.
    pub fn forget_all(&self) {
        // Relaxed: the objects are given to nobody. What a push on the new stack publishes, its own
        // Release publishes.
        let mut old = self.0.load(Ordering::Relaxed);
        loop {
            let new = next_tag(old);
            match self.0.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(found) => old = found,
            }
        }
    }
}

/// Returns the word with these parts. `known` is [`KNOWN`] or 0, and `tag` is in its place.
#[inline(always)]
const fn pack(head: usize, free: usize, known: usize, tag: usize) -> usize {
    head | free << INDEX_BITS | known | tag
}

/// Returns the tag that follows that of `word`, in its place.
#[inline(always)]
const fn next_tag(word: usize) -> usize {
    (word & !(TAG - 1)).wrapping_add(TAG)
}

fn unpack(word: usize) -> Seen {
    Seen { head: word & INDEX, free: word >> INDEX_BITS & INDEX, is_known: word & KNOWN != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn objects_come_back_last_in_first_out_and_the_last_pop_hides_the_slab() {
        let links = [const { Cell::new(0) }; 4];
        let word = FreeWord::new(0, 0);
        let pop = || word.pop(|index| links[index].get());
        assert_eq!(pop(), None);
        for (index, place) in links.iter().enumerate() {
            assert_eq!(word.push(index, |link| place.set(link)), Pushed::More);
            assert_eq!(word.load().free, index + 1);
        }
        for index in (0..4).rev() {
            assert_eq!(pop(), Some(Popped { index, is_last: index == 0 }));
        }
        assert!(!word.load().is_known);
        assert_eq!(word.push(2, |link| links[2].set(link)), Pushed::First);
        assert_eq!(word.push(1, |link| links[1].set(link)), Pushed::More);
        assert_eq!(word.load(), Seen { head: 1, free: 2, is_known: true });
    }

    #[test]
    fn chains_go_and_come_in_one_exchange() {
        let links = [const { Cell::new(0) }; 5];
        let word = FreeWord::new(0, 0);
        let next = |index: usize| links[index].get();
        // 4, 2 and 0, then 1 and 3 on top.
        links[4].set(2);
        links[2].set(0);
        assert_eq!(word.push_chain(4, 3, |link| links[0].set(link)), Pushed::More);
        links[1].set(3);
        assert_eq!(word.push_chain(1, 2, |link| links[3].set(link)), Pushed::More);
        let chain = |head, count, is_last| Some(PoppedChain { head, count, is_last });
        assert_eq!(
            word.pop_chain(3, next, |place, index| assert_eq!(index, [1, 3, 4][place])),
            chain(1, 3, false)
        );
        assert_eq!((next(1), next(3)), (3, 4));
        assert_eq!(word.load(), Seen { head: 2, free: 2, is_known: true });
        assert_eq!(word.pop_chain(9, next, |_, _| ()), chain(2, 2, true));
        assert_eq!(word.pop_chain(1, next, |_, _| ()), None);
        assert!(!word.load().is_known);
    }

    #[test]
    fn the_tag_wraps_without_touching_the_rest() {
        let word = FreeWord::new(7, 3);
        word.0.fetch_or(!(TAG - 1), Ordering::Relaxed);
        assert_eq!(word.push(5, |link| assert_eq!(link, 7)), Pushed::More);
        assert_eq!(word.load(), Seen { head: 5, free: 4, is_known: true });
    }

    #[test]
    fn the_largest_slab_fits() {
        let most = FreeWord::MAX_OBJECTS;
        assert_eq!(most, if usize::BITS >= 64 { 65_535 } else { 8_191 });
        let word = FreeWord::new(most - 1, most - 1);
        assert_eq!(word.push(0, |_| ()), Pushed::More);
        assert_eq!(word.load(), Seen { head: 0, free: most, is_known: true });
    }

    /// So an exchange fails if the word has changed meanwhile, even when head and count are as
    /// before.
    #[test]
    fn each_exchange_advances_the_tag_and_changes_no_other_bit_of_it() {
        let link = Cell::new(0);
        let word = FreeWord::new(3, 1);
        let tag = || word.0.load(Ordering::Relaxed) / TAG;
        for round in 0..5 {
            assert_eq!(tag(), 3 * round);
            assert_eq!(word.push(5, |next| link.set(next)), Pushed::More);
            assert_eq!((tag(), link.get()), (3 * round + 1, 3));
            let popped = word.pop(|_| link.get());
            assert_eq!(popped, Some(Popped { index: 5, is_last: false }));
            assert_eq!(tag(), 3 * round + 2);
            let popped = word.pop(|_| panic!("the last object has no next one"));
            assert_eq!(popped, Some(Popped { index: 3, is_last: true }));
            assert_eq!((tag(), word.load().is_known), (3 * round + 3, false));
            assert_eq!(word.pop(|_| 0), None);
            assert_eq!(tag(), 3 * round + 3, "a failed pop changes nothing");
            assert_eq!(word.push(3, |_| ()), Pushed::First);
            word.0.fetch_sub(TAG, Ordering::Relaxed);
        }
    }

    /// Mutation that it catches: `forget_all` that leaves the slab known (its next push does not
    /// make it pending, and it is lost), or that does not advance the tag.
    #[test]
    fn a_forgotten_stack_is_empty_and_unknown() {
        let word = FreeWord::new(3, 5);
        word.forget_all();
        assert_eq!(word.load(), Seen { head: 0, free: 0, is_known: false });
        assert_eq!(word.0.load(Ordering::Relaxed) / TAG, 1);
        let link = Cell::new(9);
        assert_eq!(word.push(4, |next| link.set(next)), Pushed::First);
        assert_eq!((word.load().free, link.get()), (1, 0));
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        extern crate std;
        let refused = |head: usize, count: usize| {
            let push = || _ = FreeWord::new(0, 0).push_chain(head, count, |_| ());
            std::panic::catch_unwind(push).is_err()
        };
        let most = FreeWord::MAX_OBJECTS;
        assert!(refused(most, 1) && refused(0, 0) && refused(0, most + 1));
        assert!(!refused(most - 1, 1) && !refused(0, most));
        assert!(std::panic::catch_unwind(|| FreeWord::new(most + 1, 0)).is_err());
        assert!(std::panic::catch_unwind(|| FreeWord::new(0, most + 1)).is_err());
    }
}
