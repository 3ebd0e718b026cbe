//! Random histories of a buddy whose ranges are added while it is in use: several in a GiB,
//! touching ones, and ones far apart.
#![cfg(not(loom))]

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use buddy::{BuildError, GrowingBuddy};
use page_frame::{
    Cpu, CpuId, DirectMap, FaultKind, Fenced, FrameNumber, FrameRange, Order, PAGE_SIZE, PageMap,
    PageResize, PageSource, PhysMap, SingleCpu, SwitchedCpu, Tag,
};
use testkit::{Random, steps};

const FRAMES: usize = 3000;
const LAYOUT: Layout = match Layout::from_size_align(FRAMES * PAGE_SIZE, PAGE_SIZE) {
    Ok(layout) => layout,
    Err(_) => panic!("a multiple of the page size"),
};

fn range(start: usize, end: usize) -> FrameRange {
    FrameRange::new(FrameNumber::new(start), FrameNumber::new(end))
}

fn order(order: usize) -> Order {
    Order::new(order as u8).expect("small")
}

/// Runs `test` with memory whose first frame is `first`.
fn with_memory(first: usize, test: impl FnOnce(DirectMap)) {
    // SAFETY: the layout is not empty.
    let memory = NonNull::new(unsafe { alloc(LAYOUT) }).expect("room");
    // SAFETY: fresh memory of that size. Not zero, as a machine's memory.
    unsafe { memory.write_bytes(0xa5, LAYOUT.size()) };
    // SAFETY: the memory of `FRAMES` frames from `first` on.
    test(unsafe { DirectMap::from_root(memory, FrameNumber::new(first)) });
    // SAFETY: allocated above, and not used any more.
    unsafe { dealloc(memory.as_ptr(), LAYOUT) };
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Block(usize),
    Run,
}

type Frames<'a> = GrowingBuddy<DirectMap, &'a SwitchedCpu>;

/// What the test owns: the number of frames and the kind, by first frame.
struct Owned<'a> {
    map: DirectMap,
    frames: &'a Frames<'a>,
    things: BTreeMap<usize, (usize, Kind)>,
}

impl Owned<'_> {
    /// Adds frames, which no other thing has, and overwrites them.
    fn add(&mut self, start: FrameNumber, count: usize, kind: Kind) {
        let (start, end) = (start.get(), start.get() + count);
        let below = self.things.range(..end).next_back();
        assert!(below.is_none_or(|(below, (count, _))| below + count <= start), "one owner");
        // SAFETY: the frames are ours.
        unsafe { self.map.pointer(FrameNumber::new(start)).write_bytes(0x5a, count * PAGE_SIZE) };
        self.things.insert(start, (count, kind));
    }

    fn count(&self) -> usize {
        self.things.values().map(|(count, _)| count).sum()
    }

    fn free(&mut self, start: usize) {
        let (count, kind) = self.things.remove(&start).expect("ours");
        let frame = FrameNumber::new(start);
        match kind {
            Kind::Block(size) => {
                // SAFETY: clause 1: the block is ours, allocated by number.
                unsafe { self.frames.free_frames(frame, order(size)) }.expect("ours");
            }
            // SAFETY: clauses 1 and 2: the run is ours, and nothing refers into it.
            Kind::Run => unsafe { self.frames.free_run(self.map.pointer(frame), count) },
        }
    }

    fn step(&mut self, random: &mut Random) {
        let chosen = self.things.keys().nth(random.below(self.things.len().max(1))).copied();
        match (random.below(6), chosen) {
            (0, _) => {
                let size = random.below(8);
                if let Ok(start) = self.frames.allocate_frames(order(size)) {
                    self.add(start, 1 << size, Kind::Block(size));
                }
            }
            (1, _) => {
                let count = 1 + random.below(100);
                if let Ok(start) = self.frames.allocate_each(count, order(random.below(3))) {
                    for frame in start.get()..start.get() + count {
                        self.add(FrameNumber::new(frame), 1, Kind::Block(0));
                    }
                }
            }
            (2, _) => {
                let count = 1 + random.below(60);
                if let Ok(run) = self.frames.allocate_run(count, Order::ZERO) {
                    let start = self.map.frame(run.start().addr().get());
                    assert_eq!(self.frames.tag(run.start().addr().get()), Tag::RUN);
                    self.add(start, run.pages(), Kind::Run);
                }
            }
            (3, Some(start)) => {
                // The frames behind a thing, often across the border of touching ranges.
                let next = start + self.things[&start].0;
                let wanted = range(next, next + 1 + random.below(40));
                if self.frames.withhold(wanted).is_ok() {
                    for frame in next..wanted.end.get() {
                        self.add(FrameNumber::new(frame), 1, Kind::Block(0));
                    }
                }
            }
            (_, Some(start)) => self.free(start),
            (_, None) => {}
        }
    }
}

#[test]
fn random_histories_while_ranges_are_added() {
    for seed in 1..12 {
        let mut random = Random::new(seed);
        let first = random.below(1 << 19);
        with_memory(first, |map| {
            let cpus = SwitchedCpu::new(2);
            let frames = GrowingBuddy::new(map, &cpus);
            let mut owned = Owned { map, frames: &frames, things: BTreeMap::new() };
            let (mut next, mut added, mut metadata) = (first, 0, 0);
            for number in 0..500 {
                if number % 60 == 0 && next < first + FRAMES {
                    let end = (next + 1 + random.below(900)).min(first + FRAMES);
                    let before = (frames.frames(), frames.free_frames_count());
                    // SAFETY: clauses 1 and 2: new frames of the memory, which the map covers.
                    match unsafe { frames.add(range(next, end)) } {
                        Ok(()) => {
                            assert_eq!(frames.frames(), before.0 + end - next);
                            metadata += end - next + before.1 - frames.free_frames_count();
                            added += 1;
                        }
                        Err(BuildError::MetadataTooSmall { needed, given }) => {
                            assert_eq!(
                                (given, frames.frames()),
                                ((end - next) * PAGE_SIZE, before.0)
                            );
                            assert!(needed + PAGE_SIZE > given);
                        }
                        Err(error) => panic!("{error}"),
                    }
                    next = end + [0, 0, 30][random.below(3)];
                }
                cpus.switch_to([None, Some(CpuId::new(0)), Some(CpuId::new(1))][random.below(3)]);
                owned.step(&mut random);
                frames.validate().unwrap_or_else(|violation| panic!("step {number}: {violation}"));
            }
            assert!(added > 1, "several ranges");
            frames.drain();
            assert_eq!(frames.free_frames_count(), frames.frames() - metadata - owned.count());
            while let Some((start, _)) = owned.things.first_key_value() {
                owned.free(*start);
            }
            frames.drain();
            frames.validate().expect("consistent");
            assert_eq!(frames.free_frames_count(), frames.frames() - metadata);
            // SAFETY: breaks clause 1, which is a fault, as there is no such frame.
            let fault = unsafe { frames.free_frames(FrameNumber::new(1 << 30), Order::ZERO) };
            assert_eq!(fault.map_err(|fault| fault.kind), Err(FaultKind::ForeignPointer));
        });
    }
}

#[test]
fn metadata_is_in_proportion_to_the_frames_that_are_there() {
    with_memory(5, |map| {
        let cpus = SwitchedCpu::new(1);
        let frames = GrowingBuddy::new(map, &cpus);
        // SAFETY: clauses 1 and 2: frames of the memory, which the map covers.
        unsafe { frames.add(range(5, 5 + 2048)) }.expect("8 MiB");
        let bytes = (frames.frames() - frames.free_frames_count()) * PAGE_SIZE;
        assert!(bytes < 100 << 10, "{bytes} bytes of metadata for 8 MiB, with room for anything");
    });
}

thread_local! {
    static NUMBER: Cell<Option<u32>> = const { Cell::new(None) };
}

/// A machine of three CPUs: each is a thread that has set its number. Others have no slot.
#[derive(Clone, Copy)]
struct ByThread;

// SAFETY: clauses 1 and 2: the test gives each number to one thread. Clause 3: it is used inside
// `Fenced`. Clause 4: no thread is interrupted. Clauses 5 and 6: numbers are below 3. Clause 7: 0.
unsafe impl Cpu for ByThread {
    fn slots(&self) -> usize {
        3
    }
    fn pin(&self) -> Option<CpuId> {
        NUMBER.get().map(CpuId::new)
    }
    unsafe fn unpin(&self) {}
    fn fence_all(&self) -> bool {
        true
    }
}

#[test]
fn threads_allocate_while_others_add_ranges() {
    with_memory(77, |map| {
        let frames = GrowingBuddy::new(map, Fenced(ByThread));
        let is_used: Vec<_> = (0..FRAMES).map(|_| AtomicBool::new(false)).collect();
        let mark = |start: usize, count: usize, used: bool| {
            for flag in &is_used[start - 77..][..count] {
                assert_ne!(flag.swap(used, Ordering::SeqCst), used, "one owner at a time");
            }
        };
        thread::scope(|scope| {
            for number in 0..3 {
                let (frames, mark) = (&frames, &mark);
                scope.spawn(move || {
                    NUMBER.set(Some(number));
                    let (mut random, mut owned) = (Random::new(number.into()), Vec::new());
                    for _ in 0..steps(4000) {
                        let (count, is_early) = (1 + random.below(40), owned.len() < 8);
                        let found = is_early.then(|| frames.allocate_each(count, Order::ZERO));
                        if let Some(Ok(start)) = found {
                            mark(start.get(), count, true);
                            owned.push((start.get(), count));
                        } else if !owned.is_empty() {
                            let (start, count) = owned.swap_remove(random.below(owned.len()));
                            mark(start, count, false);
                            // SAFETY: clause 1: ours, allocated by number.
                            unsafe { frames.free_each(range(start, start + count)) }.expect("ours");
                        }
                    }
                    for (start, count) in owned {
                        mark(start, count, false);
                        // SAFETY: clause 1: ours, allocated by number.
                        unsafe { frames.free_each(range(start, start + count)) }.expect("ours");
                    }
                });
            }
            for half in 0..2 {
                let frames = &frames;
                scope.spawn(move || {
                    for start in (half * 1500..half * 1500 + 1500).step_by(300) {
                        // SAFETY: clauses 1 and 2: new frames, which the map covers.
                        unsafe { frames.add(range(77 + start, 77 + start + 300)) }.expect("room");
                        thread::yield_now();
                    }
                });
            }
        });
        frames.drain();
        frames.validate().expect("consistent");
        assert_eq!(frames.frames(), FRAMES, "no range is lost");
        let all: Vec<_> = std::iter::from_fn(|| frames.allocate_frames(Order::ZERO).ok()).collect();
        all.iter().for_each(|frame| mark(frame.get(), 1, true));
        assert!(all.len() > FRAMES - 10 * 30, "{} frames are free again", all.len());
    });
}

/// Blocks, runs and slabs of several ranges, by address.
///
/// Mutation that it catches: a method of the source that asks the first buddy for each address, or
/// a fault that names the source instead of its caller.
#[test]
fn each_range_keeps_its_own_blocks_and_foreign_addresses_are_faults() {
    with_memory(100, |map| {
        let frames = GrowingBuddy::new(map, SingleCpu::new());
        assert_eq!(frames.tag_range().pages(), 0);
        for start in [100, 1600] {
            // SAFETY: clauses 1 and 2: frames of the memory, which the map covers.
            unsafe { frames.add(range(start, start + 1000)) }.expect("room");
        }
        assert_eq!(frames.tag_range().pages(), 1000);
        let blocks: Vec<_> = std::iter::from_fn(|| frames.allocate(order(3)).ok()).collect();
        let mut record = 7_u64;
        let record = NonNull::from(&mut record).cast::<()>();
        let number = |start: NonNull<u8>| map.frame(start.addr().get()).get();
        let ends = [0, blocks.len() - 1].map(|index| number(blocks[index].start()));
        assert!(ends[0] < 1100 && ends[1] >= 1600 || ends[1] < 1100 && ends[0] >= 1600, "both");
        for block in [&blocks[0], &blocks[blocks.len() - 1]] {
            let (start, address) = (block.start(), block.start().addr().get());
            assert_eq!(frames.pointer(address), start);
            // SAFETY: the block is ours.
            unsafe { frames.set_owner(start, 8, Tag::SLAB, record) };
            let last = address + 7 * PAGE_SIZE;
            assert_eq!((frames.tag(last), frames.owner(last)), (Tag::SLAB, record.as_ptr()));
            // SAFETY: as above.
            unsafe { frames.clear_owner(start, order(3)) };
            // SAFETY: as above.
            unsafe { frames.set_run(start, 8) };
            assert_eq!(frames.run_pages(address), Some(8));
            // SAFETY: as above.
            unsafe { frames.clear_run(start, order(3)) };
            assert_eq!(frames.tag(address), Tag::block(order(3)));
        }
        for block in blocks {
            // SAFETY: from this source, and not in use.
            unsafe { frames.free(block) };
        }
        let run = frames.allocate_run(33, Order::ZERO).expect("free");
        // SAFETY: the run is ours.
        assert!(unsafe { frames.resize_run(run.start(), 33, 20) });
        // SAFETY: as above.
        unsafe { frames.free_run(run.start(), 20) };

        let outside = map.pointer(FrameNumber::new(1200));
        let address = outside.addr().get();
        assert_eq!((frames.tag(address), frames.owner(address)), (Tag::NONE, std::ptr::null_mut()));
        assert_eq!(frames.pointer(address).addr(), outside.addr());
        // SAFETY: no range has the page, so these calls change nothing.
        unsafe { frames.set_owner(outside, 1, Tag::SLAB, record) };
        // SAFETY: as above.
        unsafe { frames.clear_owner(outside, Order::ZERO) };
        // SAFETY: as above.
        unsafe { frames.set_run(outside, 1) };
        // SAFETY: as above.
        unsafe { frames.clear_run(outside, Order::ZERO) };
        let misuse = std::panic::AssertUnwindSafe(|| {
            // SAFETY: not so: this is the fault.
            unsafe { frames.free_run(outside, 1) };
        });
        let panic = std::panic::catch_unwind(misuse).expect_err("refused");
        let text = panic.downcast::<String>().expect("a fault is a text");
        assert!(text.starts_with("ForeignPointer") && text.contains("growing.rs"), "{text}");
        assert!(!text.contains("src"), "the caller is named: {text}");
        frames.drain();
        frames.validate().expect("nothing else has changed");
    });
}

/// Frames of touching ranges are withheld together or not at all.
///
/// Mutation that it catches: `withhold` that keeps the frames of the first range when the second
/// has one that is taken.
#[test]
fn a_range_across_a_border_is_withheld_whole_or_not_at_all() {
    with_memory(0x1000, |map| {
        let frames = GrowingBuddy::new(map, SingleCpu::new());
        for start in [0x1000, 0x1400] {
            // SAFETY: clauses 1 and 2: frames of the memory, which the map covers.
            unsafe { frames.add(range(start, start + 0x400)) }.expect("room");
        }
        // The metadata is at the end of a range: the border is behind it.
        let taken = range(0x1400, 0x1401);
        frames.withhold(taken).expect("free");
        let free = frames.free_frames_count();
        let metadata = (0x1000..0x1400).rev().find(|frame| {
            frames.withhold(range(*frame, *frame + 1)).is_ok_and(|()| {
                // SAFETY: clause 1: withheld just now.
                unsafe { frames.free_each(range(*frame, *frame + 1)) }.is_ok()
            })
        });
        let last_free = metadata.expect("most are free");
        assert!(frames.withhold(range(last_free, 0x1402)).is_err(), "metadata lies between");
        assert_eq!(frames.free_frames_count(), free);
        // SAFETY: clause 1: withheld above.
        unsafe { frames.free_each(taken) }.expect("ours");
        // SAFETY: breaks clause 1 for most frames: each is a fault, and changes nothing.
        let fault = unsafe { frames.free_each(range(0, usize::MAX)) }.expect_err("not ours");
        assert_eq!(fault.kind, FaultKind::DoubleFree, "{fault}");
        // SAFETY: as above.
        let fault = unsafe { frames.free_each(range(0, 5)) }.expect_err("not ours");
        assert_eq!(
            (fault.kind, fault.frame()),
            (FaultKind::ForeignPointer, Some(FrameNumber::new(0)))
        );
        frames.drain();
        frames.validate().expect("consistent");
    });
}
