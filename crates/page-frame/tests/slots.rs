//! CPU slots by one thread that plays several CPUs.
#![cfg(not(loom))]

use page_frame::{EnterError, IrqLock, PerCpu, PerCpuSlot, SwitchedCpu, TakeOver};

#[test]
fn a_nested_context_finds_the_slot_busy_and_only_tries_locks() {
    let mut slots = [PerCpuSlot::new(0)];
    let slots = PerCpu::new(&mut slots, SwitchedCpu::new(1));
    let lock = IrqLock::new(());
    let inside = slots.enter().expect("nobody is inside");
    assert_eq!(slots.enter().err(), Some(EnterError::Nested));
    assert!(slots.lock_token().is_nested());
    drop(inside);

    let token = slots.lock_token();
    let held = token.lock(&lock).expect("not nested");
    let nested = slots.lock_token();
    assert!(nested.is_nested() && nested.lock(&lock).is_none());
    drop(held);
    assert!(nested.lock(&lock).is_some());
    drop(nested);
    drop(token);
    assert!(!slots.lock_token().is_nested());
}

#[test]
fn a_detached_slot_is_not_entered() {
    let mut slots = [PerCpuSlot::new(())];
    let slots = PerCpu::new(&mut slots, SwitchedCpu::new(1));
    slots.take_over(|_| true, |_, _| assert_eq!(slots.enter().err(), Some(EnterError::Detached)));
    assert!(slots.enter().is_ok());
}

#[test]
fn without_an_id_there_is_no_slot() {
    let mut slots = [PerCpuSlot::new(())];
    let slots = PerCpu::new(&mut slots, SwitchedCpu::new(1));
    slots.cpu().switch_to(None);
    assert_eq!(slots.enter().err(), Some(EnterError::NoSlot));
    assert!(!slots.lock_token().is_nested());
}

#[test]
fn closed_slots_are_never_entered_and_never_taken() {
    let mut slots = [const { PerCpuSlot::new(()) }; 2];
    let slots = PerCpu::closed(&mut slots, SwitchedCpu::new(2));
    assert_eq!(slots.enter().err(), Some(EnterError::Detached));
    assert_eq!(slots.take_over(|_| true, |_, _| ()), TakeOver { taken: 0, skipped: 2 });
    assert_eq!(slots.enter().err(), Some(EnterError::Detached));
    assert!(!slots.lock_token().is_nested());
    assert!(slots.freeze(None).is_fenced());
    assert_eq!(slots.enter().err(), Some(EnterError::Detached));
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
    let slots = PerCpu::new(&mut slots, SwitchedCpu::new(2));
    let inside = slots.enter().expect("nobody is inside");
    let mut seen = 0;
    let outcome = slots.take_over(|_| true, |_, body| seen += *body);
    assert_eq!((outcome, seen), (TakeOver { taken: 1, skipped: 1 }, 2));
    drop(inside);
    assert_eq!(slots.take_over(|_| true, |_, _| ()), TakeOver { taken: 2, skipped: 0 });
}
