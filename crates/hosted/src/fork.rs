//! `fork` in programs with threads: the allocators are whole in parent and child.
//!
//! # Concepts
//! Before the fork the gate (`gate.rs`) is closed: nobody holds a lock or is in a page source. Then all CPU slots are
//! taken over, so that nobody is in the middle of one. Afterwards, in the parent, everything goes on. In the child only the
//! thread that forked is left: the numbers of the others are free again, and whoever takes one finds the magazines as they
//! were left.
//!
//! A process with one thread skips all of that. What another thread had in hand outside of slots and locks at that moment
//! (a magazine on its way to the depot) is lost to the child.

use core::marker::PhantomData;

use page_frame::Frozen;

use crate::{Pages, gate, threads};

/// Caches whose CPU slots a fork freezes, beside those of the pages.
pub trait Freeze {
    /// Lets the threads in again when it is dropped.
    type Frozen<'a>
    where
        Self: 'a;

    /// Keeps all other threads out of their slots while the guard lives.
    fn freeze(&self) -> Self::Frozen<'_>;

    /// Forgets what other threads were in the middle of, in a child, where they are not.
    ///
    /// # Safety
    /// 1. The process was just forked, and the caller is its only thread.
    /// 2. The slots are frozen since before the fork, by a guard of [`freeze`](Self::freeze) that lives, on a system that can
    ///    fence.
    unsafe fn forget_others(&self);
}

/// A fork that is about to happen: between the handlers that run before it and those that run after it.
///
/// Dropping it lets everybody go on. It stays in the thread that began it, which is the one to call `fork`.
///
/// ```compile_fail,E0277
/// fn is_send<T: Send>() {}
/// fn of<F: hosted::Freeze>() {
///     is_send::<hosted::Forking<'static, F>>();
/// }
/// ```
#[must_use = "everybody goes on at once when this is dropped"]
pub struct Forking<'a, F: Freeze> {
    caches: &'a F,
    /// None where there was nobody to keep out. Dropped in this order, the gate last.
    frozen: Option<(Frozen<'a>, F::Frozen<'a>)>,
    gate: Closed,
    _not_send: PhantomData<*mut ()>,
}

/// The gate, closed by this thread. Dropping it opens the gate, also when a freeze panics.
struct Closed;

impl Drop for Closed {
    fn drop(&mut self) {
        gate::open();
    }
}

impl<'a, F: Freeze> Forking<'a, F> {
    /// Brings the allocators to a stand. To be called before `fork`, by the thread that will call it.
    ///
    /// # Panics
    /// When the thread has begun a fork already: it would wait for itself.
    pub fn begin(pages: &'a Pages, caches: &'a F) -> Self {
        assert!(!gate::is_closer(), "this thread has begun a fork already");
        let own = threads::numbered();
        let own_bit = own.map_or(0, |number| 1 << number);
        let held = gate::close(own, || threads::taken() != own_bit);
        let gate = Closed;
        let frozen = held.then(|| {
            let caches = caches.freeze();
            (pages.freeze(), caches)
        });
        Self { caches, frozen, gate, _not_send: PhantomData }
    }

    /// Lets everybody go on, in the parent.
    pub fn end_in_parent(self) {
        drop(self);
    }

    /// Frees what the threads that are not in the child had, in the child.
    ///
    /// Where the system could not fence, some thread may have been inside a slot all the same. Then the slots stay frozen in
    /// the child for ever, which goes without them.
    ///
    /// # Safety
    /// 1. The process is a child that was forked since this began, by the thread that began it, and the caller is its only
    ///    thread.
    pub unsafe fn end_in_child(self) {
        let Self { caches, frozen, gate, .. } = self;
        let own = threads::numbered();
        if let Some((pages, of_caches)) = frozen {
            threads::forget_others();
            if pages.is_fenced() {
                // SAFETY: clause 1 is clause 1 of `forget_others`. Clause 2: `of_caches` lives, and this system can fence.
                unsafe { caches.forget_others() };
            } else {
                core::mem::forget((pages, of_caches));
            }
        }
        gate::open_in_child(own);
        drop(gate);
    }
}

impl<F: Freeze> core::fmt::Debug for Forking<'_, F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Forking").field("frozen", &self.frozen.is_some()).finish_non_exhaustive()
    }
}
