//! Models of the protocols of the buddy.
//!
//! Under loom an area has two words and a section two areas. The comment of each model records a
//! mutation of the code under test that makes the model fail.

testkit::models_need_the_loom_flag!();

#[cfg(loom)]
mod common;

#[cfg(loom)]
mod models {
    use loom::sync::Arc;
    use loom::thread;
    use page_frame::sync::UnsafeCell;
    use page_frame::{Cpu, CpuId, DirectMap, FaultKind, Fenced, FrameNumber, Order, PageResize};
    use testkit::model;

    use super::common::{Metadata, Simulated, range};
    use buddy::{Marks, Mode, Pressure, Trace, Watermarks};

    /// Frames of an area under loom.
    const AREA: usize = 128;
    /// The order of an area under loom.
    const WHOLE: Order = match Order::new(7) {
        Some(order) => order,
        None => panic!("order 7 exists"),
    };

    /// Each thread is the CPU whose number it set.
    #[derive(Clone, Copy)]
    struct Numbered;

    loom::thread_local! {
        static NUMBER: std::cell::Cell<Option<u32>> = std::cell::Cell::new(None);
    }

    // SAFETY: in each model only one thread sets a number.
    unsafe impl Cpu for Numbered {
        fn slots(&self) -> usize {
            2
        }
        fn pin(&self) -> Option<CpuId> {
            NUMBER.with(|number| number.get()).map(CpuId::new)
        }
        unsafe fn unpin(&self) {}
        fn fence_all(&self) -> bool {
            false
        }
    }

    /// A buddy of one area, and for each half of it a cell that its owner writes.
    struct World {
        buddy: Simulated<Fenced<Numbered>>,
        content: [UnsafeCell<u32>; 2],
    }

    fn world(frames: usize) -> Arc<World> {
        let buddy = Simulated::new(&[range(0, frames)], Fenced(Numbered), Mode::Cached);
        Arc::new(World { buddy, content: [UnsafeCell::new(0), UnsafeCell::new(0)] })
    }

    impl World {
        /// Allocates, writes where the block lies, and returns it.
        fn take(&self, order: Order) -> Option<FrameNumber> {
            let block = self.buddy.allocate_frames(order).ok()?;
            let first = block.get() / (AREA / 2);
            let halves = if order == WHOLE { 0..2 } else { first..first + 1 };
            for half in halves {
                // SAFETY: the block is ours, so no other thread writes here; loom checks it.
                self.content[half].with_mut(|content| unsafe { *content += 1 });
            }
            Some(block)
        }

        fn free(&self, block: FrameNumber, order: Order) {
            self.buddy.free_frames(block, order).expect("allocated with this order");
        }
    }

    fn half() -> Order {
        Order::new(6).expect("order 6 exists")
    }

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
                NUMBER.with(|number| number.set(Some(0)));
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
    /// changes the pressure last has seen the last total. Mutations seen to fail: `follow` ending
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

    /// The order of the two areas of a section under loom.
    const SECTION: Order = match Order::new(8) {
        Some(order) => order,
        None => panic!("order 8 exists"),
    };

    /// An owned area is released while the first frames in it are freed: one of the two sets the
    /// hint. Mutation seen to fail: `publish` without its fence (I3 of `validate`).
    #[test]
    fn an_owned_area_released_is_not_lost() {
        model("buddy: release of an owned area against free", 20, || {
            let world = world(2 * AREA);
            NUMBER.with(|number| number.set(Some(0)));
            // Two blocks are all that the slot took of its area; with the other half gone the area
            // is full.
            let quarter = Order::new(5).expect("order 5 exists");
            let own = [0, 1].map(|_| world.buddy.allocate_frames(quarter).expect("free"));
            NUMBER.with(|number| number.set(None));
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
            let world = world(2 * AREA);
            let theirs = Arc::clone(&world);
            let claimer = thread::spawn(move || theirs.buddy.allocate_frames(WHOLE).ok());
            let both = world.buddy.allocate_frames(SECTION).ok();
            let one = claimer.join().expect("no panic");
            assert!(both.is_none() || one.is_none(), "two areas are not three");
            assert!(both.is_some() || one.is_some(), "one of the two gets its block");
            both.into_iter().for_each(|block| world.free(block, SECTION));
            one.into_iter().for_each(|block| world.free(block, WHOLE));
            world.buddy.validate().expect("consistent");
            assert!(world.buddy.allocate_frames(SECTION).is_ok(), "nothing is lost");
        });
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
                assert!(run.pages == 100 || run.pages == AREA);
                assert_eq!(world.buddy.free_frames_count(), AREA - run.pages);
                // SAFETY: the run is ours; frames are only numbers.
                unsafe { world.buddy.free_run(run.start, run.pages) };
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
                NUMBER.with(|number| number.set(Some(0)));
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

    /// Two frames, and for each a cell that its owner writes.
    struct Pair {
        buddy: Simulated<Fenced<Numbered>>,
        content: [UnsafeCell<u32>; 2],
    }

    /// Two frames, both allocated. The slots are not set up, so that frees are deferred.
    fn pair() -> Arc<Pair> {
        let buddy = Simulated::new(&[range(0, 2)], Fenced(Numbered), Mode::Cached);
        let frames = [0, 1].map(|_| buddy.allocate_frames(Order::ZERO).expect("two are free"));
        assert_eq!(frames.map(FrameNumber::get), [0, 1]);
        Arc::new(Pair { buddy, content: [UnsafeCell::new(0), UnsafeCell::new(0)] })
    }

    impl Pair {
        fn write(&self, frame: FrameNumber) {
            // SAFETY: the frame is the caller's; loom checks it.
            self.content[frame.get()].with_mut(|content| unsafe { *content += 1 });
        }

        fn defer(&self, cpu: u32, frame: usize) {
            NUMBER.with(|number| number.set(Some(cpu)));
            let frame = FrameNumber::new(frame);
            self.write(frame);
            self.buddy.free_frames(frame, Order::ZERO).expect("allocated");
        }

        fn take(&self) -> Option<FrameNumber> {
            NUMBER.with(|number| number.set(None));
            let frame = self.buddy.allocate_frames(Order::ZERO).ok()?;
            self.write(frame);
            Some(frame)
        }
    }

    /// A CPU defers a frame while another reconciles the area and allocates from it. No deferred
    /// frame is lost, and its content is handed over with it. Mutations seen to fail: `defer`
    /// without its fence, `reconcile` without its fence, `reconcile` clearing the count after its
    /// loads of the tags (all three "nothing is lost").
    #[test]
    fn a_frame_is_deferred_while_the_area_is_reconciled() {
        model("buddy: deferral against reconciliation", 50, || {
            let pair = pair();
            let theirs = Arc::clone(&pair);
            let other = thread::spawn(move || theirs.defer(0, 0));
            pair.defer(1, 1);
            let first = pair.take();
            other.join().expect("no panic");
            let second = pair.take();
            let third = pair.take();
            let found = [first, second, third].into_iter().flatten().count();
            assert_eq!(found, 2, "nothing is lost: {first:?} {second:?} {third:?}");
            pair.buddy.validate().expect("consistent");
        });
    }

    /// A CPU defers a frame while another frees a frame directly, which is counted too: the count
    /// still says that a frame is deferred. Mutation seen to fail: `count_direct_free` storing a
    /// count without `PENDING` (I7 of `validate`).
    #[test]
    fn a_frame_is_deferred_while_another_is_freed_directly() {
        model("buddy: deferral against direct free", 3, || {
            let pair = pair();
            let theirs = Arc::clone(&pair);
            let other = thread::spawn(move || {
                let frame = FrameNumber::new(1);
                theirs.buddy.free_frames(frame, Order::ZERO).expect("allocated");
            });
            pair.defer(0, 0);
            other.join().expect("no panic");
            pair.buddy.validate().expect("deferred frees are counted");
            let found = [pair.take(), pair.take()].into_iter().flatten().count();
            assert_eq!(found, 2, "nothing is lost");
        });
    }

    /// Two CPUs at once search for the only free frame, which is deferred: one of them gets it, and
    /// it is freed once. Mutation seen to fail: `reconcile` without its flag (a double free is
    /// reported).
    #[test]
    fn a_deferred_frame_is_reconciled_once() {
        model("buddy: two reconciliations", 50, || {
            let pair = pair();
            pair.defer(1, 1);
            let theirs = Arc::clone(&pair);
            let other = thread::spawn(move || theirs.take());
            let own = pair.take();
            let other = other.join().expect("no panic");
            assert!(own.is_none() || other.is_none(), "one frame");
            assert!(own.is_some() || other.is_some(), "one of the two gets it");
            pair.buddy.validate().expect("consistent");
        });
    }

    /// Two checked frees of one block at the same moment: one returns a fault, and the block is
    /// free once. Mutation seen to fail: `Tags::take` loading the tag and then clearing it ("one is
    /// served").
    #[test]
    fn of_two_checked_frees_of_one_block_one_returns_a_fault() {
        model("buddy: checked double free", 3, || {
            let buddy = Simulated::new(&[range(0, AREA)], Fenced(Numbered), Mode::Cached);
            let buddy = Arc::new(buddy.checked_free());
            let block = buddy.allocate_frames(Order::ZERO).expect("all is free");
            let free_as = move |number, buddy: &Simulated<_, _, true>| {
                // Into a slot: of two direct frees the bits reveal the second in any case.
                NUMBER.with(|own| own.set(Some(number)));
                buddy.free_frames(block, Order::ZERO)
            };
            let theirs = Arc::clone(&buddy);
            let other = thread::spawn(move || free_as(0, &theirs));
            let outcomes = [free_as(1, &buddy), other.join().expect("no panic")];
            assert_eq!(outcomes.iter().filter(|freed| freed.is_ok()).count(), 1, "one is served");
            let mut faults = outcomes.iter().filter_map(|freed| freed.err());
            assert!(
                faults.all(|fault| fault.kind == FaultKind::DoubleFree),
                "the other returns a fault"
            );
            buddy.drain();
            buddy.validate().expect("consistent");
            assert_eq!(buddy.free_frames_count(), AREA);
        });
    }
}
