//! `ByteSource`: a page source that also allocates memory of any size, for small memories.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::error::OutOfMemory;
use crate::fault::FaultKind;

/// Allocates memory of any size and alignment, in steps of 16 bytes.
///
/// In a small memory, one page for each size class would be most of the memory. A page source that
/// serves bytes ([`PageSource::byte_source`](crate::PageSource::byte_source)) allocates both pages
/// and bytes from the same free memory, so it sets no memory aside for either.
///
/// ```
/// use core::alloc::Layout;
/// use page_frame::{Arena, FaultKind, PageSource};
/// let mut memory = vec![core::mem::MaybeUninit::uninit(); 32 * 1024];
/// let arena = Arena::new(&mut memory)?;
/// let bytes = arena.byte_source().expect("32 KiB are a small memory");
/// assert!(bytes.is_small());
/// let start = bytes.allocate_bytes(Layout::new::<[u8; 20]>())?;
/// assert_eq!(bytes.try_allocate_bytes(Layout::new::<[u8; 64 << 10]>()).ok(), None);
/// assert_eq!(bytes.bytes_at(start.addr().get()).ok(), Some(32));
/// assert_eq!(bytes.byte_pages(), arena.pages() - arena.free_pages());
/// // SAFETY: clauses 1 and 2: allocated above, and the tail is not used.
/// assert!(unsafe { bytes.resize_at(start, 100) });
/// // SAFETY: clauses 1 and 2: allocated above, and not used any more.
/// unsafe { bytes.free_at(start) }.expect("allocated above");
/// // SAFETY: the mistake is detected, and changes nothing.
/// let mistake = unsafe { bytes.free_at(start) };
/// assert_eq!(mistake, Err(FaultKind::DoubleFree));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Safety
/// 1. `allocate_bytes` and `try_allocate_bytes` return memory of at least the layout's size and
///    alignment, valid for reads and writes, that no other code uses until it is freed.
/// 2. `bytes_at` returns no more bytes than the allocation has.
pub unsafe trait ByteSource {
    /// Returns whether the memory is so small that allocators should serve all requests by this
    /// trait, and none from caches. May change from true to false, but not back.
    /// Example: see [`ByteSource`].
    fn is_small(&self) -> bool;

    /// Returns memory for `layout`, its content arbitrary. A request for zero bytes gets memory of
    /// its own too.
    /// Example: see [`ByteSource`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when no free memory is large enough, even after calling shrinkers.
    fn allocate_bytes(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory>;

    /// Allocates as [`allocate_bytes`](Self::allocate_bytes) does, but calls no shrinker.
    /// Example: see [`ByteSource`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when no free memory is large enough.
    fn try_allocate_bytes(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        self.allocate_bytes(layout)
    }

    /// Frees the allocation at `start`. Example: see [`ByteSource`].
    ///
    /// # Errors
    /// The kind of fault, if no allocation of bytes starts there. Nothing changes then.
    ///
    /// # Safety
    /// 1. If an allocation of bytes starts there, the caller owns it.
    /// 2. No code uses the memory afterwards.
    unsafe fn free_at(&self, start: NonNull<u8>) -> Result<(), FaultKind>;

    /// Returns the size in bytes of the allocation at `address`. Example: see [`ByteSource`].
    ///
    /// # Errors
    /// The fault that a free of `address` would be, if no allocation of bytes starts there.
    fn bytes_at(&self, address: usize) -> Result<usize, FaultKind>;

    /// Changes the size of the allocation at `start` to `bytes` without moving it. Returns whether
    /// that succeeded. Example: see [`ByteSource`].
    ///
    /// # Safety
    /// 1. An allocation of bytes starts at `start`, which the caller owns.
    /// 2. When shrinking, no code uses the tail afterwards.
    unsafe fn resize_at(&self, start: NonNull<u8>, bytes: usize) -> bool;

    /// Returns the number of pages in which this trait has allocated bytes. O(pages).
    /// Example: see [`ByteSource`].
    fn byte_pages(&self) -> usize;
}
