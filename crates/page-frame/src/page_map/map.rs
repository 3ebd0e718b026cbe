//! From an address to what lies there: a tag per page and an owner per page.
//!
//! # Concepts
//! - **Tag**: one byte per page that says what the page is the start or a part of ([`Tag`]). It is what `kfree` reads.
//! - **Owner**: one word per page. On every page of a slab it points to the slab's record; on the head of a page run it
//!   holds the page count; elsewhere it means nothing.
//!
//! # Concurrency
//! Entries are read and written without locks, Relaxed. Nothing is published through them: whoever frees an address got
//! it from whoever allocated it, and whatever carried it from CPU to CPU also ordered the write of the entry before the
//! read. Who asks about an address of nobody's gets some entry, and no memory is touched through it. The exception is a
//! block that is left: its tag is stored by Release, and whoever finds it by `deferred_among` fences (Acquire).

use core::ptr::NonNull;

use crate::arch::load::load_wide;
use crate::order::{Order, PAGE_SHIFT};
use crate::page_map::tag::Tag;
use crate::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

/// Answers what lies at an address.
///
/// # Safety
/// 1. `tag` and `owner` return what was last set for the page, and [`Tag::NONE`] and null for pages never set or out of
///    range.
/// 2. `tag_range` reads what `tag` and `owner` do, or [`Tag::NONE`], while the map stays alive and where it is.
/// 3. `pointer` returns a pointer to the address given that may be used for whatever memory of this map is there.
pub unsafe trait PageMap {
    /// Returns the tag of the page that `address` lies in. O(1), one or two loads, no lock.
    fn tag(&self, address: usize) -> Tag;

    /// Returns the tags of the range that most pages lie in. Pages beyond it, and those in it whose tag reads as
    /// [`Tag::NONE`], are to be asked for by [`tag`](Self::tag).
    #[inline]
    fn tag_range(&self) -> TagRange {
        TagRange::EMPTY
    }

    /// Returns the owner word of the page that `address` lies in. O(1), no lock.
    fn owner(&self, address: usize) -> *mut ();

    /// Sets tag and owner of `pages` pages from `start`. O(`pages`).
    ///
    /// # Safety
    /// 1. The pages are in this map and belong to the caller.
    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>);

    /// Undoes `set_owner` on a whole block: its head is again the head of a raw block. O(pages).
    ///
    /// # Safety
    /// 1. The block of `order` at `start` is in this map and belongs to the caller.
    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order);

    /// Marks `start` as the head of a run of `pages` pages. O(1).
    ///
    /// # Safety
    /// 1. The run is in this map and belongs to the caller.
    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize);

    /// Undoes `set_run` on a run that is a whole block of `order`. O(1).
    ///
    /// # Safety
    /// 1. The block is in this map and belongs to the caller.
    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order);

    /// Returns a pointer to `address` that we may use: the address a user hands back only names memory.
    fn pointer(&self, address: usize) -> NonNull<u8>;

    /// Returns the page count of the run whose head `address` lies in, or `None` where no run starts.
    #[inline]
    fn run_pages(&self, address: usize) -> Option<usize> {
        if self.tag(address) == Tag::RUN { Some(self.owner(address).addr()) } else { None }
    }
}

/// The tags and owners of one range of pages, for who looks up many addresses: a comparison and a load each.
///
/// It borrows nothing; whoever keeps one keeps the map.
///
/// ```
/// use page_frame::TagRange;
/// // SAFETY: this range comes from no map.
/// assert_eq!(unsafe { TagRange::EMPTY.tag(0x1000) }, None);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TagRange {
    pub(crate) start: usize,
    pub(crate) pages: usize,
    pub(crate) tags: *const AtomicU8,
    pub(crate) owners: *const AtomicPtr<()>,
}

// SAFETY: both are atomics, and reading one is promised to be sound wherever it is done.
unsafe impl Send for TagRange {}
// SAFETY: the same atomics, and nothing that one thread alone may read.
unsafe impl Sync for TagRange {}

impl TagRange {
    /// No pages.
    pub const EMPTY: Self =
        Self { start: 0, pages: 0, tags: core::ptr::null(), owners: core::ptr::null() };

    /// Returns the tag of the page that `address` lies in; `None` beyond the range. O(1).
    ///
    /// # Safety
    /// 1. The map that the range came from is alive and where it was.
    #[inline(always)]
    pub unsafe fn tag(&self, address: usize) -> Option<Tag> {
        // SAFETY: clause 1: the tags are there.
        unsafe { self.tag_index(address) }.map(|index| Tag::from_byte(index as u8))
    }

    /// Returns the tag's byte as an index into a table of 256 entries.
    ///
    /// # Safety
    /// 1. As for [`tag`](Self::tag).
    #[inline(always)]
    pub unsafe fn tag_index(&self, address: usize) -> Option<usize> {
        let index = address.wrapping_sub(self.start) >> PAGE_SHIFT;
        if index >= self.pages {
            return None;
        }
        // Relaxed: see `page_map.rs`.
        // SAFETY: clause 1: there is a tag for each page.
        Some(unsafe { load_wide(self.tags, index) })
    }

    /// Returns tag and owner word of the page that `address` lies in; `None` beyond the range. O(1).
    ///
    /// # Safety
    /// 1. As for [`tag`](Self::tag).
    #[inline(always)]
    pub unsafe fn tag_and_owner(&self, address: usize) -> Option<(Tag, *mut ())> {
        // SAFETY: clause 1 is `tag`'s.
        let tag = unsafe { self.tag(address) }?;
        let index = address.wrapping_sub(self.start) >> PAGE_SHIFT;
        // SAFETY: clause 1: there is an owner for each page, and the page is in the range, as it has a tag.
        let entry = unsafe { self.owners.add(index) };
        // SAFETY: clause 1: the map lives, and `tag` found the index in range.
        let entry = unsafe { &*entry };
        // Relaxed: see `page_map.rs`.
        Some((tag, entry.load(Ordering::Relaxed)))
    }

    /// Returns the pages of the range.
    pub const fn pages(&self) -> usize {
        self.pages
    }
}
