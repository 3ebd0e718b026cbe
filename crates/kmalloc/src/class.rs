//! Size classes: which object size serves a request.
//!
//! # Concepts
//! - Up to 32 bytes the classes step by 8; above, each doubling is divided into four steps (as in
//!   jemalloc and others; Evans 2006), so a class exceeds the one below by at most a quarter. 96
//!   and 192 bytes are among them. Above 256 bytes, where few objects are many bytes, there are
//!   eight steps: 3 % less memory for 64 MiB in objects of 16 to 2,048 bytes.
//! - A class's **natural alignment** is the largest power of two that divides its size: objects of
//!   a class lie at multiples of its size from an aligned start, so a request aligned to `a` is
//!   served by the smallest class that is large enough and a multiple of `a`. No class is kept for
//!   the sake of alignment.
//!
//! # Invariants
//! - I1: sizes ascend, and each is a multiple of 8.
//! - I2: `for_layout` returns the smallest class that is large enough and naturally aligned enough.
//! - I3: internal waste is at most 7 bytes up to 32 bytes, below a fifth of the object up to 256,
//!   and below a ninth above, when the alignment asks for no more than the size does.
//! - I4: the smallest class for a multiple of a power of two is a multiple of it as well. In a
//!   doubling of steps of `s` bytes a power up to `s` divides all classes; the multiples of `2 *
//!   s`, `4 * s` and `8 * s` in it are classes themselves.
//!
//! # Costs
//! A class is looked up by the number of the last byte: a shift and a load of a table of 4 KiB, of
//! which small sizes need the first lines. Wider steps for large sizes would take a tenth of that,
//! and a branch that mixed sizes mispredict. An alignment is an `or` more, as the last byte of a
//! size rounded up has all its bits. For a constant size nothing remains of either.

use core::alloc::Layout;

/// The number of a size class, smallest first.
///
/// ```
/// use core::alloc::Layout;
/// use kmalloc::{ClassIndex, LARGEST};
/// let class = ClassIndex::for_size(100).unwrap();
/// assert_eq!((class.size(), class.alignment()), (112, 16));
/// // An aligned request takes the smallest class whose size is a multiple of the alignment:
/// let aligned = ClassIndex::for_layout(Layout::from_size_align(100, 64)?).unwrap();
/// assert_eq!(aligned.size(), 128);
/// assert_eq!(ClassIndex::for_size(LARGEST + 1), None); // takes pages
/// assert_eq!(ClassIndex::for_size(0).unwrap().size(), 8);
/// assert_eq!(ClassIndex::new(class.index()), Some(class));
/// assert_eq!(ClassIndex::all().len(), ClassIndex::COUNT);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassIndex(u8);

/// The size of the largest class in bytes; larger requests take pages. Example: see [`ClassIndex`].
pub const LARGEST: usize = 32 << 10;

/// Up to this size classes step by [`STEP`].
const LINEAR: usize = 32;
const STEP: usize = 8;
const LINEAR_CLASSES: usize = LINEAR / STEP;

/// Sizes of which each doubling is divided into as many steps.
#[derive(Clone, Copy)]
struct Doublings {
    /// They lie above this size.
    above: usize,
    steps: usize,
    /// The number of the first class.
    first: usize,
}

const COARSE: Doublings = Doublings { above: LINEAR, steps: 4, first: LINEAR_CLASSES };
const FINE: Doublings = Doublings { above: 1 << 8, steps: 8, first: COARSE.end(1 << 8) };

impl Doublings {
    /// Returns the number behind the last class, of `size` bytes, a power of two.
    const fn end(self, size: usize) -> usize {
        self.first + (size / self.above).ilog2() as usize * self.steps
    }

    /// Returns the number of the smallest class of at least `bytes` bytes.
    #[inline(always)]
    const fn class(self, bytes: usize) -> usize {
        // `bytes` lies in (2^doubling, 2^(doubling + 1)], of which each step is a part of
        // 2^doubling.
        let last = bytes - 1;
        let doubling = last.ilog2();
        let step = (last >> (doubling - self.steps.ilog2())) & (self.steps - 1);
        self.first + (doubling - self.above.ilog2()) as usize * self.steps + step
    }

    /// Returns the size of the class of number `class`.
    const fn size(self, class: usize) -> usize {
        let class = class - self.first;
        let doubling = self.above << (class / self.steps);
        doubling + (class % self.steps + 1) * (doubling / self.steps)
    }
}

/// The class of each last byte, by step.
const TABLE: [u8; LARGEST / STEP] = table();

const fn table<const N: usize>() -> [u8; N] {
    let mut table = [0; N];
    let mut index = 0;
    while index < N {
        table[index] = ClassIndex::computed((index + 1) * STEP).0;
        index += 1;
    }
    table
}

/// The size of each class.
const SIZES: [u16; ClassIndex::COUNT] = {
    let mut sizes = [0; ClassIndex::COUNT];
    let mut class = 0;
    while class < ClassIndex::COUNT {
        sizes[class] = ClassIndex(class as u8).computed_size() as u16;
        class += 1;
    }
    sizes
};
const _: () = assert!(LARGEST <= u16::MAX as usize);

impl ClassIndex {
    /// How many classes there are. Example: see [`ClassIndex`].
    pub const COUNT: usize = FINE.end(LARGEST);

    /// Returns the class of number `index`, or `None` from [`COUNT`](Self::COUNT) on.
    /// Example: see [`ClassIndex`].
    #[inline]
    pub const fn new(index: usize) -> Option<Self> {
        if index < Self::COUNT { Some(Self(index as u8)) } else { None }
    }

    /// Returns the smallest class of at least `bytes` bytes, or `None` beyond the largest. Zero
    /// bytes take the smallest. Example: see [`ClassIndex`].
    #[inline(always)]
    pub const fn for_size(bytes: usize) -> Option<Self> {
        Self::at_least(bytes, 1)
    }

    /// Returns the smallest class of at least `bytes` bytes that is a multiple of twice the step;
    /// `None` beyond the largest, and for zero bytes as well: for a hot path, whose other way looks
    /// again.
    #[inline(always)]
    pub(crate) const fn for_double_steps(bytes: usize) -> Option<Self> {
        // Zero bytes end beyond every class here.
        Self::of_last(bytes.wrapping_sub(1) | (2 * STEP - 1))
    }

    /// Returns the smallest class of at least `bytes` bytes, and at least one, that is a multiple
    /// of `alignment`, a power of two.
    #[inline(always)]
    const fn at_least(bytes: usize, alignment: usize) -> Option<Self> {
        let bytes = if bytes == 0 { 1 } else { bytes };
        Self::of_last((bytes - 1) | (alignment - 1))
    }

    /// Returns what [`for_layout`](Self::for_layout) does, but `None` for zero bytes as well: for
    /// hot paths, whose other way looks again.
    #[inline(always)]
    pub(crate) const fn of_some_bytes(layout: Layout) -> Option<Self> {
        // I4. Zero bytes end beyond every class here.
        Self::of_last(layout.size().wrapping_sub(1) | (layout.align() - 1))
    }

    /// Returns the smallest class that has a byte of number `last`, or `None` beyond the largest.
    #[inline(always)]
    const fn of_last(last: usize) -> Option<Self> {
        if last < LARGEST { Some(Self(TABLE[last / STEP])) } else { None }
    }

    const fn computed(bytes: usize) -> Self {
        if bytes <= LINEAR {
            return Self(bytes.saturating_sub(1) as u8 / STEP as u8);
        }
        let doublings = if bytes <= FINE.above { COARSE } else { FINE };
        Self(doublings.class(bytes) as u8)
    }

    /// Returns the smallest class for a size and an alignment, or `None` where pages must serve
    /// them. Example: see [`ClassIndex`].
    #[inline(always)]
    pub const fn for_layout(layout: Layout) -> Option<Self> {
        Self::at_least(layout.size(), layout.align())
    }

    /// Returns the object size in bytes. Example: see [`ClassIndex`].
    #[inline]
    pub const fn size(self) -> usize {
        SIZES[self.0 as usize] as usize
    }

    const fn computed_size(self) -> usize {
        match self.0 as usize {
            class if class < COARSE.first => (class + 1) * STEP,
            class if class < FINE.first => COARSE.size(class),
            class => FINE.size(class),
        }
    }

    /// Returns the alignment in bytes that every object of the class has.
    /// Example: see [`ClassIndex`].
    #[inline]
    pub const fn alignment(self) -> usize {
        1 << self.size().trailing_zeros()
    }

    /// Returns the number. Example: see [`ClassIndex`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Iterates over all classes, smallest first. Example: see [`ClassIndex`].
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        (0..Self::COUNT as u8).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smallest(bytes: usize, alignment: usize) -> Option<ClassIndex> {
        ClassIndex::all().find(|class| class.size() >= bytes && class.size() % alignment == 0)
    }

    /// The tables are made at compile time. Here the same functions run for every size.
    ///
    /// Mutation that it catches: a class one step too large or too small, at any size.
    #[test]
    fn the_tables_have_the_classes_that_the_functions_compute() {
        assert_eq!(TABLE, table());
        assert_eq!((COARSE.end(1 << 8), FINE.end(LARGEST)), (FINE.first, ClassIndex::COUNT));
        for class in ClassIndex::all() {
            assert_eq!(class.size(), class.computed_size());
        }
        for bytes in 1..=LARGEST {
            let class = ClassIndex::computed(bytes);
            assert_eq!(ClassIndex::for_size(bytes), Some(class), "{bytes}");
            assert!(class.size() >= bytes);
            let below = class.index().checked_sub(1).and_then(ClassIndex::new);
            assert!(below.is_none_or(|below| below.size() < bytes), "{bytes}");
        }
    }

    #[test]
    fn sizes_ascend_to_the_largest() {
        let mut below = 0;
        for class in ClassIndex::all() {
            assert!(class.size() > below && class.size() % STEP == 0, "I1");
            below = class.size();
        }
        assert_eq!(below, LARGEST);
        for size in [8, 16, 24, 32, 64, 96, 128, 192, 256, 1024, 1152, 4096, 8192, 16384] {
            assert!(ClassIndex::all().any(|class| class.size() == size), "{size} is a class");
        }
    }

    #[test]
    fn every_size_gets_the_smallest_class_and_wastes_little() {
        for bytes in 1..=LARGEST {
            let class = ClassIndex::for_size(bytes);
            assert_eq!(class, smallest(bytes, 1), "{bytes} bytes");
            let size = class.expect("not beyond the largest").size();
            let waste = size - bytes;
            let part = if bytes <= FINE.above { 5 } else { 9 };
            assert!(waste <= 7 || waste * part < size, "I3: {bytes} bytes in {size}");
        }
        assert_eq!(ClassIndex::for_size(LARGEST + 1), None);
        assert_eq!(ClassIndex::for_size(usize::MAX), None);
        assert_eq!(ClassIndex::for_size(0).map(ClassIndex::size), Some(8));
    }

    #[test]
    fn every_alignment_gets_the_smallest_class_that_has_it() {
        for alignment in (0..=16).map(|shift| 1_usize << shift) {
            for bytes in (0..=LARGEST + 9).step_by(7) {
                let layout = Layout::from_size_align(bytes, alignment).expect("small");
                assert_eq!(
                    ClassIndex::for_layout(layout),
                    smallest(bytes, alignment),
                    "{bytes} bytes aligned to {alignment}"
                );
            }
        }
    }

    #[test]
    fn multiples_of_two_steps_get_the_smallest_class_that_is_one_too() {
        for bytes in 1..=LARGEST {
            assert_eq!(ClassIndex::for_double_steps(bytes), smallest(bytes, 16), "{bytes} bytes");
        }
        assert_eq!(ClassIndex::for_double_steps(LARGEST + 1), None);
        assert_eq!(ClassIndex::for_double_steps(0), None, "looked at again");
    }

    #[test]
    fn classes_fold_at_compile_time() {
        const CLASS: ClassIndex = ClassIndex::for_size(20).expect("20 bytes are not large");
        assert_eq!(CLASS.size(), 24);
    }
}
