//! Text without memory: written from a buffer on the stack, straight to a file descriptor.

use core::ffi::c_int;
use core::fmt::{self, Write};

use crate::heap::{errno, set_errno};

/// A file descriptor as where text goes, through a buffer. Keeps `errno`.
pub(crate) struct Out {
    to: c_int,
    length: usize,
    buffer: [u8; 512],
    /// Why the text ends before its end, the system's number; zero while it does not.
    refused: c_int,
}

impl Out {
    pub(crate) const fn new(to: c_int) -> Self {
        Self { to, length: 0, buffer: [0; 512], refused: 0 }
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// The system's number for why not all of the text was written.
    pub(crate) fn finish(mut self) -> Result<(), c_int> {
        self.flush();
        if self.refused == 0 { Ok(()) } else { Err(self.refused) }
    }

    fn flush(&mut self) {
        let before = errno();
        let mut written = 0;
        while written < self.length && self.refused == 0 {
            let rest = &self.buffer[written..self.length];
            // Directly: the C library's `write` is a point at which a thread may be cancelled.
            // SAFETY: the bytes are ours.
            let count =
                unsafe { libc::syscall(libc::SYS_write, self.to, rest.as_ptr(), rest.len()) };
            match usize::try_from(count) {
                Ok(count) => written += count,
                // A signal came first.
                Err(_) if errno() == libc::EINTR => {}
                Err(_) => self.refused = errno(),
            }
        }
        self.length = 0;
        set_errno(before);
    }
}

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == self.buffer.len() {
                self.flush();
            }
            self.buffer[self.length] = byte;
            self.length += 1;
        }
        if self.refused == 0 { Ok(()) } else { Err(fmt::Error) }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Writes `text` to the file descriptor `to`, as far as it takes it.
pub(crate) fn say(to: c_int, text: fmt::Arguments<'_>) {
    let _ = Out::new(to).write_fmt(text);
}
