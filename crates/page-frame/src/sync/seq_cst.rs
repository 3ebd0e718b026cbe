//! Atomics for protocols over two locations: their methods fix the memory order.
//!
//! # Concepts
//! Some protocols change one location and then load another one, on two CPUs at once. They rely on
//! one order of all four accesses, so all must be SeqCst. The methods of these types take no
//! [`Ordering`], so no caller can weaken an access. Two kinds of access are weaker, and their names
//! say so: `advice`, whose result no protocol relies on, and `store_unpublished`, before another
//! CPU can find the value. [`release`](SeqCstU8::release) is for a store that no load of the caller
//! follows.
//!
//! loom treats SeqCst accesses as AcqRel. So models of such protocols need a
//! [`model_fence`](super::model_fence) between the two accesses of each side.
//!
//! # Tests
//! `tests/loom/sync.rs` has a litmus test for each function that other CPUs synchronise with: it
//! hands over a cell, so it fails if the access becomes Relaxed. The tests below are
//! store-buffering litmus tests. They fail if a store becomes Release, and under Miri, which
//! simulates weak memory, if any other access becomes weaker.

use crate::atomic::{AtomicU8, AtomicUsize, Ordering};
use crate::sync::memory::Zeroable;

macro_rules! seq_cst {
    ($(#[$meta:meta])* $name:ident, $atomic:ty, $value:ty) => {
        $(#[$meta])*
        #[derive(Debug)]
        #[repr(transparent)]
        pub struct $name($atomic);

        // SAFETY: clause 1: an atomic, for which zero is valid.
        unsafe impl Zeroable for $name {
            fn zero() -> Self {
                Self(Zeroable::zero())
            }
        }

        impl $name {
            /// Returns the value (SeqCst).
            #[inline(always)]
            pub fn load(&self) -> $value {
                // SeqCst, like all accesses here: see the header of the file.
                self.0.load(Ordering::SeqCst)
            }

            /// Returns the value at some moment (Relaxed), for decisions that a later access
            /// checks.
            #[inline(always)]
            pub fn advice(&self) -> $value {
                // Relaxed: by its contract nothing is read because of it.
                self.0.load(Ordering::Relaxed)
            }

            /// Stores `value` before another CPU can find the atomic (Relaxed).
            #[inline(always)]
            pub fn store_unpublished(&self, value: $value) {
                // Relaxed: by its contract the code that shares the atomic publishes the value.
                self.0.store(value, Ordering::Relaxed);
            }

            /// Exchanges the value from `from` to `to` (SeqCst).
            ///
            /// # Errors
            /// The value found instead; the call has changed nothing then.
            #[inline(always)]
            pub fn exchange(&self, from: $value, to: $value) -> Result<(), $value> {
                // Relaxed on failure: the call has changed nothing that an order could refer to.
                let found = self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed);
                found.map(|_| ())
            }
        }
    };
}

seq_cst! {
    /// A word of bits in a protocol over two locations.
    ///
    /// ```
    /// use page_frame::sync::{SeqCstUsize, Zeroable};
    /// let taken = SeqCstUsize::zero();
    /// assert_eq!(taken.set_bits(6), 0);
    /// assert_eq!((taken.clear_bits(2), taken.load()), (6, 4));
    /// assert_eq!((taken.exchange(0, 9), taken.swap(1), taken.advice()), (Err(4), 4, 1));
    /// ```
    SeqCstUsize, AtomicUsize, usize
}

seq_cst! {
    /// A byte with a state in a protocol over two locations.
    ///
    /// ```
    /// use page_frame::sync::{SeqCstU8, Zeroable};
    /// let state = SeqCstU8::zero();
    /// state.store(3);
    /// assert_eq!((state.exchange(3, 4), state.load()), (Ok(()), 4));
    /// state.release(5);
    /// assert_eq!(state.advice(), 5);
    /// ```
    SeqCstU8, AtomicU8, u8
}

impl SeqCstUsize {
    /// Sets `bits`; returns the value before (SeqCst).
    #[inline(always)]
    pub fn set_bits(&self, bits: usize) -> usize {
        self.0.fetch_or(bits, Ordering::SeqCst)
    }

    /// Clears `bits`; returns the value before (SeqCst).
    #[inline(always)]
    pub fn clear_bits(&self, bits: usize) -> usize {
        self.0.fetch_and(!bits, Ordering::SeqCst)
    }

    /// Stores `value`; returns the value before (SeqCst).
    #[inline(always)]
    pub fn swap(&self, value: usize) -> usize {
        self.0.swap(value, Ordering::SeqCst)
    }
}

impl SeqCstU8 {
    /// Stores `value` (SeqCst).
    #[inline(always)]
    pub fn store(&self, value: u8) {
        self.0.store(value, Ordering::SeqCst);
    }

    /// Stores `value` as the last access of a protocol (Release): no load of the caller needs to
    /// come after it.
    #[inline(always)]
    pub fn release(&self, value: u8) {
        // Release: pairs with every `load` and `exchange`, which acquire.
        self.0.store(value, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Barrier;

    extern crate std;

    /// Rounds of a litmus test. Miri picks the stale value often, and is slow.
    const ROUNDS: usize = if cfg!(miri) { 60 } else { 20_000 };

    /// Store buffering: two threads change one location each by `change`, and then load the other
    /// one. Both must not find zero.
    fn one_of_two_sees_the_other<A: Zeroable + Sync>(
        change: impl Fn(&A) + Sync,
        load: impl Fn(&A) -> usize + Sync,
    ) {
        let barrier = Barrier::new(2);
        let places: std::vec::Vec<[A; 2]> = (0..ROUNDS).map(|_| Zeroable::zero()).collect();
        let run = |own: usize| {
            let each = places.iter().map(|places| {
                if cfg!(miri) {
                    barrier.wait();
                }
                change(&places[own]);
                load(&places[1 - own])
            });
            barrier.wait();
            each.collect::<std::vec::Vec<_>>()
        };
        let [one, other] = std::thread::scope(|scope| {
            let threads = [0, 1].map(|own| scope.spawn(move || run(own)));
            threads.map(|thread| thread.join().expect("no panic"))
        });
        let missed = one.iter().zip(&other).filter(|seen| *seen == (&0, &0)).count();
        assert_eq!(missed, 0, "rounds in which neither saw the other");
    }

    #[test]
    fn one_of_two_changes_of_words_is_seen_by_the_other() {
        let changes: [fn(&SeqCstUsize); 4] = [
            |word| _ = word.set_bits(1),
            |word| _ = word.clear_bits(1),
            |word| _ = word.swap(1),
            |word| _ = word.exchange(0, 1),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            if index == 1 {
                // The bit is set at first.
                let load = |word: &Inverted| usize::from(word.0.load() & 1 == 0);
                one_of_two_sees_the_other(|word: &Inverted| change(&word.0), load);
            } else {
                one_of_two_sees_the_other(change, SeqCstUsize::load);
            }
        }
    }

    /// A word whose lowest bit is set at first.
    struct Inverted(SeqCstUsize);
    // SAFETY: the tests make no value of zeroed memory.
    unsafe impl Zeroable for Inverted {
        fn zero() -> Self {
            Self(SeqCstUsize(AtomicUsize::new(1)))
        }
    }

    #[test]
    fn one_of_two_changes_of_bytes_is_seen_by_the_other() {
        let load = |byte: &SeqCstU8| usize::from(byte.load());
        one_of_two_sees_the_other(|byte: &SeqCstU8| byte.store(1), load);
        one_of_two_sees_the_other(|byte: &SeqCstU8| _ = byte.exchange(0, 1), load);
    }
}
