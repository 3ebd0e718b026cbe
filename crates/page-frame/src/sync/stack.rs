//! A lock-free stack whose nodes are all taken at once (a Treiber stack without single pops).
//!
//! # Concepts
//! The link of a node lies in a cell inside the node. `push` is a compare-exchange loop; `take_all`
//! is one swap. There is no pop of a single node, so no node is popped and pushed again between
//! another CPU's load and its exchange: the ABA problem of Treiber's stack (1986) does not arise.
//!
//! [`Linked`] is a trait, not a constant offset: an `unsafe impl` names the field, whose type the
//! compiler checks, once per node type. An offset would make each construction of a stack unsafe,
//! and its type unchecked.
//!
//! # Invariants
//! - I1: a node is on at most one stack, at most once; until an iterator has returned it its link
//!   belongs to the stack.
//!
//! # Concurrency
//! Any number of CPUs push and take. The push's Release publishes the link; the take's Acquire sees
//! it.

use core::ptr::NonNull;

use super::cell::UnsafeCell;
use super::model::const_unless_loom;
use crate::atomic::{AtomicPtr, Ordering};

/// A node with room for a link to the next one.
///
/// # Safety
/// 1. `link` returns the same cell of the same node each time, and accesses no data that is not
///    shared.
/// 2. Only the stack uses the cell from the node's push until [`Taken::next`] has returned the
///    node.
pub unsafe trait Linked: Sized {
    /// Returns the cell that holds the link.
    fn link(&self) -> &UnsafeCell<*mut Self>;
}

/// A stack of nodes that the stack does not own: push one, take all.
///
/// ```
/// use page_frame::sync::{Linked, TakeAll, UnsafeCell};
/// use std::ptr::NonNull;
/// struct Node(u32, UnsafeCell<*mut Node>);
/// // SAFETY: always the same cell, used by the stack alone.
/// unsafe impl Linked for Node {
///     fn link(&self) -> &UnsafeCell<*mut Self> { &self.1 }
/// }
/// let nodes = [1, 2].map(|number| Node(number, UnsafeCell::new(std::ptr::null_mut())));
/// let stack = TakeAll::new();
/// for node in &nodes {
///     // SAFETY: the nodes outlive the iteration below and are pushed once.
///     unsafe { stack.push(NonNull::from(node)) };
/// }
/// // SAFETY: the nodes are alive.
/// let taken: Vec<u32> = stack.take_all().map(|node| unsafe { node.as_ref() }.0).collect();
/// assert_eq!(taken, [2, 1]);
/// assert!(stack.is_empty());
/// ```
#[derive(Debug)]
pub struct TakeAll<T> {
    head: AtomicPtr<T>,
}

impl<T: Linked> TakeAll<T> {
    const_unless_loom! {
        /// Makes an empty stack.
        pub fn new() -> Self {
            Self { head: AtomicPtr::new(core::ptr::null_mut()) }
        }
    }

    /// Pushes `node`. Lock-free; one compare-exchange when no other CPU pushes.
    ///
    /// # Safety
    /// 1. `node` is on no stack, and in no [`Taken`] that has yet to return it.
    /// 2. `node` is valid for shared use until [`Taken::next`] has returned it. It is not enough
    ///    that [`take_all`](Self::take_all) has been called: the iterator follows the links of
    ///    nodes that it has not returned. Where a `Taken` is dropped before it has returned the
    ///    node, the promise ends with that drop.
    pub unsafe fn push(&self, node: NonNull<T>) {
        // Relaxed: only the compare-exchange below publishes.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: clause 2: valid for shared use.
            let link = unsafe { node.as_ref() }.link();
            link.with_mut(|link| {
                // SAFETY: clause 1: the node is on no stack yet, so its link is ours to write.
                unsafe { *link = head }
            });
            // Release: pairs with the Acquire in `take_all`; publishes the link written above.
            match self.head.compare_exchange_weak(
                head,
                node.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(found) => head = found,
            }
        }
    }

    /// Takes every node. One swap.
    pub fn take_all(&self) -> Taken<T> {
        // Acquire: pairs with the Release in `push`; the links of all nodes below were written
        // before.
        Taken { next: self.head.swap(core::ptr::null_mut(), Ordering::Acquire) }
    }

    /// Whether the stack is empty at this moment.
    pub fn is_empty(&self) -> bool {
        // Relaxed: an estimate; `take_all` decides.
        self.head.load(Ordering::Relaxed).is_null()
    }
}

impl<T: Linked> Default for TakeAll<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The nodes taken from a [`TakeAll`], last pushed first.
///
/// A node's link is read before the node is returned, so the caller may push it again at once.
/// Nodes not iterated are no longer on the stack.
#[derive(Debug)]
pub struct Taken<T> {
    next: *mut T,
}

impl<T: Linked> Iterator for Taken<T> {
    type Item = NonNull<T>;

    fn next(&mut self) -> Option<NonNull<T>> {
        let node = NonNull::new(self.next)?;
        // SAFETY: clause 2 of `push`: the node stays valid until it is returned, below.
        let link = unsafe { node.as_ref() }.link();
        self.next = link.with(|link| {
            // SAFETY: I1, and `take_all`'s Acquire makes the pusher's write visible.
            unsafe { *link }
        });
        Some(node)
    }
}
