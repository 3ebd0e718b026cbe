//! Tests of transparent huge pages through [`Pages`].

use core::sync::atomic::Ordering;
use core::time::Duration;

use page_frame::{FrameNumber, FrameRange, Order, PAGE_SHIFT, PAGE_SIZE, PageResize};

use crate::pages::Pages;
use crate::space::areas::{AREA, areas, number_of, numbers};
use crate::system::mapping::{Mapped, is_huge_forbidden};
use crate::test_blocks::{self, Block, fill, free};
use crate::thp::growth::FULL;
use crate::thp::scan::{MAX_QUERIES, SCAN_PAGES};

/// Returns pages for which no collapse counts as slow, as machines differ.
fn new() -> Pages {
    let mut pages = Pages::with_space(1 << 30).expect("address space").without_purging();
    pages.thp.slow = Duration::MAX;
    pages.thp.pause = 0;
    pages
}

/// Allocates blocks and writes to every page of them.
fn take(pages: &Pages, order: u8, count: usize) -> Vec<Block> {
    let blocks = test_blocks::take(pages, order, count);
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
    pages.thp.huge.count(number_of(area_of(block))) == 1
}

fn is_dense(pages: &Pages, block: &Block) -> bool {
    pages.thp.dense.count(number_of(area_of(block))) == 1
}

fn huge_areas(pages: &Pages) -> usize {
    let first = pages.space.sections().first();
    pages.thp.huge.count(numbers(first))
}

fn dense_areas(pages: &Pages) -> usize {
    let first = pages.space.sections().first();
    pages.thp.dense.count(numbers(first))
}

/// Scans, as after an allocation of 32 MiB.
fn scan(pages: &Pages) {
    pages.scan_after(SCAN_PAGES);
}

/// Returns the bytes in huge pages behind the mapping that `area` lies in; `None` where the system
/// does not report it.
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

/// A scan finds dense areas; the next one collapses those that were dense before, sixteen at a
/// time.
///
/// Mutations that it catches:
/// - scans twice or half as often;
/// - a scan above 32 MiB only, or at each page from then on;
/// - another number of collapses;
/// - huge areas counted as collapses;
/// - a collapse of areas that were not dense before, or in a small heap.
#[test]
fn areas_dense_at_two_scans_are_collapsed_unless_the_heap_is_small() {
    let pages = new();
    // The second scan is due after 64 MiB; fewer are in use.
    let one = take(&pages, 9, 1);
    free(&pages, one);
    let mut blocks = take(&pages, 9, 31);
    assert_eq!(dense_areas(&pages), 0, "a small heap");
    // 32 MiB later 94 MiB are in use.
    blocks.extend(take(&pages, 9, 15));
    assert_eq!(dense_areas(&pages), 0, "no scan is due");
    blocks.extend(take(&pages, 9, 1));
    assert_eq!((dense_areas(&pages), huge_areas(&pages)), (47, 0), "dense for the first time");
    blocks.extend(take(&pages, 9, 15));
    assert_eq!(huge_areas(&pages), 0);
    blocks.extend(take(&pages, 9, 1));
    assert_eq!((dense_areas(&pages), huge_areas(&pages)), (63, 16));
    let more: Vec<_> = (0..4)
        .map(|_| {
            scan(&pages);
            huge_areas(&pages)
        })
        .collect();
    assert_eq!(more, [32, 48, 63, 63]);
    free(&pages, blocks.drain(31..));
    assert_eq!(pages.decay.in_use(), 31 * AREA);
}

/// A heap of exactly 64 MiB is not small.
///
/// Mutation seen to fail: equality in the comparison.
#[test]
fn a_heap_of_sixty_four_mebibytes_is_not_small() {
    let pages = new();
    let _ = take(&pages, 9, 32);
    assert_eq!(dense_areas(&pages), 32);
}

/// Mutations that it catches: no test whether an area is dense; a test whether any of it is
/// committed.
#[test]
fn an_area_with_an_uncommitted_page_stays_small() {
    let pages = new().with_huge_pages_from(usize::MAX);
    let _ = take(&pages, 9, 40);
    let parts = take(&pages, 4, 31);
    assert!(parts.iter().all(|part| area_of(part) == area_of(&parts[0])), "a fresh area");
    (0..4).for_each(|_| scan(&pages));
    assert!(!is_dense(&pages, &parts[0]) && !is_huge(&pages, &parts[0]));
    let last = take(&pages, 4, 1);
    assert_eq!(area_of(&last[0]), area_of(&parts[0]), "the rest of it");
    scan(&pages);
    assert!(is_dense(&pages, &last[0]) && !is_huge(&pages, &last[0]));
    scan(&pages);
    assert!(is_huge(&pages, &last[0]));
}

/// A large array may have few resident pages. Scans add no memory to it, and they reach the areas
/// behind it.
///
/// Mutations that it catches:
/// - no residency query;
/// - a query that one resident page satisfies, or that skips the last page;
/// - scans that never resume, or never restart;
/// - another number of queries per scan.
#[test]
fn areas_with_pages_that_are_not_resident_stay_small() {
    let pages = new();
    let sparse = test_blocks::take(&pages, 9, 2 * MAX_QUERIES);
    // One page of each block, and all pages but the last of every eighth block.
    for (number, block) in sparse.iter().enumerate() {
        use_pages(block, if number % 8 == 0 { AREA - 1 } else { 1 });
    }
    let full = take(&pages, 9, 16);
    let first = sparse[0].start().addr();
    assert!(full.iter().all(|block| block.start().addr() > first), "behind the array");
    while dense_areas(&pages) < 2 * MAX_QUERIES + 16 {
        scan(&pages);
    }
    pages.thp.resume_at.store(0, Ordering::Relaxed);
    let made: Vec<_> = (0..4)
        .map(|_| {
            scan(&pages);
            huge_areas(&pages)
        })
        .collect();
    assert_eq!(made, [0, 0, 16, 16]);
    assert!(full.iter().all(|block| is_huge(&pages, block)));
    sparse.iter().for_each(fill);
    (0..2).for_each(|_| scan(&pages));
    assert!(huge_areas(&pages) > 16);
}

/// Mutations that it catches:
/// - another comparison with `slow`;
/// - a scan that continues after a slow collapse;
/// - a constant or linear number of skipped scans, or skips for ever;
/// - no skip at first;
/// - more skips than the maximum;
/// - skips after a scan without a slow collapse.
#[test]
fn after_slow_collapses_twice_as_many_scans_are_skipped_each_time() {
    let mut pages = new();
    let _blocks = take(&pages, 9, 100);
    let scans_until_more = |pages: &Pages| {
        let before = huge_areas(pages);
        let scans = (1..1000).find(|_| {
            scan(pages);
            huge_areas(pages) > before
        });
        (scans.expect("there are small areas"), huge_areas(pages) - before)
    };
    assert_eq!(scans_until_more(&pages).1, 16);
    assert_eq!(scans_until_more(&pages), (1, 16));
    pages.thp.slow = Duration::ZERO;
    let slow: Vec<_> = (0..9).map(|_| scans_until_more(&pages)).collect();
    let one = |scans| (scans, 1);
    assert_eq!(slow, [1, 2, 3, 5, 9, 17, 33, 65, 65].map(one));
    pages.thp.slow = Duration::MAX;
    assert_eq!(scans_until_more(&pages), (65, 16));
    assert_eq!(scans_until_more(&pages), (1, 16));
}

/// A purged area has no huge page, in our sets and in the system, and reads as zero. It must be
/// dense at two scans again before it is collapsed.
///
/// Mutations that it catches:
/// - areas that stay huge or dense when parts of them are purged;
/// - no `madvise` for either;
/// - a purge during a scan;
/// - a scan that never releases the maintenance lock.
#[test]
fn a_purged_area_has_no_huge_page() {
    let pages = new();
    let mut blocks = take(&pages, 9, 40);
    blocks.iter().for_each(fill);
    let purging = pages.maintenance.try_lock();
    scan(&pages);
    assert_eq!((dense_areas(&pages), huge_areas(&pages)), (32, 0), "another thread purges");
    drop(purging);
    (0..4).for_each(|_| scan(&pages));
    assert_eq!(huge_areas(&pages), 40);
    let has_huge = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
    assert_eq!(is_huge_forbidden(blocks[0].start()), !has_huge, "the system allows huge pages");
    let freed = area_of(&blocks[0]);
    let start = blocks[0].start();
    free(&pages, blocks.drain(..1));
    assert_eq!(pages.purge(0), AREA, "also after scans");
    assert_eq!((huge_areas(&pages), dense_areas(&pages)), (39, 39));
    assert!(!has_huge || is_huge_forbidden(start), "the system forbids them again");
    let again = test_blocks::take(&pages, 9, 1);
    assert_eq!(area_of(&again[0]), freed, "the purged area");
    assert!(again[0].is_zero());
    // SAFETY: the block is the test's, and readable: its area is open.
    assert_eq!(unsafe { again[0].start().read() }, 0);
    fill(&again[0]);
    scan(&pages);
    assert!(is_dense(&pages, &again[0]) && !is_huge(&pages, &again[0]), "dense for the first time");
    scan(&pages);
    assert!(is_huge(&pages, &again[0]));
}

/// A huge page of which a part is purged is split.
///
/// Mutations that it catches: no `MADV_COLLAPSE`; no `MADV_HUGEPAGE`.
#[test]
fn the_system_has_huge_pages_behind_huge_areas_at_once() {
    let pages = new();
    let blocks = take(&pages, 9, 39);
    let mut parts = take(&pages, 4, 32);
    let area = area_of(&parts[0]);
    blocks.iter().for_each(fill);
    parts.iter().for_each(fill);
    (0..4).for_each(|_| scan(&pages));
    assert!(is_huge(&pages, &parts[0]), "in our set");
    if can_collapse() {
        assert!(huge_bytes(area).is_some_and(|bytes| bytes >= AREA * PAGE_SIZE));
    } else {
        eprintln!("this system makes no huge pages at once: not tested");
    }
    free(&pages, parts.drain(..1));
    assert_eq!(pages.purge(0), 16);
    assert!(!is_huge(&pages, &parts[0]));
    assert!(huge_bytes(area).is_none_or(|bytes| bytes == 0));
}

/// Whether the system collapses a fresh mapping on request.
fn can_collapse() -> bool {
    let memory = Mapped::reserve(4 << 20).expect("address space");
    // SAFETY: within the mapping, which is aligned to 4 MiB.
    unsafe { memory.start().write_bytes(3, 2 << 20) };
    let start = memory.start().as_ptr().cast();
    // SAFETY: our own mapping.
    unsafe { libc::madvise(start, 2 << 20, libc::MADV_HUGEPAGE) };
    // SAFETY: as above; 25 is `MADV_COLLAPSE`.
    unsafe { libc::madvise(start, 2 << 20, 25) == 0 }
}

/// Mutation seen to fail: a `collapse` that leaves the `errno` of the system call.
#[test]
fn errno_is_kept_where_the_system_cannot_make_an_area_huge() {
    let pages = Pages::with_space(4 << 30).expect("address space");
    let first = pages.space.sections().first();
    // Not open yet: nothing can be behind it.
    let closed = areas(FrameRange::new(first.end, pages.space.mapping().frames().end)).next();
    // SAFETY: the thread's own variable.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the thread's, for as long as it runs.
    unsafe { errno.write(77) };
    pages.space.mapping().collapse(closed.expect("three sections more"));
    // SAFETY: the thread's, which runs.
    assert_eq!(unsafe { errno.read() }, 77);
}

/// Writes to order-zero blocks until `count` areas have a huge page; returns the blocks, or `None`
/// where the system makes no huge page at the first fault.
fn take_until_huge(pages: &Pages, count: usize) -> Option<Vec<Block>> {
    let mut blocks = Vec::new();
    while huge_areas(pages) < count {
        if blocks.len() == 16 * AREA {
            eprintln!("this system makes no huge pages at the first fault: not tested");
            free(pages, blocks);
            return None;
        }
        blocks.extend(take(pages, 0, 1));
    }
    Some(blocks)
}

/// A fresh area is huge from its first block on, and the next one when it is nearly full. Its
/// blocks read as zero.
///
/// Mutations that it catches:
/// - no limit for areas that are filling, or one that counts full areas;
/// - an area that never counts as full;
/// - a limit that follows another number of pages in use;
/// - blocks of such an area that count as committed before they are allocated.
#[test]
fn fresh_areas_of_a_heap_that_grows_are_huge_one_after_the_other() {
    let pages = new().with_huge_pages_from(4 << 20);
    let Some(mut blocks) = take_until_huge(&pages, 1) else { return };
    // The block that brings the heap to 4 MiB or more, or one in the area after it.
    assert!((2 * AREA..=4 * AREA).contains(&blocks.len()), "{} pages", blocks.len());
    let first = blocks.pop().expect("there are some");
    assert!(huge_bytes(area_of(&first)).is_none_or(|bytes| bytes >= AREA * PAGE_SIZE));
    assert!(first.is_zero(), "nothing in the area was allocated before");
    assert!(!pages.thp.may_back_fresh(2 * AREA, &pages.committed), "the first area is filling");
    // The limit is one area until 8 MiB are in use.
    let mut rest: Vec<Block> = Vec::new();
    while pages.decay.in_use() < 4 * AREA {
        let next = test_blocks::take(&pages, 0, 1).pop().expect("address space");
        let is_filled = pages.committed.count(area_of(&first)) >= FULL;
        assert!(is_filled || huge_areas(&pages) == 1, "the first area is filling");
        assert!(next.is_zero());
        // SAFETY: the first byte of a block that the test has.
        assert_eq!(unsafe { next.start().read() }, 0);
        rest.push(next);
    }
    if pages.thp.growth.is_backing_off() {
        eprintln!("the system had no second huge page: not tested");
    } else {
        assert_eq!(huge_areas(&pages), 2, "the second one when the first is nearly full");
    }
    blocks.push(first);
    free(&pages, blocks.into_iter().chain(rest));
}

/// Mutations that it catches: huge pages in a small heap; blocks of any size get one; the option
/// without effect.
#[test]
fn small_heaps_large_blocks_and_the_option_get_no_huge_page_at_first() {
    let small = new();
    let blocks = take(&small, 0, 7 * AREA);
    assert_eq!(huge_areas(&small), 0, "14 MiB are less than 32");
    free(&small, blocks);
    let large = new().with_huge_pages_from(1 << 20);
    let blocks = take(&large, 7, 32);
    assert_eq!(huge_areas(&large), 0, "each block is half a mebibyte");
    free(&large, blocks);
    let without = new().with_huge_pages_from(1 << 20).without_huge_pages();
    let blocks = take(&without, 0, 7 * AREA);
    assert_eq!(huge_areas(&without), 0);
    free(&without, blocks);
}

/// Mutations that it catches: large blocks that count; one that counts after it was freed, or whose
/// new length is not noted.
#[test]
fn large_blocks_make_no_heap_large() {
    let pages = new().with_huge_pages_from(4 << 20);
    let run = pages.allocate_run(32 * AREA, Order::ZERO).expect("address space");
    let large = take(&pages, 7, 16);
    // SAFETY: the run that the test has.
    assert!(unsafe { pages.resize_run(run.start(), run.pages(), 16 * AREA) });
    let small = take(&pages, 0, AREA);
    assert_eq!(huge_areas(&pages), 0, "2 MiB in small blocks, 40 in large ones");
    let in_use = pages.decay.in_use();
    assert!(!pages.thp.may_back_fresh(in_use, &pages.committed));
    free(&pages, large);
    // SAFETY: as above.
    unsafe { pages.free_run(run.start(), 16 * AREA) };
    assert!(pages.thp.may_back_fresh(2 * AREA, &pages.committed), "no large block is left");
    free(&pages, small);
}

/// Mutations that it catches: failures that are not counted; a slow huge page that is none.
#[test]
fn a_slow_huge_page_makes_the_next_areas_small() {
    let mut pages = new().with_huge_pages_from(1 << 20);
    pages.thp.slow = Duration::ZERO;
    let blocks = take(&pages, 0, 24 * AREA);
    // Attempts at areas 0, 2, 5, 10 and 19 of those that may have one.
    assert!((0..=5).contains(&huge_areas(&pages)), "{} areas", huge_areas(&pages));
    free(&pages, blocks);
}

/// Mutations that it catches: an area that stays huge when a part of it is purged; an area that
/// counts as filling after that.
#[test]
fn a_fresh_huge_area_is_split_when_it_is_purged_and_another_may_follow() {
    let pages = new().with_huge_pages_from(4 << 20);
    let Some(mut blocks) = take_until_huge(&pages, 1) else { return };
    let last = blocks.pop().expect("there are some");
    let area = area_of(&last);
    free(&pages, [last]);
    assert_eq!(pages.purge(0), 1);
    assert_eq!(pages.thp.huge.count(number_of(area)), 0);
    assert!(pages.thp.may_back_fresh(2 * AREA, &pages.committed), "none is filling");
    free(&pages, blocks);
}
