//! The pages of this process: a buddy allocator over address space that is reserved once and backed
//! on demand.
//!
//! # Concepts
//! - The **space** is the address space for all pages: 1 TiB if the system grants it, otherwise
//!   less. It has no memory until it is used. The page map covers all of it, so that one comparison
//!   shows whether an address belongs to it.
//! - The buddy begins with one **section** of the space (1 GiB) and gets the next one when it runs
//!   out. A run of more than half a section is a **multi-section run**: it takes whole sections of
//!   its own, from the end of the space.
//! - A frame is **committed** from its first allocation until it is purged. A block without a
//!   committed frame reads as zero.
//! - Free pages are purged when they have been idle for a while (`purge`). An allocation
//!   occasionally scans for huge pages (`thp`).
//!
//! # Concurrency
//! Allocating and freeing are as concurrent as the buddy. The table of sections has a lock. Purges
//! and scans exclude each other by the maintenance lock; if it is taken, they do nothing. Every
//! call enters the fork lock, so that a forked child finds no operation half done.
//!
//! # Invariants
//! - I1: a frame that is not committed reads as zero. So no code outside this folder may free
//!   frames to the buddy.

mod build;
pub(crate) mod forking;
mod maintenance;
mod purge;
pub(crate) mod purger;
mod runs;

use core::ptr::NonNull;

use buddy::{Buddy, ZeroedMemory};
use page_frame::sync::Lock;
use page_frame::{
    CpuId, DirectMap, ForwardPageMap, FrameNumber, FrameRange, Frozen, Order, OutOfMemory,
    PageBlock, PageMap, PageSource,
};

use crate::fork_lock::Inside;
use crate::frame_set::FrameSet;
use crate::purge::decay::Decay;
use crate::purge::trim::{Trim, TrimRounds};
use crate::space::Space;
use crate::space::mapping::Mapped;
use crate::thp::scan::Thp;
use crate::threads::Threads;
use crate::tls;

type Frames = Buddy<'static, DirectMap, Threads>;

/// The pages of this process, for caches and for memory of any size.
///
/// Dropping it unmaps everything.
///
/// ```
/// use hosted::Pages;
/// use page_frame::{Order, PageSource};
/// let pages = Pages::new()?;
/// assert!(pages.space_bytes() >= 16 << 20); // address space, without memory
/// let block = pages.allocate(Order::new(9).unwrap())?; // 2 MiB
/// assert!(block.is_zero()); // fresh from the system
/// // SAFETY: ours, and not used any more.
/// unsafe { pages.free(block) };
/// println!("{} free pages have memory", pages.idle_pages());
/// pages.purge(0);
/// assert_eq!(pages.idle_pages(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pages {
    /// Private by I1.
    buddy: Frames,
    /// The frames that may be backed by memory.
    committed: FrameSet,
    pub(crate) decay: Decay,
    pub(crate) trim_rounds: TrimRounds,
    /// Makes the caches over these pages release memory.
    trim_hook: fn(Trim),
    pub(crate) thp: Thp,
    /// Held by the thread that purges or scans.
    pub(crate) maintenance: Lock<()>,
    /// The metadata of the buddy and of the sets, and at its end of the sections that the buddy
    /// may get later.
    pub(crate) metadata: Mapped,
    pub(crate) space: Space,
}

// SAFETY: clause 1: the buddy fulfils it, over frames of our mapping that were opened before it got
// them. Clause 2: the buddy fulfils it. Only the trim hook can unwind: before an allocation, and
// after a free.
unsafe impl PageSource for Pages {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        // First: a hook that panics here loses no block.
        self.decay_if_due(order.pages());
        let _inside = Inside::enter();
        let block = loop {
            match self.buddy.allocate(order) {
                Err(_) if self.grow() => {}
                outcome => break outcome?,
            }
        };
        let (start, order) = block.into_raw();
        let is_zero = self.commit(frames_of(start, order.pages()));
        // SAFETY: clauses 1 and 2 of `from_raw`: start and order of the buddy's block. Clause 3:
        // I1.
        Ok(unsafe { PageBlock::from_raw(start, order, is_zero) })
    }

    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        let (inside, pages) = (Inside::enter(), block.pages());
        self.note_freed(frames_of(block.start(), pages));
        // SAFETY: the clauses of `PageSource::free`: the block came from the buddy.
        unsafe { self.buddy.free(block) };
        drop(inside);
        self.decay_if_due(pages);
    }
}

// SAFETY: clause 1: always the map of the field `buddy`, which lives as long as this value.
unsafe impl ForwardPageMap for Pages {
    #[inline(always)]
    fn page_map(&self) -> &impl PageMap {
        &self.buddy
    }
}

impl Pages {
    /// Adds the next section to the buddy. Returns whether that succeeded.
    #[cold]
    fn grow(&self) -> bool {
        self.space.grow(|number, range| {
            let bytes = Frames::section_layout().size();
            let offset = self.metadata.bytes() - later_sections_bytes(&self.space);
            let offset = (offset + (number - 1) * bytes).next_multiple_of(64);
            // SAFETY: within the mapping, whose end has room for each section but the first.
            let metadata = unsafe { self.metadata.start().add(offset) };
            // SAFETY: zero, aligned to 64, and used once: each number has its own part, and a
            // failed `add_section` writes nothing.
            let metadata = unsafe { ZeroedMemory::from_zeroed(metadata, bytes) };
            // SAFETY: clause 1 of `add_section`: the frames are free parts of our space, which
            // `Space::grow` has opened.
            unsafe { self.buddy.add_section(metadata, range) }.is_ok()
        })
    }

    /// Counts `range` as allocated and committed. Returns whether none of it was committed before,
    /// so that it reads as zero (I1).
    #[inline]
    fn commit(&self, range: FrameRange) -> bool {
        let committed = self.committed.insert(range);
        self.decay.note_allocated(range.frames(), committed);
        self.scan_after(range.frames());
        committed == 0
    }

    /// Counts `range`, which is about to be freed, as idle.
    #[inline]
    fn note_freed(&self, range: FrameRange) {
        self.decay.note_freed(self.committed.count(range));
    }

    /// Keeps all other threads out of the buddy's per-CPU slots while the guard lives, see
    /// [`Forking`](crate::Forking).
    pub(crate) fn freeze_slots(&self) -> Frozen<'_> {
        self.buddy.freeze_slots(tls::number().map(|number| CpuId::new(number as u32)))
    }
}

/// Returns the bytes of metadata for all sections that the buddy may get later.
fn later_sections_bytes(space: &Space) -> usize {
    let layout = Frames::section_layout();
    space.sections().later() * layout.size() + layout.align()
}

fn frames_of(start: NonNull<u8>, pages: usize) -> FrameRange {
    let first = FrameNumber::containing(start.addr().get());
    FrameRange::new(first, FrameNumber::new(first.get() + pages))
}
