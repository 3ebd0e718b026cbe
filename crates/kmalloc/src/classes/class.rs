//! Size classes: which object size serves a request.
//!
//! # Concepts
//! - Up to 32 bytes the classes are 8 bytes apart. Above 32 bytes each doubling is divided into
//!   four classes, as in jemalloc (Evans 2006), so a class exceeds the one below it by at most a
//!   quarter. Above 256 bytes, where the waste of a few objects is many bytes, each doubling has
//!   eight classes: 64 MiB in objects of 16 to 2,048 bytes take 3 % less memory than with four.
//! - Objects of a class lie at multiples of its size from an aligned start. So each of them has the
//!   **natural alignment** of the class: the largest power of two that divides its size. A request
//!   aligned to `a` takes the smallest class that is large enough and a multiple of `a`. No class
//!   exists for the sake of alignment.
//!
//! # Invariants
//! - I1: sizes ascend, and each is a multiple of 8.
//! - I2: `for_layout` returns the smallest class that is large enough and naturally aligned enough.
//! - I3: the internal waste of a request whose alignment is no larger than its size asks for is at
//!   most 7 bytes in classes up to 32 bytes, below a fifth of the object in classes up to 256
//!   bytes, and below a ninth in larger classes.
//! - I4: round a size up to a multiple of a power of two; the smallest class for the result is a
//!   multiple of that power too. Proof: let the classes of a doubling be `s` bytes apart. A power
//!   up to `s` divides each of them. The multiples of `2 * s`, `4 * s` and `8 * s` in the doubling
//!   are classes themselves.
//!
//! # Costs
//! The number of a request's last byte, divided by 8, is an index into a table of 4 KiB. Small
//! sizes use only the first lines of the table. A table with wider steps for large sizes would take
//! a tenth of the memory, and a branch that a mixture of sizes mispredicts. An alignment above 8
//! costs one `or`: rounding a size up to a power of two sets the low bits of its last byte's
//! number. The compiler computes the class of a constant size.

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
        Self::fitting(if bytes == 0 { 1 } else { bytes }, 1)
    }

    /// Returns the smallest class for a size and an alignment, or `None` where pages must serve
    /// them. Zero bytes take the smallest class that has the alignment.
    /// Example: see [`ClassIndex`].
    #[inline(always)]
    pub const fn for_layout(layout: Layout) -> Option<Self> {
        let bytes = layout.size();
        Self::fitting(if bytes == 0 { 1 } else { bytes }, layout.align())
    }

    /// Returns the smallest class of at least `bytes` bytes that is a multiple of `alignment`, a
    /// power of two; `None` beyond the largest class.
    ///
    /// Zero bytes get `None` too, so that a hit has one comparison. The miss that follows calls
    /// [`for_layout`](Self::for_layout).
    #[inline(always)]
    pub(crate) const fn fitting(bytes: usize, alignment: usize) -> Option<Self> {
        // SAFETY: clause 1: the largest such number.
        unsafe { Self::fitting_below(LARGEST, bytes, alignment) }
    }

    /// Returns what [`fitting`](Self::fitting) does, or `None` for a request whose last byte has
    /// the number `limit` or a larger one.
    ///
    /// # Safety
    /// 1. `limit` is at most [`LARGEST`].
    #[inline(always)]
    pub(crate) const unsafe fn fitting_below(
        limit: usize,
        bytes: usize,
        alignment: usize,
    ) -> Option<Self> {
        // The number of the last byte, with the size rounded up to the alignment (I4). For zero
        // bytes it is the largest number.
        let mut last = bytes.wrapping_sub(1);
        if alignment > STEP {
            last = round_up(last, alignment);
        }
        if last >= limit {
            return None;
        }
        // SAFETY: by clause 1 below `LARGEST`, and the table has an entry for each `STEP` of these
        // bytes.
        let entry = unsafe { TABLE.as_ptr().cast::<u8>().add(last / STEP) };
        // SAFETY: an entry of the table.
        Some(Self(unsafe { *entry }))
    }

    /// Returns what [`fitting_below`](Self::fitting_below) does for the alignment [`ALIGNMENT`],
    /// where `limit` is a multiple of it. Takes one instruction less, if the size is no constant.
    ///
    /// # Safety
    /// 1. As for [`fitting_below`](Self::fitting_below).
    #[inline(always)]
    pub(crate) const unsafe fn fitting_aligned_below(limit: usize, bytes: usize) -> Option<Self> {
        if ALIGNMENT != 2 * STEP {
            // SAFETY: clause 1: clause 1.
            return unsafe { Self::fitting_below(limit, bytes, ALIGNMENT) };
        }
        let last = bytes.wrapping_sub(1);
        // `limit` is a multiple of the alignment, so rounding up need not come first.
        if last >= limit {
            return None;
        }
        // SAFETY: by clause 1 below `LARGEST`, and the table has an entry for each pair of these
        // bytes.
        let pair = unsafe { TABLE.as_ptr().add(last / (2 * STEP)) };
        // SAFETY: a pair of the table.
        let [_, class] = unsafe { *pair };
        // The second one of the pair: the address has a constant in place of an `or`.
        Some(Self(class))
    }

    /// Returns the object size in bytes. Example: see [`ClassIndex`].
    #[inline]
    pub const fn size(self) -> usize {
        SIZES[self.0 as usize] as usize
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

/// The alignment in bytes for callers that pass no alignment: two pointers. Sizes that are powers
/// of two get a larger one.
pub(crate) const ALIGNMENT: usize = 2 * size_of::<usize>();
const _: () = assert!(ALIGNMENT == 16 || ALIGNMENT == 8);

/// The largest size up to which classes are [`STEP`] bytes apart.
const LINEAR: usize = 32;
/// The distance of the smallest classes in bytes, and the bytes that one entry of [`TABLE`] covers.
const STEP: usize = 8;

/// For each [`STEP`] bytes, the number of the class whose last byte lies in them. In pairs, for
/// [`ClassIndex::fitting_aligned_below`].
const TABLE: &[[u8; 2]; LARGEST / STEP / 2] = &{
    let mut table = [[0; 2]; LARGEST / STEP / 2];
    let mut index = 0;
    while index < 2 * table.len() {
        table[index / 2][index % 2] = class_of((index + 1) * STEP) as u8;
        index += 1;
    }
    table
};

/// The size of each class in bytes.
const SIZES: [u16; ClassIndex::COUNT] = {
    let mut sizes = [0; ClassIndex::COUNT];
    let mut class = 0;
    while class < ClassIndex::COUNT {
        sizes[class] = size_of_class(class) as u16;
        class += 1;
    }
    sizes
};
const _: () = assert!(LARGEST <= u16::MAX as usize);

/// Returns the number of the last byte after rounding up the size whose last byte has the number
/// `last`. Cold, so that the compiler makes a branch: requests that are aligned to a step at most,
/// which most are, need no `or`, and alignments that are constants need no code.
#[cold]
#[inline(always)]
const fn round_up(last: usize, alignment: usize) -> usize {
    last | (alignment - 1)
}

/// Computes the number of the smallest class of at least `bytes` bytes, which are not zero.
const fn class_of(bytes: usize) -> usize {
    match bytes {
        ..=LINEAR => (bytes - 1) / STEP,
        _ if bytes <= FINE.above => COARSE.class(bytes),
        _ => FINE.class(bytes),
    }
}

/// Computes the size of the class of number `class` in bytes.
const fn size_of_class(class: usize) -> usize {
    match class {
        class if class < COARSE.first => (class + 1) * STEP,
        class if class < FINE.first => COARSE.size(class),
        class => FINE.size(class),
    }
}

/// The doublings up to 256 bytes.
const COARSE: Doublings = Doublings { above: LINEAR, steps: 4, first: LINEAR / STEP };
/// The doublings above 256 bytes.
const FINE: Doublings = Doublings { above: 1 << 8, steps: 8, first: COARSE.end(1 << 8) };

/// A range of sizes in which each doubling, from `2^n` to `2^(n + 1)` bytes, is divided into the
/// same number of classes.
#[derive(Clone, Copy)]
struct Doublings {
    /// The size in bytes, a power of two, above which the range begins.
    above: usize,
    /// The number of classes in a doubling, a power of two.
    steps: usize,
    /// The number of the first class of the range.
    first: usize,
}

impl Doublings {
    /// Returns one more than the number of the class of `size` bytes, a power of two.
    const fn end(self, size: usize) -> usize {
        self.first + (size / self.above).ilog2() as usize * self.steps
    }

    /// Returns the number of the smallest class of at least `bytes` bytes.
    const fn class(self, bytes: usize) -> usize {
        // `bytes` lies in (2^doubling, 2^(doubling + 1)]. Below the highest bit of the last byte's
        // number, the next bits are the number of the class in its doubling.
        let last = bytes - 1;
        let doubling = last.ilog2();
        let step = (last >> (doubling - self.steps.ilog2())) & (self.steps - 1);
        self.first + (doubling - self.above.ilog2()) as usize * self.steps + step
    }

    /// Returns the size of the class of number `class` in bytes.
    const fn size(self, class: usize) -> usize {
        let class = class - self.first;
        let doubling = self.above << (class / self.steps);
        doubling + (class % self.steps + 1) * (doubling / self.steps)
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
        assert_eq!((COARSE.end(1 << 8), FINE.end(LARGEST)), (FINE.first, ClassIndex::COUNT));
        for class in ClassIndex::all() {
            assert_eq!(class.size(), size_of_class(class.index()));
        }
        for bytes in 1..=LARGEST {
            let class = ClassIndex(class_of(bytes) as u8);
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
            assert_eq!(ClassIndex::fitting(bytes, 16), smallest(bytes, 16), "{bytes} bytes");
            let class = smallest(bytes, ALIGNMENT);
            for limit in [0, 16, 1 << 10, LARGEST] {
                let expected = class.filter(|_| bytes <= limit);
                // SAFETY: clause 1: not above the largest.
                let found = unsafe { ClassIndex::fitting_below(limit, bytes, ALIGNMENT) };
                // SAFETY: clause 1: as above.
                let again = unsafe { ClassIndex::fitting_aligned_below(limit, bytes) };
                assert_eq!([found, again], [expected; 2], "{bytes} bytes below {limit}");
            }
        }
        assert_eq!(ClassIndex::fitting(LARGEST + 1, 16), None);
        assert_eq!(ClassIndex::fitting(0, 16), None, "looked at again");
    }

    #[test]
    fn classes_fold_at_compile_time() {
        const CLASS: ClassIndex = ClassIndex::for_size(20).expect("20 bytes are not large");
        assert_eq!(CLASS.size(), 24);
    }
}
