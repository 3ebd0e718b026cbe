//! `CpuId`: the number of a CPU, and of its slots.

/// The number of a CPU, or of a thread that stands for one in user space: the index of its slots.
///
/// It holds the byte offset of the CPU's line in an array of 64-byte lines, the form that hot paths
/// need. A machine that stores its number in that form saves an instruction in each of them.
///
/// ```
/// use page_frame::CpuId;
/// assert_eq!(CpuId::new(3).line_offset(), 192);
/// // SAFETY: 192 is three lines of 64 bytes.
/// assert_eq!(unsafe { CpuId::at_line_offset(192) }.index(), 3);
/// ```
///
/// An offset that is not a multiple of 64 would name a place between two slots, so the constructor
/// is unsafe:
///
/// ```compile_fail,E0133
/// page_frame::CpuId::at_line_offset(127);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u32);

impl CpuId {
    /// The size of a line in bytes. A slot has one line or several.
    pub const LINE: usize = 64;

    /// The number of ids: 2^26, so that the last one's offset fits 32 bits.
    pub const COUNT: usize = 1 << (u32::BITS - Self::LINE.trailing_zeros());

    /// Returns the id of CPU `number`.
    ///
    /// # Panics
    /// When `number` is not below [`COUNT`](Self::COUNT). The compiler removes the check where it
    /// knows the number.
    #[inline]
    pub const fn new(number: u32) -> Self {
        assert!((number as usize) < Self::COUNT, "CPU numbers are below 2^26");
        Self(number * Self::LINE as u32)
    }

    /// Returns the id of the CPU whose line lies at `offset` bytes.
    ///
    /// # Safety
    /// 1. `offset` is a multiple of [`LINE`](Self::LINE).
    #[inline(always)]
    pub const unsafe fn at_line_offset(offset: u32) -> Self {
        debug_assert!(offset as usize % Self::LINE == 0, "clause 1");
        Self(offset)
    }

    /// Returns the number as an index.
    #[inline]
    pub const fn index(self) -> usize {
        self.line_offset() / Self::LINE
    }

    /// Returns the offset of the CPU's line in bytes.
    #[inline(always)]
    pub const fn line_offset(self) -> usize {
        self.0 as usize
    }
}

impl core::fmt::Debug for CpuId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("CpuId").field(&self.index()).finish()
    }
}
