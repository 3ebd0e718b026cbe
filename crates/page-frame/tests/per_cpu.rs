//! Per-CPU slots, used by one thread that simulates several CPUs.
#![cfg(not(loom))]

use page_frame::{EnterError, IrqLock, PerCpu, PerCpuSlot, SwitchedCpu, TakeOver};

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
