//! An interrupt at every step: whatever the code below is doing, a nested request on top of it neither blocks nor breaks
//! anything.
//!
//! Steps are where the buddy asks the machine for something (pinning, the fence inside the slot, leaving it) and where it tells
//! an observer of frames on their way, which happens between the atomic operations of refills and flushes.
#![cfg(not(loom))]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use buddy::{Mode, Observe};
use common::{Simulated, range};
use page_frame::{Cpu, CpuId, FrameNumber, Order};
use testkit::Random;

/// Six areas, the last one in part.
const FRAMES: usize = 5 * 512 + 100;
/// How many requests the code below makes.
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

/// The only CPU, and who hears of frames: both are steps.
#[derive(Clone)]
struct Stepped(Rc<Steps>);

// SAFETY: clause 1: one thread, and interrupts end before what they came upon goes on. Clauses 2 to 4: there is no other
// context.
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

impl Observe for Stepped {
    const HEARS_BLOCKS: bool = false;

    fn take(&self, _: FrameNumber, _: usize) {
        self.0.step();
    }

    fn free(&self, _: FrameNumber, _: usize) {
        self.0.step();
    }
}

type World = Simulated<Stepped, Stepped>;

/// Who owns which frame, as users know it.
#[derive(Default)]
struct Owners {
    frames: RefCell<Vec<bool>>,
    live: RefCell<Vec<(FrameNumber, Order)>>,
}

impl Owners {
    fn allocate(&self, buddy: &World, order: Order) {
        let Ok(block) = buddy.allocate_frames(order) else { return };
        let mut frames = self.frames.borrow_mut();
        for frame in block.get()..block.get() + order.pages() {
            assert!(!std::mem::replace(&mut frames[frame], true), "frame {frame} twice");
        }
        self.live.borrow_mut().push((block, order));
    }

    fn free(&self, buddy: &World, index: usize) {
        let (block, order) = self.live.borrow_mut().swap_remove(index);
        self.frames.borrow_mut()[block.get()..block.get() + order.pages()].fill(false);
        buddy.free_frames(block, order).expect("ours");
    }

    /// A request or two at random, most of them for few frames.
    fn play(&self, buddy: &World, random: &mut Random) {
        let order = Order::new((random.number().trailing_zeros() as u8).min(10)).expect("small");
        if random.below(100) < 55 {
            self.allocate(buddy, order);
        }
        let live = self.live.borrow().len();
        if live > 0 && random.below(100) < 50 {
            self.free(buddy, random.below(live));
        }
    }
}

/// Plays one history with an interrupt at step `interrupt_at`; returns how many steps there were.
fn play(interrupt_at: usize) -> usize {
    let steps = Rc::new(Steps::default());
    let cpu = Stepped(Rc::clone(&steps));
    let buddy = Simulated::new(&[range(0, FRAMES)], cpu.clone(), Mode::Cached).observed(cpu);
    let buddy = Rc::new(buddy);
    let initial = buddy.free_counts();
    let owners = Rc::new(Owners::default());
    owners.frames.borrow_mut().resize(FRAMES, false);
    steps.interrupt_at.set(interrupt_at);
    let (theirs, frames) = (Rc::clone(&buddy), Rc::clone(&owners));
    let mut random = Random::new(interrupt_at as u64);
    *steps.interrupt.borrow_mut() = Some(Box::new(move || {
        for _ in 0..3 {
            frames.play(&theirs, &mut random);
        }
    }));

    let mut random = Random::new(17);
    for request in 0..REQUESTS {
        owners.play(&buddy, &mut random);
        if request % 90 == 89 {
            buddy.drain();
        }
    }
    let count = steps.count.get();
    buddy.validate().unwrap_or_else(|violation| panic!("step {interrupt_at}: {violation}"));
    steps.interrupt.borrow_mut().take();
    while !owners.live.borrow().is_empty() {
        owners.free(&buddy, 0);
    }
    buddy.drain();
    buddy.validate().unwrap_or_else(|violation| panic!("step {interrupt_at}: {violation}"));
    assert_eq!(buddy.free_counts(), initial, "step {interrupt_at}: all is free again");
    count
}

#[test]
fn a_nested_request_at_any_step_breaks_nothing() {
    let steps = play(usize::MAX);
    assert!(steps > 500, "{steps} steps");
    (1..=steps).for_each(|step| _ = play(step));
}
