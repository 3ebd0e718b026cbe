//! Random histories of blocks that are split, of frames that are allocated together and freed one
//! by one, and of frames that begin allocated; over ranges that touch and ranges with holes.
#![cfg(not(loom))]

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy::{Buddy, EventCounts, FrameAllocator, Mode, SplitError, ZeroedMemory};
use page_frame::{CpuId, FaultKind, FrameNumber, FrameRange, Order, OutOfMemory, SwitchedCpu};
use testkit::Random;

const CPUS: usize = 2;
type Frames<'m, const CHECKED: bool> = FrameAllocator<'m, &'m SwitchedCpu, EventCounts, CHECKED>;

fn range(start: usize, end: usize) -> FrameRange {
    FrameRange::new(FrameNumber::new(start), FrameNumber::new(end))
}

fn order(order: usize) -> Order {
    Order::new(order as u8).expect("small")
}

/// Frames 100 to 6000 as touching ranges, then a hole, then 300 more.
fn machine() -> [FrameRange; 4] {
    [range(100, 700), range(700, 1024), range(1024, 6000), range(6200, 6500)]
}

/// Runs `test` on an allocator of `machine`.
fn with_frames<R>(mode: Mode, cpus: &SwitchedCpu, test: impl FnOnce(Frames<'_, false>) -> R) -> R {
    let layout = FrameAllocator::<&SwitchedCpu>::metadata_layout(&machine(), CPUS).expect("valid");
    let mut memory = vec![MaybeUninit::uninit(); layout.size() + layout.align()];
    let memory = ZeroedMemory::zero(&mut memory);
    let frames = FrameAllocator::new_in(memory, &machine(), cpus, mode).expect("room");
    test(frames.with_trace(EventCounts::new()))
}

/// The blocks that the test owns: the order of each, by its first frame.
#[derive(Default)]
struct Owned(BTreeMap<usize, usize>);

impl Owned {
    fn add(&mut self, start: usize, order: usize) {
        let below = self.0.range(..=start).next_back();
        let above = self.0.range(start..).next();
        assert!(below.is_none_or(|(start_below, order)| start_below + (1 << order) <= start));
        assert!(above.is_none_or(|(start_above, _)| start + (1 << order) <= *start_above));
        self.0.insert(start, order);
    }

    fn frames(&self) -> usize {
        self.0.values().map(|order| 1 << order).sum()
    }

    fn choose(&self, random: &mut Random) -> Option<(usize, usize)> {
        let chosen = self.0.iter().nth(random.below(self.0.len().max(1)));
        chosen.map(|(start, order)| (*start, *order))
    }

    /// Returns whether `count` consecutive frames are free, the first at a multiple of
    /// `alignment`.
    fn has_room(&self, count: usize, alignment: usize) -> bool {
        let starts = (0..6500).step_by(alignment);
        let exists = |start: &usize| {
            let end = start + count;
            (100 <= *start && end <= 6000) || (6200 <= *start && end <= 6500)
        };
        starts.filter(exists).any(|start| self.is_free(range(start, start + count)))
    }

    fn is_free(&self, range: FrameRange) -> bool {
        let (start, end) = (range.start.get(), range.end.get());
        let below = self.0.range(..end).next_back();
        below.is_none_or(|(below, order)| below + (1 << order) <= start)
    }
}

fn step<const K: bool>(frames: &Frames<'_, K>, owned: &mut Owned, random: &mut Random) {
    match random.below(8) {
        0 => {
            let size = random.below(12);
            if let Ok(start) = frames.allocate_frames(order(size)) {
                owned.add(start.get(), size);
            }
        }
        1 | 2 => {
            let most = [20, 700, 2000][random.below(3)];
            let (count, alignment) = (1 + random.below(most), order(random.below(4)));
            if let Ok(start) = frames.allocate_each(count, alignment) {
                assert!(start.is_aligned_to(alignment));
                (start.get()..start.get() + count).for_each(|frame| owned.add(frame, 0));
            } else {
                assert!(!owned.has_room(count, alignment.pages()), "{count} frames are free");
            }
        }
        3 => {
            let start = 90 + random.below(6450);
            let wanted = range(start, start + random.below(1200));
            let exists = [range(100, 6000), range(6200, 6500)]
                .iter()
                .any(|own| own.intersection(wanted) == wanted || wanted.is_empty());
            let expected = exists && owned.is_free(wanted);
            assert_eq!(frames.withhold(wanted).is_ok(), expected, "{wanted:?}");
            if expected {
                (start..wanted.end.get()).for_each(|frame| owned.add(frame, 0));
            }
        }
        4 => {
            let Some((start, size)) = owned.choose(random) else { return };
            let into = random.below(size + 1);
            frames
                .split_block(FrameNumber::new(start), order(size), order(into))
                .expect("one thread: no area is busy");
            owned.0.remove(&start);
            (start..start + (1 << size))
                .step_by(1 << into)
                .for_each(|piece| owned.add(piece, into));
        }
        5 => {
            // Consecutive single frames, with whatever follows them.
            let Some((start, _)) = owned.choose(random) else { return };
            let end = start + 1 + random.below(300);
            let single = |frame: &usize| owned.0.get(frame) == Some(&0);
            let singles: Vec<_> = (start..end).filter(single).collect();
            let freed = frames.free_each(range(start, end));
            assert_eq!(freed.is_ok(), singles.len() == end - start);
            singles.iter().for_each(|frame| _ = owned.0.remove(frame));
        }
        _ => {
            let Some((start, size)) = owned.choose(random) else { return };
            let other = FrameNumber::new(start);
            assert!(frames.free_frames(other, order(size + 1)).is_err());
            frames.free_frames(other, order(size)).expect("ours");
            owned.0.remove(&start);
        }
    }
}

fn history<const K: bool>(frames: &Frames<'_, K>, cpus: &SwitchedCpu, seed: u64) {
    let (mut random, mut owned) = (Random::new(seed), Owned::default());
    for number in 0..400 {
        let cpu = random.below(CPUS + 1);
        cpus.switch_to((cpu < CPUS).then(|| CpuId::new(cpu as u32)));
        step(frames, &mut owned, &mut random);
        frames.validate().unwrap_or_else(|violation| panic!("step {number}: {violation}"));
        if number % 40 == 39 {
            frames.drain();
            assert_eq!(frames.free_frames_count(), frames.frames() - owned.frames());
        }
    }
    for (start, size) in owned.0 {
        frames.free_frames(FrameNumber::new(start), order(size)).expect("ours");
    }
    frames.drain();
    frames.validate().expect("consistent");
    assert_eq!(frames.free_frames_count(), frames.frames());
    assert_eq!(frames.largest_free(), Some(order(11)), "pieces merge, across touching ranges too");
}

#[test]
fn random_histories_of_pieces() {
    for seed in 1..6 {
        for mode in [Mode::Cached, Mode::Dense, Mode::Plain] {
            let cpus = SwitchedCpu::new(CPUS);
            with_frames(mode, &cpus, |frames| history(&frames, &cpus, seed));
            with_frames(mode, &cpus, |frames| history(&frames.with_checked_free(), &cpus, seed));
        }
    }
}

#[test]
fn splits_and_merges_of_pieces_balance() {
    let cpus = SwitchedCpu::new(CPUS);
    with_frames(Mode::Plain, &cpus, |frames| {
        let start = frames.allocate_frames(order(10)).expect("room");
        frames.split_block(start, order(10), order(3)).expect("ours");
        for piece in (0..1024).step_by(8) {
            frames.free_frames(FrameNumber::new(start.get() + piece), order(3)).expect("ours");
        }
        let each = frames.allocate_each(777, Order::ZERO).expect("room").get();
        frames.free_each(range(each, each + 777)).expect("ours");
        frames.withhold(range(5000, 5555)).expect("free");
        frames.free_each(range(5000, 5555)).expect("ours");
        assert_eq!(frames.trace().splits(), frames.trace().merges());
        assert!(frames.trace().splits() > 127 + 776 + 554);
    });
}

#[test]
fn misuse_of_pieces_is_a_fault_and_changes_nothing() {
    let cpus = SwitchedCpu::new(CPUS);
    with_frames(Mode::Cached, &cpus, |frames| {
        let start = frames.allocate_frames(order(4)).expect("room");
        let kind = |error| match error {
            Err(SplitError::Fault(fault)) => fault.kind,
            other => panic!("{other:?}"),
        };
        let (allocated, given) = (order(4), order(3));
        assert_eq!(
            kind(frames.split_block(start, order(3), Order::ZERO)),
            FaultKind::WrongOrder { allocated, given }
        );
        let (allocated, given) = (order(4), order(5));
        assert_eq!(
            kind(frames.split_block(start, order(4), order(5))),
            FaultKind::WrongOrder { allocated, given }
        );
        let fault = frames.free_each(range(start.get(), start.get() + 16)).expect_err("one block");
        assert_eq!(fault.kind, FaultKind::WrongOrder { allocated: order(4), given: Order::ZERO });
        frames.free_frames(start, order(4)).expect("still ours");
        assert_eq!(kind(frames.split_block(start, order(4), Order::ZERO)), FaultKind::DoubleFree);
        assert_eq!(frames.allocate_each(0, Order::ZERO), Err(OutOfMemory));
        assert_eq!(frames.withhold(range(5990, 6010)), Err(OutOfMemory), "into the hole");
        frames.validate().expect("consistent");
    });
}

#[test]
fn segments_of_more_than_a_section_are_found() {
    const GIB: usize = 1 << 18;
    let machine = [range(1000, 2 * GIB + 5000)];
    let layout = FrameAllocator::<SwitchedCpu>::metadata_layout(&machine, 1).expect("valid");
    let mut memory = vec![MaybeUninit::uninit(); layout.size() + layout.align()];
    let memory = ZeroedMemory::zero(&mut memory);
    let cpus = SwitchedCpu::new(1);
    let frames = FrameAllocator::new_in(memory, &machine, cpus, Mode::Cached).expect("room");
    let page = frames.allocate_frames(Order::ZERO).expect("room");
    frames.free_frames(page, Order::ZERO).expect("ours");
    let count = GIB + GIB / 2 + 3;
    let start = frames.allocate_each(count, order(2)).expect("most of it").get();
    assert_eq!((start % 4, frames.free_frames_count()), (0, frames.frames() - count));
    assert_eq!(frames.allocate_each(count, Order::ZERO), Err(OutOfMemory));
    assert_eq!(frames.allocate_each(usize::MAX, Order::ZERO), Err(OutOfMemory));
    frames.free_each(range(start, start + count)).expect("ours");
    assert_eq!(frames.allocate_each(2 * GIB + 4000, Order::ZERO), Ok(FrameNumber::new(1000)));
    frames.free_each(range(1000, 2 * GIB + 5000)).expect("ours");
    frames.validate().expect("consistent");
}

/// Blocks by address are split as blocks by number are.
///
/// Mutation that it catches: pieces that do not begin where the one before ends, or a refused split
/// that keeps the block.
#[test]
fn a_block_by_address_is_split_into_pieces_and_a_refused_one_comes_back() {
    use page_frame::{
        DirectMap, OneContext, PAGE_SIZE, PageBlock, PageMap, PageSource, Shrink, Tag,
    };
    static FAULTS: AtomicUsize = AtomicUsize::new(0);
    let layout = Buddy::<DirectMap, OneContext>::metadata_layout(&[range(0, 64)], 1);
    let mut memory = vec![MaybeUninit::uninit(); layout.expect("valid").size() + 64];
    let memory = ZeroedMemory::zero(&mut memory);
    // SAFETY: the test accesses no frame.
    let map = unsafe { DirectMap::at_offset(1 << 40) };
    // SAFETY: clause 1: the test is the only context.
    let cpu = unsafe { OneContext::new() };
    // SAFETY: clauses 1 and 2: no other code uses the frames.
    let buddy = unsafe { Buddy::new_in(memory, &[range(0, 64)], map, cpu, Mode::Cached) };
    let buddy = buddy.expect("room").with_fault_hook(|_| {
        FAULTS.fetch_add(1, Ordering::Relaxed);
    });
    let block = buddy.allocate(order(3)).expect("free");
    let first = block.start().addr().get();
    let Err((block, error)) = buddy.split_block(block, order(4)).map(|pieces| pieces.count())
    else {
        panic!("a block has no larger pieces");
    };
    assert!(matches!(error, SplitError::Fault(fault) if fault.kind.name() == "WrongOrder"));
    assert_eq!((block.order(), block.start().addr().get()), (order(3), first));
    let pieces = buddy.split_block(block, order(1)).map_err(|(_, error)| error).expect("split");
    for (number, piece) in pieces.enumerate() {
        let address = piece.start().addr().get();
        assert_eq!((piece.pages(), address), (2, first + number * 2 * PAGE_SIZE));
        assert_eq!(buddy.tag(address), Tag::block(order(1)));
        // SAFETY: the piece is this buddy's, and not used.
        unsafe { buddy.free(piece) };
    }
    let each = buddy.allocate_each(5, Order::ZERO).expect("free").get();
    // SAFETY: clause 1: allocated by number above.
    unsafe { buddy.free_each(range(each, each + 5)) }.expect("ours");
    // SAFETY: breaks clause 1, which is the fault.
    let fault = unsafe { buddy.free_each(range(each, each + 2)) }.expect_err("freed above");
    assert_eq!(fault.kind, FaultKind::DoubleFree);
    let frozen = buddy.freeze_slots(None);
    assert!(frozen.is_fenced());
    drop(frozen);
    let frame = buddy.allocate_frames(Order::ZERO).expect("free");
    assert!(buddy.reclaimable() > 0, "the refill took more than one");
    // SAFETY: clause 1: allocated by number above.
    unsafe { buddy.free_frames(frame, Order::ZERO) }.expect("ours");
    assert!(Shrink::shrink(&buddy, usize::MAX) > 0);
    assert_eq!((buddy.free_bits(FrameNumber::new(0)), buddy.reclaimable()), (usize::MAX, 0));
    // SAFETY: clauses 1 and 2: nothing is freed or added through it.
    assert_eq!(unsafe { buddy.frame_allocator() }.free_frames_count(), 64);
    let start = first as *mut u8;
    // SAFETY: not so: it is free, which is the fault.
    let again = unsafe {
        PageBlock::from_raw(std::ptr::NonNull::new(start).expect("not null"), order(3), false)
    };
    // SAFETY: as above.
    unsafe { buddy.free(again) };
    assert_eq!(FAULTS.load(Ordering::Relaxed), 1);
    buddy.validate().expect("consistent");
}
