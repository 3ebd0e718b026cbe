//! The size of a page, and sizes of blocks as powers of two of it.

use core::alloc::Layout;

/// The base-2 logarithm of [`PAGE_SIZE`]. Example: see [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// The size of a page and of a frame in bytes.
///
/// ```
/// use page_frame::{PAGE_SHIFT, PAGE_SIZE};
/// let address = 0x5432;
/// assert_eq!((address / PAGE_SIZE, address >> PAGE_SHIFT), (5, 5)); // the page
/// assert_eq!(address % PAGE_SIZE, 0x432); // the byte in the page
/// ```
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// The base-2 logarithm of a block's size in pages: order 0 is one page (4 KiB), order 9 is 2 MiB,
/// order 18 is 1 GiB, order 28 is 1 TiB.
///
/// ```
/// use page_frame::{Order, PAGE_SIZE};
/// let order = Order::new(3).unwrap();
/// assert_eq!((order.pages(), order.bytes()), (8, 8 * PAGE_SIZE));
/// assert_eq!(Order::for_pages(5), Some(order)); // rounds up
/// assert_eq!((Order::ZERO.pages(), Order::MAX.pages(), Order::new(30)), (1, 1 << 29, None));
/// assert_eq!((order.smaller(), order.larger()), (Order::new(2), Order::new(4)));
/// assert_eq!((Order::ZERO.smaller(), Order::MAX.larger()), (None, None));
/// let mut free_blocks = [0; Order::COUNT]; // a count for each order
/// free_blocks[order.index()] += 2;
/// let pages: usize = Order::all().map(|order| free_blocks[order.index()] * order.pages()).sum();
/// assert_eq!((pages, order.get()), (16, 3));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(u8);

/// The order that holds a request, and the bytes lost by rounding up to it.
///
/// ```
/// use page_frame::{Fit, Order};
/// let Fit { order, waste_bytes } = Order::for_bytes(5000).unwrap();
/// assert_eq!((order.get(), waste_bytes), (1, 2 * 4096 - 5000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// The smallest order that holds the request.
    pub order: Order,
    /// The bytes of the block beyond the request.
    pub waste_bytes: usize,
}

impl Order {
    /// One page. Example: see [`Order`].
    pub const ZERO: Self = Self(0);
    /// The largest block: 2^29 pages (2 TiB), or 2^18 pages (1 GiB) where addresses have 32 bits.
    /// Example: see [`Order`].
    pub const MAX: Self = Self(if usize::BITS < 64 { 18 } else { 29 });
    /// The number of orders. Example: see [`Order`].
    pub const COUNT: usize = Self::MAX.0 as usize + 1;

    /// Returns the order `order`, or `None` beyond [`Order::MAX`]. Example: see [`Order`].
    #[inline]
    pub const fn new(order: u8) -> Option<Self> {
        if order <= Self::MAX.0 { Some(Self(order)) } else { None }
    }

    /// Returns the smallest order whose block holds `bytes`, with the waste; `None` beyond the
    /// largest block.
    ///
    /// Zero bytes take one page, as one byte does; all of it is waste.
    ///
    /// ```
    /// use page_frame::Order;
    /// let fit = Order::for_bytes(3 * 4096 + 1).unwrap();
    /// assert_eq!((fit.order.pages(), fit.waste_bytes), (4, 4095));
    /// ```
    pub const fn for_bytes(bytes: usize) -> Option<Fit> {
        let pages = bytes.div_ceil(PAGE_SIZE);
        match Self::for_pages(pages) {
            Some(order) => Some(Fit { order, waste_bytes: order.bytes() - bytes }),
            None => None,
        }
    }

    /// Returns the smallest order whose block holds `layout`, size and alignment; `None` beyond the
    /// largest block. A block is aligned to its size.
    ///
    /// ```
    /// use core::alloc::Layout;
    /// use page_frame::Order;
    /// let layout = Layout::from_size_align(5000, 32768)?; // the alignment decides
    /// assert_eq!(Order::for_layout(layout).map(Order::pages), Some(8));
    /// # Ok::<(), core::alloc::LayoutError>(())
    /// ```
    pub const fn for_layout(layout: Layout) -> Option<Self> {
        let (size, alignment) = (layout.size(), layout.align());
        match Self::for_bytes(if size > alignment { size } else { alignment }) {
            Some(fit) => Some(fit.order),
            None => None,
        }
    }

    /// Returns the smallest order of at least `pages` pages, or `None` beyond the largest block.
    /// Example: see [`Order`].
    pub const fn for_pages(pages: usize) -> Option<Self> {
        if pages > Self::MAX.pages() {
            return None;
        }
        Some(Self(pages.next_power_of_two().trailing_zeros() as u8))
    }

    /// Returns the size in pages. Example: see [`Order`].
    #[inline]
    pub const fn pages(self) -> usize {
        1 << self.0
    }

    /// Returns the size in bytes. Example: see [`Order`].
    #[inline]
    pub const fn bytes(self) -> usize {
        1 << (self.0 as u32 + PAGE_SHIFT)
    }

    /// Returns the order as a number from 0 to that of [`Order::MAX`]. Example: see [`Order`].
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Returns the order as an index into arrays of [`Order::COUNT`]. Example: see [`Order`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the next larger order, or `None` above the largest. Example: see [`Order`].
    pub const fn larger(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// Returns the next smaller order, or `None` below order 0. Example: see [`Order`].
    pub const fn smaller(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(order) => Some(Self(order)),
            None => None,
        }
    }

    /// Iterates over all orders, smallest first. Example: see [`Order`].
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator + Clone {
        (0..Self::COUNT as u8).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_order_that_holds_the_bytes_is_chosen() {
        for order in Order::all() {
            let at = order.bytes();
            assert_eq!(Order::for_bytes(at), Some(Fit { order, waste_bytes: 0 }));
            let below = Order::for_bytes(at - 1).expect("smaller fits too");
            assert_eq!((below.order, below.waste_bytes), (order, 1));
            let above = Order::for_bytes(at + 1);
            assert_eq!(above.map(|fit| fit.order), order.larger());
        }
    }

    /// Mutation that it catches: `for_layout` by the smaller of size and alignment.
    #[test]
    fn a_layout_takes_the_larger_of_size_and_alignment() {
        let order = |size, alignment| {
            Order::for_layout(Layout::from_size_align(size, alignment).expect("a layout"))
        };
        assert_eq!(order(5000, 8).map(Order::get), Some(1));
        assert_eq!(order(100, 8 * PAGE_SIZE).map(Order::get), Some(3));
        assert_eq!(order(2 * Order::MAX.bytes(), 8), None);
    }

    #[test]
    fn the_next_smaller_order_is_the_inverse_of_the_next_larger_one() {
        assert_eq!((Order::ZERO.smaller(), Order::MAX.larger()), (None, None));
        for order in Order::all().skip(1) {
            assert_eq!(order.smaller().and_then(Order::larger), Some(order));
        }
    }

    #[test]
    fn zero_bytes_take_a_page() {
        assert_eq!(Order::for_bytes(0), Some(Fit { order: Order::ZERO, waste_bytes: PAGE_SIZE }));
    }

    #[test]
    fn sizes_beyond_the_largest_block_have_no_order() {
        assert_eq!(Order::for_bytes(usize::MAX), None);
        assert_eq!(Order::for_bytes(isize::MAX as usize), None);
        assert_eq!(Order::for_pages(Order::MAX.pages() + 1), None);
    }
}
