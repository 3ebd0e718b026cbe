//! One per-CPU slot: the body, and in front of it the bytes of the protocol that `per_cpu.rs` explains.

use crate::sync::atomic::AtomicU8;
use crate::sync::cell::UnsafeCell;
use crate::sync::memory::Zeroable;
use crate::sync::model::const_unless_loom;

/// `detached` of a slot that a taker has, or tries to take.
pub(crate) const TAKEN: u8 = 1;
/// `detached` of a slot that nobody ever enters.
pub(crate) const CLOSED: u8 = 2;
/// `detached` of a slot that is frozen.
pub(crate) const FROZEN: u8 = 3;

/// One CPU's part of a layer, with the bytes of the protocol in front. On its own cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PerCpuSlot<T> {
    pub(crate) busy: AtomicU8,
    pub(crate) detached: AtomicU8,
    pub(crate) locking: AtomicU8,
    body: UnsafeCell<T>,
}

// SAFETY: I1 gives the body to one context at a time, and each hand-over is a Release store read by an Acquire load.
unsafe impl<T: Send> Sync for PerCpuSlot<T> {}

// SAFETY: clause 1: three atomics that are valid when zero, a body that is, and padding.
unsafe impl<T: Zeroable> Zeroable for PerCpuSlot<T> {
    fn zero() -> Self {
        Self::new(T::zero())
    }
}

impl<T> PerCpuSlot<T> {
    const_unless_loom! {
        /// Wraps `body` in a slot that nobody uses.
        pub fn new(body: T) -> Self {
            Self {
                busy: AtomicU8::new(0),
                detached: AtomicU8::new(0),
                locking: AtomicU8::new(0),
                body: UnsafeCell::new(body),
            }
        }
    }

    pub(crate) fn body(&self) -> *mut T {
        self.body.with_mut(|body| body)
    }
}
