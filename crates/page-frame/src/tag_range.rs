//! The tags and owners of one contiguous range of pages, as pointers, so that a look-up is a comparison and a load.

use crate::sync::{AtomicPtr, AtomicU8, Ordering, load_wide};
use crate::{PAGE_SHIFT, Tag};

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
