//! How a slab is cut: order, objects, colours, waste. All of it `const fn`.
//!
//! # Concepts
//! - **Stride**: the object size rounded up to the alignment; objects lie at multiples of it after
//!   the colour offset.
//! - **Bookkeeping**: 64 bytes of header and a **link** per object, so that a free object is never
//!   written to. Up to twelve links lie in the header; more lie in lines of their own in front of
//!   it, a byte each up to 254 objects, otherwise two. The bookkeeping lies at the end of the slab
//!   if it fits into the bytes that the objects leave, less than a page, or if objects are small;
//!   otherwise outside.
//! - **Guard**: under some presets, bytes in front of the first object for a word that shows writes
//!   there. The other objects have the canary of a neighbour in front of them.
//! - **Leftover**: bytes of the slab that are neither object nor bookkeeping. Colours are made of
//!   them. Whole pages of it lie at the end, and neither colours nor bookkeeping touch them: they
//!   cost no memory if the page source commits pages at the first access.
//!
//! ```text
//! | guard | colour | object 0 | ... | object n-1 | rest of the leftover | links | header |
//! ```
//!
//! # Choice of the order
//! [`Geometry::new`] chooses the smallest order whose leftover is at most 1/20 of the slab and that
//! holds enough objects. If no order fits, it allows 1/8, then 1/4, then 1/2 (the scheme of Linux's
//! SLUB, which begins with 1/16; Bonwick 1994 has 1/8 alone), and at last takes the smallest order
//! that holds one object. Enough are eight objects up to 512 bytes, four below a page, one from a
//! page on. With more objects, slabs would seldom be empty; with more pages, their blocks would be
//! hard to get. Where pages are easy to get and cost nothing before the first access, as in a
//! process, more objects pay ([`Geometry::with_objects`]): a slab is made and released less often.
//!
//! # Invariants
//! - I1: guard, colour offset, objects and bookkeeping lie inside the slab and do not overlap, for
//!   every colour.
//! - I2: every object is aligned, for every colour. The slab is aligned to its size, and a colour
//!   step is a multiple of the alignment, whatever the line size is ([`colour_step`]).

use page_frame::{Order, PAGE_SIZE};

use crate::slabs::free_word::FreeWord;
use crate::slabs::layout::links::{LINKS_WITHIN, MARK_CACHED};

/// The largest object in bytes. Example: see [`GeometryError`].
pub const LARGEST_SIZE: usize = 4 << 20;
/// The largest order chosen for an object that fits in a block of this order or a lower one.
/// Example: see [`Geometry`].
pub const LARGEST_ORDER: u8 = 3;
/// The largest order of a slab that a user may ask for: 1 GiB.
const MOST_ORDER: u8 = 18;

/// Bytes of a slab's header: 64; more under loom, whose atomics are larger. `header.rs` asserts it.
pub(crate) const HEADER: usize = if page_frame::sync::MODELLED { 320 } else { 64 };
/// Maximum objects of a slab whose header lies outside only to keep whole pages free: their links
/// fit in one line of 64 bytes.
pub(crate) const MAX_OUTSIDE: usize = 64;
/// Maximum objects with links of one byte: no index looks like a mark.
const SHORT_LINKS: usize = MARK_CACHED as usize;
/// Up to this size of objects in bytes, bookkeeping lies in the slab even if it costs an object.
const SMALL: usize = PAGE_SIZE / 8;
/// Maximum objects of a slab: a free word can count them, and no index looks like a mark.
const MAX_OBJECTS: usize = least(FreeWord::MAX_OBJECTS, (MARK_CACHED as usize) << 8);
/// The bytes of a guard, before they are rounded up to the alignment of the objects.
pub(crate) const GUARD: usize = size_of::<usize>();
/// Objects of a larger alignment in bytes have no guard, which would cost that much of each slab.
const MAX_GUARD: usize = 64;
/// Denominators of the accepted leftovers, as fractions of the slab; the best first.
const FRACTIONS: [usize; 4] = [20, 8, 4, 2];

/// How the slabs of objects of one size are cut.
///
/// ```
/// use slab::{Geometry, LARGEST_ORDER};
/// const INODES: Geometry = match Geometry::new(600, 8, 64) { // size, alignment, line in bytes
///     Ok(geometry) => geometry,
///     Err(_) => panic!("no such objects"),
/// };
/// assert!(INODES.order().get() <= LARGEST_ORDER);
/// let objects = INODES.capacity() * INODES.stride();
/// assert!(objects + INODES.leftover_bytes() <= INODES.slab_bytes());
/// // The bookkeeping lies at the end of the slab.
/// assert!(INODES.is_inside() && INODES.bookkeeping_offset().unwrap() >= objects);
/// // Successive slabs begin at different offsets.
/// let next = INODES.next_colour(0);
/// assert!(INODES.colours() > 1 && INODES.colour_offset(next) % 64 == 0 && next != 0);
/// // In single pages, fewer objects fit per byte:
/// let small = Geometry::at_order(600, 8, 64, 0).unwrap();
/// assert!(small.capacity() << INODES.order().get() <= INODES.capacity());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    // Narrow, as every cache has one: a slab has at most 1 GiB.
    order: u8,
    inside: bool,
    guard: u8,
    stride: u32,
    capacity: u32,
    leftover: u32,
    step: u32,
    first_taken: u32,
}

/// Why there is no slab for such objects.
///
/// ```
/// use slab::{Geometry, GeometryError, LARGEST_SIZE};
/// let error = |size, alignment| Geometry::new(size, alignment, 64).unwrap_err();
/// assert_eq!(error(0, 8), GeometryError::ZeroSize);
/// assert_eq!(error(8, 12), GeometryError::NotPowerOfTwo { alignment: 12 });
/// let (size, alignment) = (LARGEST_SIZE + 1, 8);
/// assert_eq!(error(size, alignment), GeometryError::TooLarge { size, alignment });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// Objects of no bytes need no memory.
    ZeroSize,
    /// The alignment is not a power of two.
    NotPowerOfTwo {
        /// The alignment in bytes.
        alignment: usize,
    },
    /// The object, rounded up to its alignment, is larger than [`LARGEST_SIZE`].
    TooLarge {
        /// The size in bytes.
        size: usize,
        /// The alignment in bytes.
        alignment: usize,
    },
}

impl core::fmt::Display for GeometryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::ZeroSize => f.write_str("objects of zero bytes need no memory"),
            Self::NotPowerOfTwo { alignment } => {
                write!(f, "the alignment {alignment} is not a power of two")
            }
            Self::TooLarge { size, alignment } => {
                write!(f, "{size} bytes aligned to {alignment} exceed {LARGEST_SIZE} bytes")
            }
        }
    }
}

impl core::error::Error for GeometryError {}

impl Geometry {
    /// Chooses the order for objects of `size` bytes aligned to `alignment`, on a machine with
    /// CPU-cache lines of `line` bytes. Any `line` is accepted: colour steps are `line` rounded up
    /// to a multiple of `alignment`. Example: see [`Geometry`].
    ///
    /// # Errors
    /// [`GeometryError`] for zero bytes, an alignment that is not a power of two, and objects
    /// beyond [`LARGEST_SIZE`].
    pub const fn new(size: usize, alignment: usize, line: usize) -> Result<Self, GeometryError> {
        Self::with_objects(size, alignment, line, 0)
    }

    /// Chooses the order as [`new`](Self::new) does, for slabs of at least `objects` objects, or as
    /// many as a slab of [`LARGEST_ORDER`] holds. Objects of a page or more are cut as by `new`.
    ///
    /// ```
    /// use slab::Geometry;
    /// let usual = Geometry::new(700, 8, 64)?;
    /// let large = Geometry::with_objects(700, 8, 64, 32)?;
    /// assert!(usual.capacity() < 32 && large.capacity() >= 32);
    /// assert_eq!(Geometry::with_objects(3000, 8, 64, 32)?.order().get(), slab::LARGEST_ORDER);
    /// # Ok::<(), slab::GeometryError>(())
    /// ```
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub const fn with_objects(
        size: usize,
        alignment: usize,
        line: usize,
        objects: usize,
    ) -> Result<Self, GeometryError> {
        if size == 0 {
            return Err(GeometryError::ZeroSize);
        }
        if !alignment.is_power_of_two() {
            return Err(GeometryError::NotPowerOfTwo { alignment });
        }
        let stride = match size.checked_next_multiple_of(alignment) {
            Some(stride) if stride <= LARGEST_SIZE => stride,
            _ => return Err(GeometryError::TooLarge { size, alignment }),
        };
        let enough = match Self::at_order(size, alignment, line, LARGEST_ORDER) {
            Some(largest) if stride < PAGE_SIZE && objects > enough_objects(stride) => {
                least(objects, largest.capacity())
            }
            _ => enough_objects(stride),
        };
        let mut fraction = 0;
        while fraction < FRACTIONS.len() {
            let mut order = 0;
            while order <= LARGEST_ORDER {
                if let Some(settings) = Self::at_order(size, alignment, line, order) {
                    let leftover = settings.leftover_bytes() * FRACTIONS[fraction];
                    if settings.capacity() >= enough && leftover <= settings.slab_bytes() {
                        return Ok(settings);
                    }
                }
                order += 1;
            }
            fraction += 1;
        }
        let mut order = 0;
        loop {
            if let Some(settings) = Self::at_order(size, alignment, line, order) {
                return Ok(settings);
            }
            order += 1;
        }
    }

    /// Returns the cut for the same objects, of an order up to `most`, whose slabs have the
    /// smallest share of bytes that are no object. If that is equal, the lower order.
    pub(crate) fn tightest(self, alignment: usize, line: usize, most: Order) -> Self {
        let lost = |one: &Self| one.slab_bytes() - one.capacity() * one.stride();
        let mut best = self;
        for order in self.order().get() + 1..=most.get() {
            let larger = Self::at_order(self.stride(), alignment, line, order);
            let Some(larger) = larger.filter(Self::is_inside) else { continue };
            if lost(&larger) * best.slab_bytes() < lost(&best) * larger.slab_bytes() {
                best = larger;
            }
        }
        best
    }

    /// Returns the cut of slabs of `order`, or `None` if no object fits, for a size of zero, for an
    /// alignment that is not a power of two or exceeds the slab, and for slabs of more than 1 GiB
    /// (order 18). Example: see [`Geometry`].
    pub const fn at_order(size: usize, alignment: usize, line: usize, order: u8) -> Option<Self> {
        let Some(block) = Order::new(order) else { return None };
        if size == 0 || !alignment.is_power_of_two() || alignment > block.bytes() {
            return None;
        }
        let Some(stride) = size.checked_next_multiple_of(alignment) else { return None };
        Self::cut(stride, colour_step(alignment, line, block), block, 0)
    }

    /// Returns the cut for the same objects with a guard in front of the first object of each slab,
    /// of the same order or the next one that has room for both. Without a guard where the objects
    /// are aligned to more than a line of 64 bytes, or no order up to `most` has room.
    pub(crate) fn guarded(self, alignment: usize, most: Order) -> Self {
        let guard = GUARD.next_multiple_of(alignment);
        if guard > MAX_GUARD {
            return self;
        }
        let orders = Order::all().filter(|order| (self.order()..=most).contains(order));
        let cut = |order| Self::cut(self.stride(), self.colour_step(), order, guard as u8);
        let fits = |cut: &Self| cut.inside || cut.capacity() <= MAX_OUTSIDE;
        orders.filter_map(cut).find(fits).unwrap_or(self)
    }

    /// Returns the cut of smaller slabs for the same objects, or `None` if no object fits.
    pub(crate) const fn at_lower_order(&self, order: Order) -> Option<Self> {
        if self.colour_step() > order.bytes() {
            // The step is a multiple of the alignment, so slabs of this order may be aligned to
            // less than an object.
            return None;
        }
        Self::cut(self.stride(), self.colour_step(), order, self.guard)
    }

    /// Returns the cut of slabs of `block` into objects of `stride` bytes, with colours in steps of
    /// `step` bytes, behind a guard of `guard` bytes.
    const fn cut(stride: usize, step: usize, block: Order, guard: u8) -> Option<Self> {
        let bytes = block.bytes() - guard as usize;
        let outside = least(bytes / stride, MAX_OBJECTS);
        if outside == 0 || block.get() > MOST_ORDER {
            return None;
        }
        let mut within = outside;
        while within > 0 && within * stride + bookkeeping(within) > bytes {
            within -= 1;
        }
        let leaves_pages = bytes - outside * stride >= PAGE_SIZE && outside <= MAX_OUTSIDE;
        let inside = (within == outside && !leaves_pages) || (within > 0 && stride <= SMALL);
        let capacity = if inside { within } else { outside };
        let used = capacity * stride + if inside { bookkeeping(capacity) } else { 0 };
        // Of colour 0. In slabs of other colours this object begins later on the same page.
        let page = block.bytes().saturating_sub(bookkeeping(capacity)) / PAGE_SIZE * PAGE_SIZE;
        let first = page.saturating_sub(guard as usize).div_ceil(stride);
        let first_taken = if inside && first < capacity { narrow(first) } else { 0 };
        let (stride, leftover) = (narrow(stride), narrow(bytes - used));
        let (order, capacity, step) = (block.get(), narrow(capacity), narrow(step));
        Some(Self { order, inside, guard, stride, capacity, leftover, step, first_taken })
    }

    /// Returns the order of a slab. Example: see [`Geometry`].
    pub const fn order(&self) -> Order {
        match Order::new(self.order) {
            Some(order) => order,
            None => panic!("`at_order` took only orders"),
        }
    }

    /// Returns the size of a slab in bytes. Example: see [`Geometry`].
    pub const fn slab_bytes(&self) -> usize {
        self.order().bytes()
    }

    /// Returns the distance between neighbouring objects in bytes. Example: see [`Geometry`].
    pub const fn stride(&self) -> usize {
        self.stride as usize
    }

    /// Returns how many objects a slab holds. Example: see [`Geometry`].
    pub const fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Returns the bytes of a slab that are neither object nor bookkeeping.
    /// Example: see [`Geometry`].
    pub const fn leftover_bytes(&self) -> usize {
        self.leftover as usize
    }

    /// Returns whether header and links lie inside the slab. Example: see [`Geometry`].
    pub const fn is_inside(&self) -> bool {
        self.inside
    }

    /// Returns how many colours there are, at least one. Example: see [`Geometry`].
    pub const fn colours(&self) -> usize {
        self.leftover_bytes() % PAGE_SIZE / self.colour_step() + 1
    }

    /// Returns the offset of the first object of a slab of colour `colour` modulo the number of
    /// colours, in bytes. Example: see [`Geometry`].
    pub const fn colour_offset(&self, colour: usize) -> usize {
        self.guard_bytes() + colour % self.colours() * self.colour_step()
    }

    /// Returns the index of the object that is taken first from a slab: the first one on the page
    /// of the bookkeeping, which building the slab has written to. Object 0 where no object begins
    /// there.
    ///
    /// So the first objects of a slab of several pages cost no page fault of their own.
    pub(crate) const fn first_taken(&self) -> usize {
        self.first_taken as usize
    }

    /// Returns the bytes in front of the first object that no colour and no object has.
    #[inline(always)]
    pub(crate) const fn guard_bytes(&self) -> usize {
        self.guard as usize
    }

    /// Returns the distance between the offsets of neighbouring colours in bytes.
    pub(crate) const fn colour_step(&self) -> usize {
        self.step as usize
    }

    /// Returns the colour of the slab after one of `colour`: slabs take all colours in turn,
    /// successive ones far apart.
    ///
    /// The stride between them has no divisor in common with the number of colours and is near 0.38
    /// of it, so that any few successive slabs are spread over all of the leftover.
    /// Example: see [`Geometry`].
    pub const fn next_colour(&self, colour: usize) -> usize {
        let colours = self.colours();
        let mut stride = colours * 3 / 8 + 1;
        while greatest_common_divisor(stride, colours) != 1 {
            stride += 1;
        }
        (colour + stride) % colours
    }

    /// Returns the bytes of links in front of the header; zero if the links lie in it.
    pub(crate) const fn links_bytes(&self) -> usize {
        links_bytes(self.capacity())
    }

    /// Returns whether a link is one byte.
    pub(crate) const fn has_short_links(&self) -> bool {
        link_bytes(self.capacity()) == 1
    }

    /// Returns the offset of the bookkeeping in a slab that has it inside: links first, the header
    /// at the end. Example: see [`Geometry`].
    pub const fn bookkeeping_offset(&self) -> Option<usize> {
        if self.inside { Some(self.slab_bytes() - bookkeeping(self.capacity())) } else { None }
    }
}

/// Returns the step between colours in bytes: at least `line`, a multiple of `alignment`, and at
/// most the slab.
///
/// `alignment` is a power of two of at most `block`'s bytes, which are a power of two too; so both
/// results keep I2.
const fn colour_step(alignment: usize, line: usize, block: Order) -> usize {
    let line = if line == 0 { 1 } else { line };
    match line.checked_next_multiple_of(alignment) {
        // A step beyond the slab gives one colour, as a step over the whole slab does.
        Some(step) => least(step, block.bytes()),
        None => block.bytes(),
    }
}

/// Returns the bytes of header and links of a slab of `capacity` objects, in whole lines of 64
/// bytes.
const fn bookkeeping(capacity: usize) -> usize {
    HEADER + links_bytes(capacity)
}

/// Returns the bytes of links in front of the header of a slab of `capacity` objects, in whole
/// lines of 64 bytes.
const fn links_bytes(capacity: usize) -> usize {
    match capacity {
        0..=LINKS_WITHIN => 0,
        _ => (capacity * link_bytes(capacity)).next_multiple_of(64),
    }
}

/// Returns the bytes of a link in a slab of `capacity` objects.
const fn link_bytes(capacity: usize) -> usize {
    if capacity <= SHORT_LINKS { 1 } else { 2 }
}

const fn enough_objects(stride: usize) -> usize {
    match stride {
        0..=512 => 8,
        513..PAGE_SIZE => 4,
        _ => 1,
    }
}

/// Returns a number that is at most the bytes of a slab as `u32`.
const fn narrow(number: usize) -> u32 {
    assert!(number <= u32::MAX as usize, "a slab has at most 1 GiB");
    number as u32
}

const fn least(one: usize, other: usize) -> usize {
    if one < other { one } else { other }
}

const fn greatest_common_divisor(one: usize, other: usize) -> usize {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

#[cfg(test)]
#[path = "geometry_tests.rs"]
mod tests;
