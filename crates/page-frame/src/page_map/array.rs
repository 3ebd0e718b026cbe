//! A page map of one contiguous range of pages: an array of tags and an array of owners.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::arch::hint::prefetch;
use crate::atomic::{AtomicPtr, AtomicU8, Ordering};
use crate::order::{Order, PAGE_SHIFT, PAGE_SIZE};
use crate::page_map::deferred_heads::{self, DeferredHeads};
use crate::page_map::map::{PageMap, TagRange};
use crate::page_map::tag::Tag;
use crate::sync::memory::slice_in;

/// The place of one tag.
#[derive(Clone, Copy, Debug)]
pub struct TagPlace<'p>(&'p AtomicU8);

impl<'p> TagPlace<'p> {
    /// Makes the place of a tag that lies outside a page map.
    #[inline(always)]
    pub fn new(place: &'p AtomicU8) -> Self {
        Self(place)
    }

    /// Returns the tag.
    #[inline(always)]
    pub fn get(self) -> Tag {
        // Relaxed, here and below: see `map.rs`.
        Tag::from_byte(self.0.load(Ordering::Relaxed))
    }

    /// Sets the tag.
    #[inline(always)]
    pub fn set(self, tag: Tag) {
        self.0.store(tag.get(), Ordering::Relaxed);
    }

    /// Prefetches the tag, without waiting for it.
    #[inline(always)]
    pub fn prefetch(self) {
        prefetch(self.0);
    }

    /// Atomically changes the tag from `from` to `to`. Returns whether it was `from`.
    #[inline]
    pub fn exchange(self, from: Tag, to: Tag) -> bool {
        // Relaxed: see `map.rs`. Of several exchanges at the same time, one succeeds.
        let (from, to) = (from.get(), to.get());
        self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Tags the block of `order` that begins here as deferred: free, but not yet merged.
    #[inline(always)]
    pub fn defer(self, order: Order) {
        // Release: pairs with the Acquire fence after `deferred_among`; publishes the last writes
        // to the block's content.
        self.0.store(Tag::deferred(order).get(), Ordering::Release);
    }
}

/// Tags and owners of one contiguous range of pages, in two arrays.
///
/// Page sources embed it and keep it private. The methods that set tags are safe, as they change
/// only the entries. A source that let other code call them would break clause 1 of [`PageMap`].
///
/// It needs nine bytes of zeroed memory per page (on 64-bit targets). It touches only the entries
/// of pages that were in use.
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
/// map.set_tag(second, Tag::block(Order::ZERO)); // by address
/// assert_eq!(map.tag(second + 17), Tag::block(Order::ZERO));
/// assert_eq!(map.tag(second + PAGE_SIZE), Tag::NONE);
/// map.set_tag_at(3, Tag::SLAB); // by index
/// assert_eq!((map.tag_at(3), map.tag_at(map.pages())), (Tag::SLAB, Tag::NONE));
/// assert_eq!(map.pointer(second).addr().get(), second);
/// ```
#[derive(Debug)]
pub struct PageMapArray<'m> {
    root: NonNull<u8>,
    pages: usize,
    pub(in crate::page_map) tags: &'m [AtomicU8],
    owners: &'m [AtomicPtr<()>],
}

/// Tags of consecutive numbers, of frames or of areas: a store takes no subtraction.
#[derive(Clone, Copy, Debug)]
pub struct TagsByNumber<'m> {
    /// The address of the tag with number 0, whether or not there is one: that of the first tag
    /// minus its number, wrapped around.
    origin: *const AtomicU8,
    tags: PhantomData<&'m [AtomicU8]>,
}

// SAFETY: as a shared reference to the tags, which are atomics.
unsafe impl Send for TagsByNumber<'_> {}
// SAFETY: as above.
unsafe impl Sync for TagsByNumber<'_> {}

impl<'m> TagsByNumber<'m> {
    /// Makes the tags in `tags`, the first of which has number `first`.
    pub fn new(tags: &'m [AtomicU8], first: usize) -> Self {
        Self { origin: tags.as_ptr().wrapping_sub(first), tags: PhantomData }
    }

    /// Sets the tag with number `number`.
    ///
    /// # Safety
    /// 1. There is a tag with that number.
    #[inline(always)]
    pub unsafe fn set(self, number: usize, tag: Tag) {
        let entry = self.origin.wrapping_add(number);
        // SAFETY: clause 1: one of the tags, which are borrowed during `'m`.
        let entry = unsafe { &*entry };
        // Relaxed: see `map.rs`.
        entry.store(tag.get(), Ordering::Relaxed);
    }
}

// SAFETY: `root` is only a base for address arithmetic; the arrays are atomics.
unsafe impl Send for PageMapArray<'_> {}
// SAFETY: shared references reach nothing but the atomics.
unsafe impl Sync for PageMapArray<'_> {}

impl<'m> PageMapArray<'m> {
    /// Returns how many bytes the entries of `pages` pages take; the memory must be aligned to 64
    /// bytes. Example: see [`PageMapArray`].
    ///
    /// # Panics
    /// When that number overflows.
    pub const fn metadata_bytes(pages: usize) -> usize {
        let owners = pages.checked_mul(size_of::<AtomicPtr<()>>());
        let tags = pages.checked_mul(size_of::<AtomicU8>());
        const OVERFLOW: &str = "the size of the entries overflows";
        let tags = tags.expect(OVERFLOW).checked_next_multiple_of(64).expect(OVERFLOW);
        owners.expect(OVERFLOW).checked_add(tags).expect(OVERFLOW)
    }

    /// Makes the map of `pages` pages from `root`, in `metadata`. Example: see [`PageMapArray`].
    ///
    /// # Safety
    /// 1. `metadata` is valid for reads and writes of
    ///    [`metadata_bytes(pages)`](Self::metadata_bytes) bytes during `'m`, aligned to 64 bytes,
    ///    all zero, and not used by other code.
    /// 2. `root` is page-aligned, and may be used to access all of the pages.
    pub unsafe fn new_in(root: NonNull<u8>, pages: usize, metadata: NonNull<u8>) -> Self {
        // SAFETY: clause 1: the owners come first, so they have the memory's alignment.
        let owners = unsafe { slice_in(metadata, pages) };
        // SAFETY: clause 1: the tags begin where the owners end, inside the memory.
        let tags = unsafe { metadata.add(pages * size_of::<AtomicPtr<()>>()) };
        // SAFETY: clause 1: the tags follow the owners in the metadata, zero, and ours.
        let tags = unsafe { slice_in(tags, pages) };
        Self { root, pages, tags, owners }
    }

    /// Returns the number of pages of the range. Example: see [`PageMapArray`].
    pub const fn pages(&self) -> usize {
        self.pages
    }

    /// Returns the index of the page that `address` lies in; at least `pages` when it is out of
    /// range.
    #[inline]
    fn index(&self, address: usize) -> usize {
        address.wrapping_sub(self.root.addr().get()) >> PAGE_SHIFT
    }

    /// Returns the tag of page `index` of the range: [`Tag::NONE`] beyond its end. O(1), no lock.
    /// Example: see [`PageMapArray`].
    #[inline]
    pub fn tag_at(&self, index: usize) -> Tag {
        // Relaxed: see `map.rs`.
        self.tags
            .get(index)
            .map_or(Tag::NONE, |entry| Tag::from_byte(entry.load(Ordering::Relaxed)))
    }

    /// Returns the place of the tag of page `index` of the range, to read and to write; `None`
    /// beyond its end.
    #[doc(hidden)]
    #[inline]
    pub fn place_at(&self, index: usize) -> Option<TagPlace<'_>> {
        self.tags.get(index).map(TagPlace)
    }

    /// Returns the tags by number of a frame, where the first page of the range is frame
    /// `first_frame`.
    #[doc(hidden)]
    pub fn tags_from(&self, first_frame: usize) -> TagsByNumber<'m> {
        TagsByNumber::new(self.tags, first_frame)
    }

    /// Sets the tag of page `index` of the range, if there is such a page. O(1), no lock.
    /// Example: see [`PageMapArray`].
    #[inline]
    pub fn set_tag_at(&self, index: usize, tag: Tag) {
        if let Some(entry) = self.tags.get(index) {
            // Relaxed: see `map.rs`.
            entry.store(tag.get(), Ordering::Relaxed);
        }
    }

    /// Atomically changes the tag of page `index` of the range from `from` to `to`. Returns whether
    /// it was `from`.
    #[doc(hidden)]
    #[inline]
    pub fn exchange_tag_at(&self, index: usize, from: Tag, to: Tag) -> bool {
        self.place_at(index).is_some_and(|place| place.exchange(from, to))
    }

    /// Sets the tag of the page that `address` lies in, if it is in range. O(1), no lock.
    /// Example: see [`PageMapArray`].
    #[inline]
    pub fn set_tag(&self, address: usize, tag: Tag) {
        self.set_tag_at(self.index(address), tag);
    }

    /// Returns which pages of the `WORDS` words of pages from page `first` on, which wraps around,
    /// are heads of deferred blocks. Pages beyond the range are not.
    ///
    /// The caller executes an Acquire fence before it allocates the blocks.
    #[doc(hidden)]
    #[inline(always)]
    pub fn deferred_among<const WORDS: usize>(&self, first: usize) -> [DeferredHeads; WORDS] {
        deferred_heads::among(self.tags, first)
    }

    /// Clears the tags of the pages from page `first` on, which wraps around, whose bit is set in
    /// `pages`. The caller owns those pages.
    #[doc(hidden)]
    #[inline(always)]
    pub fn clear_tags_among(&self, first: usize, pages: usize) {
        deferred_heads::clear_among(self.tags, first, pages);
    }

    fn set_word(&self, address: usize, word: *mut ()) {
        if let Some(entry) = self.owners.get(self.index(address)) {
            // Relaxed: see `map.rs`.
            entry.store(word, Ordering::Relaxed);
        }
    }
}

// SAFETY: clause 1: the arrays hold one entry per page and out-of-range indices read as none.
// Clause 2: the range is that of the tags. Clause 3: `pointer` gives the address the provenance of
// `root`, which may be used for all of the pages.
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
            // Relaxed: see `map.rs`.
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
