//! Traces that panic at each of their events in turn, and traces that call the allocator.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicIsize, AtomicPtr, AtomicUsize, Ordering};

use buddy::{Mobility, Mode, Trace};
use page_frame::{Cpu, CpuId, FrameNumber, Order, PageResize, SingleCpu, SwitchedCpu};

use testkit::Random;

use crate::common::{Simulated, range};

const FRAMES: usize = 16 * 512;

fn order(order: u8) -> Order {
    Order::new(order).expect("a valid order")
}

/// Panics at its event number `countdown`.
struct Panicking<'c, const BLOCKS: bool> {
    countdown: &'c AtomicIsize,
}

impl<const BLOCKS: bool> Panicking<'_, BLOCKS> {
    fn event(&self) {
        assert!(self.countdown.fetch_sub(1, Ordering::Relaxed) != 1, "the trace panics");
    }
}

impl<const BLOCKS: bool> Trace for Panicking<'_, BLOCKS> {
    const HAS_BLOCK_EVENTS: bool = BLOCKS;

    fn take(&self, _: FrameNumber, _: usize) {
        self.event();
    }

    fn free(&self, _: FrameNumber, _: usize) {
        self.event();
    }

    fn split(&self, _: usize) {
        self.event();
    }

    fn merge(&self, _: usize) {
        self.event();
    }

    fn claim(&self, _: usize) {
        self.event();
    }

    fn transfer(&self, _: usize) {
        self.event();
    }
}

thread_local! {
    /// Whether panics of this thread are expected, and not reported.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Calls `call`; `None` when it panicked.
pub(crate) fn quietly<R>(call: impl FnOnce() -> R) -> Option<R> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            if !IS_QUIET.get() {
                report(panicked);
            }
        }));
    });
    IS_QUIET.set(true);
    let returned = panic::catch_unwind(AssertUnwindSafe(call)).ok();
    IS_QUIET.set(false);
    returned
}

/// The blocks of a script. A call that unwinds has allocated nothing, and has freed all that it
/// should free.
#[derive(Default)]
struct Held {
    blocks: Vec<(FrameNumber, Order)>,
    panics: usize,
}

impl Held {
    fn hold(&mut self, got: Option<impl IntoIterator<Item = (FrameNumber, Order)>>) {
        match got {
            Some(blocks) => self.blocks.extend(blocks),
            None => self.panics += 1,
        }
    }

    /// All kinds of requests, then frees in another order.
    fn play<C: Cpu, T: Trace, const K: bool>(&mut self, buddy: &Simulated<C, T, K>) {
        for small in [0, 0, 1, 2, 3, 4, 6, 8, 9, 9, 10] {
            let small = order(small);
            self.hold(quietly(|| buddy.allocate_frames(small).ok().map(|block| (block, small))));
        }
        let mut many = [FrameNumber::new(0); 90];
        for small in [0, 3] {
            let had = quietly(|| buddy.allocate_many(order(small), &mut many));
            let blocks = had.map(|had| many[..had].iter().map(|block| (*block, order(small))));
            self.hold(blocks);
        }
        let movable = quietly(|| buddy.allocate_as(order(5), Mobility::Movable));
        self.hold(movable.map(|block| block.ok().map(|block| (block, order(5)))));
        let at = FrameNumber::new(FRAMES - 64);
        let placed = quietly(|| buddy.allocate_at(at, order(6)));
        self.hold(placed.map(|placed| placed.ok().map(|()| (at, order(6)))));
        self.run(buddy);
        self.offline(buddy);
        // Every third block, so that areas keep some blocks, then the rest.
        for step in [3, 1] {
            for index in (0..self.blocks.len()).rev().step_by(step) {
                let (block, order) = self.blocks.remove(index);
                let freed = quietly(|| buddy.free_frames(block, order).expect("allocated above"));
                self.panics += usize::from(freed.is_none());
            }
            let drained = quietly(|| buddy.drain());
            self.panics += usize::from(drained.is_none());
        }
    }

    fn run<C: Cpu, T: Trace, const K: bool>(&mut self, buddy: &Simulated<C, T, K>) {
        let run = match quietly(|| buddy.allocate_run(700, Order::ZERO)) {
            Some(run) => run.expect("free"),
            None => return self.panics += 1,
        };
        // SAFETY: the run is ours; frames are only numbers.
        let freed = quietly(|| unsafe { buddy.free_run(run.start(), run.pages()) });
        self.panics += usize::from(freed.is_none());
    }

    fn offline<C: Cpu, T: Trace, const K: bool>(&mut self, buddy: &Simulated<C, T, K>) {
        let areas = range(12 * 512, 14 * 512);
        match quietly(|| buddy.offline(areas)) {
            None => self.panics += 1,
            Some(Err(_)) => {}
            Some(Ok(())) => {
                let online = quietly(|| buddy.online(areas).expect("offline"));
                self.panics += usize::from(online.is_none());
            }
        }
    }
}

/// Plays the script once for every `step`th event, at which the trace panics; returns the number of
/// events.
fn panic_at_each_call<const BLOCKS: bool>(mode: Mode, step: usize) -> usize {
    for number in (1..).step_by(step) {
        let countdown = AtomicIsize::new(0);
        let cpus = SwitchedCpu::new(1);
        cpus.switch_to(Some(CpuId::new(0)));
        let trace = Panicking::<BLOCKS> { countdown: &countdown };
        let buddy = Simulated::new(&[range(0, FRAMES)], &cpus, mode).traced(trace);
        countdown.store(number, Ordering::Relaxed);
        let mut held = Held::default();
        held.play(&buddy);
        countdown.store(0, Ordering::Relaxed);
        assert!(held.blocks.is_empty());
        buddy.drain();
        buddy.validate().unwrap_or_else(|wrong| panic!("panic at call {number}: {wrong}"));
        assert_eq!(buddy.free_frames_count(), FRAMES, "panic at call {number}: frames are lost");
        assert!(buddy.allocate_frames(order(12)).is_ok(), "panic at call {number}: in pieces");
        // No area stays claimed and no slot stays entered: one panic ends.
        assert!(held.panics <= 1, "{} panics", held.panics);
        if held.panics == 0 {
            return number as usize - 1;
        }
    }
    unreachable!("the script ends")
}

/// Mutations that it catches ("frames are lost"): `trace_taken`, `return_blocks`,
/// `trace_word_for_slot`, `refill_areas`, `free_making_room`, `take_range` and `allocate_run`, each
/// without its guard.
#[test]
fn a_panic_at_any_event_loses_no_frame() {
    let calls = [
        panic_at_each_call::<true>(Mode::Cached, 1),
        panic_at_each_call::<false>(Mode::Cached, 1),
        panic_at_each_call::<true>(Mode::Plain, 7),
    ];
    assert!(calls.iter().all(|calls| *calls > 60), "{calls:?} calls");
}

/// Frees every other frame at random, so that most are deferred and then reconciled area by area;
/// the trace panics at call `number` of the frees. Returns whether it did.
fn panic_in_deferred_frees<const BLOCKS: bool>(number: isize) -> bool {
    let countdown = AtomicIsize::new(0);
    let cpus = SwitchedCpu::new(1);
    cpus.switch_to(Some(CpuId::new(0)));
    let trace = Panicking::<BLOCKS> { countdown: &countdown };
    let buddy = Simulated::new(&[range(0, FRAMES)], &cpus, Mode::Cached).traced(trace);
    let mut held = vec![FrameNumber::new(0); FRAMES];
    assert_eq!(buddy.allocate_many(Order::ZERO, &mut held), FRAMES);
    let mut random = Random::new(4);
    for index in (1..held.len()).rev() {
        held.swap(index, random.below(index + 1));
    }
    countdown.store(number, Ordering::Relaxed);
    let mut panics = 0;
    let rest = held.split_off(FRAMES / 2);
    for block in held {
        let freed = quietly(|| buddy.free_frames(block, Order::ZERO).expect("allocated above"));
        panics += usize::from(freed.is_none());
        if freed.is_none() {
            // Before another free, which would repair the state.
            buddy.validate().unwrap_or_else(|wrong| panic!("panic at call {number}: {wrong}"));
        }
    }
    countdown.store(0, Ordering::Relaxed);
    buddy.drain();
    assert_eq!(buddy.free_frames_count(), FRAMES / 2, "panic at call {number}: frames are lost");
    for block in rest {
        buddy.free_frames(block, Order::ZERO).expect("allocated above");
    }
    buddy.drain();
    buddy.validate().unwrap_or_else(|wrong| panic!("panic at call {number}: {wrong}"));
    assert!(buddy.allocate_frames(order(13)).is_ok(), "panic at call {number}: in pieces");
    panics > 0
}

/// Mutations that it catches: the `Drop` of `Reconciling` without `PENDING` (I7 of `validate`), or
/// without opening the area ("frames are lost").
#[test]
fn a_panic_while_an_area_is_reconciled_leaves_its_deferred_frees_to_the_next() {
    let calls = (1..).take_while(|number| panic_in_deferred_frees::<false>(*number)).count();
    let more = (1..).step_by(7).take_while(|number| panic_in_deferred_frees::<true>(*number));
    let more = more.count();
    assert!(calls > 100 && more > 30, "{calls} and {more} calls");
}

/// Blocks that one call allocates together: when it unwinds, its caller does not know how many
/// there are. Mutation seen to fail: `FreeAllOnUnwind` without its `Drop` ("frames are lost").
#[test]
fn a_panic_while_many_blocks_are_allocated_frees_those_before() {
    for (size, number) in [(0, 3), (2, 2), (5, 2), (7, 3), (9, 2), (10, 4)] {
        let countdown = AtomicIsize::new(number);
        let cpus = SwitchedCpu::new(1);
        cpus.switch_to(Some(CpuId::new(0)));
        let trace = Panicking::<false> { countdown: &countdown };
        let buddy = Simulated::new(&[range(0, FRAMES)], &cpus, Mode::Cached).traced(trace);
        let mut blocks = vec![FrameNumber::new(0); (FRAMES >> size).min(300)];
        let had = quietly(|| buddy.allocate_many(order(size), &mut blocks));
        assert_eq!((had, countdown.load(Ordering::Relaxed)), (None, 0), "order {size}");
        buddy.drain();
        assert_eq!(buddy.free_frames_count(), FRAMES, "order {size}: frames are lost");
        buddy.validate().expect("consistent");
    }
}

/// A trace that allocates, frees and drains in its events.
struct CallingBack {
    buddy: AtomicPtr<Simulated<SingleCpu, &'static CallingBack>>,
    depth: AtomicUsize,
    calls: AtomicUsize,
}

impl Trace for &'static CallingBack {
    fn take(&self, _: FrameNumber, _: usize) {
        self.call();
    }

    fn free(&self, _: FrameNumber, _: usize) {
        self.call();
    }
}

impl CallingBack {
    fn call(&self) {
        // SAFETY: null, or a buddy that is leaked.
        let Some(buddy) = (unsafe { self.buddy.load(Ordering::Relaxed).as_ref() }) else { return };
        if self.depth.fetch_add(1, Ordering::Relaxed) == 0 {
            let number = self.calls.fetch_add(1, Ordering::Relaxed);
            let size = order([0, 3, 9][number % 3]);
            if let Ok(block) = buddy.allocate_frames(size) {
                buddy.free_frames(block, size).expect("allocated above");
            }
            buddy.drain();
        }
        self.depth.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn a_trace_may_call_the_allocator() {
    // A static, so that it can refer to the allocator that it is part of.
    static TRACE: CallingBack = CallingBack {
        buddy: AtomicPtr::new(std::ptr::null_mut()),
        depth: AtomicUsize::new(0),
        calls: AtomicUsize::new(0),
    };
    let buddy = Simulated::new(&[range(0, FRAMES)], SingleCpu::new(), Mode::Cached);
    let buddy = buddy.traced(&TRACE);
    let buddy = Box::leak(Box::new(buddy));
    TRACE.buddy.store(buddy, Ordering::Relaxed);
    let mut held = Held::default();
    held.play(buddy);
    assert_eq!(held.panics, 0);
    assert!(TRACE.calls.load(Ordering::Relaxed) > 30);
    buddy.drain();
    buddy.validate().expect("consistent");
    assert_eq!(buddy.free_frames_count(), FRAMES);
}

/// The tail of a run is free when the trace is called. A caller that unwound would not know its
/// size.
#[test]
fn a_panic_while_a_run_shrinks_aborts() {
    const CHILD: &str = "BUDDY_SHRINKS_A_RUN";
    if std::env::var_os(CHILD).is_none() {
        let name = "traces::a_panic_while_a_run_shrinks_aborts";
        let program = std::env::current_exe().expect("a path");
        let output = Command::new(program).args([name, "--exact"]).env(CHILD, "1").output();
        let status = output.expect("the test itself runs").status;
        assert!(!status.success() && status.code().is_none(), "killed by a signal: {status}");
        return;
    }
    let countdown = AtomicIsize::new(0);
    let trace = Panicking::<false> { countdown: &countdown };
    let cpus = SwitchedCpu::new(1);
    let buddy = Simulated::new(&[range(0, FRAMES)], &cpus, Mode::Cached).traced(trace);
    let run = buddy.allocate_run(700, Order::ZERO).expect("free");
    countdown.store(1, Ordering::Relaxed);
    // SAFETY: the run is ours; frames are only numbers.
    let _ = quietly(|| unsafe { buddy.resize_run(run.start(), 700, 100) });
}
