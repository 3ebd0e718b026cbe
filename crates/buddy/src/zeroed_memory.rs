//! Zero-filled memory that a caller gives an allocator for its metadata.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// A type whose only purpose is its alignment: a [`ZeroedMemory`] starts at a multiple of it.
#[repr(align(64))]
struct CacheLine;

/// The alignment in bytes.
const ALIGNMENT: usize = align_of::<CacheLine>();

/// Zero-filled memory, aligned to 64 bytes, that only the owner of this value may use during `'m`.
///
/// ```
/// use buddy::ZeroedMemory;
/// use std::mem::MaybeUninit;
/// let mut buffer = [MaybeUninit::uninit(); 1000];
/// let memory = ZeroedMemory::zero(&mut buffer);
/// assert!((937..=1000).contains(&memory.bytes())); // from the first multiple of 64 on
/// ```
///
/// While the value lives, the compiler rejects any other use of the buffer:
///
/// ```compile_fail,E0499
/// use buddy::ZeroedMemory;
/// use std::mem::MaybeUninit;
/// let mut buffer = [MaybeUninit::uninit(); 1000];
/// let memory = ZeroedMemory::zero(&mut buffer);
/// let other = ZeroedMemory::zero(&mut buffer);
/// drop(memory);
/// ```
#[derive(Debug)]
pub struct ZeroedMemory<'m> {
    /// Invariant I1: aligned to `ALIGNMENT`, and valid for reads and writes of `bytes` bytes
    /// during `'m`. They are zero when the value is made, and only its owner uses them.
    start: NonNull<u8>,
    bytes: usize,
    /// The compiler treats the value as an exclusive borrow of the buffer.
    borrow: PhantomData<&'m mut [MaybeUninit<u8>]>,
}

// SAFETY: I1: the owner of the value is the memory's only user, so it may move to another thread.
unsafe impl Send for ZeroedMemory<'_> {}
// SAFETY: a shared reference gives only the address and the size, never access to the memory.
unsafe impl Sync for ZeroedMemory<'_> {}

impl<'m> ZeroedMemory<'m> {
    /// Zeroes `buffer`, from its first multiple of 64 to its end. O(bytes).
    ///
    /// A buffer that is not aligned to 64 bytes loses up to 63 bytes at its start.
    /// Example: see [`ZeroedMemory`].
    pub fn zero(buffer: &'m mut [MaybeUninit<u8>]) -> Self {
        let skipped = buffer.as_ptr().align_offset(ALIGNMENT).min(buffer.len());
        let aligned = &mut buffer[skipped..];
        aligned.fill(MaybeUninit::new(0));
        let bytes = aligned.len();
        let start = match bytes {
            // An empty slice may begin anywhere.
            0 => NonNull::<CacheLine>::dangling().cast(),
            _ => NonNull::from(aligned).cast(),
        };
        Self { start, bytes, borrow: PhantomData }
    }

    /// Takes over memory that is zero already: new pages from the operating system, or memory from
    /// `alloc_zeroed`. O(1), does not access the memory. Example: see [`Buddy`](crate::Buddy).
    ///
    /// # Safety
    /// 1. `start` is aligned to 64 bytes, and valid for reads and writes of `bytes` bytes during
    ///    `'m`. Metadata of a section that is added later need only stay valid until that section
    ///    has been removed. Of the page map ([`Buddy::page_map_offset`](crate::Buddy)), only the
    ///    entries of frames that were added, or that a caller asks for, need be valid.
    /// 2. The bytes are zero, and no other code uses them.
    pub const unsafe fn from_zeroed(start: NonNull<u8>, bytes: usize) -> Self {
        Self { start, bytes, borrow: PhantomData }
    }

    /// Returns the size in bytes. Example: see [`ZeroedMemory`].
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns a pointer to the first byte. A caller that accesses memory through it must own the
    /// value and give it up, which nothing enforces (I1).
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }
}
