//! `PageBlock`: a value that owns an aligned block of pages.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use crate::order::Order;

/// An aligned block of 2^order pages, owned by the holder of this value.
///
/// It is neither `Copy` nor `Clone`, so safe code cannot free a block twice. A block is freed with
/// [`PageSource::free`](crate::PageSource::free); dropping it instead leaks the memory, which debug
/// builds report by a panic.
///
/// ```
/// use page_frame::{Arena, Order, PageBlock, PageSource};
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let arena = Arena::new(&mut memory)?;
/// let block = arena.allocate(Order::new(1).unwrap())?;
/// assert_eq!((block.order().get(), block.pages(), block.bytes()), (1, 2, 8192));
/// if !block.is_zero() {
///     // SAFETY: the block is ours, and valid for writes of its size.
///     unsafe { block.start().write_bytes(0, block.bytes()) };
/// }
/// // Where no value of this type can be stored, an address and an order can:
/// let (start, order) = block.into_raw();
/// // SAFETY: clauses 1 and 2: `into_raw` returned both. Clause 3: the bytes were cleared above.
/// let block = unsafe { PageBlock::from_raw(start, order, true) };
/// // SAFETY: the block came from this arena and nothing refers into it.
/// unsafe { arena.free(block) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a block that is dropped instead of freed leaks"]
pub struct PageBlock {
    start: NonNull<u8>,
    order: Order,
    is_zero: bool,
}

const _: () = assert!(size_of::<PageBlock>() <= 2 * size_of::<usize>());

impl PageBlock {
    /// Makes the value that owns the block at `start`. Example: see [`PageBlock`].
    ///
    /// # Safety
    /// 1. `start` is aligned to `order.bytes()`, and valid for reads and writes of that many bytes.
    ///    A source whose pointers only name memory says so; then no byte is accessible.
    /// 2. The caller owns that memory and passes the ownership to the value.
    /// 3. When `is_zero`, every byte of it reads as zero.
    #[inline]
    pub const unsafe fn from_raw(start: NonNull<u8>, order: Order, is_zero: bool) -> Self {
        Self { start, order, is_zero }
    }

    /// Takes the value apart without freeing the block. The caller owns the memory and may pass it
    /// to [`from_raw`](Self::from_raw) later. Example: see [`PageBlock`].
    #[inline]
    pub fn into_raw(self) -> (NonNull<u8>, Order) {
        let block = ManuallyDrop::new(self);
        (block.start, block.order)
    }

    /// Returns the address of the first byte. Example: see [`PageBlock`].
    #[inline]
    pub const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns the order. Example: see [`PageBlock`].
    #[inline]
    pub const fn order(&self) -> Order {
        self.order
    }

    /// Returns the size in pages. Example: see [`PageBlock`].
    #[inline]
    pub const fn pages(&self) -> usize {
        self.order.pages()
    }

    /// Returns the size in bytes. Example: see [`PageBlock`].
    #[inline]
    pub const fn bytes(&self) -> usize {
        self.order.bytes()
    }

    /// Whether the source knows that every byte reads as zero. Example: see [`PageBlock`].
    #[inline]
    pub const fn is_zero(&self) -> bool {
        self.is_zero
    }
}

// SAFETY: the value owns its memory, which may be used on any CPU.
unsafe impl Send for PageBlock {}
// SAFETY: a shared reference gives access to the fields only, not to the memory.
unsafe impl Sync for PageBlock {}

#[cfg(debug_assertions)]
impl Drop for PageBlock {
    fn drop(&mut self) {
        panic!("a block of {} pages at {:p} was dropped, not freed", self.pages(), self.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a block of 2 pages")]
    fn dropping_a_block_is_reported() {
        let order = Order::new(1).expect("order 1 exists");
        // SAFETY: the memory is only named, never used.
        drop(unsafe { PageBlock::from_raw(NonNull::dangling(), order, false) });
    }
}
