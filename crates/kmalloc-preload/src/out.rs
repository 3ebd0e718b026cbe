//! Text without memory: written from a buffer on the stack, straight to a file descriptor.

use core::ffi::c_int;
use core::fmt::{self, Write};

/// A file descriptor as where text goes, through a buffer.
pub(crate) struct Out {
    to: c_int,
    length: usize,
    buffer: [u8; 512],
}

impl Out {
    pub(crate) const fn new(to: c_int) -> Self {
        Self { to, length: 0, buffer: [0; 512] }
    }

    fn flush(&mut self) {
        let mut written = 0;
        while written < self.length {
            let rest = &self.buffer[written..self.length];
            // Directly: the C library's `write` is a point at which a thread may be cancelled.
            // SAFETY: the bytes are ours.
            let count =
                unsafe { libc::syscall(libc::SYS_write, self.to, rest.as_ptr(), rest.len()) };
            let Ok(count @ 1..) = usize::try_from(count) else { break };
            written += count;
        }
        self.length = 0;
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
        Ok(())
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
