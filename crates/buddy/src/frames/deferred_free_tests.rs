//! Tests of the counts of deferred frees, and of the turns that look for areas to reconcile.

extern crate std;

use core::cell::RefCell;
use core::ptr::NonNull;
use std::boxed::Box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::vec::Vec;

use page_frame::{FrameRange, PAGE_SIZE, PageMapArray, Tag};

use super::*;
use crate::bitmap::area::Line;
use crate::bitmap::bits::AREA_ORDER;
use crate::bitmap::hints::{Bounds, HintMaps, Hints};
use crate::bitmap::section::{Lines, Section};
use crate::bitmap::section_table::{SectionCell, SectionTable};
use crate::frames::area_tags::AreaTags;

/// The number of the first area of the tests, so that an area's index is not its number.
const FIRST: usize = 3;
/// Number of areas: several words of flags, and not a multiple of the eight counts that are loaded
/// at once.
const AREAS: usize = 141;
/// The largest number of frames and bias that a count holds without a reconciliation.
const MOST: u8 = RECONCILE_AT as u8 - 1;

/// The counts, aligned as those of an allocator.
#[repr(align(64))]
struct Counts([AtomicU8; AREAS]);

/// Calls `test` with areas without deferred frees.
fn with_areas(test: impl FnOnce(&DeferredFrees<'_>)) {
    let counts = Counts([const { AtomicU8::new(0) }; AREAS]);
    let flags =
        core::array::from_fn::<Flags, { AREAS.div_ceil(WORD_BITS) }, _>(|_| Zeroable::zero());
    test(&DeferredFrees::new(FIRST, &counts.0, &flags));
}

fn frame_in(area: usize) -> FrameNumber {
    FrameNumber::new((FIRST + area) * AREA_FRAMES + 5)
}

fn count(deferred: &DeferredFrees<'_>, area: usize) -> u8 {
    deferred.counts[area].load(Ordering::Relaxed)
}

fn set_count(deferred: &DeferredFrees<'_>, area: usize, count: u8) {
    deferred.counts[area].store(count, Ordering::Relaxed);
}

#[test]
fn an_area_is_named_by_its_distance_from_the_first_one() {
    with_areas(|deferred| {
        for area in [0, 1, AREAS - 1] {
            assert_eq!(deferred.area_of(frame_in(area)), area);
        }
    });
}

/// Mutations that it catches: a block counted as another number of frames. A count that is full one
/// frame too early or too late, or that reads as empty when it is full.
#[test]
fn an_area_is_full_at_64_deferred_frames() {
    with_areas(|deferred| {
        for (area, order) in (0..=MAX_DEFERRED_ORDER).enumerate() {
            let order = Order::new(order as u8).expect("a valid order");
            assert!(is_deferrable(order));
            let blocks = RECONCILE_AT / order.pages();
            for block in 1..=blocks + 2 {
                let is_full = with_tag(|tag| {
                    // SAFETY: clause 1: a frame of the areas.
                    let is_full = unsafe { deferred.defer(frame_in(area), order, tag) };
                    assert_eq!(tag.get().as_deferred(), Some(order));
                    is_full
                });
                assert_eq!(is_full, block >= blocks, "block {block} of order {order:?}");
                assert!(deferred.is_pending_at(frame_in(area)));
                let frames = block * order.pages();
                let expected = u8::try_from(frames).unwrap_or(u8::MAX).min(MOST) | PENDING;
                assert_eq!(count(deferred, area), expected);
            }
        }
        assert!(!is_deferrable(Order::new(MAX_DEFERRED_ORDER as u8 + 1).expect("valid")));
        assert_eq!(count(deferred, MAX_DEFERRED_ORDER + 1), 0, "of another area");
    });
}

/// Calls `test` with the place of a tag.
fn with_tag<R>(test: impl FnOnce(TagPlace<'_>) -> R) -> R {
    #[repr(align(64))]
    struct Entries([u8; PageMapArray::metadata_bytes(1)]);
    let mut entries = Entries([0; PageMapArray::metadata_bytes(1)]);
    let root = NonNull::new(core::ptr::without_provenance_mut(PAGE_SIZE)).expect("not zero");
    let metadata = NonNull::from(&mut entries.0).cast();
    // SAFETY: clauses of `new_in`: the entries are ours, aligned, zero, and outlive the map. No
    // pointer to the page is used.
    let map = unsafe { PageMapArray::new_in(root, 1, metadata) };
    test(map.place_at(0).expect("the map has a page"))
}

/// Mutations that it catches: a count changed where no free is deferred (a racing deferral would be
/// lost); the two frees added otherwise; a full count that no longer reads as pending.
#[test]
fn a_direct_free_is_counted_only_beside_deferred_ones() {
    with_areas(|deferred| {
        let area = 20;
        for without_deferred in [0, 1, MOST] {
            set_count(deferred, area, without_deferred);
            assert!(!deferred.count_direct_free(frame_in(area), 1000));
            assert_eq!(count(deferred, area), without_deferred);
        }
        set_count(deferred, area, PENDING | 5);
        for (frames, is_full, counted) in
            [(10, false, 15), (MOST as usize - 15, false, MOST), (1, true, MOST), (0, false, MOST)]
        {
            assert_eq!(deferred.count_direct_free(frame_in(area), frames), is_full, "{frames}");
            assert_eq!(count(deferred, area), PENDING | counted);
        }
        set_count(deferred, area, PENDING);
        assert!(deferred.count_direct_free(frame_in(area), AREA_FRAMES));
        assert_eq!(count(deferred, area), PENDING | MOST);
        assert!((0..AREAS).all(|other| other == area || count(deferred, other) == 0));
    });
}

/// Mutations that it catches: a bias that is one too small or too large; a bias that replaces a
/// count.
#[test]
fn an_area_that_may_become_empty_is_full_after_one_frame() {
    with_areas(|deferred| {
        deferred.expect_empty(frame_in(7));
        assert_eq!((count(deferred, 7), count(deferred, 6)), (MOST, 0));
        assert!(!deferred.is_pending_at(frame_in(7)));
        let defer = |tag: TagPlace<'_>| {
            // SAFETY: clause 1: a frame of the areas.
            unsafe { deferred.defer(frame_in(7), Order::ZERO, tag) }
        };
        assert!(with_tag(defer), "the first frame fills the count");
        for counted in [1, PENDING | 3] {
            set_count(deferred, 8, counted);
            deferred.expect_empty(frame_in(8));
            assert_eq!(count(deferred, 8), counted, "an area with frames");
        }
    });
}

/// Mutations that it catches: the eight counts that are loaded at once skipped too often or too
/// rarely; a bias that reads as pending.
#[test]
fn each_area_with_deferred_frees_is_found_from_each_start() {
    with_areas(|deferred| {
        for area in 0..AREAS {
            set_count(deferred, area, if area % 3 == 0 { MOST } else { 0 });
        }
        // Miri takes a thousand times as long.
        let step = if cfg!(miri) { 20 } else { 1 };
        for pending in [PENDING, PENDING | 1, u8::MAX] {
            for area in (0..AREAS).step_by(step) {
                let before = count(deferred, area);
                set_count(deferred, area, pending);
                for first in 0..=AREAS {
                    let found = (first <= area).then_some(area);
                    assert_eq!(deferred.next_pending_from(first), found, "{area} from {first}");
                }
                assert!(deferred.is_pending_at(frame_in(area)));
                set_count(deferred, area, before);
            }
        }
        assert_eq!(deferred.next_pending_from(0), None);
    });
}

/// Mutation that it catches: eight counts loaded at once where there are fewer.
#[test]
fn areas_with_deferred_frees_are_found_among_a_few_areas() {
    for areas in 1..20 {
        let counts = Counts([const { AtomicU8::new(0) }; AREAS]);
        let flags = [Flags::zero()];
        let deferred = DeferredFrees::new(FIRST, &counts.0[..areas], &flags);
        assert_eq!(deferred.next_pending_from(0), None);
        set_count(&deferred, areas - 1, PENDING);
        assert_eq!(deferred.next_pending_from(0), Some(areas - 1));
    }
}

/// Mutations that it catches: a turn that looks at more areas, at others, or never begins again.
#[test]
fn turns_look_at_64_areas_each_and_begin_again() {
    with_areas(|deferred| {
        let turn = || {
            let turn = deferred.begin_turn();
            let found = turn.found;
            deferred.end_turn(turn);
            (found, deferred.turn.load(Ordering::Relaxed))
        };
        let ends: Vec<_> = (0..4).map(|_| turn()).collect();
        assert_eq!(ends, [(None, 64), (None, 128), (None, 0), (None, 64)]);
        set_count(deferred, 70, PENDING);
        set_count(deferred, 90, PENDING);
        assert_eq!(turn(), (Some(70), 71));
        assert_eq!(turn(), (Some(90), 91));
        assert_eq!(turn(), (None, 0), "91 and 64 are more than there are");
        set_count(deferred, 64, PENDING);
        assert_eq!(turn(), (None, 64), "the areas before the 64th");
        assert_eq!(turn(), (Some(64), 65));
        deferred.turn.store(0, Ordering::Relaxed);
        set_count(deferred, 63, PENDING);
        assert_eq!(turn(), (Some(63), 64));
        set_count(deferred, AREAS - 1, PENDING);
        deferred.turn.store(AREAS - 1, Ordering::Relaxed);
        assert_eq!(turn(), (Some(AREAS - 1), 0));
    });
}

/// Mutations that it catches: the flag of another area; a frame outside the span that reads as one
/// of it.
#[test]
fn an_area_is_reconciled_if_its_own_flag_is_set() {
    with_areas(|deferred| {
        for area in [0, 1, WORD_BITS, AREAS - 1] {
            deferred.set_reconciling(frame_in(area));
            let others = (0..AREAS).filter(|other| deferred.is_reconciling(frame_in(*other)));
            assert!(others.eq([area]));
            deferred.flags[area / WORD_BITS].0.store(0, Ordering::Relaxed);
        }
        deferred.flags.iter().for_each(|flags| flags.0.store(usize::MAX, Ordering::Relaxed));
        assert!(deferred.is_reconciling(frame_in(0)));
        let before = FrameNumber::new(FIRST * AREA_FRAMES - 1);
        let beyond = frame_in(deferred.flags.len() * WORD_BITS);
        assert!(!deferred.is_reconciling(before) && !deferred.is_reconciling(beyond));
    });
}

/// The pages of the first areas, whose tags the tests of reconciliations use.
const PAGES: usize = 4 * AREA_FRAMES;
/// The area of which frames are deferred.
const AREA: usize = 2;

/// The parts of an allocator that a reconciliation changes.
struct World<'m> {
    bitmap: Bitmap<'m>,
    tags: Tags<'m>,
    /// The line of [`AREA`].
    line: &'m Line,
    hints: Hints<'m>,
}

impl World<'_> {
    /// Returns whether a search finds [`AREA`].
    fn has_hint(&self) -> bool {
        self.hints.has_any(FIRST + AREA)
    }
}

/// Calls `test` with deferred frees, a bitmap of which all frames of [`AREA`] are taken, and tags.
fn with_bitmap(test: impl FnOnce(&DeferredFrees<'_>, &World<'_>)) {
    #[repr(align(64))]
    struct Entries([u8; PageMapArray::metadata_bytes(PAGES)]);
    let mut tags = Entries([0; PageMapArray::metadata_bytes(PAGES)]);
    let root = NonNull::new(core::ptr::without_provenance_mut(PAGE_SIZE)).expect("not zero");
    // SAFETY: as in `with_tag`.
    let map = unsafe { PageMapArray::new_in(root, PAGES, NonNull::from(&mut tags.0).cast()) };
    let area_tags = [0; PAGES / AREA_FRAMES].map(AtomicU8::new);
    let area_tags = AreaTags::new(FIRST, &area_tags);
    let tags = Tags::new(map, area_tags, FrameNumber::new(FIRST * AREA_FRAMES), PAGE_SIZE);
    let bounds = Bounds::new();
    let lines: Box<Lines> = Box::new(Zeroable::zero());
    let entries = Box::new(Zeroable::zero());
    let maps: Box<HintMaps> = Box::new(Zeroable::zero());
    let hints = Hints::new(&maps, &bounds, 0);
    let section = Section::new(&lines, &entries, hints);
    let line = &lines[FIRST + AREA];
    line.reserve(0, AREA_FRAMES);
    let cells = [SectionCell::zero()];
    cells[0].put_from_start(&section);
    let start = FrameNumber::new(FIRST * AREA_FRAMES);
    let span = FrameRange::new(start, FrameNumber::new(start.get() + PAGES));
    let ranges = [span];
    let bitmap = Bitmap::new(SectionTable::new(&cells, &ranges, span), &bounds);
    with_areas(|deferred| test(deferred, &World { bitmap, tags, line, hints }));
}

/// Returns frame `at` of [`AREA`].
fn frame(at: usize) -> FrameNumber {
    FrameNumber::new((FIRST + AREA) * AREA_FRAMES + at)
}

fn defer(deferred: &DeferredFrees<'_>, tags: &Tags<'_>, blocks: &[(usize, u8)]) {
    for (at, order) in blocks {
        let order = Order::new(*order).expect("a valid order");
        let tag = tags.block_place(frame(*at), order).expect("a frame of the map");
        // SAFETY: clause 1: a frame of the areas.
        _ = unsafe { deferred.defer(frame(*at), order, tag) };
    }
}

/// Mutations that it catches: the words of another area; a block freed with another number of
/// frames; a tag that stays. An area that stays in reconciliation, or pending; a bias that does not
/// fit the number of frames in use.
#[test]
fn a_reconciliation_frees_the_deferred_blocks_of_one_area() {
    with_bitmap(|deferred, world| {
        let World { bitmap, tags, line, .. } = world;
        let taken = || line.load();
        // Words of single frames, of larger blocks, and of both.
        let blocks =
            [(1, 0), (30, 0), (WORD_BITS + 4, 2), (3 * WORD_BITS, 1), (3 * WORD_BITS + 9, 0)];
        defer(deferred, tags, &blocks);
        let calls = RefCell::new(Vec::new());
        let note = |word, frames, blocks| calls.borrow_mut().push((word, frames, blocks));
        deferred.set_reconciling(frame(0));
        assert!(deferred.reconcile(AREA, bitmap, tags, note).is_none(), "another call does so");
        assert_eq!((taken(), calls.borrow().len()), ([usize::MAX; AREA_WORDS], 0));
        deferred.flags[0].0.store(0, Ordering::Relaxed);
        let done = deferred.reconcile(AREA, bitmap, tags, note).expect("no other call");
        assert_eq!((done.frames, done.double_frees().count()), (9, 0));
        let words = [(0, 1 << 1 | 1 << 30, 2), (1, 0b1111 << 4, 1), (3, 0b11 | 1 << 9, 2)];
        let expected =
            words.map(|(word, frames, blocks)| (frame(word * WORD_BITS), frames, blocks));
        assert_eq!(*calls.borrow(), expected);
        let mut left = [usize::MAX; AREA_WORDS];
        words.iter().for_each(|(word, frames, _)| left[*word] &= !frames);
        assert_eq!(taken(), left);
        assert!((0..AREA_FRAMES).all(|at| tags.get(frame(at)) == Tag::NONE));
        assert!(world.has_hint(), "published");
        assert!(!deferred.is_reconciling(frame(0)));
        assert_eq!(count(deferred, AREA), 0, "many frames are in use: no bias");
        // With 10 frames in use the area is full after these 10, and with none after one.
        for (in_use, bias) in [(RECONCILE_AT, 0), (10, RECONCILE_AT - 10), (0, MOST as usize)] {
            line.free(0, AREA_ORDER - 1);
            line.free(AREA_FRAMES / 2, AREA_ORDER - 1);
            line.reserve(0, in_use + 1);
            defer(deferred, tags, &[(in_use, 0)]);
            assert!(deferred.reconcile(AREA, bitmap, tags, |_, _, _| ()).is_some());
            assert_eq!(usize::from(count(deferred, AREA)), bias, "{in_use} in use");
            deferred.counts[AREA].store(0, Ordering::Relaxed);
        }
    });
}

/// Mutations that it catches: a double free in another word than the first one named wrongly, or
/// none.
#[test]
fn a_reconciliation_names_the_lowest_block_of_each_word_with_a_double_free() {
    with_bitmap(|deferred, world| {
        let World { bitmap, tags, .. } = world;
        for at in [7, 2 * WORD_BITS + 5, 5 * WORD_BITS + 20] {
            assert!(bitmap.free_word(frame(at - at % WORD_BITS), 1 << (at % WORD_BITS)));
        }
        let blocks = [(7, 0), (2 * WORD_BITS + 3, 0), (2 * WORD_BITS + 5, 0), (3 * WORD_BITS, 0)];
        defer(deferred, tags, &blocks);
        let done = deferred.reconcile(AREA, bitmap, tags, |_, _, _| ()).expect("no other call");
        let found: Vec<_> = done.double_frees().collect();
        assert_eq!(found, [frame(7), frame(2 * WORD_BITS + 3)]);
    });
}

/// Mutations that it catches: a trace that panics and leaves the area in reconciliation, or the
/// deferred frees behind it without a count.
#[test]
fn a_panic_of_the_trace_leaves_the_area_pending() {
    with_bitmap(|deferred, world| {
        let World { bitmap, tags, .. } = world;
        defer(deferred, tags, &[(3, 0), (WORD_BITS + 3, 0)]);
        let reconcile = || deferred.reconcile(AREA, bitmap, tags, |_, _, _| panic!("the trace"));
        assert!(catch_unwind(AssertUnwindSafe(reconcile)).is_err());
        assert!(!deferred.is_reconciling(frame(0)) && deferred.is_pending_at(frame(0)));
        assert!(world.has_hint(), "the freed frame is published");
        let done = deferred.reconcile(AREA, bitmap, tags, |_, _, _| ()).expect("no other call");
        assert_eq!(done.frames, 1);
    });
}
