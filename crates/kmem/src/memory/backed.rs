//! A buddy allocator over address space of this process. The space is reserved at once; a page gets
//! memory only when it is first written.

use std::io;
use std::ops::Deref;

use buddy::{Buddy, EventCounts, Mode, ZeroedMemory};
use hosted::Mapped;
use page_frame::{Counted, Cpu, DirectMap};

/// The page source: a buddy with counters of splits and merges, inside a counter of the pages held.
pub type CountedBuddy<C> = Counted<Buddy<'static, DirectMap, C, EventCounts>>;

/// A page source that owns its metadata and its memory.
pub struct Backed<C> {
    // Declared before `memory`, so it is dropped before the mapping that it lies in.
    source: CountedBuddy<C>,
    _metadata: Mapped,
    memory: Mapped,
}

impl<C: Cpu> Backed<C> {
    /// Reserves `bytes` bytes, rounded up to whole pages, and builds a buddy over them.
    ///
    /// # Errors
    /// When `bytes` is zero, or when there is no address space for the pages and their metadata.
    pub fn new(bytes: usize, cpu: C, mode: Mode) -> io::Result<Self> {
        let memory = Mapped::reserve(bytes)?;
        let ranges = [memory.frames()];
        let layout = Buddy::<DirectMap, C>::metadata_layout(&ranges, cpu.slots());
        let metadata = Mapped::reserve(layout.map_err(io::Error::other)?.size())?;
        let map = memory.direct_map();
        // SAFETY: the mapping is fresh: it reads as zero, is page-aligned, and belongs to nothing
        // else while the allocator lives.
        let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
        // SAFETY: the frames are a fresh mapping that has no other user, and `map` covers it.
        let buddy = unsafe { Buddy::new_in(zeroed, &ranges, map, cpu, mode) };
        let buddy = buddy.map_err(io::Error::other)?.with_trace(EventCounts::new());
        Ok(Self { source: Counted::new(buddy), _metadata: metadata, memory })
    }

    /// Returns the address of the first page.
    pub fn start_address(&self) -> usize {
        self.memory.start().addr().get()
    }

    /// Returns the buddy allocator inside the counter.
    pub fn buddy(&self) -> &Buddy<'static, DirectMap, C, EventCounts> {
        self.source.source()
    }
}

impl<C> Deref for Backed<C> {
    type Target = CountedBuddy<C>;

    fn deref(&self) -> &Self::Target {
        &self.source
    }
}
