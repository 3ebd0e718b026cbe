//! The sizes of words, areas and sections, and pure functions that search words for aligned runs of
//! clear bits.
//!
//! # Concepts
//! - A bit is set while its frame is taken. A free **canonical block** is a maximal aligned run of
//!   clear bits: the run is clear, and the run of twice the size around it is not. Every set of
//!   free frames is a union of canonical blocks in exactly one way. A buddy allocator with lists
//!   (Knuth, TAOCP 1, section 2.5) keeps exactly these blocks in its lists.
//! - **Best fit** is the smallest canonical block that holds the request, and among blocks of one
//!   size the leftmost.
//! - A **line** is the words of one area.

use page_frame::sync;

/// Frames whose bits fit in one word.
pub(crate) const WORD_BITS: usize = usize::BITS as usize;
/// The order of a whole word.
pub(crate) const WORD_ORDER: u32 = WORD_BITS.trailing_zeros();

/// Words in the line of an area. Smaller under loom, where a model can afford few locations.
pub(crate) const AREA_WORDS: usize = if sync::MODELLED { 2 } else { 512 / WORD_BITS };
/// The order of an area.
pub(crate) const AREA_ORDER: u32 = WORD_ORDER + AREA_WORDS.ilog2();
/// Frames in an area.
pub(crate) const AREA_FRAMES: usize = 1 << AREA_ORDER;

/// Areas in a section. Smaller under loom.
pub(crate) const SECTION_AREAS: usize = if sync::MODELLED { 2 } else { 512 };
/// The order of a section.
pub(crate) const SECTION_ORDER: u32 = AREA_ORDER + SECTION_AREAS.ilog2();
/// Frames in a section.
pub(crate) const SECTION_FRAMES: usize = 1 << SECTION_ORDER;

/// Returns a word with a bit at each multiple of 2^order.
const fn starts(order: u32) -> usize {
    let mut mask = 0;
    let mut bit = 0;
    while bit < WORD_BITS {
        mask |= 1 << bit;
        bit += 1 << order;
    }
    mask
}

const STARTS: [usize; WORD_ORDER as usize + 1] = {
    let mut table = [0; WORD_ORDER as usize + 1];
    let mut order = 0;
    while order < table.len() {
        table[order] = starts(order as u32);
        order += 1;
    }
    table
};

/// Returns the bits of a block of `order` at bit `start` of a word.
#[inline]
pub(crate) const fn mask(start: usize, order: u32) -> usize {
    if order >= WORD_ORDER { usize::MAX } else { ((1 << (1 << order)) - 1) << start }
}

/// Iterates over the words that cover the frames from `start` to `end` (excluded) of an area: index
/// and bits of each.
#[inline]
pub(crate) fn words(start: usize, end: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut next = start;
    core::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let (word, bit) = (next / WORD_BITS, next % WORD_BITS);
        let count = (WORD_BITS - bit).min(end - next);
        next += count;
        Some((word, usize::MAX >> (WORD_BITS - count) << bit))
    })
}

/// Iterates over the indices of the set bits of `word`, lowest first.
#[inline]
pub(crate) fn set_bits(mut word: usize) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (lowest < WORD_BITS).then_some(lowest)
    })
}

/// Returns the starts of the aligned free runs of `order`, given those of one order below.
#[inline]
const fn doubled(runs: usize, order: u32) -> usize {
    runs & (runs >> (1 << (order - 1))) & STARTS[order as usize]
}

/// Returns start and order of the best fit in a word for a block of `order`, which is at most
/// [`WORD_ORDER`].
///
/// A word without a set bit counts as a canonical block here; [`best_fit_in_line`] looks at its
/// neighbours.
pub(crate) const fn best_fit(taken: usize, order: u32) -> Option<(usize, u32)> {
    let mut runs = free_runs(taken, order);
    let mut at = order;
    while runs != 0 {
        if at == WORD_ORDER {
            return Some((0, WORD_ORDER));
        }
        let larger = doubled(runs, at + 1);
        // A run is canonical when the run of twice the size around it is not free.
        let canonical = runs & !(larger | larger << (1 << at));
        if canonical != 0 {
            return Some((canonical.trailing_zeros() as usize, at));
        }
        runs = larger;
        at += 1;
    }
    None
}

/// Returns the starts of all aligned free runs of `order`, which is at most [`WORD_ORDER`].
#[inline]
pub(crate) const fn free_runs(taken: usize, order: u32) -> usize {
    let mut runs = !taken;
    let mut at = 0;
    while at < order {
        at += 1;
        runs = doubled(runs, at);
    }
    runs
}

/// Returns the bits of the runs of `order` (at most [`WORD_ORDER`]) that begin at `starts`.
#[inline]
pub(crate) const fn spread(starts: usize, order: u32) -> usize {
    // The product puts 2^order ones at each start. Runs do not overlap, so nothing carries.
    starts.wrapping_mul(mask(0, order))
}

/// Returns the `limit` lowest set bits of `word`, or all if there are fewer.
#[inline]
pub(crate) const fn lowest(word: usize, limit: usize) -> usize {
    let mut beyond = word;
    let mut left = limit;
    while beyond != 0 && left > 0 {
        beyond &= beyond - 1;
        left -= 1;
    }
    word & !beyond
}

/// Returns the number of canonical blocks in a word. A block counts as at most the whole word.
pub(crate) const fn canonical_blocks(taken: usize) -> usize {
    let mut runs = !taken;
    let mut count = 0;
    let mut at = 0;
    while at < WORD_ORDER {
        at += 1;
        let larger = doubled(runs, at);
        count += (runs & !(larger | larger << (1 << (at - 1)))).count_ones() as usize;
        runs = larger;
    }
    count + runs.count_ones() as usize
}

/// Returns start (in frames) and order of the best fit in a line for a block of `order`, below the
/// area's.
///
/// For a line without a set bit it returns start 0 and the area's order.
pub(crate) fn best_fit_in_line(line: &[usize; AREA_WORDS], order: u32) -> Option<(usize, u32)> {
    let mut best: Option<(usize, u32)> = None;
    for (index, word) in line.iter().enumerate() {
        let fit = match *word {
            0 => free_words(line, index).filter(|(_, found)| *found >= order),
            usize::MAX => None,
            taken if order < WORD_ORDER => {
                best_fit(taken, order).map(|(bit, found)| (index * WORD_BITS + bit, found))
            }
            _ => None,
        };
        if let Some(fit) = fit.filter(|fit| best.is_none_or(|best| fit.1 < best.1)) {
            best = Some(fit);
        }
    }
    best
}

/// Returns the canonical block of whole words that the free word `index` belongs to.
fn free_words(line: &[usize; AREA_WORDS], index: usize) -> Option<(usize, u32)> {
    let mut words = 1;
    while words < AREA_WORDS {
        let first = index & !(2 * words - 1);
        if line[first..first + 2 * words].iter().any(|word| *word != 0) {
            break;
        }
        words *= 2;
    }
    let first = index & !(words - 1);
    Some((first * WORD_BITS, WORD_ORDER + words.trailing_zeros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finds the best fit by trying every aligned run, for words of `bits` bits.
    fn naive(taken: usize, bits: usize, order: u32) -> Option<(usize, u32)> {
        let is_free = |start: usize, order: u32| {
            (start..start + (1 << order)).all(|bit| bit < bits && taken >> bit & 1 == 0)
        };
        let orders = order..=bits.trailing_zeros();
        orders.clone().find_map(|found| {
            (0..bits).step_by(1 << found).find_map(|start| {
                let parent = start & !((2 << found) - 1);
                let is_maximal = found == bits.trailing_zeros() || !is_free(parent, found + 1);
                (is_free(start, found) && is_maximal).then_some((start, found))
            })
        })
    }

    /// Calls `check` with each word whose free bits all lie in one aligned group of 16 bits: every
    /// value of the group, in every place.
    fn for_all_16_bits(mut check: impl FnMut(usize)) {
        for low in 0..=u16::MAX {
            let taken = usize::from(low) | usize::MAX << 16;
            (0..WORD_BITS as u32).step_by(16).for_each(|place| check(taken.rotate_left(place)));
        }
    }

    /// Calls `check` with words of all widths of holes.
    fn for_random_words(mut check: impl FnMut(usize)) {
        let mut random = testkit::Random::new(3);
        for _ in 0..20_000 {
            let dense = random.number() | random.number();
            let sparse = random.number() & random.number() & random.number();
            let run = (random.number() >> random.below(64)) << random.below(64);
            for word in [dense, sparse, random.number(), run, !run] {
                check(word as usize);
            }
        }
        check(0);
        check(usize::MAX);
    }

    fn best_fit_equals_trying_everything(taken: usize, largest: u32) {
        for order in 0..=largest {
            assert_eq!(
                best_fit(taken, order),
                naive(taken, WORD_BITS, order),
                "{taken:#b}, {order}"
            );
        }
    }

    #[test]
    fn best_fit_equals_trying_everything_on_all_16_bit_words() {
        for_all_16_bits(|taken| best_fit_equals_trying_everything(taken, 4));
    }

    #[test]
    fn best_fit_equals_trying_everything_on_random_words() {
        for_random_words(|taken| best_fit_equals_trying_everything(taken, WORD_ORDER));
    }

    /// Compares with every aligned run tried by itself: where runs begin, what they cover, and the
    /// lowest of them.
    fn runs_are_all_aligned_free_runs(taken: usize, largest: u32) {
        for order in 0..=largest {
            let starts = free_runs(taken, order);
            let expected = (0..WORD_BITS)
                .step_by(1 << order)
                .filter(|start| (*start..start + (1 << order)).all(|bit| taken >> bit & 1 == 0))
                .fold((0, 0), |(starts, bits), at| (starts | 1 << at, bits | mask(at, order)));
            assert_eq!((starts, spread(starts, order)), expected, "{taken:#b}, {order}");
        }
    }

    #[test]
    fn runs_are_all_aligned_free_runs_of_all_16_bit_words() {
        for_all_16_bits(|taken| runs_are_all_aligned_free_runs(taken, 4));
    }

    #[test]
    fn runs_are_all_aligned_free_runs_of_random_words() {
        for_random_words(|taken| runs_are_all_aligned_free_runs(taken, WORD_ORDER - 1));
    }

    /// Compares with counting bits from the lowest on.
    fn the_lowest_are_kept(word: usize, most: usize) {
        for limit in 0..=most {
            let mut kept = 0;
            for bit in (0..WORD_BITS).filter(|bit| word >> bit & 1 == 1).take(limit) {
                kept |= 1 << bit;
            }
            assert_eq!(lowest(word, limit), kept, "{limit} of {word:#b}");
        }
        assert!(set_bits(word).eq((0..WORD_BITS).filter(|bit| word >> bit & 1 == 1)), "{word:#b}");
    }

    #[test]
    fn the_lowest_are_kept_of_all_16_bit_words() {
        for low in 0..=u16::MAX {
            the_lowest_are_kept(low.into(), 17);
            the_lowest_are_kept(usize::from(low) << (WORD_BITS - 16), 2);
        }
    }

    #[test]
    fn the_lowest_are_kept_of_random_words() {
        for_random_words(|word| the_lowest_are_kept(word, 33));
    }

    fn canonical_blocks_are_those_taken_one_by_one(taken: usize) {
        let mut rest = taken;
        let mut blocks = 0;
        while let Some((start, order)) = best_fit(rest, 0) {
            rest |= mask(start, order);
            blocks += 1;
        }
        assert_eq!(canonical_blocks(taken), blocks, "{taken:#b}");
    }

    #[test]
    fn canonical_blocks_are_those_that_best_fit_takes_one_by_one() {
        for_all_16_bits(canonical_blocks_are_those_taken_one_by_one);
        for_random_words(canonical_blocks_are_those_taken_one_by_one);
        assert_eq!((canonical_blocks(0), canonical_blocks(usize::MAX)), (1, 0));
    }

    /// Finds the best fit in a line by trying every aligned run of it.
    fn naive_in_line(line: &[usize; AREA_WORDS], order: u32) -> Option<(usize, u32)> {
        let frames = AREA_WORDS * WORD_BITS;
        let is_free = |start: usize, order: u32| {
            (start..start + (1 << order))
                .all(|at| line[at / WORD_BITS] >> (at % WORD_BITS) & 1 == 0)
        };
        let largest = frames.trailing_zeros();
        (order..=largest).find_map(|found| {
            (0..frames).step_by(1 << found).find_map(|start| {
                let around = start & !((2 << found) - 1);
                let is_maximal = found == largest || !is_free(around, found + 1);
                (is_free(start, found) && is_maximal).then_some((start, found))
            })
        })
    }

    #[test]
    fn best_fit_in_a_line_equals_trying_everything() {
        // Each word free, full, or in use at one end: all lines of these.
        const WORDS: [usize; 4] = [0, usize::MAX, 1, 1 << (WORD_BITS - 1)];
        for mut number in 0..WORDS.len().pow(AREA_WORDS.min(8) as u32) {
            let mut line = [usize::MAX; AREA_WORDS];
            for word in line.iter_mut().take(8) {
                *word = WORDS[number % WORDS.len()];
                number /= WORDS.len();
            }
            // Below a word's order and from there on: the rest follows from single words.
            for order in [WORD_ORDER - 1, WORD_ORDER, WORD_ORDER + 1, WORD_ORDER + 2] {
                assert_eq!(
                    best_fit_in_line(&line, order),
                    naive_in_line(&line, order),
                    "{line:x?}"
                );
            }
        }
        let mut random = testkit::Random::new(6);
        for _ in 0..1_000 {
            let line = core::array::from_fn(|_| match random.below(3) {
                0 => 0,
                1 => (random.number() | random.number() | random.number()) as usize,
                _ => ((random.number() >> random.below(64)) << random.below(64)) as usize,
            });
            for order in 0..WORD_ORDER + AREA_WORDS.ilog2() {
                assert_eq!(
                    best_fit_in_line(&line, order),
                    naive_in_line(&line, order),
                    "{line:x?}"
                );
            }
        }
    }

    #[test]
    fn whole_words_join_into_larger_blocks() {
        let mut line = [0; AREA_WORDS];
        assert_eq!(best_fit_in_line(&line, 0), Some((0, WORD_ORDER + AREA_WORDS.ilog2())));
        line[0] = 1;
        assert_eq!(best_fit_in_line(&line, 0), Some((1, 0)));
        assert_eq!(best_fit_in_line(&line, WORD_ORDER), Some((WORD_BITS, WORD_ORDER)));
        assert_eq!(best_fit_in_line(&line, WORD_ORDER + 1), Some((2 * WORD_BITS, WORD_ORDER + 1)));
        line[AREA_WORDS - 1] = usize::MAX;
        let half = WORD_ORDER + AREA_WORDS.ilog2() - 1;
        assert_eq!(best_fit_in_line(&line, half), None);
    }
}
