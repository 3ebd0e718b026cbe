//! Models of areas, hints, sections and CPU slots.

use buddy::{Marks, Mode, Pressure, Trace, Watermarks};
use loom::sync::Arc;
use loom::thread;
use page_frame::sync::UnsafeCell;
use page_frame::{DirectMap, Fenced, FrameNumber, Order, PageResize};
use testkit::{Numbered, become_cpu, model};

use crate::common::{Metadata, Simulated, range};
use crate::world::{AREA, SECTION, WHOLE, half, world};

/// Half an area is taken while another thread claims all of it: one of the two must see the
/// other. Mutation seen to fail: `second_look` returning true without its load ("concurrent
/// write accesses").
#[test]
fn take_against_whole_claim() {
    model("buddy: take against whole claim", 100, || {
        let world = world(AREA);
        let theirs = Arc::clone(&world);
        let claimer = thread::spawn(move || theirs.take(WHOLE));
        let taken = world.take(half());
        let claimed = claimer.join().expect("no panic");
        assert!(taken.is_none() || claimed.is_none(), "128 frames are not 64 more");
        assert!(taken.is_some() || claimed.is_some(), "one of the two gets its block");
    });
}

/// A whole area is freed while another thread tries to take half of it: after an undo the area
/// has a hint. Mutation seen to fail: `open_as` without its `publish` (I3 of `validate`).
#[test]
fn an_area_freed_whole_is_not_lost() {
    model("buddy: whole free against take", 15, || {
        let world = world(AREA);
        let whole = world.take(WHOLE).expect("all is free");
        let theirs = Arc::clone(&world);
        let taker = thread::spawn(move || theirs.take(half()));
        world.free(whole, WHOLE);
        if let Some(taken) = taker.join().expect("no panic") {
            world.free(taken, half());
        }
        world.buddy.validate().expect("every open area has a hint");
        assert!(world.take(WHOLE).is_some(), "everything is free again");
    });
}

/// A CPU allocates from its slot while another drains it. Mutation seen to fail:
/// `PerCpu::enter` without its look at `detached` ("concurrent write accesses").
#[test]
fn drain_against_owner() {
    model("buddy: drain against owner", 50, || {
        let world = world(AREA / 2);
        let theirs = Arc::clone(&world);
        let owner = thread::spawn(move || {
            become_cpu(0);
            let frame = theirs.buddy.allocate_frames(Order::ZERO).expect("64 are free");
            theirs.free(frame, Order::ZERO);
        });
        world.buddy.drain();
        owner.join().expect("no panic");
        world.buddy.drain();
        world.buddy.validate().expect("consistent");
        assert_eq!(world.buddy.free_frames_count(), AREA / 2);
    });
}

/// One CPU takes frames below `low` while another frees frames above `high`: the CPU that
/// changes the pressure last has seen the last total. Mutations that it catches: `follow` ending
/// after its first change; `follow` without its fence (both leave `Low`).
#[test]
fn pressure_follows_the_total() {
    model("buddy: take against free at the marks", 20, || {
        let marks = Marks { min: 2, low: 5, high: 6 };
        let watermarks: Arc<Watermarks> = Arc::new(Watermarks::new(10, marks, |_| ()));
        let theirs = Arc::clone(&watermarks);
        let taker = thread::spawn(move || theirs.take(FrameNumber::new(0), 6));
        watermarks.free(FrameNumber::new(0), 6);
        taker.join().expect("no panic");
        assert_eq!((watermarks.free_frames(), watermarks.pressure()), (10, Pressure::None));
    });
}

/// A section is added while another CPU searches for a frame: if the search finds the section,
/// it finds it built. Mutation seen to fail: `SectionCell::put` storing the pointer Relaxed
/// ("concurrent load and mut accesses").
#[test]
fn a_section_is_built_before_it_is_found() {
    model("buddy: added section", 10, || {
        type Added = buddy::Buddy<'static, DirectMap, Fenced<Numbered>>;
        let metadata = Metadata::new(Added::section_layout());
        let room = range(0, 4 * AREA);
        let cpu = Fenced(Numbered);
        let buddy = Simulated::with_room(&[range(0, 1)], room, cpu, Mode::Cached);
        buddy.allocate_frames(Order::ZERO).expect("the only frame from the start");
        let world = Arc::new((buddy, UnsafeCell::new(0)));
        let theirs = Arc::clone(&world);
        let adder = thread::spawn(move || {
            let (buddy, content) = &*theirs;
            // SAFETY: no other thread knows the frame yet; loom checks it.
            content.with_mut(|content| unsafe { *content += 1 });
            let added = range(2 * AREA, 2 * AREA + 1);
            buddy.add_section(metadata.memory(), added).expect("room");
            metadata
        });
        let found = world.0.allocate_frames(Order::ZERO);
        if found.is_ok() {
            // SAFETY: the frame is ours; loom checks it.
            world.1.with_mut(|content| unsafe { *content += 1 });
        }
        let metadata = adder.join().expect("no panic");
        let found = found.or_else(|_| world.0.allocate_frames(Order::ZERO));
        assert_eq!(found, Ok(FrameNumber::new(2 * AREA)));
        world.0.validate().expect("consistent");
        drop(world);
        drop(metadata);
    });
}

/// An owned area is released while the first frames in it are freed: one of the two sets the
/// hint. Mutation seen to fail: `publish` without its fence (I3 of `validate`).
#[test]
fn an_owned_area_released_is_not_lost() {
    model("buddy: release of an owned area against free", 20, || {
        let world = world(2 * AREA);
        become_cpu(0);
        // Two blocks are all that the slot took of its area; with the other half gone the area
        // is full.
        let quarter = Order::new(5).expect("order 5 exists");
        let own = [0, 1].map(|_| world.buddy.allocate_frames(quarter).expect("free"));
        become_cpu(None);
        let rest = FrameNumber::new(AREA / 2);
        world.buddy.allocate_at(rest, half()).expect("the slot took the first half only");
        let theirs = Arc::clone(&world);
        let freer = thread::spawn(move || theirs.free(rest, half()));
        world.buddy.drain();
        freer.join().expect("no panic");
        world.buddy.validate().expect("every open area with a free frame has a hint");
        own.into_iter().for_each(|block| world.free(block, quarter));
        world.buddy.validate().expect("consistent");
        assert!(world.buddy.allocate_frames(SECTION).is_ok(), "all is free again");
    });
}

/// The last half of an area is taken, so its hint is stale and is cleared, while the other half
/// is freed. Either the free finds no hint and sets one, or the take finds the free half after
/// it has cleared the hint. Mutation seen to fail: `replace_hint` without its `publish` (I3 of
/// `validate`).
#[test]
fn a_stale_hint_is_cleared_while_frames_are_freed() {
    model("buddy: stale hint against free", 10, || {
        let world = world(AREA);
        let first = world.take(half()).expect("all is free");
        let theirs = Arc::clone(&world);
        let taker = thread::spawn(move || theirs.take(half()));
        world.free(first, half());
        let second = taker.join().expect("no panic").expect("a half is free at any time");
        world.buddy.validate().expect("an open area with a free frame has a hint");
        world.free(second, half());
        assert!(world.take(WHOLE).is_some(), "everything is free again");
    });
}

/// The last two frames in use, in different words, are freed at the same time, and one of the
/// two goes on to claim the area. Mutation seen to fail: `update_hint` without its `publish`
/// (I3 of `validate`).
#[test]
fn the_last_two_frees_are_in_different_words() {
    model("buddy: two last frees and a claim", 25, || {
        let world = world(AREA);
        let [first, second] = [(); 2].map(|()| world.take(half()).expect("all is free"));
        let theirs = Arc::clone(&world);
        let other = thread::spawn(move || {
            theirs.free(second, half());
            theirs.take(WHOLE)
        });
        world.free(first, half());
        let claimed = other.join().expect("no panic");
        world.buddy.validate().expect("an open area with a free frame has a hint");
        if let Some(block) = claimed {
            world.free(block, WHOLE);
        }
        assert!(world.take(WHOLE).is_some(), "everything is free again");
    });
}

/// Both areas are claimed for one block while another thread claims one of them. Mutation seen
/// to fail: `claim_several` without opening the claimed areas after a conflict ("nothing is
/// lost").
#[test]
fn a_claim_of_two_areas_against_a_claim_of_one() {
    model("buddy: claim of two areas against one", 50, || {
        a_claim_of_all_against_a_claim_of_one(2 * AREA, SECTION);
    });
}

/// Two sections are claimed for one block while another thread claims one of their areas. Mutation
/// seen to fail: `claim_sections` without opening the claimed sections after a conflict ("nothing
/// is lost").
#[test]
fn a_claim_of_two_sections_against_a_claim_of_an_area() {
    model("buddy: claim of two sections against one area", 20, || {
        let two = SECTION.larger().expect("below the largest");
        a_claim_of_all_against_a_claim_of_one(4 * AREA, two);
    });
}

/// A block of `all` takes all of `frames` frames, if no other thread has claimed an area.
fn a_claim_of_all_against_a_claim_of_one(frames: usize, all: Order) {
    let world = world(frames);
    let theirs = Arc::clone(&world);
    let claimer = thread::spawn(move || theirs.buddy.allocate_frames(WHOLE).ok());
    let block = world.buddy.allocate_frames(all).ok();
    let one = claimer.join().expect("no panic");
    assert!(block.is_none() || one.is_none(), "no area is left beside the block");
    assert!(block.is_some() || one.is_some(), "one of the two gets its block");
    block.into_iter().for_each(|block| world.free(block, all));
    one.into_iter().for_each(|block| world.free(block, WHOLE));
    world.buddy.validate().expect("consistent");
    assert!(world.buddy.allocate_frames(all).is_ok(), "nothing is lost");
}

/// A whole area is split so that its tail can be freed, while a stray take sets and clears bits
/// in it. Mutation seen to fail: `split_whole` opening the area even if `take_all` fails (the
/// free frames are not the run's tail).
#[test]
fn a_whole_area_is_split_under_a_stray_take() {
    model("buddy: split of a whole area against take", 20, || {
        let world = world(AREA);
        let theirs = Arc::clone(&world);
        let taker = thread::spawn(move || theirs.buddy.allocate_frames(half()).ok());
        let run = world.buddy.allocate_run(100, Order::ZERO).ok();
        let taken = taker.join().expect("no panic");
        assert!(run.is_none() || taken.is_none(), "100 frames are not 64 more");
        if let Some(run) = run {
            assert!(run.pages() == 100 || run.pages() == AREA);
            assert_eq!(world.buddy.free_frames_count(), AREA - run.pages());
            // SAFETY: the run is ours; frames are only numbers.
            unsafe { world.buddy.free_run(run.start(), run.pages()) };
        }
        taken.into_iter().for_each(|block| world.free(block, half()));
        world.buddy.validate().expect("consistent");
        assert!(world.buddy.allocate_frames(WHOLE).is_ok(), "all is free again");
    });
}

/// A CPU acquires an area and refills from it while another CPU drains its slot. Mutation seen
/// to fail: `acquire` with a store in place of the exchange ("not both from one area").
#[test]
fn a_refill_from_an_owned_area_against_a_claim_and_a_drain() {
    model("buddy: refill of an owner against claim and drain", 50, || {
        let world = world(2 * AREA);
        let theirs = Arc::clone(&world);
        let owner = thread::spawn(move || {
            become_cpu(0);
            theirs.buddy.allocate_frames(Order::ZERO).ok()
        });
        let whole = world.buddy.allocate_frames(WHOLE).ok();
        world.buddy.drain();
        let frame = owner.join().expect("no panic").expect("one area is enough for both");
        let whole = whole.expect("the other area was never touched");
        assert!(frame.get() / AREA != whole.get() / AREA, "not both from one area");
        world.free(frame, Order::ZERO);
        world.free(whole, WHOLE);
        world.buddy.drain();
        world.buddy.validate().expect("consistent");
        assert_eq!(world.buddy.free_frames_count(), 2 * AREA);
    });
}

/// With more used slots than areas, a slot owns an area only during a refill. Meanwhile another
/// thread frees the last frame in use, and claims the area. Mutation seen to fail: `take_owned`
/// without its `release_owned` where slots own no areas ("section I3" of `validate`).
#[test]
fn a_refill_without_ownership_against_a_free_and_a_claim() {
    model("buddy: refill without ownership against claim", 50, || {
        let world = world(AREA);
        become_cpu(1);
        let first = world.buddy.allocate_frames(Order::ZERO).expect("all is free");
        world.buddy.drain();
        become_cpu(None);
        let theirs = Arc::clone(&world);
        let visitor = thread::spawn(move || {
            become_cpu(0);
            theirs.buddy.allocate_frames(Order::ZERO).ok()
        });
        world.free(first, Order::ZERO);
        let whole = world.take(WHOLE);
        let frame = visitor.join().expect("no panic");
        assert!(whole.is_none() || frame.is_none(), "there is one area");
        world.buddy.validate().expect("no slot owns an area");
        frame.into_iter().for_each(|frame| world.free(frame, Order::ZERO));
        whole.into_iter().for_each(|whole| world.free(whole, WHOLE));
        world.buddy.drain();
        world.buddy.validate().expect("consistent");
        assert!(world.take(WHOLE).is_some(), "everything is free again");
    });
}
