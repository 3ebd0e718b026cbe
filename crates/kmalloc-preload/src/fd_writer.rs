//! Text output without allocation: to a file descriptor through a buffer on the stack.

use core::ffi::c_int;
use core::fmt::{self, Write};

use crate::errno::{errno, set_errno};

/// Writes formatted text to a file descriptor through a buffer. Keeps `errno`.
pub(crate) struct FdWriter {
    to: c_int,
    length: usize,
    buffer: [u8; 512],
    /// The error number of the first write that failed; zero if none has.
    os_error: c_int,
}

impl FdWriter {
    pub(crate) const fn new(to: c_int) -> Self {
        Self { to, length: 0, buffer: [0; 512], os_error: 0 }
    }

    /// Writes the rest of the buffer.
    ///
    /// # Errors
    /// The error number of the first write that failed.
    pub(crate) fn finish(mut self) -> Result<(), c_int> {
        self.flush();
        if self.os_error == 0 { Ok(()) } else { Err(self.os_error) }
    }

    fn flush(&mut self) {
        let before = errno();
        let mut written = 0;
        while written < self.length && self.os_error == 0 {
            let rest = &self.buffer[written..self.length];
            // A system call, because the C library's `write` is a cancellation point. SAFETY:
            // `rest` is a live slice of that length.
            let count =
                unsafe { libc::syscall(libc::SYS_write, self.to, rest.as_ptr(), rest.len()) };
            match usize::try_from(count) {
                Ok(count) => written += count,
                // A signal interrupted the call: try again.
                Err(_) if errno() == libc::EINTR => {}
                Err(_) => self.os_error = errno(),
            }
        }
        self.length = 0;
        set_errno(before);
    }
}

impl Write for FdWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == self.buffer.len() {
                self.flush();
            }
            self.buffer[self.length] = byte;
            self.length += 1;
        }
        if self.os_error == 0 { Ok(()) } else { Err(fmt::Error) }
    }
}

impl Drop for FdWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Writes `text` to the file descriptor `to`. An error is ignored.
pub(crate) fn say(to: c_int, text: fmt::Arguments<'_>) {
    let _ = FdWriter::new(to).write_fmt(text);
}
