//! Models of deferred frees and of checked frees.

use buddy::Mode;
use loom::sync::Arc;
use loom::thread;
use page_frame::sync::UnsafeCell;
use page_frame::{FaultKind, Fenced, FrameNumber, Order};
use testkit::{Numbered, become_cpu, model};

use crate::common::{Simulated, range};
use crate::world::AREA;

/// Two frames, and for each a cell that its owner writes.
struct Pair {
    buddy: Simulated<Fenced<Numbered>>,
    content: [UnsafeCell<u32>; 2],
}

/// Returns two frames, both allocated. The slots are not set up, so frees are deferred.
fn pair() -> Arc<Pair> {
    let buddy = Simulated::new(&[range(0, 2)], Fenced(Numbered), Mode::Cached);
    let frames = [0, 1].map(|_| buddy.allocate_frames(Order::ZERO).expect("two are free"));
    assert_eq!(frames.map(FrameNumber::get), [0, 1]);
    Arc::new(Pair { buddy, content: [UnsafeCell::new(0), UnsafeCell::new(0)] })
}

impl Pair {
    fn write(&self, frame: FrameNumber) {
        // SAFETY: the caller owns the frame; loom checks it.
        self.content[frame.get()].with_mut(|content| unsafe { *content += 1 });
    }

    fn defer(&self, cpu: u32, frame: usize) {
        become_cpu(cpu);
        let frame = FrameNumber::new(frame);
        self.write(frame);
        self.buddy.free_frames(frame, Order::ZERO).expect("allocated");
    }

    fn take(&self) -> Option<FrameNumber> {
        become_cpu(None);
        let frame = self.buddy.allocate_frames(Order::ZERO).ok()?;
        self.write(frame);
        Some(frame)
    }
}

/// A CPU defers a frame while another reconciles the area and allocates from it. No deferred
/// frame is lost, and its content is handed over with it. Mutations that it catches: `defer`
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

/// A CPU defers a frame while another CPU frees a frame directly. A direct free is counted too, and
/// the count still shows that a frame is deferred. Mutation seen to fail: `count_direct_free`
/// storing a count without `PENDING` (I7 of `validate`).
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

/// Two CPUs search at the same time for the only free frame, which is deferred. One of them gets
/// it, and the frame is freed once. Mutation seen to fail: `reconcile` without its flag (a double
/// free is reported).
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
            // The CPU has a slot, which takes the frame. (Of two direct frees, the bits reveal the
            // second one in any case.)
            become_cpu(number);
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
