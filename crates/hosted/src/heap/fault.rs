//! The fault hook of a heap: names the mistake and ends the program.

use core::fmt::{self, Write};

use page_frame::Fault;

/// Writes `fault` to standard error and aborts. A panic would allocate, and `GlobalAlloc` must not
/// unwind.
pub(crate) fn stop(fault: &Fault) {
    let Fault { kind, place, .. } = fault;
    let _ = write!(StandardError, "heap: {} at {place}: {kind}", kind.name());
    let _ = match fault.cache {
        Some(cache) => writeln!(StandardError, " ({cache})"),
        None => writeln!(StandardError),
    };
    // SAFETY: no preconditions.
    unsafe { libc::abort() };
}

struct StandardError;

impl Write for StandardError {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            // SAFETY: the bytes are readable.
            let written = unsafe { libc::write(2, rest.as_ptr().cast(), rest.len()) };
            match usize::try_from(written) {
                Ok(written) if written > 0 => rest = &rest[written.min(rest.len())..],
                _ => return Err(fmt::Error),
            }
        }
        Ok(())
    }
}
