//! Interrupts at every single instruction: the CPU's trap flag, and the signal that it raises.
//!
//! The signal comes after each instruction of this thread, whatever is half done then, locks held
//! among it; the handler runs to its end before the next instruction. So it plays an interrupt that
//! no mask keeps away.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::Once;

/// The bit of the flags register that raises the trap.
const TRAP_FLAG: i64 = 1 << 8;

thread_local! {
    static INTERRUPT: Cell<Option<fn(u64)>> = const { Cell::new(None) };
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// Calls `interrupt` after each instruction of `work` with the number of the step; returns how many
/// there were.
pub fn interrupt_each(interrupt: fn(u64), work: impl FnOnce()) -> u64 {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(handle_traps);
    STEPS.set(0);
    INTERRUPT.set(Some(interrupt));
    // SAFETY: the handler is installed, and clears the flag after the last call. The
    // flags are restored but for it, and the stack is unchanged.
    unsafe {
        core::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq");
    }
    work();
    INTERRUPT.set(None);
    STEPS.get()
}

fn handle_traps() {
    // SAFETY: all zero is an action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_trap as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: a handler of the signature that the flag says, which uses only what a signal may.
    let outcome =
        unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut()) };
    assert_eq!(outcome, 0, "SIGTRAP has no handler");
}

extern "C" fn on_trap(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(interrupt) = INTERRUPT.get() else {
        // SAFETY: the kernel passes the state of this thread, which it puts back afterwards.
        let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
        context.uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP_FLAG;
        return;
    };
    let step = STEPS.get();
    STEPS.set(step + 1);
    interrupt(step);
}
