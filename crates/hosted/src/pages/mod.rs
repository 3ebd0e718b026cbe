//! The pages of this process: a buddy allocator over address space that is reserved once and backed
//! on demand.
//!
//! # Concepts
//! - The **space** is the address space for all pages: 1 TiB if the system has it, otherwise less.
//!   Its parts are mapped when they are first used. The page map covers all of it, so that one
//!   comparison shows whether an address belongs to it.
//! - The buddy begins with 63 MiB of the space, and gets a **section** (1 GiB) each time it runs
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
mod make_room;
mod purge;
pub(crate) mod purger;
mod runs;

use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;

use buddy::{Buddy, ZeroedMemory};
use page_frame::sync::Lock;
use page_frame::{
    DirectMap, ForwardPageMap, FrameNumber, FrameRange, Frozen, Order, OutOfMemory, PageBlock,
    PageMap, PageSource,
};

use crate::frame_set::FrameSet;
use crate::purge::decay::Decay;
use crate::purge::trim::{Trim, TrimRounds};
use crate::space::Space;
use crate::space::sections::SECTION_ORDER;
use crate::system::os_error::OsError;
use crate::thp::scan::Thp;
use crate::threads::fork_lock::Inside;
use crate::threads::tls;
use crate::threads::{Threads, id_of};

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
    pub(crate) committed: FrameSet,
    pub(crate) decay: Decay,
    pub(crate) trim_rounds: TrimRounds,
    /// Makes the caches over these pages release memory.
    trim_hook: fn(Trim),
    pub(crate) thp: Thp,
    /// Held by the thread that purges or scans.
    pub(crate) maintenance: Lock<()>,
    /// How many open pages were free when no free unit was found, see `make_room.rs`; or zero.
    scattered: AtomicUsize,
    /// The space and the metadata: the last field, as the others refer to its memory.
    pub(crate) space: Space,
}

// SAFETY: clause 1: the buddy fulfils it, over frames of our space, which are opened before a
// caller gets them. Clause 2: the buddy fulfils it. Only the trim hook can unwind: before an
// allocation, and after a free.
unsafe impl PageSource for Pages {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        // First: a hook that panics here loses no block.
        self.decay_if_due(order.pages());
        let _inside = Inside::enter();
        let (start, order) = loop {
            let (start, order) = match self.buddy.allocate(order) {
                Err(_) if order <= SECTION_ORDER && self.grow() => continue,
                outcome => outcome?.into_raw(),
            };
            match make_room::open_block(self, frames_of(start, order.pages())) {
                Ok(()) => break (start, order),
                // The block stays allocated, so that the buddy returns another one.
                Err(OsError::EXISTS) => continue,
                Err(_) => {
                    // SAFETY: start and order of the buddy's block. Its content is not used.
                    let block = unsafe { PageBlock::from_raw(start, order, false) };
                    // SAFETY: the clauses of `PageSource::free`: the block came from the buddy.
                    unsafe { self.buddy.free(block) };
                    return Err(OutOfMemory);
                }
            }
        };
        let is_zero = self.commit(frames_of(start, order.pages())) == 0;
        self.thp.note_block(0, order.pages());
        // SAFETY: clauses 1 and 2 of `from_raw`: start and order of the buddy's block. Clause 3:
        // I1.
        Ok(unsafe { PageBlock::from_raw(start, order, is_zero) })
    }

    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        let (inside, pages) = (Inside::enter(), block.pages());
        self.note_freed(frames_of(block.start(), pages));
        self.thp.note_block(pages, 0);
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
            let layout = self.space.layout();
            let (metadata, bytes) =
                (self.space.at(layout.later_section(number)), Frames::section_layout().size());
            // SAFETY: `Space::grow` has mapped this memory, and fresh mappings are zero. It is
            // aligned to a page. It is used once, because each number has its own part and a failed
            // `add_section` writes nothing.
            let metadata = unsafe { ZeroedMemory::from_zeroed(metadata, bytes) };
            // SAFETY: clause 1 of `add_section`: the frames are a free section of our space.
            // `Space::open` maps them before a caller gets them.
            unsafe { self.buddy.add_section(metadata, range) }.is_ok()
        })
    }

    /// Counts `range` as allocated and committed. Returns how many of its pages were committed
    /// before: if none, it reads as zero (I1).
    #[inline]
    fn commit(&self, range: FrameRange) -> usize {
        let committed = self.committed.insert(range);
        self.decay.note_allocated(range.frames(), committed);
        self.scan_after(range.frames());
        committed
    }

    /// Counts `range`, which is about to be freed, as idle.
    #[inline]
    fn note_freed(&self, range: FrameRange) {
        self.decay.note_freed(self.committed.count(range));
    }

    /// Keeps all other threads out of the buddy's per-CPU slots while the guard lives, see
    /// [`Forking`](crate::Forking).
    pub(crate) fn freeze_slots(&self) -> Frozen<'_> {
        self.buddy.freeze_slots(tls::number().map(|number| id_of(number as u32)))
    }
}

fn frames_of(start: NonNull<u8>, pages: usize) -> FrameRange {
    let first = FrameNumber::containing(start.addr().get());
    FrameRange::new(first, FrameNumber::new(first.get() + pages))
}
