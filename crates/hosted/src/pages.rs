//! Pages of this process: a buddy over address space that is reserved once, grows by sections, and is given back.
//!
//! # Concepts
//! - **Space**: address space for all pages that there will ever be, 1 TiB where the system agrees and less where it does
//!   not. It costs nothing; the page map covers all of it, so that one comparison tells what is ours.
//! - The buddy begins with one section of it (1 GiB) and gets the next one when it runs out.
//! - **Span**: a run of more than half a section takes whole sections of its own, from the end of the space.
//! - Freed pages keep their memory until there is more of it than a bound; the free that finds that gives it back to the system
//!   (`giving.rs`). So a program that sleeps is small.
//!
//! # Concurrency
//! The buddy's. Sections come and go under a lock; giving back is done by one thread at a time, on blocks that it has taken
//! like any other allocation. Every call is inside the gate, so that a fork finds nothing half done.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize};

use buddy::{Buddy, Mode, ZeroedMemory};
use page_frame::sync::Lock;
use page_frame::{
    Cpu, CpuId, DirectMap, FrameNumber, FrameRange, Frozen, Order, OutOfMemory, PAGE_SHIFT,
    PAGE_SIZE, PageBlock, PageMap, PageResize, PageRun, PageSource, Tag,
};
use rustix::process::{Resource, getrlimit};

use crate::falls::Falls;
use crate::giving::LEAST_BOUND;
use crate::huge::Looks;
use crate::spans::{SECTION_FRAMES, Sections};
use crate::touched::Touched;
use crate::{Mapped, OsError, THREAD_SLOTS, Threads, gate, huge, threads};

/// The most address space, and the least that is tried.
const MOST_BYTES: usize = 1 << 40;
const LEAST_BYTES: usize = 16 << 20;
/// Runs of more pages than this are spans.
const LARGEST_IN_BUDDY: usize = SECTION_FRAMES / 2;
type Frames = Buddy<'static, DirectMap, Threads>;

/// Pages of this process, for caches and for memory of any size.
///
/// Dropping it unmaps everything.
///
/// ```
/// use hosted::Pages;
/// use page_frame::{Order, PageSource};
/// let pages = Pages::new()?;
/// let block = pages.allocate(Order::ZERO)?;
/// assert!(block.is_zero()); // fresh from the system
/// // SAFETY: ours, and not used any more.
/// unsafe { pages.free(block) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pages {
    /// Nobody outside reaches it: a block that was used and freed behind the back of `touched` would be handed out as zero later.
    pub(crate) buddy: Frames,
    pub(crate) touched: Touched,
    pub(crate) looks: Looks,
    pub(crate) falls: Falls,
    pub(crate) sections: Lock<Sections>,
    /// Pages that are free and touched; below zero for a moment when counts cross.
    pub(crate) idle: AtomicIsize,
    pub(crate) bound: AtomicUsize,
    /// How many idle pages there have to be before memory is given back again.
    pub(crate) next_at: AtomicUsize,
    pub(crate) is_giving: AtomicBool,
    /// Pages given back last time, and pages touched since.
    pub(crate) given: AtomicUsize,
    pub(crate) in_use: AtomicUsize,
    /// The fewest idle pages there were in this interval, and whether any page was handed out in it.
    pub(crate) least_idle: AtomicUsize,
    pub(crate) is_active: AtomicBool,
    pub(crate) retouched: AtomicUsize,
    pub(crate) gives_back: bool,
    pub(crate) metadata: Mapped,
    pub(crate) space: Mapped,
}

impl Pages {
    /// Reserves address space and builds the allocator in it. A handful of system calls; allocates nothing.
    ///
    /// # Errors
    /// The system's, when there is not even address space for 16 MiB.
    pub fn new() -> Result<Self, OsError> {
        let mut bytes = MOST_BYTES;
        if let Some(limit) = getrlimit(Resource::As).current {
            // A quarter: the program wants some too, and the page map lies beside.
            bytes = bytes.min((limit as usize / 4).max(LEAST_BYTES));
            bytes = 1 << bytes.ilog2();
        }
        loop {
            match Self::with_space(bytes) {
                Err(error) if bytes <= LEAST_BYTES => return Err(error),
                Err(_) => bytes /= 2,
                Ok(pages) => return Ok(pages),
            }
        }
    }

    /// Builds the allocator in `bytes` bytes of address space, a power of two, at least a page.
    ///
    /// # Errors
    /// The system's, or `EINVAL` for other sizes: areas and sections are aligned parts of the space.
    pub fn with_space(bytes: usize) -> Result<Self, OsError> {
        if !bytes.is_power_of_two() || bytes < PAGE_SIZE {
            return Err(OsError::INVALID);
        }
        let space = Mapped::reserve_closed(bytes)?;
        let all = space.frames();
        let sections = Sections::new(all);
        let first = sections.first();
        let invalid = |_| OsError::INVALID;
        let layout = Frames::metadata_layout_with_room(&[first], all, THREAD_SLOTS);
        let buddy_bytes = layout.map_err(invalid)?.size().next_multiple_of(64);
        // One mapping for all of it: the buddy's first, the bits, and at the end what later sections need.
        let areas = huge::numbers(all);
        let (frame_bits, area_bits) = (Touched::bytes(all), Touched::bytes(areas));
        let bits_bytes = frame_bits + 2 * area_bits;
        let metadata = Mapped::reserve(buddy_bytes + bits_bytes + sections.metadata_bytes())?;
        let bits = |offset: usize, of: FrameRange| {
            // SAFETY: within the mapping.
            let memory = unsafe { metadata.start().add(buddy_bytes + offset) };
            // SAFETY: fresh, so zero, and a part for each, of so many bytes; dropped with the mapping.
            unsafe { Touched::new_in(memory, of) }
        };
        let (touched, dense) = (bits(0, all), bits(frame_bits, areas));
        let huge = bits(frame_bits + area_bits, areas);
        space.leave_out_of_dumps();
        metadata.leave_out_of_dumps();
        metadata.keep_small();
        space.open(first)?;
        let (start, map) = (metadata.start(), space.direct_map());
        let ranges = [first];
        // SAFETY: the mapping is fresh, so zero and ours, and lives as long as the buddy: it is dropped with it.
        let zeroed = unsafe { ZeroedMemory::from_zeroed(start, buddy_bytes) };
        // SAFETY: the space is fresh, so nobody else's, and dropped with the buddy; `map` covers it, and `first` is open.
        let buddy =
            unsafe { Frames::new_with_room(zeroed, &ranges, all, map, Threads, Mode::Cached) };
        Ok(Self {
            buddy: buddy.map_err(invalid)?,
            touched,
            looks: Looks::new(dense, huge),
            falls: Falls::new(),
            sections: Lock::new(sections),
            idle: AtomicIsize::new(0),
            bound: AtomicUsize::new(LEAST_BOUND),
            next_at: AtomicUsize::new(LEAST_BOUND),
            is_giving: AtomicBool::new(false),
            given: AtomicUsize::new(0),
            in_use: AtomicUsize::new(0),
            least_idle: AtomicUsize::new(0),
            is_active: AtomicBool::new(false),
            retouched: AtomicUsize::new(0),
            gives_back: true,
            metadata,
            space,
        })
    }

    /// Calls `hook` when a program uses less and less: each time when a sixth of the pages that were in use has come back, and
    /// 1 MiB at least. It is meant to have the caches above give what they keep at hand, each object of which may hold a page.
    ///
    /// It is called by a free, with nothing held, and may free pages and allocate.
    pub fn with_fall_hook(mut self, hook: fn()) -> Self {
        self.falls.hook = hook;
        self
    }

    /// Keeps freed memory for the process instead of giving it back, unless [`give_back`](Self::give_back) is called.
    pub fn keeping(mut self) -> Self {
        self.gives_back = false;
        self
    }

    /// Returns the bytes of address space.
    pub const fn space_bytes(&self) -> usize {
        self.space.bytes()
    }

    /// Adds the next section to the buddy; whether there was one.
    #[cold]
    fn grow(&self) -> bool {
        self.locked(|sections| {
            let Some((number, range)) = sections.take_lowest() else { return false };
            let bytes = Frames::section_layout().size();
            let offset = self.metadata.bytes() - sections.metadata_bytes() + (number - 1) * bytes;
            // SAFETY: behind the buddy's own metadata, where there is room for each section but the first.
            let metadata = unsafe { self.metadata.start().add(offset.next_multiple_of(64)) };
            let opened = self.space.open(range).is_ok();
            // SAFETY: zero, aligned to 64 and nobody else's, once for each number, as nothing is written when adding fails.
            let metadata = unsafe { ZeroedMemory::from_zeroed(metadata, bytes) };
            // SAFETY: clause 1: the frames are free address space of ours, and open.
            let added = opened && unsafe { self.buddy.add_section(metadata, range) }.is_ok();
            if !added {
                sections.put_back(number..number + 1);
            }
            added
        })
    }

    /// Changes the table of sections. Anybody waits who is not on top of somebody that is doing so.
    pub(crate) fn locked<R>(&self, change: impl FnOnce(&mut Sections) -> R) -> R {
        let mut round = 0;
        loop {
            if let Some(mut sections) = self.sections.try_lock() {
                return change(&mut sections);
            }
            Threads.wait(round);
            round += 1;
        }
    }

    fn allocate_span(&self, pages: usize) -> Result<PageRun, OutOfMemory> {
        let range = self.locked(|sections| {
            let (numbers, range) = sections.take_highest(pages.div_ceil(SECTION_FRAMES))?;
            if self.space.open(range).is_err() {
                sections.put_back(numbers);
                return None;
            }
            Some(range)
        });
        let start = self.pointer(range.ok_or(OutOfMemory)?.start.get() << PAGE_SHIFT);
        // SAFETY: ours, and in the map, which covers all of the space.
        unsafe { self.buddy.set_run(start, pages) };
        Ok(PageRun::new(start, pages, true))
    }

    /// # Safety
    /// 1. As for `free_run`, and the run is a span.
    unsafe fn free_span(&self, start: NonNull<u8>, pages: usize) {
        let range = frames_of(start, pages);
        // SAFETY: clause 1: nobody needs the content.
        let closed = unsafe { self.space.close(range) };
        // SAFETY: clause 1: the head is ours.
        unsafe { self.buddy.set_owner(start, 1, Tag::NONE, NonNull::dangling()) };
        if closed.is_ok() {
            self.locked(|sections| sections.put_back_frames(range));
        }
    }

    /// Whether the run at `start` is a span.
    fn is_span(&self, start: NonNull<u8>) -> bool {
        self.locked(|sections| sections.is_span(FrameNumber::containing(start.addr().get())))
    }

    /// Keeps all threads out of this allocator's slots while the guard lives, see [`fork`](crate::fork).
    pub(crate) fn freeze(&self) -> Frozen<'_> {
        self.buddy.freeze_slots(threads::numbered().map(|number| CpuId::new(number as u32)))
    }
}

/// A stay inside the gate.
pub(crate) struct Inside(usize);

impl Inside {
    #[inline]
    pub(crate) fn new() -> Self {
        Self(gate::enter(threads::numbered()))
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        gate::leave(self.0);
    }
}

fn frames_of(start: NonNull<u8>, pages: usize) -> FrameRange {
    let first = FrameNumber::containing(start.addr().get());
    FrameRange::new(first, FrameNumber::new(first.get() + pages))
}

// SAFETY: clause 1: blocks are the buddy's, of frames of a mapping of ours that was opened before they were added. Clause
// 2: the buddy's.
unsafe impl PageSource for Pages {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        let _inside = Inside::new();
        let block = loop {
            match self.buddy.allocate(order) {
                Err(_) if self.grow() => {}
                outcome => break outcome?,
            }
        };
        let (start, order) = block.into_raw();
        let is_fresh = self.hand_out(frames_of(start, order.pages()));
        // SAFETY: the parts of the buddy's block.
        Ok(unsafe { PageBlock::from_raw(start, order, is_fresh) })
    }

    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        let inside = Inside::new();
        self.take_in(frames_of(block.start(), block.order().pages()));
        // SAFETY: the caller's clauses: the block came from the buddy.
        unsafe { self.buddy.free(block) };
        self.settle();
        drop(inside);
        self.note_fall();
    }
}

// SAFETY: clause 1: always the map of the field, which lives as long as this value.
unsafe impl page_frame::ForwardPageMap for Pages {
    #[inline(always)]
    fn page_map(&self) -> &impl page_frame::PageMap {
        &self.buddy
    }
}

// SAFETY: clause 1 as above; spans are sections of the mapping that nobody else has. Clause 2: `set_run` at each change.
unsafe impl PageResize for Pages {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        let _inside = Inside::new();
        if pages > LARGEST_IN_BUDDY && self.locked(|sections| sections.has_spans()) {
            return self.allocate_span(pages);
        }
        let run = loop {
            match self.buddy.allocate_run(pages, alignment) {
                Err(_) if pages <= Order::MAX.pages() && self.grow() => {}
                outcome => break outcome?,
            }
        };
        let is_zero = self.hand_out(frames_of(run.start(), run.pages()));
        Ok(PageRun::new(run.start(), run.pages(), is_zero))
    }

    #[track_caller]
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        let inside = Inside::new();
        if pages > LARGEST_IN_BUDDY && self.is_span(start) {
            // SAFETY: the caller's run, which began as a span or in one.
            unsafe { self.free_span(start, pages) };
            return;
        }
        self.take_in(frames_of(start, pages));
        // SAFETY: the caller's clauses: the run came from the buddy.
        unsafe { self.buddy.free_run(start, pages) };
        self.settle();
        drop(inside);
        self.note_fall();
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        let _inside = Inside::new();
        if new_pages == 0 {
            return false;
        }
        if pages > LARGEST_IN_BUDDY && self.is_span(start) {
            // Within the sections that it has, and still a span.
            let room = pages.next_multiple_of(SECTION_FRAMES);
            let stays = new_pages.div_ceil(SECTION_FRAMES) == pages.div_ceil(SECTION_FRAMES);
            if !stays || new_pages <= LARGEST_IN_BUDDY || new_pages > room {
                return false;
            }
            if new_pages < pages {
                let tail = self.pointer(start.addr().get() + (new_pages << PAGE_SHIFT));
                // SAFETY: the caller's clause 2: nobody uses the tail, which is in the run.
                let _ = unsafe { self.space.give_back(tail, (pages - new_pages) << PAGE_SHIFT) };
            }
            // SAFETY: the caller's clause 1.
            unsafe { self.buddy.set_run(start, new_pages) };
            return true;
        }
        if new_pages > LARGEST_IN_BUDDY {
            return false;
        }
        let all = frames_of(start, pages.max(new_pages));
        let changed =
            FrameRange::new(FrameNumber::new(all.start.get() + pages.min(new_pages)), all.end);
        if new_pages < pages {
            self.take_in(changed);
        }
        // SAFETY: the caller's run, of so many pages.
        let resized = unsafe { self.buddy.resize_run(start, pages, new_pages) };
        match (resized, new_pages > pages) {
            (true, true) => _ = self.hand_out(changed),
            (true, false) => self.settle(),
            (false, false) => _ = self.hand_out(changed),
            (false, true) => {}
        }
        resized
    }

    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        let _inside = Inside::new();
        // SAFETY: the caller's clauses: both are whole pages of the space that are his.
        let moved = unsafe { self.space.move_content(from, to, pages << PAGE_SHIFT) };
        if moved {
            // What was behind `from` is now behind `to`, and what was there is gone.
            self.touched.clear(frames_of(from, pages));
        }
        moved
    }
}
