//! A real buddy over memory of this process: address space reserved at once, a page of memory behind it only where
//! somebody who was given the page has written.

use std::io;
use std::ops::Deref;

use buddy::{Buddy, EventCounts, Mode, ZeroedMemory};
use hosted::Mapped;
use page_frame::{Counted, Cpu, DirectMap};

/// The page source: a buddy that counts splits and merges, behind a count of the pages held.
pub type CountedBuddy<C> = Counted<Buddy<'static, DirectMap, C, EventCounts>>;

/// A page source that owns its metadata and its memory.
pub struct Backed<C> {
    // Declared before the memory that it stands in, so dropped first.
    source: CountedBuddy<C>,
    _metadata: Mapped,
    memory: Mapped,
}

impl<C: Cpu> Backed<C> {
    /// Reserves `bytes`, rounded up to whole pages, and makes a buddy of them.
    ///
    /// # Errors
    /// No bytes, or no address space for them and the metadata.
    pub fn new(bytes: usize, cpu: C, mode: Mode) -> io::Result<Self> {
        let memory = Mapped::reserve(bytes)?;
        let ranges = [memory.frames()];
        let layout = Buddy::<DirectMap, C>::metadata_layout(&ranges, cpu.slots());
        let metadata = Mapped::reserve(layout.map_err(io::Error::other)?.size())?;
        let map = memory.direct_map();
        // SAFETY: the mapping is fresh, so zero, page-aligned and nobody else's, and stays as long as the allocator.
        let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
        // SAFETY: the frames are a fresh mapping that nobody else uses, and `map` covers it.
        let buddy = unsafe { Buddy::new_in(zeroed, &ranges, map, cpu, mode) };
        let buddy = buddy.map_err(io::Error::other)?.with_trace(EventCounts::new());
        Ok(Self { source: Counted::new(buddy), _metadata: metadata, memory })
    }

    /// Returns the address of the first page.
    pub fn start_address(&self) -> usize {
        self.memory.start().addr().get()
    }

    /// Returns the buddy below the count.
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
