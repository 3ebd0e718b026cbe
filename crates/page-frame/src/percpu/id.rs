//! `CpuId`: the index of a CPU and of its per-CPU slots.

/// The index of a CPU. In user space each thread acts as a CPU. Per-CPU containers have one slot
/// for each index.
///
/// It is stored as the index times 64: the byte offset of the CPU's slot where slots are 64 bytes,
/// which hot paths add to an address without a multiplication. An implementation of
/// [`Cpu`](crate::Cpu) that keeps this offset instead of the index calls `at_line_offset` and saves
/// an instruction in each access.
///
/// ```
/// use page_frame::CpuId;
/// let id = CpuId::new(3);
/// assert_eq!((id.index(), id.line_offset()), (3, 3 * CpuId::LINE));
/// // SAFETY: 192 is three lines of 64 bytes.
/// assert_eq!(unsafe { CpuId::at_line_offset(192) }, id);
/// assert_eq!(CpuId::new(CpuId::COUNT as u32 - 1).line_offset(), (1 << 32) - 64); // the last one
/// ```
///
/// An offset that is not a multiple of 64 would not be the address of a slot, so the constructor is
/// unsafe; without `unsafe` this does not compile:
///
/// ```compile_fail,E0133
/// page_frame::CpuId::at_line_offset(127);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u32);

impl CpuId {
    /// The unit of slot sizes in bytes: a slot has one line or several. Example: see [`CpuId`].
    pub const LINE: usize = 64;

    /// The number of possible ids: 2^26, so that the last one's offset fits 32 bits.
    /// Example: see [`CpuId`].
    pub const COUNT: usize = 1 << (u32::BITS - Self::LINE.trailing_zeros());

    /// Returns the id of CPU `number`. Example: see [`CpuId`].
    ///
    /// # Panics
    /// When `number` is [`COUNT`](Self::COUNT) or more. For a constant the check costs nothing at
    /// run time.
    #[inline]
    pub const fn new(number: u32) -> Self {
        assert!((number as usize) < Self::COUNT, "CPU numbers are below 2^26");
        Self(number * Self::LINE as u32)
    }

    /// Returns the id whose [`line_offset`](Self::line_offset) is `offset`. Example: see [`CpuId`].
    ///
    /// # Safety
    /// 1. `offset` is a multiple of [`LINE`](Self::LINE).
    #[inline(always)]
    pub const unsafe fn at_line_offset(offset: u32) -> Self {
        debug_assert!(offset as usize % Self::LINE == 0, "a line offset is a multiple of 64");
        Self(offset)
    }

    /// Returns the number of the CPU: 0, 1, 2 and so on. Example: see [`CpuId`].
    #[inline]
    pub const fn index(self) -> usize {
        self.line_offset() / Self::LINE
    }

    /// Returns the index times 64: the offset in bytes of the CPU's line. Example: see [`CpuId`].
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
