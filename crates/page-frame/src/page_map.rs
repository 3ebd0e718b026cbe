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

use crate::sync::{AtomicPtr, AtomicU8, Ordering, prefetch, slice_in};
use crate::{Order, PAGE_SHIFT, PAGE_SIZE, Tag, TagRange};

/// Where the tag of one page is kept.
#[derive(Clone, Copy, Debug)]
pub struct TagPlace<'p>(&'p AtomicU8);

impl TagPlace<'_> {
    /// Returns the tag.
    #[inline(always)]
    pub fn get(self) -> Tag {
        // Relaxed, here and below: see the header.
        Tag::from_byte(self.0.load(Ordering::Relaxed))
    }

    /// Sets the tag.
    #[inline(always)]
    pub fn set(self, tag: Tag) {
        self.0.store(tag.get(), Ordering::Relaxed);
    }

    /// Says that the block of `order` that begins here is free, and left where it is.
    #[inline(always)]
    pub fn defer(self, order: Order) {
        // Release: pairs with the Acquire of whoever finds it by `deferred_among`; hands the block's content over.
        self.0.store(Tag::deferred(order).get(), Ordering::Release);
    }
}

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

/// Tags and owners of one contiguous range of pages, in two arrays.
///
/// Page sources embed it and keep it to themselves: the methods that set tags by index are safe, as they touch nothing but
/// the entries, and what a wrong tag leads to is up to the source that lets others set one (clause 1 of [`PageMap`]).
///
/// It needs nine bytes per page (on 64-bit targets) that read as zero, of which only the entries
/// of pages in use are ever touched.
///
/// ```
/// use page_frame::{Order, PAGE_SIZE, PageMap, PageMapArray, Tag};
/// use std::ptr::NonNull;
/// #[repr(align(4096))]
/// struct Pages([u8; 4 * PAGE_SIZE]);
/// #[repr(align(64))]
/// struct Entries([u8; PageMapArray::metadata_bytes(4)]);
/// let mut pages = Pages([0; 4 * PAGE_SIZE]);
/// let mut entries = Entries([0; PageMapArray::metadata_bytes(4)]);
/// let root = NonNull::from(&mut pages.0).cast::<u8>();
/// // SAFETY: both are ours, aligned, zero, and outlive the map.
/// let map = unsafe { PageMapArray::new_in(root, 4, NonNull::from(&mut entries.0).cast()) };
/// let second = root.addr().get() + PAGE_SIZE;
/// map.set_tag(second, Tag::block(Order::ZERO));
/// assert_eq!(map.tag(second + 17), Tag::block(Order::ZERO));
/// assert_eq!(map.tag(second + PAGE_SIZE), Tag::NONE);
/// assert_eq!((map.tag_at(1), map.tag_at(4)), (Tag::block(Order::ZERO), Tag::NONE));
/// assert!(map.exchange_tag_at(1, Tag::block(Order::ZERO), Tag::NONE));
/// assert!(!map.exchange_tag_at(1, Tag::block(Order::ZERO), Tag::NONE));
/// assert_eq!(map.pointer(second).addr().get(), second);
/// ```
#[derive(Debug)]
pub struct PageMapArray<'m> {
    root: NonNull<u8>,
    pages: usize,
    pub(crate) tags: &'m [AtomicU8],
    owners: &'m [AtomicPtr<()>],
}

// SAFETY: `root` is only a base for address arithmetic; the arrays are atomics.
unsafe impl Send for PageMapArray<'_> {}
// SAFETY: shared references reach the atomics alone.
unsafe impl Sync for PageMapArray<'_> {}

impl<'m> PageMapArray<'m> {
    /// Returns how many bytes the entries of `pages` pages take; the memory must be aligned to 64 bytes.
    ///
    /// # Panics
    /// When that is no number of bytes.
    pub const fn metadata_bytes(pages: usize) -> usize {
        let owners = pages.checked_mul(size_of::<AtomicPtr<()>>());
        let tags = pages.checked_mul(size_of::<AtomicU8>());
        if let (Some(owners), Some(tags)) = (owners, tags)
            && let Some(tags) = tags.checked_next_multiple_of(64)
            && let Some(bytes) = owners.checked_add(tags)
        {
            return bytes;
        }
        panic!("the entries of so many pages are no number of bytes")
    }

    /// Makes the map of `pages` pages from `root`, in `metadata`.
    ///
    /// # Safety
    /// 1. `metadata` is valid for reads and writes of [`metadata_bytes(pages)`](Self::metadata_bytes) bytes during
    ///    `'m`, aligned to 64 bytes, all zero, and used by nobody else.
    /// 2. `root` is page-aligned, and may be used for all of the memory that the pages are.
    pub unsafe fn new_in(root: NonNull<u8>, pages: usize, metadata: NonNull<u8>) -> Self {
        // SAFETY: clause 1: the owners come first, so they have the memory's alignment.
        let owners = unsafe { slice_in(metadata, pages) };
        // SAFETY: clause 1: the tags begin where the owners end, inside the memory.
        let tags = unsafe { metadata.add(pages * size_of::<AtomicPtr<()>>()) };
        // SAFETY: clause 1: the tags are the first part of the metadata, zero, and ours.
        let tags = unsafe { slice_in(tags, pages) };
        Self { root, pages, tags, owners }
    }

    /// Returns the pages of the range.
    pub const fn pages(&self) -> usize {
        self.pages
    }

    /// Returns the index of the page that `address` lies in; beyond `pages` when outside.
    #[inline]
    fn index(&self, address: usize) -> usize {
        address.wrapping_sub(self.root.addr().get()) >> PAGE_SHIFT
    }

    /// Returns the tag of page `index` of the range: [`Tag::NONE`] beyond its end.
    #[inline]
    pub fn tag_at(&self, index: usize) -> Tag {
        // Relaxed: see the header.
        self.tags
            .get(index)
            .map_or(Tag::NONE, |entry| Tag::from_byte(entry.load(Ordering::Relaxed)))
    }

    /// Returns the place of the tag of page `index` of the range, to read and to write; `None` beyond its end.
    #[inline]
    pub fn place_at(&self, index: usize) -> Option<TagPlace<'_>> {
        self.tags.get(index).map(TagPlace)
    }

    /// Sets the tag of page `index` of the range.
    ///
    /// # Safety
    /// 1. There is such a page.
    #[inline(always)]
    pub unsafe fn set_tag_unchecked(&self, index: usize, tag: Tag) {
        debug_assert!(index < self.pages, "clause 1");
        // SAFETY: clause 1: the index is below the count of tags.
        let entry = unsafe { self.tags.get_unchecked(index) };
        // Relaxed: see the header.
        entry.store(tag.get(), Ordering::Relaxed);
    }

    /// Sets the tag of page `index` of the range, if there is such a page.
    #[inline]
    pub fn set_tag_at(&self, index: usize, tag: Tag) {
        if let Some(entry) = self.tags.get(index) {
            // Relaxed: see the header.
            entry.store(tag.get(), Ordering::Relaxed);
        }
    }

    /// Exchanges the tag of page `index` of the range from `from` to `to`, atomically; whether it was `from`.
    #[inline]
    pub fn exchange_tag_at(&self, index: usize, from: Tag, to: Tag) -> bool {
        // Relaxed: see the header. Of several at once one succeeds in any order.
        let exchange = |entry: &AtomicU8| {
            entry.compare_exchange(from.get(), to.get(), Ordering::Relaxed, Ordering::Relaxed)
        };
        self.tags.get(index).is_some_and(|entry| exchange(entry).is_ok())
    }

    /// Has the machine bring the tag of page `index` close: nobody waits for it.
    #[inline]
    pub fn prefetch_tag_at(&self, index: usize) {
        if let Some(entry) = self.tags.get(index) {
            prefetch(entry);
        }
    }

    /// Sets the tag of the page that `address` lies in, if it is in range.
    #[inline]
    pub fn set_tag(&self, address: usize, tag: Tag) {
        self.set_tag_at(self.index(address), tag);
    }

    fn set_word(&self, address: usize, word: *mut ()) {
        if let Some(entry) = self.owners.get(self.index(address)) {
            // Relaxed: see the header.
            entry.store(word, Ordering::Relaxed);
        }
    }
}

// SAFETY: clause 1: the arrays hold one entry per page and out-of-range indices read as none. Clause 2:
// the range is that of the tags. Clause 3: `pointer` gives
// the address the provenance of `root`, which may be used for all of the pages.
unsafe impl PageMap for PageMapArray<'_> {
    #[inline]
    fn tag(&self, address: usize) -> Tag {
        self.tag_at(self.index(address))
    }

    #[inline]
    fn tag_range(&self) -> TagRange {
        let (tags, owners) = (self.tags.as_ptr(), self.owners.as_ptr());
        TagRange { start: self.root.addr().get(), pages: self.tags.len(), tags, owners }
    }

    #[inline]
    fn owner(&self, address: usize) -> *mut () {
        match self.owners.get(self.index(address)) {
            // Relaxed: see the header.
            Some(entry) => entry.load(Ordering::Relaxed),
            None => core::ptr::null_mut(),
        }
    }

    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>) {
        for page in 0..pages {
            let address = start.addr().get() + page * PAGE_SIZE;
            self.set_word(address, owner.as_ptr());
            self.set_tag(address, tag);
        }
    }

    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order) {
        for page in 1..order.pages() {
            self.set_tag(start.addr().get() + page * PAGE_SIZE, Tag::NONE);
        }
        self.set_tag(start.addr().get(), Tag::block(order));
    }

    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize) {
        self.set_word(start.addr().get(), core::ptr::without_provenance_mut(pages));
        self.set_tag(start.addr().get(), Tag::RUN);
    }

    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order) {
        self.set_tag(start.addr().get(), Tag::block(order));
    }

    #[inline]
    fn pointer(&self, address: usize) -> NonNull<u8> {
        let pointer = self.root.as_ptr().with_addr(address);
        NonNull::new(pointer).unwrap_or(self.root)
    }
}
