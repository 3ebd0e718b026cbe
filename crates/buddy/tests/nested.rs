//! An interrupt at every step: a nested request neither blocks nor breaks an invariant, whatever
//! the interrupted call is doing.
//!
//! A step is a call of the buddy to its `Cpu` (pin, fence inside the slot, unpin) or to its trace.
//! The trace is called between the atomic operations of refills and drains.
#![cfg(not(loom))]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use buddy::{Mode, Trace};
use common::users::{Company, Users};
use common::{Simulated, range};
use page_frame::{Cpu, CpuId, FrameNumber, FrameRange};
use testkit::Random;

/// Six areas, the last one in part.
const FRAMES: usize = 5 * 512 + 100;
/// Frames of another section, which is added later.
const ADDED: [FrameRange; 1] = {
    let section = 1 << 18;
    [FrameRange::new(FrameNumber::new(section + 500), FrameNumber::new(section + 1100))]
};
/// Number of requests of the interrupted code.
const REQUESTS: usize = 260;

/// Counts steps, and runs the interrupt at one of them.
#[derive(Default)]
struct Steps {
    count: Cell<usize>,
    interrupt_at: Cell<usize>,
    is_inside: Cell<bool>,
    interrupt: RefCell<Option<Box<dyn FnMut()>>>,
}

impl Steps {
    fn step(&self) {
        if self.is_inside.get() {
            return;
        }
        self.count.set(self.count.get() + 1);
        if self.count.get() == self.interrupt_at.get() {
            self.is_inside.set(true);
            if let Some(interrupt) = self.interrupt.borrow_mut().as_mut() {
                interrupt();
            }
            self.is_inside.set(false);
        }
    }
}

/// The only CPU, and the trace: both count steps.
#[derive(Clone)]
struct Stepped(Rc<Steps>);

// SAFETY: clause 1: one thread, and an interrupt ends before the interrupted code goes on. Clauses
// 2 to 4: there is no other context.
unsafe impl Cpu for Stepped {
    fn slots(&self) -> usize {
        1
    }

    fn pin(&self) -> Option<CpuId> {
        self.0.step();
        Some(CpuId::new(0))
    }

    unsafe fn unpin(&self) {
        self.0.step();
    }

    fn light_fence(&self) {
        self.0.step();
    }

    fn fence_all(&self) -> bool {
        self.0.step();
        true
    }
}

impl Trace for Stepped {
    const HAS_BLOCK_EVENTS: bool = false;

    fn take(&self, _: FrameNumber, _: usize) {
        self.0.step();
    }

    fn free(&self, _: FrameNumber, _: usize) {
        self.0.step();
    }
}

/// Plays one history of all operations, with an interrupt at step `interrupt_at` that plays some
/// too; returns the number of steps.
fn play(interrupt_at: usize) -> usize {
    let steps = Rc::new(Steps::default());
    let cpu = Stepped(Rc::clone(&steps));
    let frames = [range(0, FRAMES)];
    let users = Rc::new(Users::new(&frames, &ADDED, 10, Company::Interrupted));
    let room = range(0, ADDED[0].end.get());
    let buddy = Simulated::with_room(&frames, room, cpu.clone(), Mode::Cached).traced(cpu);
    let buddy = Rc::new(buddy);
    steps.interrupt_at.set(interrupt_at);
    let (theirs, nested) = (Rc::clone(&buddy), Rc::clone(&users));
    let mut random = Random::new(interrupt_at as u64);
    *steps.interrupt.borrow_mut() = Some(Box::new(move || {
        for _ in 0..5 {
            nested.play(&theirs, &mut random);
        }
    }));

    let mut random = Random::new(17);
    for request in 0..REQUESTS {
        users.play(&buddy, &mut random);
        if request % 90 == 89 {
            // An interrupt finds the slot taken over, and puts no block into it.
            buddy.drain();
            users.assert_free(&buddy);
        }
    }
    let count = steps.count.get();
    buddy.validate().unwrap_or_else(|violation| panic!("step {interrupt_at}: {violation}"));
    steps.interrupt.borrow_mut().take();
    users.free_all(&buddy);
    buddy.drain();
    buddy.validate().unwrap_or_else(|violation| panic!("step {interrupt_at}: {violation}"));
    users.assert_free(&buddy);
    assert_eq!(buddy.free_frames_count(), buddy.frames(), "step {interrupt_at}: all is free");
    count
}

#[test]
fn a_nested_request_at_any_step_breaks_nothing() {
    let steps = play(usize::MAX);
    assert!(steps > 500, "{steps} steps");
    (1..=steps).for_each(|step| _ = play(step));
}
