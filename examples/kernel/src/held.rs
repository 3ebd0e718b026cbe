//! Memory with content of its own, of every kind the stack has: written when it is allocated,
//! checked when it is freed.

use core::ptr::NonNull;

use page_frame::{Order, PageBlock, PageSource};

use crate::heap::{kmalloc, pages};
use crate::private::{CONSTRUCTED, OBJECT_BYTES, cache};

/// Something allocated, with the number that its content is made of.
pub(crate) struct Held {
    what: What,
    number: u64,
}

enum What {
    Bytes(NonNull<u8>, usize),
    Object(NonNull<u8>),
    Pages(PageBlock),
}

// SAFETY: memory that whoever has the value owns.
unsafe impl Send for Held {}

impl Held {
    /// Allocates something, at random; `None` when memory is out.
    pub(crate) fn allocate(random: &mut Random, number: u64) -> Option<Self> {
        let what = match random.below(8) {
            0 => What::Pages(pages().allocate(Order::new(random.below(4) as u8)?).ok()?),
            1..=3 => What::Object(cache().allocate().ok()?),
            _ => {
                let most = [64, 256, 1024, 5000, 50_000][random.below(5)];
                let bytes = 1 + random.below(most);
                What::Bytes(kmalloc().kmalloc(bytes).ok()?, bytes)
            }
        };
        let held = Self { what, number };
        held.fill();
        Some(held)
    }

    /// Returns where the content lies, behind what the constructor left, and how many words it has.
    fn content(&self) -> (NonNull<u64>, usize) {
        match &self.what {
            What::Bytes(start, bytes) => (start.cast(), bytes / 8),
            What::Object(object) => {
                // SAFETY: the object is ours, and constructed.
                assert_eq!(unsafe { object.cast::<u64>().read() }, CONSTRUCTED);
                // SAFETY: inside the object.
                (unsafe { object.add(8) }.cast(), OBJECT_BYTES / 8 - 1)
            }
            // The first words of each page would do; a whole block takes long under emulation.
            What::Pages(block) => (block.start().cast(), 8),
        }
    }

    fn fill(&self) {
        let (start, words) = self.content();
        for index in 0..words.min(64) {
            // SAFETY: inside the memory.
            let word = unsafe { start.add(index) };
            // SAFETY: one of the words of this object.
            unsafe { word.write(self.number ^ index as u64) };
        }
    }

    /// Checks the content and frees the memory.
    pub(crate) fn free(self) {
        let (start, words) = self.content();
        for index in 0..words.min(64) {
            // SAFETY: inside the memory.
            let word = unsafe { start.add(index) };
            // SAFETY: ours, and filled.
            let found = unsafe { word.read() };
            assert_eq!(found, self.number ^ index as u64, "word {index}: another owner wrote");
        }
        match self.what {
            // SAFETY: allocated by `allocate`.
            What::Bytes(start, _) => unsafe { kmalloc().kfree(Some(start)) },
            // SAFETY: as above, and its first word is as constructed.
            What::Object(object) => unsafe { cache().free(object) },
            // SAFETY: from `pages`, and this value alone has it.
            What::Pages(block) => unsafe { pages().free(block) },
        }
    }
}

/// A small random generator (xorshift64*; Marsaglia 2003, Vigna 2016).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(number) * limit as u128) >> 64) as usize
    }
}
