//! The panic handler of builds without the standard library.

use core::panic::PanicInfo;

use crate::fd_writer::say;

/// Writes the panic message to standard error and aborts.
#[panic_handler]
fn panic(what: &PanicInfo<'_>) -> ! {
    say(2, format_args!("kmalloc: {what}\n"));
    // SAFETY: `abort` has no preconditions.
    unsafe { libc::abort() }
}
