//! The serial console: text out, byte by byte, one line of one CPU at a time.

use core::fmt::{self, Write};

use page_frame::sync::Lock;

use crate::machine::{INTERRUPT_FLAG, flags};
use crate::machine::{in_byte, mask_interrupts, out_byte, unmask_interrupts};

const PORT: u16 = 0x3f8;
/// The transmitter takes another byte.
const READY: u8 = 1 << 5;

/// Held while a line is written, with interrupts masked.
static LINE: Lock<()> = Lock::new(());

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: reading the line status changes nothing.
            while unsafe { in_byte(PORT + 5) } & READY == 0 {}
            // SAFETY: the transmitter is ready for a byte.
            unsafe { out_byte(PORT, byte) };
        }
        Ok(())
    }
}

/// Writes a line.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let were_on = flags() & INTERRUPT_FLAG != 0;
    mask_interrupts();
    {
        let _line = LINE.lock();
        // The serial port takes everything.
        let _ = Serial.write_fmt(format_args!("{text}\n"));
    }
    if were_on {
        // SAFETY: they were on before, and the lock is released.
        unsafe { unmask_interrupts() };
    }
}

/// Writes a line without waiting for one that is being written: for the end.
pub(crate) fn last_line(text: fmt::Arguments<'_>) {
    let _ = Serial.write_fmt(format_args!("{text}\n"));
}

/// Writes text, for tables that others print into.
pub(crate) struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        Serial.write_str(text)
    }
}

/// Writes a line to the console, as `println!` does.
macro_rules! print {
    ($($text:tt)*) => { $crate::console::line(format_args!($($text)*)) };
}
pub(crate) use print;
