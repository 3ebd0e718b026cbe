//! Interrupt and exception handlers: each entry of `gates.s` calls one of these functions.

use core::arch::asm;
use core::sync::atomic::Ordering;

use crate::console::last_line;
use crate::gates::Saved;
use crate::machine::{Verdict, exit};
use crate::{apic, cpus, nested, step, stress};

#[unsafe(no_mangle)]
extern "C" fn on_step(saved: &mut Saved) {
    step::on_step(saved);
}

#[unsafe(no_mangle)]
extern "C" fn on_unmaskable(_: &mut Saved) {
    nested::on_unmaskable();
}

#[unsafe(no_mangle)]
extern "C" fn on_timer(_: &mut Saved) {
    // Relaxed: a number to look at.
    let tick = cpus::of(cpus::number()).ticks.fetch_add(1, Ordering::Relaxed);
    stress::on_timer(tick);
    apic::end_of_interrupt();
}

#[unsafe(no_mangle)]
extern "C" fn on_fence(_: &mut Saved) {
    cpus::fence_here();
    apic::end_of_interrupt();
}

#[unsafe(no_mangle)]
extern "C" fn on_spurious(_: &mut Saved) {}

/// The exception's number, its code, and where it came upon.
#[repr(C)]
struct Fatal {
    number: u64,
    code: u64,
    instruction: u64,
    segment: u64,
    flags: u64,
    stack: u64,
}

#[unsafe(no_mangle)]
extern "C" fn on_fatal(fatal: &Fatal) -> ! {
    let Fatal { number, code, instruction, stack, .. } = fatal;
    let at: u64;
    // SAFETY: reads the address of the last page fault.
    unsafe { asm!("mov {}, cr2", out(reg) at, options(nomem, nostack)) };
    last_line(format_args!(
        "exception {number} (code {code:#x}) on CPU {} at {instruction:#x}, stack {stack:#x}, address {at:#x}",
        cpus::number()
    ));
    exit(Verdict::Failure)
}
