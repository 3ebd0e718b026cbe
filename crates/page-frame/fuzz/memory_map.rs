//! Interprets bytes as calls of a `MemoryMap`, and compares the map with a second computation.
//!
//! # Input
//! Each call takes 17 bytes: a selector, and two little-endian numbers. Bits 0 to 2 of the selector
//! choose the call, bit 3 chooses between length and end, bits 4 and 5 choose the scale of the
//! numbers. Trailing bytes that are no whole call are ignored.
//!
//! # What must hold
//! - The runs equal those of a second computation, which sorts all edges. So they ascend, are
//!   disjoint and not adjacent, and consist of whole usable frames.
//! - Every byte that n regions call usable lies n times in a run or a loss.
//! - A carved range is aligned, lay in a run before, and lies in no run afterwards. `carve` fails
//!   only when no run was long enough or the map was full.
//! - A region that is refused leaves the map unchanged.

use page_frame::{FrameRange, MapError, MemoryMap, Order, PAGE_SIZE, Region, RegionKind};

const CAPACITY: usize = 24;
const KINDS: [RegionKind; 5] = [
    RegionKind::Usable,
    RegionKind::Reclaimable,
    RegionKind::Persistent,
    RegionKind::Reserved,
    RegionKind::Bad,
];
const CLIP: u8 = 5;
const CARVE: u8 = 6;
const CALL_BYTES: usize = 17;

/// Does the calls that `bytes` stand for.
///
/// # Panics
/// When something does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let mut map = MemoryMap::<CAPACITY>::new();
    let mut limits = (0, u64::MAX);
    for call in bytes.chunks_exact(CALL_BYTES) {
        let (what, numbers) = (call[0], &call[1..]);
        let (first, second) = (scaled(what, &numbers[..8]), scaled(what, &numbers[8..]));
        match what & 7 {
            CLIP => {
                map.clip(first, second);
                limits = (limits.0.max(first), limits.1.min(second));
            }
            CARVE => carve(&mut map, first, second, limits),
            kind => add(&mut map, what, first, second, KINDS[usize::from(kind) % KINDS.len()]),
        }
    }
    let runs: Vec<(u64, u64)> = map.runs().map(in_bytes).collect();
    assert_eq!(runs, runs_by_sorting(map.regions(), limits), "of {:?}", map.regions());
    assert_conserved(&map);
}

/// Scales a number: unchanged, below 2^40, below 2^17, or that far below the maximum. Few bits make
/// neighbours and overlaps.
fn scaled(what: u8, bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes.try_into().expect("a call has two numbers of 8 bytes"));
    match what >> 4 & 3 {
        0 => number,
        1 => number >> 24,
        2 => number & 0x1_ffff,
        _ => !(number & 0x1_ffff),
    }
}

fn add(map: &mut MemoryMap<CAPACITY>, what: u8, first: u64, second: u64, kind: RegionKind) {
    let before = map.regions().to_vec();
    let (end, outcome) = match what & 8 {
        // Up to the last address, the end is what 64 bits have.
        0 if first > 0 && first.wrapping_add(second) == 0 => {
            (Some(u64::MAX), map.add(first, second, kind))
        }
        0 => (first.checked_add(second), map.add(first, second, kind)),
        _ => (Some(second), map.add_range(first, second, kind)),
    };
    let expected = match end {
        None => Err(MapError::WrapsAround { start: first, bytes: second }),
        Some(end) if end < first => Err(MapError::Reversed { start: first, end }),
        Some(end) if end > first && before.len() == CAPACITY => {
            Err(MapError::Full { capacity: CAPACITY })
        }
        Some(_) => Ok(()),
    };
    assert_eq!(outcome, expected);
    let added = end.filter(|end| outcome.is_ok() && *end > first);
    let added = added.map(|end| Region { start: first, end, kind });
    assert!(map.regions().iter().eq(before.iter().chain(&added)), "one more, or as before");
}

fn carve(map: &mut MemoryMap<CAPACITY>, first: u64, second: u64, limits: (u64, u64)) {
    let Ok(pages) = usize::try_from(first) else { return };
    let order = Order::new((second % Order::COUNT as u64) as u8).expect("below the count");
    let before = runs_by_sorting(map.regions(), limits);
    let unit = order.bytes() as u64;
    let bytes = u128::from(first) * PAGE_SIZE as u128;
    let fits = |(start, end): &(u64, u64)| {
        let start = u128::from(*start).next_multiple_of(unit.into());
        start + bytes <= u128::from(*end)
    };
    let was_full = map.regions().len() == CAPACITY;
    match map.carve(pages, order) {
        Ok(carved) => {
            let (start, end) = in_bytes(carved);
            assert_eq!((carved.frames(), start % unit), (pages, 0));
            let from = before.iter().find(|run| fits(run)).expect("a run was long enough");
            assert!(from.0 <= start && end <= from.1, "carved from the lowest that fits");
            // No page at all overlaps nothing, wherever it is.
            let overlaps =
                |run: FrameRange| start < end && in_bytes(run).0 < end && start < in_bytes(run).1;
            assert!(!map.runs().any(overlaps), "what is carved is not usable");
        }
        Err(MapError::Full { capacity }) => assert!(was_full && capacity == CAPACITY),
        Err(MapError::NoRoom { pages: asked, longest }) => {
            assert_eq!(asked, pages);
            assert!(!before.iter().any(fits), "{pages} pages fit in one of {before:x?}");
            let longest_before = before.iter().map(|(start, end)| end - start).max();
            assert_eq!(longest_before.unwrap_or(0) / PAGE_SIZE as u64, longest as u64);
        }
        Err(other) => panic!("carving never says {other}"),
    }
}

fn in_bytes(run: FrameRange) -> (u64, u64) {
    let byte = |frame: usize| frame as u64 * PAGE_SIZE as u64;
    (byte(run.start.get()), byte(run.end.get()))
}

/// The runs, found by sorting the edges of all regions and looking at what is between neighbours.
fn runs_by_sorting(regions: &[Region], limits: (u64, u64)) -> Vec<(u64, u64)> {
    let mut edges: Vec<u64> =
        regions.iter().flat_map(|region| [region.start, region.end]).collect();
    edges.extend([limits.0, limits.1]);
    edges.sort_unstable();
    let mut stretches: Vec<(u64, u64)> = Vec::new();
    for edge in edges.windows(2).filter(|edge| edge[0] < edge[1]) {
        let (start, end) = (edge[0], edge[1]);
        let mut here = regions.iter().filter(|region| region.start <= start && end <= region.end);
        let is_inside = limits.0 <= start && end <= limits.1;
        let is_usable = here.clone().count() > 0 && here.all(|r| r.kind == RegionKind::Usable);
        match stretches.last_mut() {
            _ if !is_inside || !is_usable => {}
            Some(last) if last.1 == start => last.1 = end,
            _ => stretches.push((start, end)),
        }
    }
    let page = PAGE_SIZE as u64;
    let whole =
        |(start, end): (u64, u64)| Some((start.checked_next_multiple_of(page)?, end / page * page));
    stretches.into_iter().filter_map(whole).filter(|(start, end)| start < end).collect()
}

fn assert_conserved(map: &MemoryMap<CAPACITY>) {
    let usable = map.regions().iter().filter(|region| region.kind == RegionKind::Usable);
    let claimed: u128 = usable.map(|region| u128::from(region.end - region.start)).sum();
    let in_runs: u128 = map.runs().map(in_bytes).map(|(start, end)| u128::from(end - start)).sum();
    let mut lost = 0;
    for loss in map.losses() {
        assert!(loss.start < loss.end && loss.times > 0, "{loss:?} is nothing");
        let bytes = u128::from(loss.end - loss.start) * u128::from(loss.times);
        assert_eq!(u128::from(loss.bytes()), bytes.min(u64::MAX.into()));
        lost += bytes;
    }
    assert_eq!(in_runs + lost, claimed, "no byte is lost unseen: {:?}", map.regions());
    assert_eq!(u128::from(map.usable_bytes()), in_runs);
    assert_eq!(u128::from(map.lost_bytes()), lost.min(u64::MAX.into()));
}
