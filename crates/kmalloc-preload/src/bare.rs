//! What there is in place of the standard library: what happens when an invariant of ours does not hold.

use core::panic::PanicInfo;

use crate::out::say;

/// Says what does not hold, and ends the program.
#[panic_handler]
fn panic(what: &PanicInfo<'_>) -> ! {
    say(2, format_args!("kmalloc: {what}\n"));
    // SAFETY: no arguments; does not return.
    unsafe { libc::abort() }
}
