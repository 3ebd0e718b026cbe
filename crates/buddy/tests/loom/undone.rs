//! Models of takes and claims that lose a race, and undo what they had changed.

use buddy::Mode;
use loom::sync::Arc;
use loom::thread;
use page_frame::{Fenced, FrameNumber, Order};
use testkit::{Numbered, become_cpu, model};

use crate::common::{Simulated, range};
use crate::world::{AREA, SECTION, WHOLE, world};

/// A CPU refills its slot with a word of an open area, while another thread claims the area: one of
/// the two must see the other. Mutation seen to fail: `Section::take_word` without its second look
/// ("concurrent write accesses").
#[test]
fn a_refill_with_a_word_against_a_whole_claim() {
    model("buddy: refill with a word against claim", 20, || {
        let world = world(AREA);
        let theirs = Arc::clone(&world);
        let refilling = thread::spawn(move || {
            become_cpu(0);
            theirs.take(Order::ZERO)
        });
        let whole = world.take(WHOLE);
        let frame = refilling.join().expect("no panic");
        assert!(whole.is_none() || frame.is_none(), "128 frames are not one more");
        whole.into_iter().for_each(|block| world.free(block, WHOLE));
        frame.into_iter().for_each(|block| world.free(block, Order::ZERO));
        world.buddy.drain();
        world.buddy.validate().expect("consistent");
        assert_eq!(world.buddy.free_frames_count(), AREA);
    });
}

/// The owner of an area takes a block of two frames, while another thread takes one of them. The
/// stray bit that the owner clears is that of the other frame. Mutation seen to fail:
/// `Line::take_runs` that clears all bits of a lost block ("two frames are not three").
#[test]
fn a_block_of_an_owner_is_lost_in_part() {
    model("buddy: block of an owner against take", 10, || {
        let buddy = Simulated::new(&[range(0, 2 * AREA)], Fenced(Numbered), Mode::Cached);
        // All but the lowest two frames of the two areas are taken.
        for frame in (1..8).map(|order| 1_usize << order) {
            let order = Order::new(frame.trailing_zeros() as u8).expect("small");
            buddy.allocate_at(FrameNumber::new(frame), order).expect("all is free");
        }
        let buddy = Arc::new(buddy);
        let pair = Order::new(1).expect("order 1 exists");
        let theirs = Arc::clone(&buddy);
        let owner = thread::spawn(move || {
            become_cpu(0);
            theirs.allocate_frames(pair).ok()
        });
        let single = buddy.allocate_frames(Order::ZERO).ok();
        let block = owner.join().expect("no panic");
        assert!(single.is_none() || block.is_none(), "two frames are not three");
        let freed = single.map_or(Ok(()), |frame| buddy.free_frames(frame, Order::ZERO));
        freed.expect("allocated, and not freed");
        let freed = block.map_or(Ok(()), |block| buddy.free_frames(block, pair));
        freed.expect("allocated, and not freed");
        buddy.drain();
        buddy.validate().expect("consistent");
        assert_eq!(buddy.free_frames_count(), 2);
    });
}

/// A claim of two areas fails at the second one, and opens the first again. Another thread looks
/// for a whole area meanwhile: the first one was free at all times, so the search must not fail.
/// Mutation seen to fail: `claim_several` without its first look ("an area is free at all times").
#[test]
fn a_claim_that_fails_hides_no_area() {
    model("buddy: failing claim of two areas against claim of one", 20, || {
        let world = world(2 * AREA);
        world.buddy.allocate_at(FrameNumber::new(AREA), Order::ZERO).expect("all is free");
        let theirs = Arc::clone(&world);
        let claimer = thread::spawn(move || theirs.buddy.allocate_frames(SECTION).ok());
        let one = world.buddy.allocate_frames(WHOLE).expect("an area is free at all times");
        assert!(claimer.join().expect("no panic").is_none(), "a frame is in use");
        world.free(one, WHOLE);
        world.buddy.validate().expect("consistent");
    });
}
