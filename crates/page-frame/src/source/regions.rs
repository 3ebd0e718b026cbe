//! `Regions`: a page source over any number of memory regions, which may be added at any time.
//!
//! # Concepts
//! Each region has an [`Arena`] at its start, whose page map and bits cover that region only. So
//! metadata is in proportion to the memory that is there, and two regions may lie in one GiB, touch
//! each other, or be far apart. Blocks and runs do not cross regions. The arenas form a list in the
//! order of addition; requests take from the first one that has room.
//!
//! # Invariants
//! - I1: the list only grows at its end, and its arenas stay where they are while the value lives.
//!
//! # Concurrency
//! `AppendList` describes how a region is added. Arenas are used with the caller pinned and
//! interrupts masked, so that an interrupt handler never finds the lock of an arena held by the
//! code that it interrupted.
//!
//! # Costs
//! A look-up by address is O(regions); [`tag_range`](PageMap::tag_range) is the range of the first
//! region, so add the largest region first.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use crate::block::PageBlock;
use crate::error::OutOfMemory;
use crate::fault::{Fault, FaultKind, panic_on_fault};
use crate::order::Order;
use crate::page_map::map::{PageMap, TagRange};
use crate::page_map::tag::Tag;
use crate::percpu::cpu::{Cpu, InterruptState};
use crate::source::arena::{Arena, TooSmall};
use crate::source::byte_source::ByteSource;
use crate::source::page_source::PageSource;
use crate::source::run::{PageResize, PageRun};
use crate::sync::append_list::{AppendList, AppendNode};
use crate::sync::model::const_unless_loom;
use crate::violation::Violation;

/// A page source over any number of memory regions. Regions may be added at any time, from every
/// CPU and from interrupts.
///
/// ```
/// use page_frame::{Order, PAGE_SIZE, PageMap, PageResize, PageSource, Regions, SingleCpu, Tag};
/// use std::{mem::MaybeUninit, ptr::NonNull};
/// let mut memory = [(); 2].map(|()| vec![MaybeUninit::<u8>::uninit(); 64 * 1024]);
/// let [first, second] = &mut memory;
/// let regions = Regions::new(SingleCpu::new());
/// assert!(regions.allocate(Order::ZERO).is_err()); // no region yet
/// // SAFETY: the vector outlives `regions`, and no other code uses it.
/// let pages = unsafe { regions.add(NonNull::from(&mut first[..]).cast(), 64 * 1024) }?;
/// assert!(pages >= 14 && regions.pages() == pages); // of 16, as the metadata is in the region
/// let run = regions.allocate_run(pages, Order::ZERO)?; // all of it
/// // SAFETY: as above.
/// unsafe { regions.add(NonNull::from(&mut second[..]).cast(), 64 * 1024) }?;
/// let block = regions.allocate(Order::new(1).unwrap())?;
/// assert_eq!(regions.tag(block.start().addr().get()), Tag::block(block.order()));
/// assert_eq!(regions.free_pages(), regions.pages() - pages - 2);
/// assert!(regions.free_bytes() >= 12 * PAGE_SIZE && regions.bytes() > 28 * PAGE_SIZE);
/// // SAFETY: the run came from `regions`, and nothing refers into it.
/// unsafe { regions.free_run(run.start(), run.pages()) };
/// // SAFETY: so did the block.
/// unsafe { regions.free(block) };
/// regions.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Regions<C> {
    arenas: AppendList<Arena<'static>>,
    cpu: C,
}

/// A region, at the start of its memory.
type Region = AppendNode<Arena<'static>>;

impl<C> Regions<C> {
    const_unless_loom! {
        /// Makes a page source without memory. `cpu` pins callers and masks interrupts.
        /// Example: see [`Regions`].
        pub fn new(cpu: C) -> Self {
            Self { arenas: AppendList::new(), cpu }
        }
    }

    /// Returns the arena that `address` lies in.
    #[inline]
    fn at(&self, address: usize) -> Option<&Arena<'static>> {
        self.arenas.iter().find(|arena| arena.contains(address))
    }

    /// Returns the arena that has the byte at `address`, be it in a whole page or not.
    fn with_byte(&self, address: usize) -> Option<&Arena<'static>> {
        self.arenas.iter().find(|arena| arena.has_byte(address))
    }

    /// Returns the number of pages of all regions. O(regions). Example: see [`Regions`].
    pub fn pages(&self) -> usize {
        self.arenas.iter().map(Arena::pages).sum()
    }

    /// Returns the size of all regions in bytes, as [`Arena::bytes`] does. O(regions).
    /// Example: see [`Regions`].
    pub fn bytes(&self) -> usize {
        self.arenas.iter().map(Arena::bytes).sum()
    }
}

impl<C: Cpu> Regions<C> {
    /// Adds the `bytes` bytes at `start`; returns how many pages that adds. Writes the metadata at
    /// the start of the region, about ten bytes per page. O(pages). Example: see [`Regions`].
    ///
    /// # Errors
    /// [`TooSmall`] when not even the bytes of one page fit beside the metadata. The memory is not
    /// used then.
    ///
    /// # Safety
    /// 1. The memory is valid for reads and writes while this value lives, also if it is moved, and
    ///    no other code uses it.
    pub unsafe fn add(&self, start: NonNull<u8>, bytes: usize) -> Result<usize, TooSmall> {
        // SAFETY: clause 1.
        unsafe { self.add_region(start, bytes) }.map(|(pages, _)| pages)
    }

    /// Adds a region as [`add`](Self::add) does; returns how many pages and how many bytes that
    /// adds, as [`pages`](Self::pages) and [`bytes`](Self::bytes) count them.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    ///
    /// # Safety
    /// 1. As for [`add`](Self::add).
    #[doc(hidden)]
    pub unsafe fn add_region(
        &self,
        start: NonNull<u8>,
        bytes: usize,
    ) -> Result<(usize, usize), TooSmall> {
        /// The most bytes before the arena.
        const OWN: usize = size_of::<Region>() + align_of::<Region>();
        let skip = start.align_offset(align_of::<Region>());
        let Some(rest) = bytes.checked_sub(skip.saturating_add(size_of::<Region>())) else {
            return Err(TooSmall { needed: Arena::NEEDED + OWN, given: bytes });
        };
        // SAFETY: clause 1: `rest` says that the skipped bytes and a region are in the memory.
        let place = unsafe { start.add(skip) };
        // SAFETY: clause 1: as above.
        let behind = unsafe { place.add(size_of::<Region>()) };
        // SAFETY: clause 1: `rest` bytes follow the region.
        let arena = unsafe { Arena::from_raw(behind, rest) };
        let too_small = |error: TooSmall| TooSmall { needed: error.needed + OWN, given: bytes };
        let arena = arena.map_err(too_small)?;
        let added = (arena.pages(), arena.bytes());
        // SAFETY: clause 1: inside the memory and aligned by `skip`; the arena begins behind it.
        unsafe { self.arenas.append(place.cast(), arena) };
        Ok(added)
    }

    /// Returns the number of free pages of all regions. Takes the lock of each in turn.
    /// Example: see [`Regions`].
    pub fn free_pages(&self) -> usize {
        self.arenas.iter().map(|arena| self.masked(|| arena.free_pages())).sum()
    }

    /// Returns the number of free bytes of all regions, as [`Arena::free_bytes`] does. Takes the
    /// lock of each in turn. Example: see [`Regions`].
    pub fn free_bytes(&self) -> usize {
        self.arenas.iter().map(|arena| self.masked(|| arena.free_bytes())).sum()
    }

    /// Checks the invariants of each region, as [`Arena::validate`] does. Example: see [`Regions`].
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Violation> {
        self.arenas.iter().try_for_each(|arena| self.masked(|| arena.validate()))
    }

    /// Calls `use_arena` with the caller pinned and interrupts masked.
    fn masked<R>(&self, use_arena: impl FnOnce() -> R) -> R {
        let _masked = Masked::new(&self.cpu);
        use_arena()
    }

    /// Allocates by `allocate` from the first region in which it succeeds.
    fn allocate_by<R>(
        &self,
        allocate: impl Fn(&Arena<'static>) -> Result<R, OutOfMemory>,
    ) -> Result<R, OutOfMemory> {
        let from = |arena: &Arena<'static>| self.masked(|| allocate(arena).ok());
        self.arenas.iter().find_map(from).ok_or(OutOfMemory)
    }

    /// Returns the arena of an address that the caller frees or resizes.
    ///
    /// # Panics
    /// With the fault when no region has the address.
    #[track_caller]
    fn owner_of(&self, start: NonNull<u8>) -> &Arena<'static> {
        let address = start.addr().get();
        // No closure, as the fault names the caller.
        let Some(arena) = self.at(address) else {
            panic_on_fault(&Fault::at_address(FaultKind::ForeignPointer, address));
            unreachable!("`panic_on_fault` panics")
        };
        arena
    }
}

// SAFETY: clauses 1 and 2: the small arenas allocate and free all bytes, each of its own region.
unsafe impl<C: Cpu> ByteSource for Regions<C> {
    /// Returns whether all regions are small arenas, together not larger than one.
    fn is_small(&self) -> bool {
        let mut rest = Some(Arena::SMALL_BYTES);
        self.arenas.iter().all(|arena| {
            rest = rest.and_then(|rest| rest.checked_sub(arena.bytes()));
            rest.is_some() && arena.serves_bytes
        })
    }

    fn allocate_bytes(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        self.allocate_by(|arena| arena.allocate_bytes(layout))
    }

    unsafe fn free_at(&self, start: NonNull<u8>) -> Result<(), FaultKind> {
        let arena = self.with_byte(start.addr().get()).ok_or(FaultKind::ForeignPointer)?;
        // SAFETY: clauses 1 and 2 are the caller's.
        self.masked(|| unsafe { arena.free_at(start) })
    }

    fn bytes_at(&self, address: usize) -> Result<usize, FaultKind> {
        let arena = self.with_byte(address).ok_or(FaultKind::ForeignPointer)?;
        self.masked(|| arena.bytes_at(address))
    }

    unsafe fn resize_at(&self, start: NonNull<u8>, bytes: usize) -> bool {
        self.with_byte(start.addr().get()).is_some_and(|arena| {
            // SAFETY: clauses 1 and 2 are the caller's.
            self.masked(|| unsafe { arena.resize_at(start, bytes) })
        })
    }

    fn byte_pages(&self) -> usize {
        self.arenas.iter().map(|arena| self.masked(|| arena.byte_pages())).sum()
    }
}

/// A pinned caller with interrupts masked, until the value is dropped.
struct Masked<'c, C: Cpu> {
    cpu: &'c C,
    is_pinned: bool,
    state: InterruptState,
}

impl<'c, C: Cpu> Masked<'c, C> {
    fn new(cpu: &'c C) -> Self {
        let is_pinned = cpu.pin().is_some();
        Self { cpu, is_pinned, state: cpu.mask_interrupts() }
    }
}

impl<C: Cpu> Drop for Masked<'_, C> {
    fn drop(&mut self) {
        // SAFETY: clause 1: the state is that of `new`, and is restored once. Clause 2: the pin
        // ends below.
        unsafe { self.cpu.restore_interrupts(self.state) };
        if self.is_pinned {
            // SAFETY: clause 1: pairs with the pin in `new`, which returned an id.
            unsafe { self.cpu.unpin() };
        }
    }
}

// SAFETY: clauses 1 and 2: the arenas allocate and free every block, each of its own region.
unsafe impl<C: Cpu> PageSource for Regions<C> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.allocate_by(|arena| arena.allocate(order))
    }

    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        let arena = self.owner_of(block.start());
        // No closure, as a fault names the caller.
        let _masked = Masked::new(&self.cpu);
        // SAFETY: clauses 1 and 2 are the caller's; the block is in this arena's region.
        unsafe { arena.free(block) };
    }

    fn byte_source(&self) -> Option<&dyn ByteSource> {
        self.arenas.iter().any(|arena| arena.serves_bytes).then_some(self)
    }
}

// SAFETY: clauses 1 and 3: each address is looked up in the arena whose region it lies in. Clause
// 2: the range is that of the first arena, which stays where it is (I1).
unsafe impl<C> PageMap for Regions<C> {
    #[inline]
    fn tag(&self, address: usize) -> Tag {
        self.at(address).map_or(Tag::NONE, |arena| arena.tag(address))
    }

    fn tag_range(&self) -> TagRange {
        self.arenas.iter().next().map_or(TagRange::EMPTY, Arena::tag_range)
    }

    #[inline]
    fn owner(&self, address: usize) -> *mut () {
        self.at(address).map_or(ptr::null_mut(), |arena| arena.owner(address))
    }

    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>) {
        if let Some(arena) = self.at(start.addr().get()) {
            // SAFETY: clause 1 is the same for the arena, whose region has the pages.
            unsafe { arena.set_owner(start, pages, tag, owner) };
        }
    }

    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order) {
        if let Some(arena) = self.at(start.addr().get()) {
            // SAFETY: clause 1 is the same for the arena, whose region has the block.
            unsafe { arena.clear_owner(start, order) };
        }
    }

    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize) {
        if let Some(arena) = self.at(start.addr().get()) {
            // SAFETY: clause 1 is the same for the arena, whose region has the run.
            unsafe { arena.set_run(start, pages) };
        }
    }

    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order) {
        if let Some(arena) = self.at(start.addr().get()) {
            // SAFETY: clause 1 is the same for the arena, whose region has the block.
            unsafe { arena.clear_run(start, order) };
        }
    }

    #[inline]
    fn pointer(&self, address: usize) -> NonNull<u8> {
        match self.at(address) {
            Some(arena) => arena.pointer(address),
            // Beyond all regions there is no memory, so the pointer is to nothing.
            None => {
                NonNull::new(ptr::without_provenance_mut(address)).unwrap_or(NonNull::dangling())
            }
        }
    }
}

// SAFETY: clauses 1 and 2: the arenas allocate, resize and free every run, each of its own region.
unsafe impl<C: Cpu> PageResize for Regions<C> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.allocate_by(|arena| arena.allocate_run(pages, alignment))
    }

    #[track_caller]
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        let arena = self.owner_of(start);
        let _masked = Masked::new(&self.cpu);
        // SAFETY: clauses 1 and 2 are the caller's; the run is in this arena's region.
        unsafe { arena.free_run(start, pages) };
    }

    #[track_caller]
    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        let arena = self.owner_of(start);
        let _masked = Masked::new(&self.cpu);
        // SAFETY: clauses 1 and 2 are the caller's; the run is in this arena's region.
        unsafe { arena.resize_run(start, pages, new_pages) }
    }
}
