//! `Arena`: a minimal page source. It has one range of memory, a bit for each page, and a lock.
//!
//! # Concepts
//! The memory begins with the page map and the bits; whole pages follow. Allocation finds
//! the lowest aligned run of clear bits ([`PageBits`]). Runs have exactly as many pages as the
//! caller asks for. `slab` and `kmalloc` can run on an arena without a buddy allocator, on a
//! microcontroller or in a test.
//!
//! An arena of at most [`Arena::SMALL_BYTES`] is **small**. It has bits for granules of 16 bytes
//! ([`Granules`]) instead of pages, from the end of the bookkeeping to the end of the memory. Pages
//! and memory of any size ([`ByteSource`](crate::ByteSource)) come from the same free granules. So
//! the bytes before the first whole page and after the last one are used too.
//!
//! # Invariants
//! - I1: the number of free pages, or of free granules, is the number of clear bits.
//! - I2: the tag of a free page is [`Tag::NONE`], and so is that of a page in which bytes are
//!   allocated.
//!
//! # Concurrency
//! One spin lock, which does not mask interrupts: interrupt handlers must not use an arena. They
//! may use [`Regions`](crate::Regions), which mask interrupts while they use one.
//!
//! # Costs
//! Allocation is O(pages of the arena / 64) at worst; the search begins at the lowest free page.
//! Freeing is O(pages of the block / 64). `granules.rs` has the costs of a small arena.

use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::order::{PAGE_SHIFT, PAGE_SIZE};
use crate::page_map::array::PageMapArray;
use crate::page_map::forward::ForwardPageMap;
use crate::page_map::map::PageMap;
use crate::page_map::tag::Tag;
use crate::source::arena_bits::{ArenaBits, SmallMemory};
use crate::source::granules::{GRANULE, Granules};
use crate::source::page_bits::PageBits;
use crate::sync::lock::Lock;
use crate::violation::Violation;

/// A page source over one range of memory.
///
/// ```
/// use page_frame::{Arena, Order, PageSource};
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let arena = Arena::new(&mut memory)?;
/// assert!(arena.pages() >= 14); // of 16, as the bookkeeping lies in the same memory
/// let block = arena.allocate(Order::new(1).unwrap())?;
/// assert_eq!(arena.free_pages(), arena.pages() - 2);
/// assert!(arena.contains(block.start().addr().get()));
/// // SAFETY: the block came from this arena and nothing refers into it.
/// unsafe { arena.free(block) };
/// arena.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Arena<'m> {
    /// The first page.
    pub(super) first: NonNull<u8>,
    /// The first granule of a small arena; the first page of a large one.
    pub(super) first_granule: NonNull<u8>,
    /// The number of bytes from the first granule to the end of the last granule or page.
    bytes: usize,
    /// Whether the arena is small.
    pub(super) serves_bytes: bool,
    pub(super) map: PageMapArray<'m>,
    pub(super) bits: Lock<ArenaBits>,
    _memory: PhantomData<&'m mut [MaybeUninit<u8>]>,
}

// SAFETY: `first` is a base for address arithmetic; the lock and the map are `Send`.
unsafe impl Send for Arena<'_> {}
// SAFETY: shared references reach only the data of the lock while they hold it, and the atomics of
// the map.
unsafe impl Sync for Arena<'_> {}

/// The memory given to an [`Arena`] has no room for the bookkeeping and the bytes of one page.
///
/// ```
/// use page_frame::Arena;
/// assert_eq!(Arena::new(&mut []).unwrap_err().given, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// The bytes that are enough, wherever the memory starts.
    pub needed: usize,
    /// The bytes given.
    pub given: usize,
}

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an arena needs {} bytes, {} were given", self.needed, self.given)
    }
}

impl core::error::Error for TooSmall {}

impl<'m> Arena<'m> {
    /// Makes an arena of `memory`. Writes the bookkeeping, about ten bytes per page, and no other
    /// memory. O(pages). Example: see [`Arena`].
    ///
    /// # Errors
    /// [`TooSmall`] when the memory has no room for the bookkeeping and the bytes of one page.
    pub fn new(memory: &'m mut [MaybeUninit<u8>]) -> Result<Self, TooSmall> {
        let given = memory.len();
        // SAFETY: the reference is exclusive during `'m` and valid for its length.
        unsafe { Self::from_raw(NonNull::from(memory).cast(), given) }
    }

    /// Makes an arena of the `bytes` bytes at `start`. O(pages).
    ///
    /// ```
    /// use page_frame::{Arena, PAGE_SIZE};
    /// use std::{alloc::Layout, ptr::NonNull};
    /// let layout = Layout::from_size_align(8 * PAGE_SIZE, PAGE_SIZE)?;
    /// // SAFETY: the layout is not empty.
    /// let start = NonNull::new(unsafe { std::alloc::alloc(layout) }).ok_or("out of memory")?;
    /// // SAFETY: clause 1: the memory is ours, and never freed.
    /// let arena = unsafe { Arena::from_raw(start, layout.size()) }?;
    /// assert_eq!(arena.pages(), 7); // the first page has the bookkeeping
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TooSmall`] when the memory has no room for the bookkeeping and the bytes of one page.
    ///
    /// # Safety
    /// 1. The memory is valid for reads and writes during `'m`, and no other code uses it.
    pub unsafe fn from_raw(start: NonNull<u8>, bytes: usize) -> Result<Self, TooSmall> {
        let too_small = TooSmall { needed: Self::NEEDED, given: bytes };
        let plan = Plan::new(start.addr().get(), bytes).ok_or(too_small)?;
        // SAFETY: clause 1: the plan's offsets are inside the memory.
        let metadata = unsafe { start.add(plan.metadata) };
        // SAFETY: clause 1: as above.
        let first_granule = unsafe { start.add(plan.first_granule) };
        // Without a page, the offset may lie beyond the memory, and nothing uses the pointer.
        let first = start.as_ptr().wrapping_add(plan.first_page);
        let first = NonNull::new(first).unwrap_or(first_granule);
        // SAFETY: clause 1; the plan leaves room for the bookkeeping in front of the granules.
        unsafe { metadata.write_bytes(0, plan.bookkeeping) };
        // SAFETY: the map's part of the bookkeeping, 64-aligned by the plan, just zeroed; `first`
        // is ours by clause 1.
        let map = unsafe { PageMapArray::new_in(first, plan.pages, metadata) };
        // SAFETY: the bits follow the map's entries, inside the bookkeeping.
        let words = unsafe { metadata.add(map_bytes(plan.pages)) }.cast();
        let bits = if plan.is_small {
            // SAFETY: clause 1: the bits' part of the bookkeeping, a multiple of 64 behind a
            // multiple of 64, just zeroed, and no other code uses it.
            let granules = unsafe { Granules::new_in(words, plan.bytes / GRANULE) };
            let first_page = (plan.first_page - plan.first_granule) / GRANULE;
            ArenaBits::Granules(SmallMemory::new(granules, first_page, plan.pages))
        } else {
            // SAFETY: clause 1: as above.
            ArenaBits::Pages(unsafe { PageBits::new_in(words, plan.pages) })
        };
        let (bits, serves_bytes) = (Lock::new(bits), plan.is_small);
        let (bytes, _memory) = (plan.bytes, PhantomData);
        Ok(Self { first, first_granule, bytes, serves_bytes, map, bits, _memory })
    }

    /// The largest size of memory in bytes that makes a small arena, which also serves memory of
    /// any size ([`ByteSource`](crate::ByteSource)).
    ///
    /// ```
    /// use page_frame::{Arena, PageSource};
    /// let mut memory = vec![core::mem::MaybeUninit::uninit(); Arena::SMALL_BYTES + 1];
    /// assert!(Arena::new(&mut memory)?.byte_source().is_none());
    /// assert!(Arena::new(&mut memory[1..])?.byte_source().is_some());
    /// # Ok::<(), page_frame::TooSmall>(())
    /// ```
    pub const SMALL_BYTES: usize = 4 << 20;

    /// A size of memory in bytes that has room for the bookkeeping and the bytes of one page,
    /// wherever the memory starts. Alignment loses up to a cache line before the bookkeeping, and
    /// up to a granule at the end.
    pub(super) const NEEDED: usize = 64 + bookkeeping(2 * PAGE_SIZE, true) + PAGE_SIZE + GRANULE;

    /// Returns the size in pages. Example: see [`Arena`].
    pub fn pages(&self) -> usize {
        self.map.pages()
    }

    /// Returns the number of free pages. Takes the lock. Example: see [`Arena`].
    pub fn free_pages(&self) -> usize {
        self.bits.lock().free_pages()
    }

    /// Returns the size in bytes without the bookkeeping: of all pages, and in a small arena also
    /// of the bytes before the first page and after the last one.
    ///
    /// ```
    /// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
    /// let arena = page_frame::Arena::new(&mut memory)?;
    /// assert!(arena.bytes() > 62 * 1024 && arena.free_bytes() == arena.bytes());
    /// # Ok::<(), page_frame::TooSmall>(())
    /// ```
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of free bytes. Takes the lock.
    /// Example: see [`Arena::bytes`].
    pub fn free_bytes(&self) -> usize {
        self.bits.lock().free_bytes()
    }

    /// Returns whether `address` lies in a page of this arena. O(1), no lock.
    /// Example: see [`Arena`].
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.first.addr().get()) >> PAGE_SHIFT < self.map.pages()
    }

    /// Returns whether `address` lies in a granule or in a page of this arena.
    pub(super) fn has_byte(&self, address: usize) -> bool {
        address.wrapping_sub(self.first_granule.addr().get()) < self.bytes
    }

    /// Checks I1 and I2. O(pages), takes the lock. Example: see [`Arena`].
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Violation> {
        let bits = self.bits.lock();
        if let Some(broken) = bits.broken_invariant() {
            return Err(Violation::of(broken));
        }
        let is_free_with_tag =
            |page: usize| !bits.is_taken(page) && self.map.tag_at(page) != Tag::NONE;
        if (0..self.pages()).any(is_free_with_tag) {
            return Err(Violation::of("I2: free pages have no tag"));
        }
        Ok(())
    }
}

// SAFETY: clause 1: always the field `map`, which lives in this value.
unsafe impl ForwardPageMap for Arena<'_> {
    #[inline(always)]
    fn page_map(&self) -> &impl PageMap {
        &self.map
    }
}

/// Where the parts of an arena lie in its memory: offsets and sizes in bytes.
struct Plan {
    /// The offset of the bookkeeping.
    metadata: usize,
    /// The size of the bookkeeping.
    bookkeeping: usize,
    /// The offset of the first granule, or of the first page of a large arena.
    first_granule: usize,
    /// The size of all granules, or of all pages of a large arena.
    bytes: usize,
    /// The offset of the first page.
    first_page: usize,
    /// The number of pages.
    pages: usize,
    is_small: bool,
}

impl Plan {
    /// Plans an arena of the `bytes` bytes at address `base`. `None` if they have no room for the
    /// bookkeeping and the bytes of one page.
    fn new(base: usize, bytes: usize) -> Option<Self> {
        let metadata = base.checked_next_multiple_of(64)? - base;
        let rest = bytes.checked_sub(metadata)?;
        let is_small = bytes <= Arena::SMALL_BYTES;
        // Sized as if the bookkeeping itself had to be tracked too, which wastes a few bytes.
        let bookkeeping = bookkeeping(rest, is_small);
        let start = (base + metadata).checked_add(bookkeeping)?;
        let first_page = start.checked_next_multiple_of(PAGE_SIZE)? - base;
        // Zero for a small memory that has the bytes of a page but no aligned page.
        let pages = bytes.saturating_sub(first_page) >> PAGE_SHIFT;
        let (first_granule, end) = if is_small {
            (start.next_multiple_of(GRANULE) - base, (base + bytes) / GRANULE * GRANULE - base)
        } else {
            (first_page, first_page + (pages << PAGE_SHIFT))
        };
        let bytes = end.checked_sub(first_granule).filter(|bytes| *bytes >= PAGE_SIZE)?;
        Some(Self { metadata, bookkeeping, first_granule, bytes, first_page, pages, is_small })
    }
}

/// Returns the size in bytes of the bookkeeping for `bytes` bytes of memory.
const fn bookkeeping(bytes: usize, is_small: bool) -> usize {
    let pages = bytes >> PAGE_SHIFT;
    let bits = if is_small { Granules::bytes(bytes / GRANULE) } else { PageBits::bytes(pages) };
    map_bytes(pages) + bits
}

/// Returns the size in bytes of the page map of `pages` pages, rounded up to a multiple of 64.
const fn map_bytes(pages: usize) -> usize {
    PageMapArray::metadata_bytes(pages).next_multiple_of(64)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{vec, vec::Vec};

    fn memory(bytes: usize) -> Vec<MaybeUninit<u8>> {
        vec![MaybeUninit::uninit(); bytes]
    }

    #[test]
    fn memory_for_the_bytes_of_a_page_is_enough_wherever_it_starts_and_less_is_an_error() {
        let mut memory = memory(Arena::NEEDED + PAGE_SIZE);
        for skip in 0..PAGE_SIZE {
            let arena = Arena::new(&mut memory[skip..][..Arena::NEEDED]);
            let arena = arena.expect("as much as is asked for");
            assert!(arena.bytes() >= PAGE_SIZE && arena.pages() <= 1);
            arena.validate().expect("consistent");
        }
        for bytes in [0, 1, 63, PAGE_SIZE - 1, PAGE_SIZE] {
            let error =
                Arena::new(&mut memory[..bytes]).expect_err("the bytes of a page do not fit");
            assert_eq!(error, TooSmall { needed: Arena::NEEDED, given: bytes });
        }
    }
}
