//! The page map: from an address to a tag and an owner, for each page.
//!
//! # Concepts
//! - **Tag**: one byte per page. It says whether a block, a run or a slab begins there ([`Tag`]).
//!   `kfree` reads it.
//! - **Owner**: one word per page. On every page of a slab it points to the slab's header. On the
//!   head of a page run it holds the page count. Elsewhere it is meaningless.
//!
//! Caches need only the map, so [`PageMap`] is a trait of its own. Page sources with exact page
//! counts need both: they are [`PageResize`](crate::PageResize), which has this trait as a
//! supertrait.
//!
//! # Concurrency
//! Entries are read and written without locks, Relaxed. They publish nothing: the code that frees
//! an address got the address from the code that allocated it, and that transfer between CPUs
//! ordered the write of the entry before the read. For an address that is not allocated the map
//! returns some entry, through which no memory is accessed.
//!
//! The exception is a deferred block: its tag is stored with Release, and the CPU that finds it
//! executes an Acquire fence.

use core::ptr::NonNull;

use crate::arch::load::load_wide;
use crate::atomic::{AtomicPtr, AtomicU8, Ordering};
use crate::order::{Order, PAGE_SHIFT};
use crate::page_map::tag::Tag;

/// A page map: returns the tag and the owner of the page at an address.
///
/// ```
/// use page_frame::{Arena, Order, PageMap, PageSource, Tag};
/// use std::ptr::NonNull;
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let arena = Arena::new(&mut memory)?;
/// let block = arena.allocate(Order::new(1).unwrap())?;
/// let (start, address) = (block.start(), block.start().addr().get());
/// let header = 0_u64; // describes the slab
/// // SAFETY: the block is in the arena's map, and ours.
/// unsafe { arena.set_owner(start, block.pages(), Tag::SLAB, NonNull::from(&header).cast()) };
/// // A pointer into the block leads to the header:
/// assert_eq!(arena.tag(address + 5000), Tag::SLAB);
/// assert_eq!(arena.owner(address + 5000).addr(), (&raw const header).addr());
/// assert_eq!(arena.pointer(address), start);
/// // SAFETY: as above.
/// unsafe { arena.clear_owner(start, block.order()) };
/// assert_eq!(arena.tag(address), Tag::block(block.order()));
/// // SAFETY: as above.
/// unsafe { arena.set_run(start, block.pages()) };
/// assert_eq!(arena.run_pages(address), Some(2));
/// // SAFETY: as above.
/// unsafe { arena.clear_run(start, block.order()) };
/// // SAFETY: the block came from this arena and nothing refers into it.
/// unsafe { arena.free(block) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Safety
/// 1. `tag` and `owner` return the values last set for the page, and [`Tag::NONE`] and null for
///    pages that were never set or are out of range.
/// 2. `tag_range` reads the same values as `tag` and `owner`, or [`Tag::NONE`], while the map lives
///    and is not moved.
/// 3. `pointer` returns a pointer to the given address that may be used to access the memory of
///    this map there.
pub unsafe trait PageMap {
    /// Returns the tag of the page that `address` lies in. O(1), one or two loads, no lock.
    /// Example: see [`PageMap`].
    fn tag(&self, address: usize) -> Tag;

    /// Returns the tags of the range that most pages lie in. For pages outside it, and for pages
    /// whose tag reads as [`Tag::NONE`], call [`tag`](Self::tag). Example: see [`TagRange`].
    #[inline]
    fn tag_range(&self) -> TagRange {
        TagRange::EMPTY
    }

    /// Returns the owner word of the page that `address` lies in. O(1), no lock.
    /// Example: see [`PageMap`].
    fn owner(&self, address: usize) -> *mut ();

    /// Sets tag and owner of `pages` pages from `start`. O(`pages`). Example: see [`PageMap`].
    ///
    /// # Safety
    /// 1. The pages are in this map and belong to the caller.
    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>);

    /// Undoes `set_owner` on a whole block: its head is again the head of a raw block. O(pages).
    /// Example: see [`PageMap`].
    ///
    /// # Safety
    /// 1. The block of `order` at `start` is in this map and belongs to the caller.
    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order);

    /// Marks `start` as the head of a run of `pages` pages. O(1). Example: see [`PageMap`].
    ///
    /// # Safety
    /// 1. The run is in this map and belongs to the caller.
    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize);

    /// Undoes `set_run` on a run that is a whole block of `order`. O(1). Example: see [`PageMap`].
    ///
    /// # Safety
    /// 1. The block is in this map and belongs to the caller.
    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order);

    /// Returns a pointer to `address` with the map's own provenance. A pointer that a user frees is
    /// used as an address only. O(1). Example: see [`PageMap`].
    fn pointer(&self, address: usize) -> NonNull<u8>;

    /// Returns the page count of the run whose head `address` lies in, or `None` where no run
    /// starts. O(1), no lock. Example: see [`PageMap`].
    #[inline]
    fn run_pages(&self, address: usize) -> Option<usize> {
        if self.tag(address) != Tag::RUN {
            return None;
        }
        let pages = self.owner(address).addr();
        // For a run that is freed meanwhile the owner may be a slab's header already. The tag is
        // stored after the owner, so the second look mostly sees that.
        (self.tag(address) == Tag::RUN).then_some(pages)
    }
}

/// The tags and owners of one range of pages as raw pointers: a look-up is one comparison and one
/// load.
///
/// It does not borrow the map: code that keeps a range must keep the map alive.
///
/// ```
/// use page_frame::{Arena, Order, PageMap, PageSource, Tag, TagRange};
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let arena = Arena::new(&mut memory)?;
/// let range = arena.tag_range();
/// assert_eq!(range.pages(), arena.pages());
/// let block = arena.allocate(Order::ZERO)?;
/// let address = block.start().addr().get();
/// // SAFETY: clause 1: the arena lives and stays where it is.
/// unsafe {
///     let tag = Tag::block(Order::ZERO);
///     assert_eq!((range.tag(address), range.tag_index(address)), (Some(tag), Some(1)));
///     assert_eq!(range.tag_and_owner(address).map(|(tag, _)| tag), Some(tag));
///     assert_eq!((range.tag(0), TagRange::EMPTY.tag(address)), (None, None));
/// }
/// // SAFETY: the block came from this arena and nothing refers into it.
/// unsafe { arena.free(block) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TagRange {
    pub(crate) start: usize,
    pub(crate) pages: usize,
    pub(crate) tags: *const AtomicU8,
    pub(crate) owners: *const AtomicPtr<()>,
}

// SAFETY: the pointers are read only by methods whose clause 1 makes the atomics behind them valid.
unsafe impl Send for TagRange {}
// SAFETY: shared references read atomics only.
unsafe impl Sync for TagRange {}

impl TagRange {
    /// The range without pages. Example: see [`TagRange`].
    pub const EMPTY: Self =
        Self { start: 0, pages: 0, tags: core::ptr::null(), owners: core::ptr::null() };

    /// Returns the tag of the page that `address` lies in; `None` beyond the range. O(1).
    /// Example: see [`TagRange`].
    ///
    /// # Safety
    /// 1. The map that returned the range lives and was not moved since.
    #[inline(always)]
    pub unsafe fn tag(&self, address: usize) -> Option<Tag> {
        // SAFETY: clause 1 is clause 1 of `tag_index`.
        unsafe { self.tag_index(address) }.map(|index| Tag::from_byte(index as u8))
    }

    /// Returns the tag's byte as an index into a table of 256 entries. `None` beyond the range.
    /// O(1). Example: see [`TagRange`].
    ///
    /// # Safety
    /// 1. As for [`tag`](Self::tag).
    #[inline(always)]
    pub unsafe fn tag_index(&self, address: usize) -> Option<usize> {
        let index = address.wrapping_sub(self.start) >> PAGE_SHIFT;
        if index >= self.pages {
            return None;
        }
        // SAFETY: clause 1 of `load_wide`: the map lives, and has a tag for each page below
        // `pages`.
        Some(unsafe { load_wide(self.tags, index) })
    }

    /// Returns tag and owner word of the page that `address` lies in; `None` beyond the range.
    /// O(1). Example: see [`TagRange`].
    ///
    /// # Safety
    /// 1. As for [`tag`](Self::tag).
    #[inline(always)]
    pub unsafe fn tag_and_owner(&self, address: usize) -> Option<(Tag, *mut ())> {
        // SAFETY: clause 1 is clause 1 of `tag`.
        let tag = unsafe { self.tag(address) }?;
        let index = address.wrapping_sub(self.start) >> PAGE_SHIFT;
        // SAFETY: clause 1: there is an owner for each page, and the page is in the range, as it
        // has a tag.
        let entry = unsafe { self.owners.add(index) };
        // SAFETY: clause 1: the map lives, and `tag` found the index in range.
        let entry = unsafe { &*entry };
        // Relaxed: see the head of this file.
        Some((tag, entry.load(Ordering::Relaxed)))
    }

    /// Returns the number of pages of the range. Example: see [`TagRange`].
    pub const fn pages(&self) -> usize {
        self.pages
    }
}
