//! `fork` in programs with threads: the allocators are whole in parent and child.
//!
//! # Concepts
//! Before the fork the [gate](crate::gate) is closed: nobody holds a lock or is in a page source. Then all CPU slots are
//! taken over, so that nobody is in the middle of one. Afterwards, in the parent, everything goes on. In the child only the
//! thread that forked is left: the numbers of the others are free again, and whoever takes one finds the magazines as they
//! were left.
//!
//! A process with one thread skips all of that. What another thread had in hand outside of slots and locks at that moment
//! (a magazine on its way to the depot) is lost to the child.

use crate::{Pages, gate, threads};

/// What is to be held during a fork besides the pages: the slots of caches.
pub trait Hold {
    /// Keeps all other threads out of their slots until [`let_go`](Self::let_go).
    fn hold(&self);
    /// Lets them in again.
    ///
    /// # Safety
    /// 1. Pairs with a [`hold`](Self::hold).
    unsafe fn let_go(&self);
    /// Forgets what other threads were in the middle of, in a child, where they are not.
    ///
    /// # Safety
    /// 1. The process was just forked.
    unsafe fn forget_others(&self);
}

/// A fork that is about to happen: between the handlers that run before it and those that run after it.
#[derive(Debug)]
#[must_use = "the allocators stand still until it has ended"]
pub struct Forking {
    held: bool,
}

impl Forking {
    /// Brings the allocators to a stand. To be called before `fork`, by the thread that will call it.
    pub fn begin(pages: &Pages, caches: &impl Hold) -> Self {
        let own = threads::numbered();
        let own_bit = own.map_or(0, |number| 1 << number);
        let held = gate::close(own, || threads::taken() != own_bit);
        if held {
            caches.hold();
            pages.hold();
        }
        Self { held }
    }

    /// Lets everybody go on, in the parent.
    ///
    /// # Safety
    /// 1. `pages` and `caches` are those that it began with.
    pub unsafe fn end_in_parent(self, pages: &Pages, caches: &impl Hold) {
        // SAFETY: clause 1: the parent's own, held by `begin`.
        unsafe { self.let_go(pages, caches) };
        gate::open();
    }

    /// Frees what the threads that are not in the child had, in the child.
    ///
    /// # Safety
    /// 1. `pages` and `caches` are those that it began with.
    /// 2. The process is a child that has just been forked.
    pub unsafe fn end_in_child(self, pages: &Pages, caches: &impl Hold) {
        let own = threads::numbered();
        if self.held {
            threads::forget_others();
            // SAFETY: clause 2.
            unsafe { caches.forget_others() };
        }
        // SAFETY: clauses 1 and 2: the child's copies, as they were held.
        unsafe { self.let_go(pages, caches) };
        gate::open_in_child(own);
    }

    unsafe fn let_go(&self, pages: &Pages, caches: &impl Hold) {
        if self.held {
            // SAFETY: `begin` held them.
            unsafe { pages.let_go() };
            // SAFETY: clause 1: these too, and the gate has kept everybody from building a cache.
            unsafe { caches.let_go() };
        }
    }
}
