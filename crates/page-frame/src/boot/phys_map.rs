//! The map between frame numbers and addresses: the only code that turns integers into pointers.

use core::ptr::NonNull;

use crate::frame::FrameNumber;
use crate::order::{PAGE_SHIFT, PAGE_SIZE};

/// Maps each frame to the address at which the kernel (or program) accesses it.
///
/// ```
/// use page_frame::{DirectMap, FrameNumber, PhysMap};
/// /// Physical memory in two halves, each mapped at an offset of its own.
/// struct Halves([DirectMap; 2], FrameNumber, usize);
/// // SAFETY: clauses 1 to 3: those of the two maps, whose addresses are disjoint.
/// unsafe impl PhysMap for Halves {
///     fn pointer(&self, frame: FrameNumber) -> std::ptr::NonNull<u8> {
///         self.0[usize::from(frame >= self.1)].pointer(frame)
///     }
///     fn frame(&self, address: usize) -> FrameNumber {
///         self.0[usize::from(address >= self.2)].frame(address)
///     }
/// }
/// // SAFETY: the pointers are only compared here.
/// let maps = [0x8000_0000, 0xc000_0000].map(|offset| unsafe { DirectMap::at_offset(offset) });
/// let halves = Halves(maps, FrameNumber::new(0x100), 0xc000_0000);
/// let address = halves.pointer(FrameNumber::new(0x101)).addr().get();
/// assert_eq!((address, halves.frame(address).get()), (0xc010_1000, 0x101));
/// ```
///
/// # Safety
/// 1. `pointer(frame)` is page-aligned; distinct frames have distinct pages, and consecutive frames
///    consecutive pages.
/// 2. `frame(pointer(f).addr())` is `f` for every frame.
/// 3. A pointer from `pointer` may be used to access all memory that this map covers and that is
///    mapped.
pub unsafe trait PhysMap {
    /// Returns the address of a frame's first byte. Example: see [`PhysMap`].
    fn pointer(&self, frame: FrameNumber) -> NonNull<u8>;

    /// Returns the frame that `address` lies in; any frame number for addresses that the map does
    /// not cover. Example: see [`PhysMap`].
    fn frame(&self, address: usize) -> FrameNumber;
}

/// All frames at a constant distance from their physical addresses.
///
/// Kernels use it for their direct map or identity map; programs that own one range of address
/// space use it with a base frame.
///
/// ```
/// use page_frame::{DirectMap, FrameNumber, PAGE_SIZE, PhysMap};
/// use std::ptr::NonNull;
/// // SAFETY: the pointers are only compared here; in a kernel the direct map is mapped for good.
/// let map = unsafe { DirectMap::at_offset(0x8000_0000) };
/// let address = map.pointer(FrameNumber::new(2)).addr().get();
/// assert_eq!((address, map.frame(address + 5)), (0x8000_2000, FrameNumber::new(2)));
///
/// #[repr(align(4096))]
/// struct Frames([u8; 2 * PAGE_SIZE]);
/// let mut frames = Frames([0; 2 * PAGE_SIZE]);
/// let root = NonNull::from(&mut frames.0).cast();
/// // SAFETY: `root` may be used for both frames, 100 and 101.
/// let map = unsafe { DirectMap::from_root(root, FrameNumber::new(100)) };
/// // SAFETY: the frame is ours.
/// unsafe { map.pointer(FrameNumber::new(101)).write(7) };
/// assert_eq!(frames.0[PAGE_SIZE], 7);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DirectMap {
    /// The address of frame 0, whether or not that frame is mapped: an address of the mapping minus
    /// its offset, wrapped around.
    origin: *mut u8,
}

// SAFETY: `origin` is only a base for address arithmetic.
unsafe impl Send for DirectMap {}
// SAFETY: no method changes `origin`.
unsafe impl Sync for DirectMap {}

impl DirectMap {
    /// Makes the map of a kernel that sees physical address `p` at `offset + p`.
    /// Example: see [`DirectMap`].
    ///
    /// # Panics
    /// When `offset` is zero or not page-aligned. (A kernel under an identity map starts at a frame
    /// above zero: [`from_root`](Self::from_root).)
    ///
    /// # Safety
    /// 1. Physical memory is mapped at `offset` and stays so; its use through pointers made from
    ///    integers is allowed (the memory is not a Rust object).
    pub unsafe fn at_offset(offset: usize) -> Self {
        assert!(offset % PAGE_SIZE == 0, "the offset of a direct map is page-aligned");
        let root: *mut u8 = core::ptr::with_exposed_provenance_mut(offset);
        assert!(!root.is_null(), "the offset of a direct map is not zero");
        Self { origin: root }
    }

    /// Makes the map in which frame `base` is at `root` and the others follow.
    /// Example: see [`DirectMap`].
    ///
    /// # Panics
    /// When `root` is not page-aligned.
    ///
    /// # Safety
    /// 1. `root` may be used for all of the memory that the frames used with this map are; or no
    ///    pointer from it is ever used, only compared and turned back (a simulation).
    pub unsafe fn from_root(root: NonNull<u8>, base: FrameNumber) -> Self {
        assert!(root.addr().get() % PAGE_SIZE == 0, "the root of a direct map is page-aligned");
        Self { origin: root.as_ptr().wrapping_sub(base.get() << PAGE_SHIFT) }
    }
}

// SAFETY: clauses 1 and 2: addition and subtraction of one constant. Clause 3: the constructors'
// clauses.
unsafe impl PhysMap for DirectMap {
    #[inline]
    fn pointer(&self, frame: FrameNumber) -> NonNull<u8> {
        let pointer = self.origin.wrapping_add(frame.get() << PAGE_SHIFT);
        NonNull::new(pointer).expect("no frame is mapped at address zero")
    }

    #[inline]
    fn frame(&self, address: usize) -> FrameNumber {
        FrameNumber::new(address.wrapping_sub(self.origin.addr()) >> PAGE_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_addresses_are_inverse() {
        // SAFETY: the pointers are only compared.
        let map = unsafe { DirectMap::at_offset(0x4000_0000) };
        for frame in [0, 1, 77, 1 << 18].map(FrameNumber::new) {
            let address = map.pointer(frame).addr().get();
            assert_eq!(address, 0x4000_0000 + frame.get() * PAGE_SIZE);
            assert_eq!(map.frame(address), frame);
            assert_eq!(map.frame(address + PAGE_SIZE - 1), frame);
        }
    }

    #[test]
    fn frames_count_from_the_base() {
        let root =
            NonNull::new(core::ptr::without_provenance_mut(8 * PAGE_SIZE)).expect("not zero");
        // SAFETY: the pointers are only compared.
        let map = unsafe { DirectMap::from_root(root, FrameNumber::new(100)) };
        assert_eq!(map.pointer(FrameNumber::new(101)).addr().get(), 9 * PAGE_SIZE);
        assert_eq!(map.frame(8 * PAGE_SIZE), FrameNumber::new(100));
    }
}
