//! Tests of the machines, and of the adapters that forward to one.

extern crate std;

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;
use crate::percpu::slot::slot_stride;
use crate::percpu::slot_stride::WithSlotStride;

/// A machine that records each call, and whose answers are not the defaults.
#[derive(Default)]
struct Recording {
    pins: Cell<usize>,
    borrowed: Cell<usize>,
    fences: Cell<usize>,
    light_fences: Cell<usize>,
    rounds: Cell<usize>,
    misses: Cell<usize>,
    masked: Cell<usize>,
    fails: bool,
}

// SAFETY: one context, as the type is not `Sync`; the id is below the number of slots.
unsafe impl Cpu for Recording {
    const UNOWNED: Option<CpuId> = Some(CpuId::new(1));
    const SLOT_STRIDE: usize = 4096;
    const HAS_MISS_HOOK: bool = true;

    fn slots(&self) -> usize {
        5
    }
    fn slots_used(&self) -> usize {
        4
    }
    fn pin(&self) -> Option<CpuId> {
        self.pins.set(self.pins.get() + 1);
        Some(CpuId::new(3))
    }
    fn known_slot(&self, first: *mut u8, stride: usize) -> Option<*mut u8> {
        Some(first.wrapping_add(stride))
    }
    fn pin_known(&self) -> Option<CpuId> {
        self.pins.set(self.pins.get() + 1);
        Some(CpuId::new(2))
    }
    unsafe fn unpin(&self) {
        self.pins.set(self.pins.get() - 1);
    }
    fn borrow(&self) -> bool {
        self.borrowed.set(self.borrowed.get() + 1);
        true
    }
    unsafe fn give_back(&self) {
        self.borrowed.set(self.borrowed.get() - 1);
    }
    fn light_fence(&self) {
        self.light_fences.set(self.light_fences.get() + 1);
    }
    fn fence_all(&self) -> bool {
        self.fences.set(self.fences.get() + 1);
        !self.fails
    }
    fn wait(&self, round: usize) {
        self.rounds.set(round);
    }
    fn note_miss(&self) {
        self.misses.set(self.misses.get() + 1);
    }
    fn mask_interrupts(&self) -> InterruptState {
        self.masked.set(self.masked.get() + 1);
        InterruptState(7)
    }
    unsafe fn restore_interrupts(&self, state: InterruptState) {
        self.masked.set(self.masked.get() - state.0 / 7);
    }
}

/// Asserts that `adapter` forwards all calls but the fences to `machine`.
fn forwards<C: Cpu>(adapter: &C, machine: &Recording) {
    assert_eq!((C::SLOT_STRIDE, C::HAS_MISS_HOOK), (4096, true));
    assert_eq!((C::UNOWNED, Recording::UNOWNED), (Recording::UNOWNED, Some(CpuId::new(1))));
    let first = core::ptr::without_provenance_mut(4096);
    assert_eq!(adapter.known_slot(first, 128).map(|slot| slot.addr()), Some(4096 + 128));
    assert_eq!((adapter.slots(), adapter.slots_used()), (5, 4));
    assert_eq!((adapter.pin(), adapter.pin_known()), (Some(CpuId::new(3)), Some(CpuId::new(2))));
    assert_eq!(machine.pins.get(), 2);
    for _ in 0..2 {
        // SAFETY: pairs with a pin above.
        unsafe { adapter.unpin() };
    }
    assert_eq!(machine.pins.get(), 0);
    assert!(adapter.borrow() && machine.borrowed.get() == 1);
    // SAFETY: pairs with the `borrow` above.
    unsafe { adapter.give_back() };
    adapter.wait(9);
    adapter.note_miss();
    assert_eq!((machine.borrowed.get(), machine.rounds.get(), machine.misses.get()), (0, 9, 1));
    let state = adapter.mask_interrupts();
    assert_eq!(machine.masked.get(), 1);
    // SAFETY: clause 1: from the line above.
    unsafe { adapter.restore_interrupts(state) };
    assert_eq!(machine.masked.get(), 0);
}

#[test]
fn a_reference_forwards_every_call_and_the_answer_of_the_heavy_fence() {
    for fails in [false, true] {
        let machine = Recording { fails, ..Recording::default() };
        forwards(&&machine, &machine);
        let reference = &&machine;
        assert_eq!(Cpu::fence_all(reference), !fails, "the machine's own answer");
        Cpu::light_fence(reference);
        assert_eq!((machine.fences.get(), machine.light_fences.get()), (1, 1));
    }
}

/// loom's model `owner_against_take_over` shows that both fences are needed.
#[test]
fn a_fenced_machine_fences_by_itself_even_where_the_inner_one_cannot() {
    let fenced = Fenced(Recording { fails: true, ..Recording::default() });
    forwards(&fenced, &fenced.0);
    fenced.light_fence();
    assert!(fenced.fence_all());
    assert_eq!((fenced.0.fences.get(), fenced.0.light_fences.get()), (0, 0), "its own fences");
}

#[test]
fn machines_of_one_cpu_have_slot_0_and_fence_without_waiting() {
    fn is_single(cpu: &impl Cpu) {
        assert_eq!((cpu.slots(), cpu.slots_used()), (1, 1));
        let id = Some(CpuId::new(0));
        assert_eq!((cpu.pin(), cpu.pin_known()), (id, id));
        assert!(cpu.fence_all() && !cpu.borrow());
    }
    is_single(&SingleCpu::new());
    // SAFETY: clause 1: this value is used in one thread.
    is_single(&unsafe { OneContext::new() });
}

#[test]
fn a_masked_cpu_has_a_slot_if_its_number_is_below_the_count_and_never_fences() {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    static IS_KNOWN: AtomicBool = AtomicBool::new(false);
    fn number() -> Option<u32> {
        IS_KNOWN.load(Ordering::Relaxed).then_some(NUMBER.load(Ordering::Relaxed))
    }
    // SAFETY: one thread plays all CPUs, one after the other.
    let cpus = unsafe { MaskedCpu::new(3, number) };
    assert_eq!((cpus.slots(), cpus.pin(), cpus.fence_all()), (3, None, false));
    IS_KNOWN.store(true, Ordering::Relaxed);
    for (number, id) in [(0, Some(0)), (2, Some(2)), (3, None), (4, None)] {
        NUMBER.store(number, Ordering::Relaxed);
        assert_eq!((cpus.pin(), cpus.pin_known()), (id.map(CpuId::new), id.map(CpuId::new)));
    }
}

#[test]
fn the_provided_known_slot_is_that_of_the_known_id() {
    let cpus = SwitchedCpu::new(4);
    let first = core::ptr::without_provenance_mut(4096);
    let known = |stride| cpus.known_slot(first, stride).map(|slot| slot.addr());
    for id in [0, 1, 3] {
        cpus.switch_to(Some(CpuId::new(id as u32)));
        assert_eq!([64, 192].map(known), [Some(4096 + id * 64), Some(4096 + id * 192)]);
    }
    cpus.switch_to(None);
    assert_eq!(known(64), None, "a caller without an id has no slot");
}

/// Mutations that it catches: any change of a condition in `slot_stride`. Most users evaluate it in
/// their compiler.
#[test]
fn slots_are_strided_where_the_machine_and_the_owner_want_it_and_fit_the_stride() {
    type Strided<const BYTES: usize> = WithSlotStride<SingleCpu, BYTES>;
    #[repr(align(128))]
    #[allow(dead_code, reason = "only its size and alignment matter")]
    struct Aligned([u8; 128]);
    assert_eq!(slot_stride::<u8, SingleCpu, false>(), 64);
    assert_eq!(slot_stride::<u8, SingleCpu, true>(), 64, "the machine has no stride");
    assert_eq!(slot_stride::<u8, Strided<192>, false>(), 64, "the owner has an array of its own");
    assert_eq!(slot_stride::<u8, Strided<192>, true>(), 192);
    assert_eq!(slot_stride::<[u8; 125], Strided<128>, true>(), 128, "two lines fit exactly");
    assert_eq!(slot_stride::<Aligned, Strided<256>, true>(), 256);
    assert_eq!(slot_stride::<Aligned, Strided<512>, true>(), 512);
    let panics = |stride: fn() -> usize| std::panic::catch_unwind(stride).is_err();
    assert!(panics(slot_stride::<[u8; 126], Strided<128>, true>), "three lines in two");
    assert!(panics(slot_stride::<Aligned, Strided<320>, true>), "every other slot is misaligned");
}

#[test]
fn switched_cpus_begin_with_cpu_0_if_there_is_one() {
    let cpus = SwitchedCpu::new(3);
    assert_eq!((cpus.slots(), cpus.pin()), (3, Some(CpuId::new(0))));
    assert!(cpus.fence_all());
    cpus.switch_to(Some(CpuId::new(2)));
    assert_eq!(cpus.pin(), Some(CpuId::new(2)));
    let too_high = || SwitchedCpu::new(3).switch_to(Some(CpuId::new(3)));
    assert!(std::panic::catch_unwind(too_high).is_err());
    assert_eq!((SwitchedCpu::new(0).slots(), SwitchedCpu::new(0).pin()), (0, None));
}
