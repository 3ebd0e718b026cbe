//! A list that only grows, at its end, in memory that its users lend it.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::{fmt, iter};

use super::model::const_unless_loom;
use crate::atomic::{AtomicPtr, Ordering};

/// A list of values in the order in which they were appended. Its values stay where they are while
/// the list lives; it never drops them.
///
/// ```
/// use page_frame::sync::{AppendList, AppendNode};
/// use std::{mem::MaybeUninit, ptr::NonNull};
/// let mut places = [const { MaybeUninit::<AppendNode<u32>>::uninit() }; 2];
/// let list = AppendList::new();
/// for (number, place) in places.iter_mut().enumerate() {
///     // SAFETY: clause 1: the places outlive the list, and each is used once.
///     unsafe { list.append(NonNull::from(place).cast(), number as u32) };
/// }
/// assert!(list.iter().copied().eq([0, 1]));
/// ```
pub struct AppendList<T> {
    first: AtomicPtr<AppendNode<T>>,
    /// A list may be sent where its values may be.
    values: PhantomData<T>,
}

/// A value and its link, in memory that a user lends.
pub struct AppendNode<T> {
    value: T,
    next: AtomicPtr<Self>,
}

// SAFETY: other threads get shared references to values that this one appended.
unsafe impl<T: Send + Sync> Sync for AppendList<T> {}

impl<T> AppendList<T> {
    const_unless_loom! {
        /// Makes an empty list.
        pub fn new() -> Self {
            Self { first: AtomicPtr::new(ptr::null_mut()), values: PhantomData }
        }
    }

    /// Iterates over the values, the first appended first.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        // Acquire: pairs with the Release in `append`; sees the node as it was written.
        let load = |link: &AtomicPtr<AppendNode<T>>| NonNull::new(link.load(Ordering::Acquire));
        // SAFETY: clause 1 of `append`: a linked node stays where it is while the list lives.
        let node = |node: NonNull<AppendNode<T>>| unsafe { node.as_ref() };
        let first = load(&self.first).map(node);
        iter::successors(first, move |before| load(&before.next).map(node)).map(|node| &node.value)
    }

    /// Writes `value` to `place` and appends it. One compare-exchange for each value that is
    /// appended meanwhile, and for those in the list.
    ///
    /// # Safety
    /// 1. `place` is aligned for an [`AppendNode`], valid for reads and writes of one while the
    ///    list lives, also if it is moved, and used by no other code.
    pub unsafe fn append(&self, place: NonNull<AppendNode<T>>, value: T) {
        let node = AppendNode { value, next: AtomicPtr::new(ptr::null_mut()) };
        // SAFETY: clause 1.
        unsafe { place.write(node) };
        let (null, new) = (ptr::null_mut(), place.as_ptr());
        let mut link = &self.first;
        // Release: pairs with the Acquire in `iter`; publishes the node. Acquire: as there.
        while let Err(next) = link.compare_exchange(null, new, Ordering::Release, Ordering::Acquire)
        {
            // SAFETY: the link is not null, so it leads to a node of the list, which stays there.
            link = unsafe { &(*next).next };
        }
    }
}

impl<T> Default for AppendList<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for AppendList<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
