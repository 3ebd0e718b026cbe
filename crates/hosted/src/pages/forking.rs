//! `fork` in programs with threads: the allocators stay consistent in parent and child.
//!
//! # Concepts
//! Before the fork, [`Forking::begin`] acquires the fork lock (`lock.rs`): no other thread holds a
//! lock of the allocators or is in a page source. Then it freezes all per-CPU slots, so that no
//! thread is inside one. In the parent, all threads then continue. The child has only the thread
//! that forked: the numbers of the other threads are free there, and the next thread that takes one
//! inherits its magazines.
//!
//! A process with one thread skips all of that. Objects that another thread held outside of slots
//! and locks at that moment (a magazine on its way to the depot) leak in the child.

use core::marker::PhantomData;

use page_frame::Frozen;

use crate::pages::Pages;
use crate::threads::fork_lock::{self, Held};
use crate::threads::{self, tls};

/// A fork that is about to happen: between the handlers that run before it and those that run after
/// it. `G` is the guard that keeps the caches' slots frozen.
///
/// Dropping it lets all threads continue. It is not `Send`: the thread that began it calls `fork`.
///
/// ```
/// use page_frame::{Order, PageSource};
/// let pages = hosted::Pages::with_space(1 << 30)?;
/// let freeze_caches = || (); // for example `registry.freeze_slots(own)`
/// let forking = hosted::Forking::begin(&pages, freeze_caches);
/// // SAFETY: the child calls only the allocator and `_exit`.
/// match unsafe { libc::fork() } {
///     0 => {
///         let end_in_caches = |()| (); // for example `frozen_slots.end_in_child(own)`
///         // SAFETY: clause 1: the child that this thread forked after `begin`, its only thread.
///         unsafe { forking.end_in_child(end_in_caches) };
///         let failed = pages.allocate(Order::ZERO).map(std::mem::forget).is_err();
///         // SAFETY: ends the child.
///         unsafe { libc::_exit(failed.into()) }
///     }
///     child => {
///         forking.end_in_parent();
///         let mut status = -1;
///         // SAFETY: a child of this process, and a place for its status.
///         assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
///         assert_eq!(status, 0);
///     }
/// }
/// # Ok::<(), hosted::OsError>(())
/// ```
///
/// ```compile_fail,E0277
/// fn is_send<T: Send>() {}
/// is_send::<hosted::Forking<'static, ()>>();
/// ```
#[must_use = "dropping it lets all threads continue at once"]
pub struct Forking<'a, G> {
    /// `None` when the slots need not or cannot be frozen. Dropped in this order, the lock last.
    frozen: Option<(Frozen<'a>, G)>,
    lock: Held,
    _not_send: PhantomData<*mut ()>,
}

impl<'a, G> Forking<'a, G> {
    /// Keeps all other threads out of the allocators; `freeze_caches` freezes the slots of the
    /// caches that use `pages`. The thread that will call `fork` calls this first. Waits until they
    /// have left. Example: see [`Forking`].
    ///
    /// # Panics
    /// When the thread has begun a fork already and would wait for itself.
    pub fn begin(pages: &'a Pages, freeze_caches: impl FnOnce() -> G) -> Self {
        assert!(!fork_lock::is_held_by_caller(), "this thread has begun a fork already");
        let own = tls::number();
        let must_freeze = fork_lock::acquire(own, || threads::are_others(own));
        let lock = Held;
        let frozen = must_freeze.then(|| {
            let caches = freeze_caches();
            (pages.freeze_slots(), caches)
        });
        Self { frozen, lock, _not_send: PhantomData }
    }

    /// Lets all threads continue, in the parent. Example: see [`Forking`].
    pub fn end_in_parent(self) {
        drop(self);
    }

    /// Frees the thread numbers of the threads that are not in the child, in the child, and gives
    /// `end_in_caches` the guard of the caches, so that it clears the marks of those threads in
    /// their slots (`slab::FrozenSlots::end_in_child`).
    ///
    /// Where the system could not fence, a thread may have been inside a slot of the pages all the
    /// same. Then those slots stay frozen in the child for ever, and it works without them.
    /// Example: see [`Forking`].
    ///
    /// # Safety
    /// 1. The process is a child that was forked since this began, by the thread that began it, and
    ///    the caller is its only thread.
    pub unsafe fn end_in_child(self, end_in_caches: impl FnOnce(G)) {
        let Self { frozen, lock, .. } = self;
        let own = tls::number();
        let had_others = threads::are_others(own);
        if let Some((pages, caches)) = frozen {
            threads::forget_others();
            end_in_caches(caches);
            if !pages.is_fenced() {
                core::mem::forget(pages);
            }
        }
        fork_lock::release_in_child(own, had_others);
        drop(lock);
    }
}

impl<G> core::fmt::Debug for Forking<'_, G> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Forking").field("frozen", &self.frozen.is_some()).finish_non_exhaustive()
    }
}
