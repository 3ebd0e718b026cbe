//! Per-CPU slots, used by one thread that simulates several CPUs.
#![cfg(not(loom))]

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use page_frame::sync::Zeroable;
use page_frame::{
    Cpu, CpuId, EnterError, InterruptState, IrqLock, PerCpu, PerCpuSlot, PinGuards, SwitchedCpu,
    TakeOver, WithSlotStride,
};

#[test]
fn a_nested_context_finds_the_slot_busy_and_only_tries_locks() {
    let mut slots = [PerCpuSlot::new(0)];
    let per_cpu = PerCpu::new(&mut slots, SwitchedCpu::new(1));
    let lock = IrqLock::new(());
    let inside = per_cpu.enter().expect("no context is inside");
    assert_eq!(per_cpu.enter().err(), Some(EnterError::Nested));
    assert!(per_cpu.lock_token().is_nested());
    drop(inside);

    let token = per_cpu.lock_token();
    let held = token.lock(&lock).expect("not nested");
    let nested = per_cpu.lock_token();
    assert!(nested.is_nested() && nested.lock(&lock).is_none());
    drop(held);
    assert!(nested.lock(&lock).is_some());
    drop(nested);
    drop(token);
    assert!(!per_cpu.lock_token().is_nested());
}

#[test]
fn a_detached_slot_is_not_entered() {
    let mut slots = [PerCpuSlot::new(())];
    let per_cpu = PerCpu::new(&mut slots, SwitchedCpu::new(1));
    per_cpu
        .take_over(|_| true, |_, _| assert_eq!(per_cpu.enter().err(), Some(EnterError::Detached)));
    assert!(per_cpu.enter().is_ok());
}

#[test]
fn without_an_id_there_is_no_slot() {
    let mut slots = [PerCpuSlot::new(())];
    let per_cpu = PerCpu::new(&mut slots, SwitchedCpu::new(1));
    per_cpu.cpu().switch_to(None);
    assert_eq!(per_cpu.enter().err(), Some(EnterError::NoSlot));
    assert!(!per_cpu.lock_token().is_nested());
}

#[test]
fn closed_slots_are_never_entered_and_never_taken() {
    let mut slots = [const { PerCpuSlot::new(()) }; 2];
    let per_cpu = PerCpu::closed(&mut slots, SwitchedCpu::new(2));
    assert_eq!(per_cpu.enter().err(), Some(EnterError::Detached));
    assert_eq!(per_cpu.take_over(|_| true, |_, _| ()), TakeOver { taken: 0, skipped: 2 });
    assert_eq!(per_cpu.enter().err(), Some(EnterError::Detached));
    assert!(!per_cpu.lock_token().is_nested());
    assert!(per_cpu.freeze(None).is_fenced());
    assert_eq!(per_cpu.enter().err(), Some(EnterError::Detached));
}

#[test]
#[should_panic = "1 slots for 2 CPUs"]
fn too_few_slots_are_refused() {
    let mut slots = [PerCpuSlot::new(())];
    let _ = PerCpu::new(&mut slots, SwitchedCpu::new(2));
}

#[test]
fn a_busy_slot_is_skipped_and_an_idle_one_taken() {
    let mut slots = [PerCpuSlot::new(1), PerCpuSlot::new(2)];
    let per_cpu = PerCpu::new(&mut slots, SwitchedCpu::new(2));
    let inside = per_cpu.enter().expect("no context is inside");
    let mut seen = 0;
    let outcome = per_cpu.take_over(|_| true, |_, body| seen += *body);
    assert_eq!((outcome, seen), (TakeOver { taken: 1, skipped: 1 }, 2));
    drop(inside);
    assert_eq!(per_cpu.take_over(|_| true, |_, _| ()), TakeOver { taken: 2, skipped: 0 });
}

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
}

/// A machine of `slots` CPUs, whose threads say in `CPU` which one they are. It records waits and
/// critical sections, and whether it can fence is a choice.
struct Waiting {
    slots: usize,
    fences: bool,
    rounds: Mutex<Vec<usize>>,
    masked: AtomicUsize,
}

impl Waiting {
    fn new(slots: usize, fences: bool) -> Self {
        Self { slots, fences, rounds: Mutex::new(Vec::new()), masked: AtomicUsize::new(0) }
    }

    fn waits(&self) -> usize {
        self.rounds.lock().expect("no panic").len()
    }

    /// Asserts that the rounds of one wait were counted from zero, and that there were some.
    fn counted_from_zero(&self) {
        let rounds = std::mem::take(&mut *self.rounds.lock().expect("no panic"));
        assert!(rounds.len() >= 3 && rounds.iter().copied().eq(0..rounds.len()), "{rounds:?}");
    }
}

// SAFETY: each test gives each thread its own number. The fence is a full one on both sides.
unsafe impl Cpu for Waiting {
    fn slots(&self) -> usize {
        self.slots
    }
    fn pin(&self) -> Option<CpuId> {
        Some(CpuId::new(CPU.get()))
    }
    unsafe fn unpin(&self) {}
    fn light_fence(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }
    fn fence_all(&self) -> bool {
        std::sync::atomic::fence(Ordering::SeqCst);
        self.fences
    }
    fn wait(&self, round: usize) {
        self.rounds.lock().expect("no panic").push(round);
        std::thread::yield_now();
    }
    fn mask_interrupts(&self) -> InterruptState {
        InterruptState(self.masked.fetch_add(1, Ordering::SeqCst))
    }
    unsafe fn restore_interrupts(&self, _: InterruptState) {
        self.masked.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Sets its flag when it is dropped, also by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs `hold` on CPU 1, which ends it after three waits of `outside` on CPU 0.
fn while_other<R>(
    machine: &Waiting,
    hold: impl FnOnce(&dyn Fn()) + Send,
    outside: impl FnOnce() -> R,
) -> R {
    let (is_held, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            CPU.set(1);
            hold(&|| {
                is_held.store(true, Ordering::SeqCst);
                while machine.waits() < 3 && !is_over.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            });
        });
        while !is_held.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let _ends = Ends(&is_over);
        outside()
    })
}

#[test]
fn a_freeze_waits_for_the_owner_inside_and_says_whether_it_could_fence() {
    for fences in [true, false] {
        let machine = Waiting::new(2, fences);
        let mut slots = [0, 0].map(PerCpuSlot::new);
        let per_cpu = PerCpu::new(&mut slots, &machine);
        let hold = |until_awaited: &dyn Fn()| {
            let mut inside = per_cpu.enter().expect("no other context is inside");
            until_awaited();
            *inside += 1;
        };
        let frozen = while_other(&machine, hold, || per_cpu.freeze(Some(CpuId::new(0))));
        assert_eq!(frozen.is_fenced(), fences);
        machine.counted_from_zero();
        assert_eq!(per_cpu.enter().err(), Some(EnterError::Detached));
        assert_eq!(per_cpu.take_over(|_| true, |_, _| ()), TakeOver { taken: 0, skipped: 2 });
        drop(frozen);
        assert!(per_cpu.enter().is_ok());
    }
}

#[test]
fn a_freeze_waits_for_a_take_over() {
    let machine = Waiting::new(2, true);
    let mut slots = [0, 0].map(PerCpuSlot::new);
    let per_cpu = PerCpu::new(&mut slots, &machine);
    let hold = |until_awaited: &dyn Fn()| {
        per_cpu.take_over(
            |id| id.index() == 0,
            |_, body| {
                until_awaited();
                *body += 1;
            },
        );
    };
    let frozen = while_other(&machine, hold, || per_cpu.freeze(Some(CpuId::new(0))));
    machine.counted_from_zero();
    drop(frozen);
    assert_eq!(per_cpu.enter().map(|body| *body), Ok(1));
}

#[test]
fn a_freeze_does_not_wait_for_the_slot_of_its_caller_nor_for_closed_ones() {
    let machine = Waiting::new(2, true);
    let mut slots = [0, 0].map(PerCpuSlot::new);
    let per_cpu = PerCpu::new(&mut slots, &machine);
    let inside = per_cpu.enter();
    drop(per_cpu.freeze(Some(CpuId::new(0))));
    drop(inside);
    per_cpu.close();
    drop(per_cpu.freeze(None));
    assert_eq!((machine.waits(), per_cpu.enter().err()), (0, Some(EnterError::Detached)));
    let none = Waiting::new(0, false);
    assert!(PerCpu::new(&mut [] as &mut [PerCpuSlot<()>], &none).freeze(None).is_fenced());
}

#[test]
fn a_machine_that_cannot_fence_takes_no_slot_over() {
    let machine = Waiting::new(2, false);
    let mut slots = [0, 0].map(PerCpuSlot::new);
    let per_cpu = PerCpu::new(&mut slots, &machine);
    let skipped = TakeOver { taken: 0, skipped: 2 };
    assert_eq!(per_cpu.take_over(|_| true, |_, _| panic!("not fenced")), skipped);
    assert!(per_cpu.enter().is_ok(), "attached again");
}

#[test]
fn a_token_waits_for_the_lock_and_ends_each_critical_section() {
    let machine = Waiting::new(2, true);
    let mut slots = [(), ()].map(PerCpuSlot::new);
    let per_cpu = PerCpu::new(&mut slots, &machine);
    let lock = IrqLock::new(1);
    let hold = |until_awaited: &dyn Fn()| {
        let token = per_cpu.lock_token();
        let mut held = token.lock(&lock).expect("not nested");
        until_awaited();
        *held += 1;
    };
    while_other(&machine, hold, || {
        let token = per_cpu.lock_token();
        assert_eq!(token.id(), Some(CpuId::new(0)));
        assert!(token.try_lock(&lock).is_none());
        let held = token.lock(&lock).expect("not nested");
        assert_eq!(*held, 2, "after the other CPU");
        assert!(machine.masked.load(Ordering::SeqCst) > 0);
    });
    machine.counted_from_zero();
    assert_eq!(machine.masked.load(Ordering::SeqCst), 0);
}

#[test]
fn take_over_reaches_the_wanted_slots_beyond_the_first_64() {
    let mut slots: Vec<_> = (0..130).map(|_| PerCpuSlot::new(0_u32)).collect();
    let per_cpu = PerCpu::new(&mut slots, SwitchedCpu::new(130));
    let mut seen = Vec::new();
    let wanted = |id: CpuId| id.index() % 3 == 1;
    let outcome = per_cpu.take_over(wanted, |id, body| {
        seen.push(id.index());
        *body += id.index() as u32;
    });
    assert_eq!(outcome, TakeOver { taken: 43, skipped: 0 });
    assert!(seen.iter().copied().eq((0..130).filter(|index| index % 3 == 1)));
    for (index, is_wanted) in [(1, true), (64, true), (65, false), (127, true), (129, false)] {
        per_cpu.cpu().switch_to(Some(CpuId::new(index)));
        let body = per_cpu.enter().expect("attached again");
        assert_eq!(*body, if is_wanted { index } else { 0 });
    }
}

#[test]
fn slots_of_several_lines_are_those_of_their_cpus() {
    let mut slots: Vec<_> = (0..4).map(|_| PerCpuSlot::new([0_u64; 30])).collect();
    let mut per_cpu = PerCpu::new(&mut slots, SwitchedCpu::new(4));
    for index in 0..4 {
        per_cpu.cpu().switch_to(Some(CpuId::new(index)));
        per_cpu.enter().expect("no context is inside")[29] = u64::from(index) + 1;
    }
    let mut seen = Vec::new();
    per_cpu.for_each_exclusive(|id, body| seen.push((id.index(), body[29], body[0])));
    assert_eq!(seen, [(0, 1, 0), (1, 2, 0), (2, 3, 0), (3, 4, 0)]);
    assert!(format!("{per_cpu:?}").starts_with("PerCpu { count: 4, cpu: "));
}

/// Mutation that it catches: `forget_others` that forgets the caller too, or nobody.
#[test]
fn after_a_fork_the_child_forgets_all_but_itself() {
    let mut slots = [const { PerCpuSlot::new(()) }; 3];
    let per_cpu = PerCpu::new(&mut slots, SwitchedCpu::new(3));
    let leave_inside = |cpu| {
        per_cpu.cpu().switch_to(Some(CpuId::new(cpu)));
        std::mem::forget(per_cpu.enter());
        std::mem::forget(per_cpu.lock_token());
    };
    leave_inside(1);
    let own = Some(CpuId::new(0));
    per_cpu.cpu().switch_to(own);
    let token = per_cpu.lock_token();
    // SAFETY: clauses 1 and 2: CPU 1 runs nothing more, and bodies never change. Clause 3: this is
    // CPU 0.
    unsafe { per_cpu.forget_others(own) };
    assert!(per_cpu.lock_token().is_nested(), "the caller is still inside its own token");
    drop(token);
    for cpu in 0..3 {
        per_cpu.cpu().switch_to(Some(CpuId::new(cpu)));
        assert!(!per_cpu.lock_token().is_nested(), "CPU {cpu}");
        assert!(per_cpu.enter().is_ok(), "CPU {cpu}");
    }
}

/// A machine that sets id 0 aside, for contexts without an id of their own.
struct SettingAside(Cell<Option<CpuId>>);

// SAFETY: the type is not `Sync`, so all of it runs in one thread, and the tests never switch to
// id 0.
unsafe impl Cpu for SettingAside {
    const UNOWNED: Option<CpuId> = Some(CpuId::new(0));
    fn slots(&self) -> usize {
        3
    }
    fn pin(&self) -> Option<CpuId> {
        self.0.get()
    }
    fn known_slot(&self, first: *mut u8, stride: usize) -> Option<*mut u8> {
        Some(first.wrapping_add(stride * self.0.get().map_or(0, CpuId::index)))
    }
    unsafe fn unpin(&self) {}
    fn fence_all(&self) -> bool {
        true
    }
    fn wait(&self, _: usize) {
        panic!("no context is inside");
    }
}

/// Mutations that it catches: a slot that is not made busy; a take-over that counts it; a freeze
/// that waits for it; `forget_others` that opens it.
#[test]
fn the_slot_of_the_unowned_id_is_never_entered() {
    let mut slots = [const { PerCpuSlot::new(()) }; 3];
    let own = Some(CpuId::new(1));
    let per_cpu = PerCpu::new(&mut slots, SettingAside(Cell::new(own)));
    let check = |when| {
        per_cpu.cpu().0.set(None);
        assert_eq!(per_cpu.enter_known().err(), Some(EnterError::Nested), "{when}");
        assert_eq!(per_cpu.enter().err(), Some(EnterError::NoSlot), "{when}");
        assert!(!per_cpu.lock_token().is_nested(), "{when}: it may wait for locks");
        per_cpu.cpu().0.set(own);
        assert_eq!(per_cpu.enter_known().map(|slot| slot.id()).ok(), own, "{when}");
    };
    check("at first");
    let outcome = per_cpu.take_over(|id| id.index() != 0, |_, ()| ());
    assert_eq!(outcome, per_cpu.take_over(|_| true, |_, ()| ()));
    assert_eq!(outcome, TakeOver { taken: 2, skipped: 0 });
    check("after a take-over");
    let frozen = per_cpu.freeze(own);
    // SAFETY: clauses 1 and 2: nothing else runs, and the slots are frozen. Clause 3: CPU 1.
    unsafe { per_cpu.forget_others(own) };
    drop(frozen);
    check("in a child of a fork");
}

/// The provided methods of [`Cpu`] are those of a machine whose CPUs all have ids, and which masks
/// nothing.
#[test]
fn provided_methods_lend_nothing_and_mask_nothing() {
    struct Bare;
    // SAFETY: one context with one id, as the test calls it from one thread only.
    unsafe impl Cpu for Bare {
        fn slots(&self) -> usize {
            1
        }
        fn pin(&self) -> Option<CpuId> {
            Some(CpuId::new(0))
        }
        unsafe fn unpin(&self) {}
        fn fence_all(&self) -> bool {
            true
        }
    }
    let cpu = WithSlotStride::<_, 256>(&Bare);
    assert_eq!((cpu.slots_used(), cpu.pin_known()), (1, Some(CpuId::new(0))));
    // SAFETY: pairs with `pin_known` above.
    unsafe { cpu.unpin() };
    assert!(!cpu.borrow() && cpu.fence_all());
    cpu.wait(3);
    cpu.light_fence();
    cpu.note_miss();
    let state = cpu.mask_interrupts();
    // SAFETY: the state of the call above, restored once; the machine masks nothing.
    unsafe { cpu.restore_interrupts(state) };
    // SAFETY: the line of CPU 3, which has the number 3 times the bytes of a line.
    assert_eq!(unsafe { CpuId::at_line_offset(3 * CpuId::LINE as u32) }, CpuId::new(3));
}

thread_local! {
    static ENDED: Cell<usize> = const { Cell::new(0) };
}

/// Mutation that it catches: `PinGuards::end` without the drop, or `keep` that drops.
#[test]
fn a_kept_guard_ends_once() {
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            ENDED.set(ENDED.get() + 1);
        }
    }
    let guards = PinGuards::default();
    guards.clone().keep(Guard);
    assert_eq!(ENDED.get(), 0);
    // SAFETY: clause 1: pairs with the `keep` above.
    unsafe { guards.end() };
    assert_eq!(ENDED.get(), 1);
}

#[test]
fn a_zeroed_slot_is_open() {
    let slot = PerCpuSlot::<page_frame::sync::AtomicUsize>::zero();
    let mut slots = [slot];
    let per_cpu = PerCpu::new(&mut slots, SwitchedCpu::new(1));
    assert_eq!(per_cpu.enter().expect("open").load(Ordering::Relaxed), 0);
}
