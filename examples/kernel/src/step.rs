//! Single steps: an exception after each instruction of a piece of code, on one CPU.
//!
//! Two uses. Counting: how many instructions does a path have, and how many of them are locked. And
//! interrupting: an allocation and a free at every single instruction of a path, on top of whatever
//! that instruction left half done. The step exception comes with interrupts masked too, while a
//! lock is held for instance; so what is interrupted so survives not only interrupts but
//! non-maskable ones.

use core::cell::Cell;
use core::ptr::NonNull;

use crate::gates::Saved;
use crate::machine::{TRAP_FLAG, set_trap};

/// The action at each step.
#[derive(Clone, Copy)]
enum Mode {
    Count,
    /// Calls the function with the number of the step.
    Interrupt(fn(u64)),
}

/// Totals of the steps so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Steps {
    pub(crate) instructions: u64,
    pub(crate) locked: u64,
}

/// The state of the CPU that steps; one CPU at a time does.
struct Stepping {
    mode: Cell<Mode>,
    steps: Cell<Steps>,
}

// SAFETY: only the CPU whose trap flag is set uses it, in the exception and around it.
unsafe impl Sync for Stepping {}

static STEPPING: Stepping = Stepping {
    mode: Cell::new(Mode::Count),
    steps: Cell::new(Steps { instructions: 0, locked: 0 }),
};

/// Counts the instructions of `path`.
pub(crate) fn count(path: impl FnOnce()) -> Steps {
    run(Mode::Count, path)
}

/// Calls `interrupt` after each instruction of `path`.
pub(crate) fn interrupt_each(interrupt: fn(u64), path: impl FnOnce()) -> Steps {
    run(Mode::Interrupt(interrupt), path)
}

#[inline(never)]
fn run(mode: Mode, path: impl FnOnce()) -> Steps {
    STEPPING.mode.set(mode);
    STEPPING.steps.set(Steps::default());
    // SAFETY: the gates are set up.
    unsafe { set_trap(true) };
    path();
    // SAFETY: the trap's gate was used until here.
    unsafe { set_trap(false) };
    STEPPING.steps.get()
}

/// Handles the exception after a step.
pub(crate) fn on_step(saved: &mut Saved) {
    debug_assert!(saved.flags & TRAP_FLAG as u64 != 0);
    let mut steps = STEPPING.steps.get();
    steps.instructions += 1;
    steps.locked += u64::from(is_locked(saved.instruction));
    STEPPING.steps.set(steps);
    if let Mode::Interrupt(interrupt) = STEPPING.mode.get() {
        interrupt(steps.instructions);
    }
}

/// Whether the instruction at `address` locks the bus: it has the prefix, or exchanges with memory.
fn is_locked(address: u64) -> bool {
    let code = core::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    let code = NonNull::new(code).expect("instructions do not lie at address zero");
    let byte = |offset: usize| {
        // SAFETY: the bytes of an instruction, which is about to be executed.
        let place = unsafe { code.add(offset) };
        // SAFETY: one of at most fifteen bytes of it.
        unsafe { place.read() }
    };
    let mut at = 0;
    while matches!(byte(at), 0x66 | 0x64 | 0x65 | 0xf2 | 0xf3) {
        at += 1;
    }
    if byte(at) == 0xf0 {
        return true;
    }
    if byte(at) & 0xf0 == 0x40 {
        at += 1;
    }
    matches!(byte(at), 0x86 | 0x87) && byte(at + 1) >> 6 != 3
}
