//! Zeroed memory that an allocator keeps its metadata in.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// The alignment of [`ZeroedMemory`].
#[repr(align(64))]
struct CacheLine;

/// The alignment in bytes.
const ALIGNMENT: usize = align_of::<CacheLine>();

/// Memory that reads as zero, begins at a cache line, and belongs to the owner of the value during
/// `'m`.
///
/// ```
/// use buddy::ZeroedMemory;
/// use std::mem::MaybeUninit;
/// let mut buffer = [MaybeUninit::uninit(); 1000];
/// let memory = ZeroedMemory::zero(&mut buffer);
/// assert!((937..=1000).contains(&memory.bytes())); // from the first cache line on
/// ```
///
/// While the value lives, no other code reaches the buffer:
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
    /// I1: aligned to `ALIGNMENT`, and valid for reads and writes of `bytes` bytes during `'m`.
    /// They read as zero, and only the owner of this value uses them.
    start: NonNull<u8>,
    bytes: usize,
    /// As the exclusive borrow that it stands for.
    borrow: PhantomData<&'m mut [MaybeUninit<u8>]>,
}

// SAFETY: I1: the owner of the value is the memory's only user, in whatever thread it is.
unsafe impl Send for ZeroedMemory<'_> {}
// SAFETY: shared references tell the address and the size, and reach no memory.
unsafe impl Sync for ZeroedMemory<'_> {}

impl<'m> ZeroedMemory<'m> {
    /// Zeroes `buffer`, from its first cache line on. O(bytes).
    ///
    /// A buffer that is not aligned to 64 bytes loses up to 63 bytes at its start.
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

    /// Takes over memory that reads as zero already: fresh from the system, or from `alloc_zeroed`.
    /// O(1), and touches nothing.
    ///
    /// # Safety
    /// 1. `start` is aligned to 64 bytes, and valid for reads and writes of `bytes` bytes during
    ///    `'m`. For the metadata of a section, it may become invalid when the section has been
    ///    removed.
    /// 2. The bytes read as zero, and no other code uses them.
    pub const unsafe fn from_zeroed(start: NonNull<u8>, bytes: usize) -> Self {
        Self { start, bytes, borrow: PhantomData }
    }

    /// Returns how many bytes there are.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the first byte. A caller that uses it keeps to I1, and consumes the value.
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }
}
