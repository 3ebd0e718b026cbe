//! Huge pages: which areas (2 MiB) of the space the system backs by one page of that size.
//!
//! # Concepts
//! A huge page saves look-ups in the CPU's translation caches, but it takes 2 MiB whatever is used of them, and where only parts
//! are free nothing goes back to the system. So:
//! - Sections are opened without them, whatever the system's default is: a small heap is of small pages.
//! - An area becomes huge when it is **dense** (all of its frames are touched) and **old** (it was dense at the look before), the
//!   system has memory behind each of its pages (a large array may be used here and there), and the heap is not small. So no
//!   memory is added.
//! - Before parts of it are given back it is small again, or the system would make it whole in the background.
//!
//! A **look** comes with every 32 MiB of pages that are handed out. The system copies the area into the huge page then and there
//! (`MADV_COLLAPSE`, Linux 6.1); where it cannot, areas are left to its own thread. That takes half a millisecond, and ten times
//! that in a virtual machine whose free memory the host has taken back. A look ends with the first area that takes so long, and
//! others are left out after it: one, and twice as many each time until a look has found none that does.
//!
//! # Concurrency
//! Looking and giving back exclude each other (`is_giving`). Whoever uses the memory notices nothing.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use page_frame::{FrameNumber, FrameRange, PAGE_SIZE};
use rustix::time::{ClockId, clock_gettime};

use crate::Pages;
use crate::giving::Giving;
use crate::touched::Touched;

/// The frames of an area.
const AREA: usize = (2 << 20) / PAGE_SIZE;
/// Pages handed out from look to look.
const LOOK_PAGES: usize = (32 << 20) / PAGE_SIZE;
/// No area of a heap of fewer pages than this in use is made huge: a guess.
const SMALL_HEAP_PAGES: usize = (64 << 20) / PAGE_SIZE;
/// As many areas at most are made huge in a look, as the one who looks waits for it.
const MOST_IN_A_LOOK: usize = 16;
/// Of as many areas at most the system is asked in a look whether all of their pages are there: a few microseconds each.
const MOST_ASKED: usize = 64;
/// What takes longer than this is not worth it: a guess, three times what it takes elsewhere.
const SLOW: Duration = Duration::from_micros(1500);
/// As many looks at most are left out: a huge page is then tried every 2 GiB.
const MOST_LEFT_OUT: usize = 64;

/// What is known of areas, and when they are looked at.
#[derive(Debug)]
pub(crate) struct Looks {
    /// Areas that were dense at the last look, and those that are huge, by number.
    dense: Touched,
    huge: Touched,
    /// Pages handed out since the last look.
    handed: AtomicUsize,
    /// The number of the area from which on the next look asks about them.
    from: AtomicUsize,
    /// How many looks are left out after the last huge page that took long, and how many of them are to come.
    left_out: AtomicUsize,
    to_leave_out: AtomicUsize,
    slow: Duration,
}

impl Looks {
    /// With two bits for each area, all clear.
    pub(crate) fn new(dense: Touched, huge: Touched) -> Self {
        let [handed, from, left_out, to_leave_out] = [const { AtomicUsize::new(0) }; 4];
        Self { dense, huge, handed, from, left_out, to_leave_out, slow: SLOW }
    }
}

impl Pages {
    /// Counts pages that are handed out; looks for areas to make huge when there were enough.
    #[inline]
    pub(crate) fn count_to_look(&self, pages: usize) {
        // Relaxed, and not in one step: counts may be lost, which puts a look off.
        let handed = self.looks.handed.load(Ordering::Relaxed) + pages;
        self.looks.handed.store(handed, Ordering::Relaxed);
        if handed >= LOOK_PAGES {
            self.looks.handed.store(0, Ordering::Relaxed);
            self.look_for_huge();
        }
    }

    #[cold]
    fn look_for_huge(&self) {
        // Relaxed: a level.
        if self.in_use.load(Ordering::Relaxed) < SMALL_HEAP_PAGES || self.is_look_left_out() {
            return;
        }
        let Some(_giving) = Giving::begin(&self.is_giving) else { return };
        let open = self.locked(|sections| *sections).in_buddy();
        // It goes on where the last one ended, or from the start.
        let from = self.looks.from.load(Ordering::Relaxed);
        let (mut asked, mut made, mut was_slow) = (0, 0, false);
        let mut ends_at = None;
        for area in open.flat_map(areas).filter(|area| self.touched.count(*area) == AREA) {
            let number = number_of(area);
            let is_old = self.looks.dense.mark(number) == 1;
            let is_ahead = ends_at.is_none() && number.start.get() >= from;
            if !is_old || !is_ahead || self.looks.huge.count(number) == 1 {
                continue;
            }
            asked += 1;
            if self.space.is_resident(area) {
                self.looks.huge.mark(number);
                was_slow = self.make_huge(area) > self.looks.slow;
                made += 1;
            }
            if was_slow || made == MOST_IN_A_LOOK || asked == MOST_ASKED {
                ends_at = Some(number.end.get());
            }
        }
        self.looks.from.store(ends_at.unwrap_or(0), Ordering::Relaxed);
        if made > 0 {
            self.note_look(was_slow);
        }
    }

    /// Makes an area huge; returns the CPU time that took.
    fn make_huge(&self, area: FrameRange) -> Duration {
        let before = cpu_time();
        self.space.make_huge(area);
        cpu_time().saturating_sub(before)
    }

    /// Has more looks left out after one that made a huge page slowly, none after another.
    fn note_look(&self, was_slow: bool) {
        // Relaxed, here and below: by who holds `is_giving`, or a count that may be lost.
        let last = self.looks.left_out.load(Ordering::Relaxed);
        let next = if was_slow { (2 * last).clamp(1, MOST_LEFT_OUT) } else { 0 };
        self.looks.left_out.store(next, Ordering::Relaxed);
        self.looks.to_leave_out.store(next, Ordering::Relaxed);
    }

    fn is_look_left_out(&self) -> bool {
        let left = self.looks.to_leave_out.load(Ordering::Relaxed);
        self.looks.to_leave_out.store(left.saturating_sub(1), Ordering::Relaxed);
        left > 0
    }

    /// Makes the area that `block` lies in small, as a part of it is about to be given back. By who holds `is_giving`.
    pub(crate) fn make_small(&self, block: FrameRange) {
        for area in areas(block) {
            let number = number_of(area);
            self.looks.dense.clear(number);
            if self.looks.huge.clear(number) == 1 {
                self.space.make_small(area);
            }
        }
    }
}

/// Returns the CPU time of the running thread. What the system does for it counts, and not when others run.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Returns the numbers of all areas of `frames`, as the bits that are kept of them are numbered.
pub(crate) fn numbers(frames: FrameRange) -> FrameRange {
    let end = frames.end.get().div_ceil(AREA);
    FrameRange::new(FrameNumber::new(frames.start.get() / AREA), FrameNumber::new(end))
}

fn number_of(area: FrameRange) -> FrameRange {
    let number = area.start.get() / AREA;
    FrameRange::new(FrameNumber::new(number), FrameNumber::new(number + 1))
}

/// Iterates over the areas that `frames` has a part of.
fn areas(frames: FrameRange) -> impl Iterator<Item = FrameRange> {
    let numbers = numbers(frames);
    (numbers.start.get()..numbers.end.get()).map(|number| {
        FrameRange::new(FrameNumber::new(number * AREA), FrameNumber::new((number + 1) * AREA))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped::is_kept_small;
    use crate::taken::{Block, fill, free};
    use page_frame::PAGE_SHIFT;

    /// Huge pages are as slow as this machine makes them, so that does not count.
    fn new() -> Pages {
        let mut pages = Pages::with_space(1 << 30).expect("address space").keeping();
        pages.looks.slow = Duration::MAX;
        pages
    }

    /// Takes blocks and uses every page of them.
    fn take(pages: &Pages, order: u8, count: usize) -> Vec<Block> {
        let blocks = crate::taken::take(pages, order, count);
        blocks.iter().for_each(|block| use_pages(block, block.order().pages()));
        blocks
    }

    /// Writes to the first `count` pages of a block.
    fn use_pages(block: &Block, count: usize) {
        for page in 0..count {
            // SAFETY: within a block that the test has.
            let page = unsafe { block.start().add(page * PAGE_SIZE) };
            // SAFETY: as above.
            unsafe { page.write(7) };
        }
    }

    fn area_of(block: &Block) -> FrameRange {
        let first = FrameNumber::containing(block.start().addr().get());
        areas(FrameRange::new(first, FrameNumber::new(first.get() + 1))).next().expect("one")
    }

    fn is_huge(pages: &Pages, block: &Block) -> bool {
        pages.looks.huge.count(number_of(area_of(block))) == 1
    }

    fn is_dense(pages: &Pages, block: &Block) -> bool {
        pages.looks.dense.count(number_of(area_of(block))) == 1
    }

    fn huge_areas(pages: &Pages) -> usize {
        let first = pages.locked(|sections| *sections).first();
        pages.looks.huge.count(numbers(first))
    }

    fn dense_areas(pages: &Pages) -> usize {
        let first = pages.locked(|sections| *sections).first();
        pages.looks.dense.count(numbers(first))
    }

    /// Looks, as after 32 MiB that are handed out, of which there are none.
    fn look(pages: &Pages) {
        pages.count_to_look(LOOK_PAGES);
    }

    /// How many bytes the system has in huge pages behind the mapping that `area` lies in; none where that cannot be known.
    fn huge_bytes(area: FrameRange) -> Option<usize> {
        let start = area.start.get() << PAGE_SHIFT;
        let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
        let mut is_inside = false;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next()?;
            if let Some((from, to)) = first.split_once('-') {
                let number = |digits| usize::from_str_radix(digits, 16).ok();
                is_inside = number(from)? <= start && start < number(to)?;
            } else if is_inside && first == "AnonHugePages:" {
                return Some(words.next()?.parse::<usize>().ok()? << 10);
            }
        }
        None
    }

    /// A look finds what is dense, the next one what was so before, sixteen areas at a time.
    ///
    /// Mutations seen to fail: looks twice or half as often; one at more than 32 MiB, or at each page from then on; other numbers
    /// of areas in a look; areas that are huge already counted among them; areas made huge that were not dense before; those of a
    /// small heap, and the edge of small.
    #[test]
    fn areas_become_huge_when_they_are_dense_and_old_and_the_heap_is_not_small() {
        let pages = new();
        // 64 MiB are handed out for the second look, and less are in use.
        let one = take(&pages, 9, 1);
        free(&pages, one);
        let mut blocks = take(&pages, 9, 31);
        assert_eq!(dense_areas(&pages), 0, "a small heap");
        // 32 MiB later, with 94 MiB in use.
        blocks.extend(take(&pages, 9, 15));
        assert_eq!(dense_areas(&pages), 0, "not yet a look");
        blocks.extend(take(&pages, 9, 1));
        assert_eq!((dense_areas(&pages), huge_areas(&pages)), (47, 0), "dense, and not old");
        blocks.extend(take(&pages, 9, 15));
        assert_eq!(huge_areas(&pages), 0);
        blocks.extend(take(&pages, 9, 1));
        assert_eq!((dense_areas(&pages), huge_areas(&pages)), (63, 16));
        let more: Vec<_> = (0..4)
            .map(|_| {
                look(&pages);
                huge_areas(&pages)
            })
            .collect();
        assert_eq!(more, [32, 48, 63, 63]);
        free(&pages, blocks.drain(31..));
        assert_eq!(pages.in_use.load(Ordering::Relaxed), 31 * AREA);
    }

    /// Exactly 64 MiB are not a small heap.
    ///
    /// Mutation seen to fail: equality in the comparison.
    #[test]
    fn a_heap_of_sixty_four_mebibytes_is_not_small() {
        let pages = new();
        let _ = take(&pages, 9, 32);
        assert_eq!(dense_areas(&pages), 32);
    }

    /// Mutations seen to fail: no look at whether an area is dense; one at whether any of it is touched.
    #[test]
    fn an_area_of_which_a_page_was_never_used_stays_small() {
        let pages = new();
        let _ = take(&pages, 9, 40);
        let parts = take(&pages, 4, 31);
        assert!(parts.iter().all(|part| area_of(part) == area_of(&parts[0])), "a fresh area");
        (0..4).for_each(|_| look(&pages));
        assert!(!is_dense(&pages, &parts[0]) && !is_huge(&pages, &parts[0]));
        let last = take(&pages, 4, 1);
        assert_eq!(area_of(&last[0]), area_of(&parts[0]), "the rest of it");
        look(&pages);
        assert!(is_dense(&pages, &last[0]) && !is_huge(&pages, &last[0]));
        look(&pages);
        assert!(is_huge(&pages, &last[0]));
    }

    /// Of a large array the system may have memory behind a page here and there alone. None is added, and areas behind it get their
    /// turn.
    ///
    /// Mutations seen to fail: no question to the system; one that any page answers, or that leaves out the last; looks that begin
    /// at the start each time, or never again; more questions in a look, or less.
    #[test]
    fn areas_with_pages_that_nobody_used_stay_small_until_they_are_used() {
        let pages = new();
        let sparse = crate::taken::take(&pages, 9, 2 * MOST_ASKED);
        // A page of each, and all but the last of every eighth.
        for (number, block) in sparse.iter().enumerate() {
            use_pages(block, if number % 8 == 0 { AREA - 1 } else { 1 });
        }
        let full = take(&pages, 9, 16);
        let first = sparse[0].start().addr();
        assert!(full.iter().all(|block| block.start().addr() > first), "behind the array");
        while dense_areas(&pages) < 2 * MOST_ASKED + 16 {
            look(&pages);
        }
        pages.looks.from.store(0, Ordering::Relaxed);
        let made: Vec<_> = (0..4)
            .map(|_| {
                look(&pages);
                huge_areas(&pages)
            })
            .collect();
        assert_eq!(made, [0, 0, 16, 16]);
        assert!(full.iter().all(|block| is_huge(&pages, block)));
        sparse.iter().for_each(fill);
        (0..2).for_each(|_| look(&pages));
        assert!(huge_areas(&pages) > 16);
    }

    /// Mutations seen to fail: another comparison with what is slow; a look that goes on after a slow area; as many left out each
    /// time, one more each time, or for ever; none at first; more than there may be; some after a look without.
    #[test]
    fn after_slow_huge_pages_looks_are_left_out_twice_as_many_each_time() {
        let mut pages = new();
        let _blocks = take(&pages, 9, 100);
        let looks_until_more = |pages: &Pages| {
            let before = huge_areas(pages);
            let looks = (1..1000).find(|_| {
                look(pages);
                huge_areas(pages) > before
            });
            (looks.expect("there are small areas"), huge_areas(pages) - before)
        };
        assert_eq!(looks_until_more(&pages).1, 16);
        assert_eq!(looks_until_more(&pages), (1, 16));
        pages.looks.slow = Duration::ZERO;
        let slow: Vec<_> = (0..9).map(|_| looks_until_more(&pages)).collect();
        let one = |looks| (looks, 1);
        assert_eq!(slow, [1, 2, 3, 5, 9, 17, 33, 65, 65].map(one));
        pages.looks.slow = Duration::MAX;
        assert_eq!(looks_until_more(&pages), (65, 16));
        assert_eq!(looks_until_more(&pages), (1, 16));
    }

    /// What is given back is small again, in our books and in the system's, reads as zero, and must become old anew. An area that
    /// was dense, and of which nothing is known any more, is not old.
    ///
    /// Mutations seen to fail: areas that stay huge, or dense, when parts of them go; the system not told of either; giving back
    /// that is not excluded by a look; a look that excludes it for ever.
    #[test]
    fn what_is_given_back_is_small_again() {
        let pages = new();
        let mut blocks = take(&pages, 9, 40);
        blocks.iter().for_each(fill);
        pages.is_giving.store(true, Ordering::Relaxed);
        look(&pages);
        assert_eq!((dense_areas(&pages), huge_areas(&pages)), (32, 0), "somebody gives back");
        pages.is_giving.store(false, Ordering::Relaxed);
        (0..4).for_each(|_| look(&pages));
        assert_eq!(huge_areas(&pages), 40);
        let has_huge = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        assert_eq!(is_kept_small(blocks[0].start()), !has_huge, "the system was told");
        let freed = area_of(&blocks[0]);
        let start = blocks[0].start();
        free(&pages, blocks.drain(..1));
        assert_eq!(pages.give_back(0), AREA, "after looks too");
        assert_eq!((huge_areas(&pages), dense_areas(&pages)), (39, 39));
        assert!(!has_huge || is_kept_small(start), "the system was told again");
        let again = crate::taken::take(&pages, 9, 1);
        assert_eq!(area_of(&again[0]), freed, "the area that went");
        assert!(again[0].is_zero());
        // SAFETY: the block is the test's, and readable: its area is open.
        assert_eq!(unsafe { again[0].start().read() }, 0);
        fill(&again[0]);
        look(&pages);
        assert!(is_dense(&pages, &again[0]) && !is_huge(&pages, &again[0]), "not old");
        look(&pages);
        assert!(is_huge(&pages, &again[0]));
    }

    /// A huge page of which a part is given back is no huge page any more.
    ///
    /// Mutations seen to fail: the system not asked to collapse; not told that an area may be huge.
    #[test]
    fn the_system_has_huge_pages_behind_huge_areas_at_once() {
        let pages = new();
        let blocks = take(&pages, 9, 39);
        let mut parts = take(&pages, 4, 32);
        let area = area_of(&parts[0]);
        blocks.iter().for_each(fill);
        parts.iter().for_each(fill);
        (0..4).for_each(|_| look(&pages));
        assert!(is_huge(&pages, &parts[0]), "in our books");
        if can_collapse() {
            assert!(huge_bytes(area).is_some_and(|bytes| bytes >= AREA * PAGE_SIZE));
        } else {
            eprintln!("this system makes no huge pages at once: not tested");
        }
        free(&pages, parts.drain(..1));
        assert_eq!(pages.give_back(0), 16);
        assert!(!is_huge(&pages, &parts[0]));
        assert!(huge_bytes(area).is_none_or(|bytes| bytes == 0));
    }

    /// Whether the system makes a huge page when it is asked to, of memory of which nobody else knows.
    fn can_collapse() -> bool {
        let memory = crate::Mapped::reserve(4 << 20).expect("address space");
        // SAFETY: within the mapping, which is aligned to 4 MiB.
        unsafe { memory.start().write_bytes(3, 2 << 20) };
        let start = memory.start().as_ptr().cast();
        // SAFETY: our own mapping.
        unsafe { libc::madvise(start, 2 << 20, libc::MADV_HUGEPAGE) };
        // SAFETY: as above; 25 is `MADV_COLLAPSE`.
        unsafe { libc::madvise(start, 2 << 20, 25) == 0 }
    }

    /// Mutation seen to fail: `make_huge` that leaves `errno` as the system's answer is.
    #[test]
    fn errno_is_kept_where_the_system_cannot_make_an_area_huge() {
        let pages = Pages::with_space(4 << 30).expect("address space");
        let first = pages.locked(|sections| *sections).first();
        // Not open yet: nothing can be behind it.
        let closed = areas(FrameRange::new(first.end, pages.space.frames().end)).next();
        // SAFETY: the thread's own variable.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: the thread's, for as long as it runs.
        unsafe { errno.write(77) };
        pages.space.make_huge(closed.expect("three sections more"));
        // SAFETY: the thread's, which runs.
        assert_eq!(unsafe { errno.read() }, 77);
    }
}
