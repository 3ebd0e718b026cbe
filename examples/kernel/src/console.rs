//! The serial console: it writes lines byte by byte, and one CPU at a time writes a line.

use core::fmt::{self, Write};

use page_frame::sync::Lock;

use crate::machine::{INTERRUPT_FLAG, flags};
use crate::machine::{in_byte, mask_interrupts, out_byte, unmask_interrupts};

/// The first port of the first serial line (COM1).
const PORT: u16 = 0x3f8;
/// The bit of the line status that says that the transmitter accepts another byte.
const READY: u8 = 1 << 5;

/// The lock of the console: a CPU holds it while it writes a line, with interrupts masked.
static LINE: Lock<()> = Lock::new(());

/// The serial line, without the lock.
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

/// Writes a line. Waits for the lock of the console.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let were_on = flags() & INTERRUPT_FLAG != 0;
    mask_interrupts();
    {
        let _line = LINE.lock();
        // The serial port accepts every byte, so writing cannot fail.
        let _ = Serial.write_fmt(format_args!("{text}\n"));
    }
    if were_on {
        // SAFETY: interrupts were on before, and the lock is released.
        unsafe { unmask_interrupts() };
    }
}

/// Writes a line without taking the lock: for the last line of a kernel that panics or stops, whose
/// other CPUs may hold the lock for ever.
pub(crate) fn last_line(text: fmt::Arguments<'_>) {
    let _ = Serial.write_fmt(format_args!("{text}\n"));
}

/// A `Write` that writes text as it is, without the lock and without a line end, for functions that
/// print tables.
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
