//! Privileged instructions, one function each.

use core::arch::asm;

/// The interrupt flag in the flags register.
pub(crate) const INTERRUPT_FLAG: usize = 1 << 9;
/// The trap flag: an exception after each instruction.
pub(crate) const TRAP_FLAG: usize = 1 << 8;

/// Writes a byte to an I/O port.
///
/// # Safety
/// 1. The device behind `port` accepts `value` in its present state.
pub(crate) unsafe fn out_byte(port: u16, value: u8) {
    // SAFETY: clause 1; the instruction touches no memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Reads a byte from an I/O port.
///
/// # Safety
/// 1. Reading `port` changes nothing that somebody relies on.
pub(crate) unsafe fn in_byte(port: u16) -> u8 {
    let value;
    // SAFETY: clause 1; the instruction touches no memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

/// Writes a model-specific register.
///
/// # Safety
/// 1. `value` is one that the running code survives.
pub(crate) unsafe fn write_register(number: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: clause 1 says so of the value.
    unsafe { asm!("wrmsr", in("ecx") number, in("eax") low, in("edx") high, options(nostack)) };
}

/// Returns the flags register.
#[inline(always)]
pub(crate) fn flags() -> usize {
    let flags;
    // SAFETY: reads a register by way of the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    flags
}

/// Masks interrupts on this CPU. A compiler fence, as what follows must not move before it.
#[inline(always)]
pub(crate) fn mask_interrupts() {
    // SAFETY: delays interrupts; memory is not touched, but must not be cached across.
    unsafe { asm!("cli", options(nostack)) };
}

/// Lets interrupts in on this CPU.
///
/// # Safety
/// 1. The CPU's gates are set up, and the caller holds nothing that a handler waits for.
#[inline(always)]
pub(crate) unsafe fn unmask_interrupts() {
    // SAFETY: clause 1: an interrupt may come at once.
    unsafe { asm!("sti", options(nostack)) };
}

/// Waits for the next interrupt.
pub(crate) fn wait() {
    // SAFETY: stops until an interrupt comes; memory must not be cached across.
    unsafe { asm!("hlt", options(nostack)) };
}

/// Returns the time-stamp counter.
#[inline(always)]
pub(crate) fn time() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Sets or clears the trap flag: from the next instruction but one each is followed by an
/// exception.
///
/// # Safety
/// 1. The gate of that exception is set up.
#[inline(always)]
pub(crate) unsafe fn set_trap(on: bool) {
    let new = if on { flags() | TRAP_FLAG } else { flags() & !TRAP_FLAG };
    // SAFETY: clause 1; otherwise the flags are as they were.
    unsafe { asm!("push {}", "popfq", in(reg) new) };
}

/// The exit status of the virtual machine.
#[derive(Clone, Copy)]
pub(crate) enum Verdict {
    /// QEMU exits with 33.
    Success = 16,
    /// QEMU exits with 35.
    Failure = 17,
}

/// Ends the virtual machine through its debug-exit device; on a machine without one, stops this
/// CPU.
pub(crate) fn exit(verdict: Verdict) -> ! {
    // SAFETY: that is what the device is for.
    unsafe { out_byte(0xf4, verdict as u8) };
    loop {
        mask_interrupts();
        wait();
    }
}
