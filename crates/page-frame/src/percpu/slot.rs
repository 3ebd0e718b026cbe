//! One per-CPU slot: the bytes of the protocol that `per_cpu.rs` explains, followed by the body.

use crate::atomic::AtomicU8;
use crate::percpu::cpu::Cpu;
use crate::sync::cell::UnsafeCell;
use crate::sync::memory::Zeroable;
use crate::sync::model::{MODELLED, const_unless_loom};

/// Value of `detached`: a taker has the slot, or tries to take it.
pub(crate) const TAKEN: u8 = 1;
/// Value of `detached`: the slot is closed for good.
pub(crate) const CLOSED: u8 = 2;
/// Value of `detached`: the slot is frozen.
pub(crate) const FROZEN: u8 = 3;

/// The slot of one CPU: the bytes of the protocol, followed by a body. It has cache lines of its
/// own.
///
/// ```
/// use page_frame::{PerCpu, PerCpuSlot, SingleCpu};
/// let mut slots = [PerCpuSlot::new(vec![1, 2])];
/// let per_cpu = PerCpu::new(&mut slots, SingleCpu::new());
/// assert_eq!(per_cpu.enter().unwrap().pop(), Some(2));
/// assert_eq!(size_of::<PerCpuSlot<[u8; 61]>>(), 64); // three bytes are the protocol's
/// ```
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PerCpuSlot<T> {
    pub(crate) busy: AtomicU8,
    pub(crate) detached: AtomicU8,
    pub(crate) locking: AtomicU8,
    body: UnsafeCell<T>,
}

// SAFETY: by I1 of `per_cpu.rs` one context at a time has the body, and it passes by a Release
// store that an Acquire load reads.
unsafe impl<T: Send> Sync for PerCpuSlot<T> {}

// SAFETY: clause 1: three atomics, for which zero is valid, a body for which it is, and padding.
unsafe impl<T: Zeroable> Zeroable for PerCpuSlot<T> {
    fn zero() -> Self {
        Self::new(T::zero())
    }
}

impl<T> PerCpuSlot<T> {
    const_unless_loom! {
        /// Wraps `body` in an open slot. Example: see [`PerCpuSlot`].
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

/// Returns the distance in bytes between the slots of neighbouring ids: a multiple of
/// [`CpuId::LINE`](crate::CpuId::LINE). With `STRIDED` it is [`Cpu::SLOT_STRIDE`], if that is not
/// zero; otherwise the slots form an array.
pub(super) const fn slot_stride<T, C: Cpu, const STRIDED: bool>() -> usize {
    let slot_bytes = size_of::<PerCpuSlot<T>>();
    if !STRIDED || C::SLOT_STRIDE == 0 {
        return slot_bytes;
    }
    let has_room = C::SLOT_STRIDE >= slot_bytes || MODELLED;
    let is_aligned = C::SLOT_STRIDE % align_of::<PerCpuSlot<T>>() == 0;
    assert!(has_room && is_aligned, "`Cpu::SLOT_STRIDE` has room for whole slots");
    C::SLOT_STRIDE
}
