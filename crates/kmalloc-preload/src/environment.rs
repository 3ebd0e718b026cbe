//! What the user asks for: environment variables, read without memory, before the C library has looked at them itself.
//!
//! Programs with more rights than their user (set-user-ID) are asked for nothing.

use core::ffi::{CStr, c_char};
use core::time::Duration;

use crate::out::say;

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Whether the allocator shall look for mistakes: `KMALLOC_CHECK` is there and not `0`.
pub(crate) fn checks() -> bool {
    variable("KMALLOC_CHECK", |value| !value.is_empty() && value != b"0").unwrap_or(false)
}

/// Calls `look` with the value of `KMALLOC_STATS` if it is there and neither empty nor `0`.
pub(crate) fn stats<R>(look: impl FnOnce(&[u8]) -> R) -> Option<R> {
    variable("KMALLOC_STATS", |value| (!value.is_empty() && value != b"0").then(|| look(value)))
        .flatten()
}

/// Returns the interval of a thread that gives memory back: `KMALLOC_PURGE`, in milliseconds. None where it is empty or zero, and
/// where it is not a number, which is said.
pub(crate) fn purge_interval() -> Option<Duration> {
    let number = |value: &[u8]| core::str::from_utf8(value).ok()?.parse::<u32>().ok();
    let milliseconds = variable("KMALLOC_PURGE", |value| {
        let milliseconds = number(value);
        if milliseconds.is_none() && !value.is_empty() {
            let value = value.escape_ascii();
            say(2, format_args!("kmalloc: no purging, KMALLOC_PURGE={value}: not milliseconds\n"));
        }
        milliseconds
    });
    let milliseconds = milliseconds.flatten().filter(|milliseconds| *milliseconds > 0)?;
    Some(Duration::from_millis(milliseconds.into()))
}

/// Returns bits that the kernel chose at random for this process.
pub(crate) fn random_bits() -> usize {
    // SAFETY: asks for a word of the auxiliary vector.
    let at = unsafe { libc::getauxval(libc::AT_RANDOM) } as *const usize;
    // SAFETY: the kernel puts 16 random bytes there, if any.
    if at.is_null() { 0 } else { unsafe { at.read_unaligned() } }
}

fn variable<R>(name: &str, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
    // SAFETY: asks for a word of the auxiliary vector.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return None;
    }
    // SAFETY: the C library's own variable; null before it has been set up.
    let mut entry = unsafe { environ };
    if entry.is_null() {
        return in_proc(name, look);
    }
    loop {
        // SAFETY: the list ends with null, and we have not passed it.
        let text = unsafe { entry.read() };
        if text.is_null() {
            return None;
        }
        // SAFETY: entries are texts that end with zero.
        let text = unsafe { CStr::from_ptr(text) }.to_bytes();
        if let Some(value) = value_of(text, name) {
            return Some(look(value));
        }
        // SAFETY: not the last one.
        entry = unsafe { entry.add(1) };
    }
}

fn value_of<'t>(text: &'t [u8], name: &str) -> Option<&'t [u8]> {
    text.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// Looks in what the kernel says the environment was at the start, of which the first 16 KiB.
fn in_proc<R>(name: &str, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
    let mut buffer = [0; 16 << 10];
    // SAFETY: opens a file; the name ends with zero.
    let file = unsafe { libc::open(c"/proc/self/environ".as_ptr(), libc::O_RDONLY) };
    if file < 0 {
        return None;
    }
    // SAFETY: the buffer is ours and so large.
    let length = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
    // SAFETY: opened above.
    unsafe { libc::close(file) };
    let text = &buffer[..usize::try_from(length).unwrap_or(0)];
    let found = text.split(|byte| *byte == 0).find_map(|entry| value_of(entry, name));
    found.map(look)
}
