//! Compaction: random histories with owners that move, refuse and panic, and two threads.
#![cfg(not(loom))]

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy::{FrameAllocator, Mode, Relocated, Relocation, Trace, ZeroedMemory};
use hosted::Threads;
use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};
use testkit::{Random, steps};

type Frames<'m> = FrameAllocator<'m, SingleCpu, InUse>;

/// The frames that events say are taken.
#[derive(Default)]
struct InUse(AtomicUsize);

impl Trace for InUse {
    fn take(&self, _: FrameNumber, frames: usize) {
        self.0.fetch_add(frames, Ordering::Relaxed);
    }

    fn free(&self, _: FrameNumber, frames: usize) {
        self.0.fetch_sub(frames, Ordering::Relaxed);
    }
}

/// The end of the first range: few areas in Miri, which takes a thousand times as long.
const END: usize = if cfg!(miri) { 2048 } else { 8192 };

fn order(order: u8) -> Order {
    Order::new(order).expect("small")
}

/// Runs `test` on an allocator of frames 100 to [`END`] and of 300 more beyond a hole.
fn with_frames<R>(mode: Mode, test: impl FnOnce(&Frames<'_>) -> R) -> R {
    let range = |start, end| FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
    let ranges = [range(100, END), range(9000, 9300)];
    let layout = FrameAllocator::<SingleCpu>::metadata_layout(&ranges, 1).expect("valid");
    let mut memory = vec![MaybeUninit::uninit(); layout.size() + layout.align()];
    let memory = ZeroedMemory::zero(&mut memory);
    let frames = FrameAllocator::new_in(memory, &ranges, SingleCpu::new(), mode).expect("room");
    test(&frames.with_trace(InUse::default()))
}

/// The blocks of the test: order and content of each, by its first frame.
#[derive(Default)]
struct Owned(BTreeMap<usize, (Order, u64)>);

impl Owned {
    fn add(&mut self, frame: FrameNumber, order: Order, content: u64) {
        let (start, end) = (frame.get(), frame.get() + order.pages());
        let below = self.0.range(..end).next_back();
        assert!(below.is_none_or(|(start_below, (order, _))| start_below + order.pages() <= start));
        self.0.insert(start, (order, content));
    }

    fn remove(&mut self, frame: usize) -> (Order, u64) {
        self.0.remove(&frame).expect("a block of the test")
    }

    fn choose(&self, random: &mut Random) -> Option<usize> {
        self.0.keys().nth(random.below(self.0.len().max(1))).copied()
    }

    /// Moves a block; refuses those of others.
    fn relocate(&mut self, it: Relocation) -> Relocated {
        let Some((order, content)) = self.0.remove(&it.from.get()) else {
            return Relocated::Refused;
        };
        assert_eq!(order, it.order);
        self.add(it.to, order, content);
        Relocated::Moved
    }

    fn frames(&self) -> usize {
        self.0.values().map(|(order, _)| order.pages()).sum()
    }
}

/// Fills memory with single frames, and frees all but one in `kept`.
fn scatter(frames: &Frames<'_>, owned: &mut Owned, random: &mut Random, kept: usize) {
    while let Ok(frame) = frames.allocate_frames(order(0)) {
        owned.add(frame, order(0), random.number());
    }
    let blocks: Vec<usize> = owned.0.keys().copied().collect();
    for frame in blocks.into_iter().filter(|frame| frame % kept != 0) {
        let (order, _) = owned.remove(frame);
        frames.free_frames(FrameNumber::new(frame), order).expect("allocated");
    }
    frames.drain();
}

/// Mutations that it catches: content of `from` that stays allocated; a destination that is handed
/// out twice; free frames that stay isolated.
#[test]
fn scattered_blocks_move_until_free_memory_is_whole() {
    for (mode, wanted) in
        [(Mode::Cached, 9), (Mode::Dense, 9), (Mode::Cached, 4), (Mode::Cached, 7)]
    {
        with_frames(mode, |frames| {
            let (mut owned, mut random) = (Owned::default(), Random::new(3));
            scatter(frames, &mut owned, &mut random, 7);
            let before: Vec<u64> = owned.0.values().map(|(_, content)| *content).collect();
            assert!(frames.allocate_frames(order(wanted)).is_err(), "every seventh frame is used");
            let mut blocks = Vec::new();
            while let Ok(block) = frames.allocate_compacting(order(wanted), |it| owned.relocate(it))
            {
                assert!(block.is_aligned_to(order(wanted)));
                owned.add(block, order(wanted), 0);
                blocks.push(block);
            }
            let pages = order(wanted).pages();
            let free = frames.free_frames_count();
            // Frames at the borders of memory are in no whole block.
            let ideal = (free + blocks.len() * pages - 1024) / pages;
            assert!(blocks.len() * 100 >= ideal * 95, "{} of {ideal}", blocks.len());
            frames.validate().expect("consistent");
            for block in blocks {
                owned.remove(block.get());
                frames.free_frames(block, order(wanted)).expect("allocated");
            }
            let mut after: Vec<u64> = owned.0.values().map(|(_, content)| *content).collect();
            after.sort_unstable();
            let mut before = before;
            before.sort_unstable();
            assert_eq!(before, after, "each content is where its owner has it");
            free_all(frames, owned);
            assert_eq!(frames.trace().0.load(Ordering::Relaxed), 0, "events balance");
        });
    }
}

fn free_all(frames: &Frames<'_>, owned: Owned) {
    for (frame, (order, _)) in owned.0 {
        frames.free_frames(FrameNumber::new(frame), order).expect("allocated");
    }
    frames.drain();
    frames.validate().expect("consistent");
    assert_eq!(frames.free_frames_count(), frames.frames());
}

/// An owner that refuses keeps its block, and nothing is lost. A panic of the owner counts as
/// refusal.
///
/// Mutations that it catches: a refused destination that stays allocated; isolated frames that stay
/// taken; no guard while the owner runs.
#[test]
fn refusals_and_panics_leave_everything_as_it_was() {
    with_frames(Mode::Cached, |frames| {
        let (mut owned, mut random) = (Owned::default(), Random::new(5));
        scatter(frames, &mut owned, &mut random, 5);
        let free = frames.free_frames_count();
        let mut asked = 0;
        let refused = frames.allocate_compacting(order(9), |_| {
            asked += 1;
            Relocated::Refused
        });
        assert!(refused.is_err());
        assert_eq!(asked, END / 512 - 1, "the first block of each whole area");
        frames.drain();
        assert_eq!(frames.free_frames_count(), free);
        frames.validate().expect("consistent after refusals");
        let mut left = 3;
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            frames.allocate_compacting(order(9), |it| {
                left -= 1;
                assert!(left > 0, "the owner panics");
                owned.relocate(it)
            })
        }));
        assert!(panicked.is_err());
        frames.drain();
        assert_eq!(frames.free_frames_count(), free);
        frames.validate().expect("consistent after a panic");
        let block = frames.allocate_compacting(order(9), |it| owned.relocate(it));
        owned.add(block.expect("owners move again"), order(9), 0);
        free_all(frames, owned);
    });
}

/// Mutation that it catches: a block that its owner does not have counted as moved.
#[test]
fn random_histories_with_blocks_that_cannot_move() {
    for seed in 0..4 {
        with_frames(if seed % 2 == 0 { Mode::Cached } else { Mode::Dense }, |frames| {
            let mut random = Random::new(seed);
            let (mut owned, mut pinned) = (Owned::default(), Owned::default());
            for _ in 0..steps(6_000) {
                let wanted = order([0, 0, 0, 0, 1, 2, 3, 5, 9][random.below(9)]);
                match random.below(10) {
                    0..5 => {
                        let target = if random.one_in(40) { &mut pinned } else { &mut owned };
                        if target.frames() > 3000 {
                            continue;
                        }
                        if let Ok(frame) = frames.allocate_frames(wanted) {
                            target.add(frame, wanted, random.number());
                        }
                    }
                    5..9 => {
                        let Some(frame) = owned.choose(&mut random) else { continue };
                        let (order, _) = owned.remove(frame);
                        frames.free_frames(FrameNumber::new(frame), order).expect("allocated");
                    }
                    _ => {
                        let made = frames.allocate_compacting(wanted, |it| {
                            assert!(it.order < wanted);
                            owned.relocate(it)
                        });
                        if let Ok(frame) = made {
                            owned.add(frame, wanted, random.number());
                        }
                    }
                }
            }
            frames.validate().expect("consistent");
            owned.0.append(&mut pinned.0);
            free_all(frames, owned);
        });
    }
}

/// Mutation that it catches: a destination that is freed although its owner has it.
#[test]
fn an_owner_that_also_frees_its_old_block_keeps_the_new_one() {
    with_frames(Mode::Cached, |frames| {
        let (mut owned, mut random) = (Owned::default(), Random::new(9));
        scatter(frames, &mut owned, &mut random, 5);
        let mut is_first = true;
        let made = frames.allocate_compacting(order(9), |it| {
            if std::mem::take(&mut is_first) {
                frames.free_frames(it.from, it.order).expect("allocated");
            }
            owned.relocate(it)
        });
        if let Ok(block) = made {
            owned.add(block, order(9), 0);
        }
        frames.validate().expect("consistent");
        free_all(frames, owned);
    });
}

/// Mutation that it catches: destinations within the range that is being emptied.
#[test]
fn an_owner_frees_other_blocks_of_the_range_meanwhile() {
    with_frames(Mode::Cached, |frames| {
        let (mut owned, mut random) = (Owned::default(), Random::new(7));
        scatter(frames, &mut owned, &mut random, 3);
        let block = frames.allocate_compacting(order(9), |it| {
            let area = it.from.get() / 512;
            assert_ne!(it.to.get() / 512, area, "out of the way");
            let last = owned.0.range(area * 512..(area + 1) * 512).next_back();
            if let Some(last) = last.map(|(frame, _)| *frame).filter(|last| *last > it.from.get()) {
                let (order, _) = owned.remove(last);
                frames.free_frames(FrameNumber::new(last), order).expect("allocated");
                frames.drain();
            }
            owned.relocate(it)
        });
        owned.add(block.expect("two thirds are free"), order(9), 0);
        free_all(frames, owned);
    });
}

/// One thread allocates and frees its own blocks; the other one moves its blocks to make areas.
///
/// Mutations that it catches: isolated frames that another thread gets; frames freed twice.
#[test]
fn a_thread_that_allocates_beside_one_that_compacts() {
    const FRAMES: usize = 8192;
    let ranges = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(FRAMES))];
    let layout = FrameAllocator::<Threads>::metadata_layout(&ranges, hosted::THREAD_SLOTS);
    let mut metadata = vec![MaybeUninit::uninit(); layout.expect("valid").size() + 64];
    let metadata = ZeroedMemory::zero(&mut metadata);
    let frames = FrameAllocator::new_in(metadata, &ranges, Threads, Mode::Cached).expect("room");
    let owners = Mutex::new(vec![0_u8; FRAMES]);
    let change = |frame: FrameNumber, order: Order, from: u8, to: u8| {
        let mut owners = owners.lock().expect("no test panicked");
        for owner in &mut owners[frame.get()..][..order.pages()] {
            assert_eq!(std::mem::replace(owner, to), from, "at frame {frame}");
        }
    };
    let compact = || {
        let (mut blocks, mut random) = (BTreeSet::new(), Random::new(1));
        for _ in 0..if cfg!(miri) { 2 } else { 60 } {
            while blocks.len() < 2000 {
                let Ok(frame) = frames.allocate_frames(order(0)) else { break };
                change(frame, order(0), 0, 1);
                blocks.insert(frame.get());
            }
            for _ in 0..1500 {
                let next = blocks.range(random.below(FRAMES)..).next();
                let Some(frame) = next.or(blocks.first()).copied() else { break };
                blocks.remove(&frame);
                change(FrameNumber::new(frame), order(0), 1, 0);
                frames.free_frames(FrameNumber::new(frame), order(0)).expect("ours");
            }
            let made = frames.allocate_compacting(order(9), |it| {
                if !blocks.remove(&it.from.get()) {
                    return Relocated::Refused;
                }
                change(it.to, it.order, 0, 1);
                change(it.from, it.order, 1, 0);
                blocks.insert(it.to.get());
                Relocated::Moved
            });
            if let Ok(frame) = made {
                change(frame, order(9), 0, 1);
                change(frame, order(9), 1, 0);
                frames.free_frames(frame, order(9)).expect("ours");
            }
        }
        for frame in blocks {
            change(FrameNumber::new(frame), order(0), 1, 0);
            frames.free_frames(FrameNumber::new(frame), order(0)).expect("ours");
        }
    };
    let churn = || {
        let (mut blocks, mut random) = (Vec::new(), Random::new(2));
        for _ in 0..steps(120_000) {
            if blocks.len() < 3000 && random.below(2) == 0 {
                let size = order(random.below(3) as u8);
                let Ok(frame) = frames.allocate_frames(size) else { continue };
                change(frame, size, 0, 2);
                blocks.push((frame, size));
            } else if !blocks.is_empty() {
                let (frame, size) = blocks.swap_remove(random.below(blocks.len()));
                change(frame, size, 2, 0);
                frames.free_frames(frame, size).expect("ours");
            }
        }
        for (frame, size) in blocks {
            change(frame, size, 2, 0);
            frames.free_frames(frame, size).expect("ours");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(compact);
        scope.spawn(churn);
    });
    frames.drain();
    frames.validate().expect("consistent at the end");
    assert_eq!(frames.free_frames_count(), FRAMES);
}
