//! OSTD's mapping of all physical memory, as a constant.

use core::ptr::{self, NonNull};

use buddy::page_frame::{FrameNumber, PAGE_SHIFT, PhysMap};

/// The address of physical address 0: `LINEAR_MAPPING_BASE_VADDR` of OSTD 0.18 on x86-64, which is
/// private to it.
const BASE: usize = 0xffff_8000_0000_0000;

/// OSTD's linear mapping, as a type without data: the compiler knows the base, and adds a constant.
/// [`DirectMap`](buddy::page_frame::DirectMap) would load it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearMap;

// SAFETY: clauses 1 and 2: one function adds a constant to the address of a frame, the other
// subtracts it. Clause 3: OSTD maps all physical memory from `BASE` on before it gives the frame
// allocator the first range, and never unmaps it. Free frames
// hold no Rust object, so pointers to them may be made from integers.
unsafe impl PhysMap for LinearMap {
    #[inline]
    fn pointer(&self, frame: FrameNumber) -> NonNull<u8> {
        let address = BASE.wrapping_add(frame.get() << PAGE_SHIFT);
        NonNull::new(ptr::with_exposed_provenance_mut(address)).expect("the base is not zero")
    }

    #[inline]
    fn frame(&self, address: usize) -> FrameNumber {
        FrameNumber::new(address.wrapping_sub(BASE) >> PAGE_SHIFT)
    }
}
