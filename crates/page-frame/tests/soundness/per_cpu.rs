//! Per-CPU slots: callbacks that panic or re-enter, forgotten guards, guards dropped in any order.

use std::panic::{AssertUnwindSafe, catch_unwind};

use page_frame::{EnterError, IrqLock, PerCpu, PerCpuSlot, SwitchedCpu, TakeOver};

const ALL: TakeOver = TakeOver { taken: 3, skipped: 0 };

fn with_three(test: impl FnOnce(&PerCpu<'_, Vec<u32>, SwitchedCpu>)) {
    let mut slots = [const { PerCpuSlot::new(Vec::new()) }; 3];
    test(&PerCpu::new(&mut slots, SwitchedCpu::new(3)));
}

/// Mutation seen to fail: `Chunk` without `Drop`.
#[test]
fn a_visit_that_panics_leaves_no_slot_detached() {
    with_three(|per_cpu| {
        let visit = |id: page_frame::CpuId, body: &mut Vec<u32>| {
            body.push(1);
            assert!(id.index() != 1, "the second visit panics");
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| per_cpu.take_over(|_| true, visit)));
        assert!(outcome.is_err());
        let mut seen = Vec::new();
        assert_eq!(per_cpu.take_over(|_| true, |_, body| seen.push(body.len())), ALL);
        assert_eq!(seen, [1, 1, 0]);
    });
}

/// Mutation seen to fail: `Chunk` without `Drop`.
#[test]
fn a_choice_that_panics_leaves_no_slot_detached() {
    with_three(|per_cpu| {
        let wanted = |id: page_frame::CpuId| {
            assert!(id.index() != 2, "the third choice panics");
            true
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| per_cpu.take_over(wanted, |_, _| ())));
        assert!(outcome.is_err());
        assert_eq!(per_cpu.take_over(|_| true, |_, _| ()), ALL);
    });
}

#[test]
fn a_visit_reaches_no_body_a_second_time() {
    with_three(|per_cpu| {
        let visit = |id, body: &mut Vec<u32>| {
            body.push(1);
            per_cpu.cpu().switch_to(Some(id));
            assert_eq!(per_cpu.enter().err(), Some(EnterError::Detached));
            assert_eq!(per_cpu.take_over(|other| other == id, |_, _| ()).taken, 0);
        };
        assert_eq!(per_cpu.take_over(|_| true, visit), ALL);
    });
}

/// Mutation seen to fail: an `attach` that stores zero unconditionally.
#[test]
fn slots_that_a_visit_closes_stay_closed() {
    with_three(|per_cpu| {
        let first = page_frame::CpuId::new(0);
        assert_eq!(per_cpu.take_over(|id| id == first, |_, _| per_cpu.close()).taken, 1);
        assert_eq!(per_cpu.enter().err(), Some(EnterError::Detached));
    });
}

#[test]
fn a_forgotten_guard_loses_its_slot_and_nothing_else() {
    with_three(|per_cpu| {
        std::mem::forget(per_cpu.enter().expect("no context is inside"));
        assert_eq!(per_cpu.enter().err(), Some(EnterError::Nested));
        assert_eq!(per_cpu.take_over(|_| true, |_, _| ()), TakeOver { taken: 2, skipped: 1 });
        // `freeze` does not wait for the caller's own slot, which stays busy for ever.
        std::mem::forget(per_cpu.freeze(Some(page_frame::CpuId::new(0))));
        assert_eq!(per_cpu.take_over(|_| true, |_, _| ()).taken, 0);
    });
}

#[test]
fn forgotten_locks_stay_taken_and_no_context_waits_for_them() {
    with_three(|per_cpu| {
        let lock = IrqLock::new(1);
        let token = per_cpu.lock_token();
        std::mem::forget(token.lock(&lock).expect("not nested"));
        std::mem::forget(token);
        assert!(per_cpu.lock_token().is_nested() && per_cpu.lock_token().lock(&lock).is_none());
    });
}

#[test]
fn one_lock_through_two_slots_excludes() {
    let lock = IrqLock::new(1);
    with_three(|one| {
        with_three(|other| {
            let (one, other) = (one.lock_token(), other.lock_token());
            let held = one.lock(&lock).expect("not nested");
            assert!(other.try_lock(&lock).is_none());
            drop(held);
            assert!(other.try_lock(&lock).is_some());
        });
    });
}

/// Mutations that it catches: `Frozen` without `Drop`; a thaw that attaches the slot of a taker.
#[test]
fn no_context_uses_frozen_slots_until_the_guard_is_dropped_also_by_a_panic() {
    with_three(|per_cpu| {
        let frozen = per_cpu.freeze(None);
        assert!(frozen.is_fenced());
        assert_eq!(per_cpu.enter().err(), Some(EnterError::Detached));
        assert_eq!(per_cpu.take_over(|_| true, |_, _| ()).taken, 0);
        let panics = catch_unwind(AssertUnwindSafe(|| {
            let _frozen = frozen;
            panic!("with the slots frozen");
        }));
        assert!(panics.is_err() && per_cpu.enter().is_ok());
        let visit = |id, _: &mut Vec<u32>| {
            per_cpu.cpu().switch_to(Some(id));
            // SAFETY: clause 1: no other context froze the slots.
            unsafe { per_cpu.thaw() };
            assert_eq!(per_cpu.enter().err(), Some(EnterError::Detached));
        };
        assert_eq!(per_cpu.take_over(|_| true, visit), ALL);
    });
}
