//! A byte pattern that differs between allocations.

use std::ptr::NonNull;

/// The bytes that an allocation is filled with: different for each number, so an overlap of two is
/// seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(pub u64);

impl Pattern {
    fn byte(self, index: usize) -> u8 {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ index as u8
    }

    /// Writes the pattern over `bytes` bytes at `start`.
    ///
    /// # Safety
    /// 1. The memory is valid for writes and the caller's.
    pub unsafe fn fill(self, start: NonNull<u8>, bytes: usize) {
        for index in 0..bytes {
            // SAFETY: clause 1: inside the memory.
            let byte = unsafe { start.add(index) };
            // SAFETY: clause 1: valid for writes.
            unsafe { byte.write(self.byte(index)) };
        }
    }

    /// Whether all `bytes` bytes at `start` still hold the pattern.
    ///
    /// # Safety
    /// 1. The memory is valid for reads, initialised, and the caller's.
    pub unsafe fn is_in(self, start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: clause 1: `bytes` initialised bytes that do not change meanwhile.
        let content = unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) };
        content.iter().enumerate().all(|(index, byte)| *byte == self.byte(index))
    }
}
