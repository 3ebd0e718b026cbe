//! Finds the heads of deferred blocks among many tags at once.
//!
//! A **deferred** block was freed but not yet merged: its head has the tag [`Tag::deferred`].
//!
//! # Costs
//! Sixteen tags at a time where the machine has SSE2, eight elsewhere.

use crate::arch::load::store_eight;
use crate::atomic::{AtomicU8, Ordering};
use crate::page_map::tag::Tag;

/// The number of pages in a word, one for each bit.
const WORD_PAGES: usize = usize::BITS as usize;
/// The number of tags that one store covers, and one load on machines without SSE2.
const EIGHT: usize = size_of::<u64>();

/// The heads of deferred blocks among the pages of one word, see
/// [`PageMapArray::deferred_among`](crate::PageMapArray::deferred_among).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeferredHeads {
    /// The pages, as bits: bit 0 is the first.
    pub heads: usize,
    /// Whether all of these blocks are single pages.
    pub are_single: bool,
}

/// Returns which pages of the `WORDS` words of tags from `first` on, which wraps around, are heads
/// of deferred blocks. Pages beyond `tags` are not.
#[inline(always)]
pub(super) fn among<const WORDS: usize>(tags: &[AtomicU8], first: usize) -> [DeferredHeads; WORDS] {
    let end = first.wrapping_add(WORDS * WORD_PAGES);
    match tags.get(first..end) {
        Some(tags) if tags.as_ptr().addr() % EIGHT == 0 => core::array::from_fn(|word| {
            // SAFETY: the slice has the tags of `WORDS` words, of which this is one, and begins at
            // a multiple of eight.
            unsafe { wide::heads(tags, word * WORD_PAGES) }
        }),
        _ => core::array::from_fn(|word| one_by_one(tags, first.wrapping_add(word * WORD_PAGES))),
    }
}

/// Returns the heads in one word, tag by tag: for words at the edge of the range, or where the tags
/// are not aligned to eight.
#[cold]
fn one_by_one(tags: &[AtomicU8], first: usize) -> DeferredHeads {
    let nothing = DeferredHeads { heads: 0, are_single: true };
    (0..WORD_PAGES).fold(nothing, |found, page| {
        let tag = tags.get(first.wrapping_add(page));
        // Relaxed: as all tags, see `map.rs`.
        let order = tag.and_then(|tag| Tag::from_byte(tag.load(Ordering::Relaxed)).as_deferred());
        DeferredHeads {
            heads: found.heads | usize::from(order.is_some()) << page,
            are_single: found.are_single && order.is_none_or(|order| order.get() == 0),
        }
    })
}

/// Clears the tags of the pages from `first` on, which wraps around, whose bit is set in `pages`.
/// The caller owns those pages.
#[inline(always)]
pub(super) fn clear_among(tags: &[AtomicU8], first: usize, mut pages: usize) {
    let word: Option<&[AtomicU8; WORD_PAGES]> =
        tags.get(first..first.wrapping_add(WORD_PAGES)).and_then(|tags| tags.try_into().ok());
    let Some(word) = word else {
        return clear_one_by_one(tags, first, pages);
    };
    if pages == usize::MAX && word.as_ptr().addr() % EIGHT == 0 {
        for eight in (0..WORD_PAGES).step_by(EIGHT) {
            // SAFETY: `eight` is a multiple of eight below the word's end, and the word is aligned
            // to eight.
            unsafe { store_eight(word, eight, u64::from_ne_bytes([Tag::NONE.get(); EIGHT])) };
        }
        return;
    }
    while pages != 0 {
        let page = pages.trailing_zeros() as usize;
        // Relaxed: as all tags, see `map.rs`.
        word[page % WORD_PAGES].store(Tag::NONE.get(), Ordering::Relaxed);
        pages &= pages - 1;
    }
}

#[cold]
fn clear_one_by_one(tags: &[AtomicU8], first: usize, pages: usize) {
    for page in (0..WORD_PAGES).filter(|page| pages >> page & 1 == 1) {
        if let Some(tag) = tags.get(first.wrapping_add(page)) {
            // Relaxed: as all tags, see `map.rs`.
            tag.store(Tag::NONE.get(), Ordering::Relaxed);
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(any(loom, miri))))]
mod wide {
    use core::arch::x86_64::__m128i;

    use super::{DeferredHeads, WORD_PAGES};
    use crate::atomic::AtomicU8;
    use crate::order::Order;
    use crate::page_map::tag::Tag;

    /// The number of tags that one instruction compares.
    const SIXTEEN: usize = size_of::<__m128i>();
    /// The tag of a deferred single page. The greater tags are those of larger deferred blocks.
    const SINGLE: u8 = Tag::deferred(Order::ZERO).get();
    /// The bits of an order in each of sixteen bytes.
    const ORDERS: u128 = u128::from_ne_bytes([31; SIXTEEN]);

    /// Returns the heads among the tags of one word, from `tags[first]` on.
    ///
    /// # Safety
    /// 1. `tags` has the tags of a word from `first` on.
    #[inline(always)]
    pub(super) unsafe fn heads(tags: &[AtomicU8], first: usize) -> DeferredHeads {
        debug_assert!(tags.len() - first >= WORD_PAGES, "clause 1");
        // SAFETY: sixteen bytes either way.
        let single: __m128i = unsafe { core::mem::transmute([SINGLE; SIXTEEN]) };
        // SAFETY: sixteen bytes, and any are a vector.
        let mut seen: __m128i = unsafe { core::mem::transmute([0_u8; SIXTEEN]) };
        let mut heads = 0;
        for at in (0..WORD_PAGES).step_by(SIXTEEN) {
            let found: usize;
            // SAFETY: clause 1: sixteen atomic bytes that are borrowed; the load reads each byte
            // atomically, as a Relaxed load.
            unsafe {
                core::arch::asm!(
                    "movdqu {tags}, xmmword ptr [{start} + {at}]",
                    // All bits of each byte that is not below `SINGLE`.
                    "movdqa {is_head}, {single}",
                    "pmaxub {is_head}, {tags}",
                    "pcmpeqb {is_head}, {tags}",
                    "pmovmskb {found:e}, {is_head}",
                    "pand {tags}, {is_head}",
                    "por {seen}, {tags}",
                    start = in(reg) tags.as_ptr(),
                    at = in(reg) first + at,
                    single = in(xmm_reg) single,
                    tags = out(xmm_reg) _,
                    is_head = out(xmm_reg) _,
                    found = lateout(reg) found,
                    seen = inout(xmm_reg) seen,
                    options(readonly, nostack, preserves_flags),
                );
            }
            heads |= found << at;
        }
        // SAFETY: sixteen bytes either way.
        let seen: u128 = unsafe { core::mem::transmute(seen) };
        DeferredHeads { heads, are_single: seen & ORDERS == 0 }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2", not(any(loom, miri)))))]
mod wide {
    use super::{DeferredHeads, EIGHT, WORD_PAGES};
    use crate::arch::load::load_eight;
    use crate::atomic::AtomicU8;

    /// The bits of an order in each of eight bytes.
    const ORDERS: u64 = u64::from_ne_bytes([31; EIGHT]);
    /// The highest bit of each of eight bytes.
    const HIGHEST: u64 = u64::from_ne_bytes([1 << 7; EIGHT]);

    /// Collects the highest bits of eight bytes, whose other bits are clear, into eight
    /// neighbouring bits.
    #[inline(always)]
    fn gathered(highest: u64) -> usize {
        // The product moves bit 8n to bit 56 + n; no two of its bits overlap.
        ((highest >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as usize
    }

    /// Returns the heads among the tags of one word, from `tags[first]` on.
    ///
    /// # Safety
    /// 1. `tags` has the tags of a word from `first` on, and the first is aligned to eight.
    #[inline(always)]
    pub(super) unsafe fn heads(tags: &[AtomicU8], first: usize) -> DeferredHeads {
        let (mut heads, mut orders) = (0, 0);
        for at in (0..WORD_PAGES).step_by(EIGHT) {
            // SAFETY: clause 1: the word has these eight tags, aligned to eight.
            let eight = unsafe { load_eight(tags, first + at) };
            // The highest bit of each byte whose two highest bits are set.
            let found = eight & eight << 1 & HIGHEST;
            heads |= gathered(found) << at;
            // The lower bits of those bytes; their order bits are compared after the loop.
            orders |= eight & (found - (found >> 7));
        }
        DeferredHeads { heads, are_single: orders & ORDERS == 0 }
    }
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;

    use super::*;
    use crate::order::{Order, PAGE_SIZE};
    use crate::page_map::array::PageMapArray;

    const PAGES: usize = 4 * WORD_PAGES;

    #[repr(align(4096))]
    struct Page([u8; PAGE_SIZE]);
    #[repr(align(64))]
    struct Entries([u8; PageMapArray::metadata_bytes(PAGES)]);

    #[test]
    fn many_tags_at_once_read_as_one_by_one() {
        let mut page = Page([0; PAGE_SIZE]);
        let root = NonNull::from(&mut page.0).cast();
        let mut random = testkit::Random::new(5);
        for round in 0..500 {
            let mut entries = Entries([0; PageMapArray::metadata_bytes(PAGES)]);
            // Rounds differ: all blocks are deferred, or few, or single pages only.
            let (among, largest) = (1 + round % 5, 1 + round / 5 % 3);
            // SAFETY: the entries are aligned, zero and ours; no memory is used through the map.
            let map =
                unsafe { PageMapArray::new_in(root, PAGES, NonNull::from(&mut entries.0).cast()) };
            for page in 0..PAGES {
                let order = Order::new(random.below(largest) as u8).unwrap();
                let other = [Tag::NONE, Tag::block(order), Tag::SLAB, Tag::class(127).unwrap()];
                let owner_has_exited = random.below(among) == 0;
                let tag =
                    if owner_has_exited { Tag::deferred(order) } else { other[random.below(4)] };
                map.set_tag_at(page, tag);
            }
            let first = match round % 3 {
                0 => WORD_PAGES,
                1 => random.below(PAGES),
                _ => 0_usize.wrapping_sub(random.below(WORD_PAGES)),
            };
            let left = map.deferred_among::<2>(first);
            for (word, left) in left.into_iter().enumerate() {
                let first = first.wrapping_add(word * WORD_PAGES);
                assert_eq!(left, one_by_one(map.tags, first), "{first}");
                let before: [Tag; PAGES] = core::array::from_fn(|page| map.tag_at(page));
                map.clear_tags_among(first, left.heads);
                for (page, before) in before.into_iter().enumerate() {
                    let at = page.wrapping_sub(first);
                    let is_cleared = at < WORD_PAGES && before.as_deferred().is_some();
                    assert_eq!(map.tag_at(page), if is_cleared { Tag::NONE } else { before });
                }
            }
        }
    }
}
