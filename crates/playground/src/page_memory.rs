//! Pages for the scenes that need memory behind their frames, and the buddy over them.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use buddy::{Buddy, BuildError, Marks, Mode, Pressure, Watermarks, ZeroedMemory};
use page_frame::{Cpu, DirectMap, FrameNumber, FrameRange, PAGE_SIZE};

/// Number of pages of every scene with memory.
pub(crate) const PAGES: usize = 64;

/// The pages, aligned to their size, so that every block is aligned by address too.
#[repr(C, align(262144))]
struct Pages(MaybeUninit<[u8; PAGES * PAGE_SIZE]>);

const _: () = assert!(align_of::<Pages>() == PAGES * PAGE_SIZE);

/// Pages and room for the metadata of a buddy.
pub(crate) struct PageMemory {
    pages: Box<MaybeUninit<Pages>>,
    metadata: Vec<MaybeUninit<u8>>,
}

/// The buddy over the pages, with watermarks.
pub(crate) type PageBuddy<'m, C> = Buddy<'m, DirectMap, C, Watermarks<fn(Pressure)>>;

fn range() -> FrameRange {
    FrameRange::new(FrameNumber::new(0), FrameNumber::new(PAGES))
}

impl PageMemory {
    /// Allocates the pages, and room for a buddy with `slots` CPU slots.
    pub(crate) fn new(slots: usize) -> Self {
        let layout = Buddy::<DirectMap, page_frame::SingleCpu>::metadata_layout(&[range()], slots);
        let bytes = layout.map_or(0, |layout| layout.size() + layout.align());
        Self { pages: Box::new_uninit(), metadata: vec![MaybeUninit::uninit(); bytes] }
    }

    /// Returns the address of the first page.
    pub(crate) fn start_address(&self) -> usize {
        self.pages.as_ptr().addr()
    }

    /// Builds a buddy of the pages, which takes the best block for each request.
    ///
    /// # Errors
    /// When there is no room for its metadata.
    pub(crate) fn buddy<C: Cpu>(&mut self, cpu: C) -> Result<PageBuddy<'_, C>, BuildError> {
        let start = NonNull::from(&mut *self.pages).cast();
        // SAFETY: clause 1: `start` points to all pages, which are frames 0 to `PAGES`.
        let map = unsafe { DirectMap::from_root(start, FrameNumber::new(0)) };
        let metadata = ZeroedMemory::zero(&mut self.metadata);
        // SAFETY: clause 1: the buddy borrows the pages exclusively. Clause 2: `map` covers them.
        let buddy = unsafe { Buddy::new_in(metadata, &[range()], map, cpu, Mode::Plain) }?;
        let ignore: fn(Pressure) = |_| {};
        Ok(buddy.with_trace(Watermarks::new(PAGES, Marks::for_frames(PAGES), ignore)))
    }
}
