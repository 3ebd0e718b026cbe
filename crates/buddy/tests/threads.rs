//! Two threads at once, with a map from each frame to its owner.
#![cfg(not(loom))]

mod common;

use std::sync::atomic::{AtomicU8, Ordering};

use buddy::Mode;
use common::{Simulated, range};
use hosted::Threads;
use page_frame::{FrameNumber, Order};
use testkit::Random;

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
        for _ in 0..60_000 {
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
