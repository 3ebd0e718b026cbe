//! Models of the per-CPU slots: owners, take-overs, freezing, the unowned slot.

use std::cell::Cell;
use std::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;
use page_frame::sync::{AtomicUsize, Ordering, UnsafeCell, fence};
use page_frame::{Cpu, CpuId, EnterError, Fenced, InterruptState, PerCpu, PerCpuSlot};
use testkit::model;

/// A machine of one slot, for the thread that owns it.
#[derive(Clone, Copy)]
pub(super) struct OwnerOfFirst(bool);

// SAFETY: in each model one thread alone has `true`, so only it gets the id.
unsafe impl Cpu for OwnerOfFirst {
    fn slots(&self) -> usize {
        1
    }
    fn pin(&self) -> Option<CpuId> {
        self.0.then_some(CpuId::new(0))
    }
    unsafe fn unpin(&self) {}
    fn fence_all(&self) -> bool {
        false
    }
    fn mask_interrupts(&self) -> InterruptState {
        InterruptState(0)
    }
}

const OWNER: Fenced<OwnerOfFirst> = Fenced(OwnerOfFirst(true));
pub(super) const OTHER: Fenced<OwnerOfFirst> = Fenced(OwnerOfFirst(false));

fn shared() -> (Arc<[PerCpuSlot<UnsafeCell<u32>>; 1]>, Arc<[PerCpuSlot<UnsafeCell<u32>>; 1]>) {
    let slots = Arc::new([PerCpuSlot::new(UnsafeCell::new(0))]);
    (Arc::clone(&slots), slots)
}

/// Adds one to the body through loom's watched cell: two contexts inside at once are reported.
fn add_one(body: &UnsafeCell<u32>) {
    // SAFETY: the protocol gives the body to one context at a time, which is what loom checks.
    body.with_mut(|value| unsafe { *value += 1 });
}

/// One thread's view of slots that all threads of a model share.
fn view<T>(
    slots: &[PerCpuSlot<T>; 1],
    cpu: Fenced<OwnerOfFirst>,
) -> PerCpu<'_, T, Fenced<OwnerOfFirst>> {
    // SAFETY: clause 1: the one slot, which is borrowed. Clause 2: one thread uses `OWNER`, so
    // only it has the id; and no thread calls `for_each_exclusive`.
    unsafe { PerCpu::at(NonNull::from(slots).cast(), 1, cpu) }
}

fn own(slots: &[PerCpuSlot<UnsafeCell<u32>>; 1], times: usize) -> usize {
    let per_cpu = view(slots, OWNER);
    (0..times).filter(|_| per_cpu.enter().map(|body| add_one(&body)).is_ok()).count()
}

fn take(slots: &[PerCpuSlot<UnsafeCell<u32>>; 1]) -> usize {
    view(slots, OTHER).take_over(|_| true, |_, body| add_one(body)).taken
}

fn total(slots: &[PerCpuSlot<UnsafeCell<u32>>; 1]) -> usize {
    let per_cpu = view(slots, OWNER);
    let body = per_cpu.enter().expect("all other contexts have ended");
    // SAFETY: as in `add_one`.
    body.with(|value| unsafe { *value as usize })
}

/// Mutation seen to fail: `light_fence` or `fence_all` of `Fenced` without its fence
/// ("causality violation: concurrent write accesses").
#[test]
fn owner_against_take_over() {
    model("slots: owner against take-over", 100, || {
        let (ours, theirs) = shared();
        let taker = thread::spawn(move || take(&theirs));
        let entered = own(&ours, 2);
        let taken = taker.join().expect("the taker does not panic");
        assert_eq!(total(&ours), entered + taken);
    });
}

/// A machine with the default `light_fence`, whose heavy fence reaches all CPUs.
struct HeavyFence(bool);

// SAFETY: in each model one thread alone has `true`, so only it gets the id. Clause 3: in
// models both fences are full ones.
unsafe impl Cpu for HeavyFence {
    fn slots(&self) -> usize {
        1
    }
    fn pin(&self) -> Option<CpuId> {
        self.0.then_some(CpuId::new(0))
    }
    unsafe fn unpin(&self) {}
    fn fence_all(&self) -> bool {
        fence(Ordering::SeqCst);
        true
    }
}

/// Mutation seen to fail: the default `Cpu::light_fence` without its fence ("causality
/// violation").
#[test]
fn owner_with_the_default_light_fence_against_take_over() {
    model("slots: the default light fence against take-over", 100, || {
        type Slots = [PerCpuSlot<UnsafeCell<u32>>; 1];
        fn view(slots: &Slots, is_owner: bool) -> PerCpu<'_, UnsafeCell<u32>, HeavyFence> {
            // SAFETY: clause 1: the one slot, which is borrowed. Clause 2: one thread is the
            // owner, so only it has the id; and no thread calls `for_each_exclusive`.
            unsafe { PerCpu::at(NonNull::from(slots).cast(), 1, HeavyFence(is_owner)) }
        }
        let (ours, theirs) = shared();
        let taker = thread::spawn(move || {
            view(&theirs, false).take_over(|_| true, |_, body| add_one(body)).taken
        });
        let per_cpu = view(&ours, true);
        let enter = || per_cpu.enter().map(|body| add_one(&body)).is_ok();
        let entered = (0..2).filter(|_| enter()).count();
        let taken = taker.join().expect("the taker does not panic");
        assert_eq!(total(&ours), entered + taken);
    });
}

/// The threads of a process as CPUs, as `hosted::Threads` has them: the owner takes its number
/// at its first `pin`, and executes a full fence only then. The taker skips the heavy fence
/// while no other thread has a number.
struct LateOwner<'m> {
    taken: &'m AtomicUsize,
    is_owner: bool,
    has_number: Cell<bool>,
}

// SAFETY: in each model one thread alone is the owner, so only it gets the id. `fence_all` is
// true only if the owner has no number yet; it executes a full fence when it takes one.
unsafe impl Cpu for LateOwner<'_> {
    fn slots(&self) -> usize {
        1
    }
    fn pin(&self) -> Option<CpuId> {
        if self.is_owner && !self.has_number.replace(true) {
            self.taken.fetch_or(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
        self.is_owner.then_some(CpuId::new(0))
    }
    unsafe fn unpin(&self) {}
    fn light_fence(&self) {}
    fn fence_all(&self) -> bool {
        fence(Ordering::SeqCst);
        self.taken.load(Ordering::SeqCst) == 0
    }
}

/// Mutation seen to fail: no fence when the owner takes its number, or none in `fence_all`.
#[test]
fn a_thread_that_takes_its_number_against_a_take_over_without_a_heavy_fence() {
    model("slots: a late owner against take-over", 10, || {
        type Shared = ([PerCpuSlot<UnsafeCell<u32>>; 1], AtomicUsize);
        fn with<R>(
            shared: &Shared,
            is_owner: bool,
            run: impl FnOnce(PerCpu<'_, UnsafeCell<u32>, LateOwner<'_>>) -> R,
        ) -> R {
            let cpu = LateOwner { taken: &shared.1, is_owner, has_number: Cell::new(false) };
            // SAFETY: clause 1: the one slot, which is borrowed. Clause 2: one thread is the
            // owner, so only it has the id; and no thread calls `for_each_exclusive`.
            run(unsafe { PerCpu::at(NonNull::from(&shared.0).cast(), 1, cpu) })
        }
        let slots = [PerCpuSlot::new(UnsafeCell::new(0))];
        let shared = Arc::new((slots, AtomicUsize::new(0)));
        let theirs = Arc::clone(&shared);
        let owner = thread::spawn(move || {
            with(&theirs, true, |slots| slots.enter().map(|body| add_one(&body)).is_ok())
        });
        let taken =
            with(&shared, false, |slots| slots.take_over(|_| true, |_, body| add_one(body)).taken);
        let entered = owner.join().expect("the owner does not panic");
        assert_eq!(total(&shared.0), usize::from(entered) + taken);
    });
}

/// Mutation seen to fail: the taker's compare-exchange of `detached` replaced by a load and a
/// store.
#[test]
fn two_take_overs() {
    model("slots: two take-overs", 8, || {
        let (ours, theirs) = shared();
        let taker = thread::spawn(move || take(&theirs));
        let taken = take(&ours) + taker.join().expect("the taker does not panic");
        assert!(taken >= 1, "the first of two takers of an idle slot gets it");
        assert_eq!(total(&ours), taken);
    });
}

/// A machine of an unowned id, 0, and an owner's, 1; as `hosted::Threads` has one.
#[derive(Clone, Copy)]
struct SettingAside(bool);

// SAFETY: in each model one thread alone has `true`, so only it gets id 1.
unsafe impl Cpu for SettingAside {
    const UNOWNED: Option<CpuId> = Some(CpuId::new(0));
    fn slots(&self) -> usize {
        2
    }
    fn pin(&self) -> Option<CpuId> {
        self.0.then_some(CpuId::new(1))
    }
    fn known_slot(&self, first: *mut u8, stride: usize) -> Option<*mut u8> {
        Some(first.wrapping_add(stride * usize::from(self.0)))
    }
    unsafe fn unpin(&self) {}
    fn fence_all(&self) -> bool {
        false
    }
}

/// Contexts without an id read the slot of the unowned id, while another one takes slots over,
/// freezes them, and forgets their owners.
///
/// Mutation seen to fail: `forget_others` that clears `busy` of the unowned slot ("causality
/// violation").
#[test]
fn no_context_writes_the_slot_of_the_unowned_id() {
    model("slots: an unowned id", 10, || {
        type Slots = [PerCpuSlot<UnsafeCell<u32>>; 2];
        type View<'a> = PerCpu<'a, UnsafeCell<u32>, Fenced<SettingAside>>;
        fn view(slots: &Slots, is_owner: bool) -> View<'_> {
            let cpu = Fenced(SettingAside(is_owner));
            // SAFETY: clause 1: the two slots, which are borrowed. Clause 2: one thread is the
            // owner, so only it has id 1; and no thread calls `for_each_exclusive`.
            unsafe { PerCpu::at(NonNull::from(slots).cast(), 2, cpu) }
        }
        let slots = Arc::new([0, 1].map(|_| PerCpuSlot::new(UnsafeCell::new(0))));
        let owner = view(&slots, true);
        let theirs = Arc::clone(&slots);
        let other = thread::spawn(move || {
            let without_an_id = view(&theirs, false);
            let error = without_an_id.enter_known().map(|body| add_one(&body)).err();
            (error, without_an_id.take_over(|_| true, |_, body| add_one(body)).taken)
        });
        let entered = usize::from(owner.enter_known().map(|body| add_one(&body)).is_ok());
        drop(owner.freeze(Some(CpuId::new(1))));
        // SAFETY: clauses 1 and 2: the other thread is inside no slot. Clause 3: this is 1.
        unsafe { owner.forget_others(Some(CpuId::new(1))) };
        let (error, taken) = other.join().expect("it does not panic");
        assert_eq!(error, Some(EnterError::Nested));
        let body = owner.enter_known().expect("all other contexts have ended");
        // SAFETY: as in `add_one`.
        assert_eq!(body.with(|value| unsafe { *value as usize }), entered + taken);
    });
}

/// The owner leaves for good; a later taker sees all its changes.
/// Mutation seen to fail: the store of `busy` 0 when the owner leaves made Relaxed.
#[test]
fn owner_leaving() {
    model("slots: owner leaving", 20, || {
        let (ours, theirs) = shared();
        let owner = thread::spawn(move || own(&theirs, 1));
        let taken = take(&ours);
        let entered = owner.join().expect("the owner does not panic");
        assert_eq!(total(&ours), entered + taken);
    });
}

/// Data that only the owner inside the slot changes may be read while the slot is frozen.
/// Mutation seen to fail: `freeze` without waiting for `busy`.
#[test]
fn owner_against_freeze() {
    model("slots: owner against freeze", 50, || {
        let slots = Arc::new(([PerCpuSlot::new(())], UnsafeCell::new(0)));
        let theirs = Arc::clone(&slots);
        let owner = thread::spawn(move || {
            let per_cpu = view(&theirs.0, OWNER);
            (0..2).filter(|_| per_cpu.enter().map(|_inside| add_one(&theirs.1)).is_ok()).count()
        });
        let frozen = view(&slots.0, OTHER);
        let frozen = frozen.freeze(None);
        // SAFETY: no owner is inside while the slot is frozen, which is what loom checks.
        let seen = slots.1.with(|value| unsafe { *value });
        drop(frozen);
        let entered = owner.join().expect("the owner does not panic");
        assert!(seen <= entered as u32);
    });
}
