//! Models of the two pairs of locations that need one order, and of draining a CPU slot.
//!
//! Under loom an area has two words and a section two areas. Each model's comment records a mutation of the code under
//! test that it was seen to catch.

testkit::models_need_the_loom_flag!();

#[cfg(loom)]
mod common;

#[cfg(loom)]
mod models {
    use loom::sync::Arc;
    use loom::thread;
    use page_frame::sync::UnsafeCell;
    use page_frame::{Cpu, CpuId, Fenced, FrameNumber, Order};
    use testkit::model;

    use super::common::{Simulated, range};
    use buddy::{Gate, Marks, Mode, Observe, Pressure, Watermarks};

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

    // SAFETY: in each model a number is set by one thread alone.
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

    /// A buddy of one area, and a cell for each half of it that its owner writes.
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
                // SAFETY: the block is ours, so nobody else writes here; loom checks it.
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

    /// Half an area taken while somebody claims all of it: one of the two must see the other.
    /// Mutation seen to fail: `is_open_after_take` returning true without its look ("concurrent write accesses").
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

    /// A whole area freed while somebody tries to take half of it: whoever undoes, the area must not be lost.
    /// Mutation seen to fail: `open` without its `publish` (I3 of `validate`).
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

    /// A CPU allocates from its slot while another drains it.
    /// Mutation seen to fail: `Slots::enter` without its look at `detached` ("concurrent write accesses").
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

    /// One CPU takes frames below `low` while another frees frames above `high`: whoever changes the pressure last has
    /// seen the last total.
    /// Mutations seen to fail: `follow` ending after its first change; `follow` without its fence (both leave `Low`).
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
}
