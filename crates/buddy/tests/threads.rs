//! Two threads at once, with a map from each frame to its owner.
#![cfg(not(loom))]

mod common;

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU8, Ordering};

use buddy::{FrameAllocator, Mode, SplitError, ZeroedMemory};
use common::{Simulated, range};
use hosted::Threads;
use page_frame::{FrameNumber, Order};
use testkit::{Random, steps};

#[test]
fn no_frame_has_two_owners() {
    const FRAMES: usize = 4096;
    let buddy = Simulated::new(&[range(0, FRAMES)], Threads, Mode::Cached);
    let initial = buddy.free_counts();
    let owners: Vec<AtomicU8> = (0..FRAMES).map(|_| AtomicU8::new(0)).collect();
    let work = |me: u8| {
        let mut random = Random::new(me.into());
        let mut live = Vec::new();
        let give_back = |(block, order): (FrameNumber, Order)| {
            for owner in &owners[block.get()..][..order.pages()] {
                assert_eq!(owner.swap(0, Ordering::AcqRel), me, "in the block at {block}");
            }
            buddy.free_frames(block, order).expect("ours");
        };
        for _ in 0..steps(60_000) {
            if random.below(100) < 53 {
                let order =
                    Order::new([0, 0, 0, 0, 1, 2, 3, 6, 7, 9][random.below(10)]).expect("valid");
                let Ok(block) = buddy.allocate_frames(order) else { continue };
                for owner in &owners[block.get()..][..order.pages()] {
                    assert_eq!(owner.swap(me, Ordering::AcqRel), 0, "in the block at {block}");
                }
                live.push((block, order));
            } else if !live.is_empty() {
                give_back(live.swap_remove(random.below(live.len())));
            }
        }
        live.into_iter().for_each(give_back);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(1));
        scope.spawn(|| work(2));
    });
    buddy.drain();
    buddy.validate().expect("consistent at the end");
    assert_eq!(buddy.free_counts(), initial);
}

#[test]
fn pieces_of_whole_areas_have_one_owner() {
    const FRAMES: usize = 8192;
    let ranges = [range(0, FRAMES)];
    let layout = FrameAllocator::<Threads>::metadata_layout(&ranges, hosted::THREAD_SLOTS);
    let mut metadata = vec![MaybeUninit::uninit(); layout.expect("valid").size() + 64];
    let metadata = ZeroedMemory::zero(&mut metadata);
    let buddy = FrameAllocator::new_in(metadata, &ranges, Threads, Mode::Cached).expect("room");
    let owners: Vec<AtomicU8> = (0..FRAMES).map(|_| AtomicU8::new(0)).collect();
    let own = |start: usize, frames: usize, from: u8, to: u8| {
        for owner in &owners[start..][..frames] {
            assert_eq!(owner.swap(to, Ordering::AcqRel), from, "at frame {start}");
        }
    };
    let order = |order: u8| Order::new(order).expect("small");
    let work = |me: u8| {
        let mut random = Random::new(me.into());
        for _ in 0..steps(15_000) {
            match random.below(3) {
                0 => {
                    let (size, into) = (order(8 + random.below(4) as u8), random.below(9) as u8);
                    let into = order(into);
                    let Ok(block) = buddy.allocate_frames(size) else { continue };
                    own(block.get(), size.pages(), 0, me);
                    while let Err(error) = buddy.split_block(block, size, into) {
                        assert!(matches!(error, SplitError::Busy), "{error}");
                    }
                    for piece in (block.get()..block.get() + size.pages()).step_by(into.pages()) {
                        own(piece, into.pages(), me, 0);
                        buddy.free_frames(FrameNumber::new(piece), into).expect("ours");
                    }
                }
                1 => {
                    let frames = 1 + random.below(1500);
                    let Ok(start) = buddy.allocate_each(frames, Order::ZERO) else { continue };
                    own(start.get(), frames, 0, me);
                    own(start.get(), frames, me, 0);
                    let segment = range(start.get(), start.get() + frames);
                    buddy.free_each(segment).expect("ours");
                }
                _ => {
                    let start = random.below(FRAMES - 600);
                    let wanted = range(start, start + 1 + random.below(600));
                    if buddy.withhold(wanted).is_ok() {
                        own(start, wanted.frames(), 0, me);
                        own(start, wanted.frames(), me, 0);
                        buddy.free_each(wanted).expect("ours");
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        (1..4).for_each(|me| {
            _ = scope.spawn({
                let work = &work;
                move || work(me)
            })
        })
    });
    buddy.drain();
    buddy.validate().expect("consistent at the end");
    assert_eq!(buddy.free_frames_count(), FRAMES);
}
