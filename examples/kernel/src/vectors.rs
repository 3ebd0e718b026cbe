//! The numbers of the interrupts that this kernel uses.

/// The timer of each CPU.
pub(crate) const TIMER_VECTOR: u8 = 0x40;
/// Another CPU asks for a fence.
pub(crate) const FENCE_VECTOR: u8 = 0x41;
/// An interrupt that went away before it was taken.
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;
