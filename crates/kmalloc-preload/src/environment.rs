//! Options from environment variables, read without allocating and before the C library has read
//! them.
//!
//! The library ignores the options in programs with more rights than their user (set-user-ID).

use core::ffi::{CStr, c_char};
use core::time::Duration;

use crate::fd_writer::say;

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Returns whether `KMALLOC_CHECK` requests the checked allocator: it is set, not empty and not
/// `0`.
pub(crate) fn checks() -> bool {
    variable("KMALLOC_CHECK", |value| !value.is_empty() && value != b"0").unwrap_or(false)
}

/// Calls `look` with the value of `KMALLOC_STATS` if it is set and neither empty nor `0`.
pub(crate) fn stats<R>(look: impl FnOnce(&[u8]) -> R) -> Option<R> {
    variable("KMALLOC_STATS", |value| (!value.is_empty() && value != b"0").then(|| look(value)))
        .flatten()
}

/// Returns the interval of the purging thread that `KMALLOC_PURGE` sets in milliseconds; `None`
/// when it is unset, empty or zero.
pub(crate) fn purge_interval() -> Option<Duration> {
    milliseconds("KMALLOC_PURGE").filter(|interval| !interval.is_zero())
}

/// Returns the purge delay that `KMALLOC_PURGE_DELAY` sets in milliseconds; `None` when it is unset
/// or empty.
pub(crate) fn purge_delay() -> Option<Duration> {
    milliseconds("KMALLOC_PURGE_DELAY")
}

/// Returns the milliseconds in the variable `name`. A value that is not a number is reported on
/// standard error and ignored.
fn milliseconds(name: &str) -> Option<Duration> {
    let number = |value: &[u8]| core::str::from_utf8(value).ok()?.parse::<u32>().ok();
    let milliseconds = variable(name, |value| {
        let milliseconds = number(value);
        if milliseconds.is_none() && !value.is_empty() {
            let value = value.escape_ascii();
            say(2, format_args!("kmalloc: {name}={value} is ignored: not milliseconds\n"));
        }
        milliseconds
    });
    Some(Duration::from_millis(milliseconds.flatten()?.into()))
}

/// Returns a word of random bits that the kernel chose for this process.
pub(crate) fn random_bits() -> usize {
    // SAFETY: `getauxval` accepts any type and only reads.
    let at = unsafe { libc::getauxval(libc::AT_RANDOM) } as *const usize;
    // SAFETY: `AT_RANDOM` is null or the address of 16 bytes that stay for the life of the process.
    if at.is_null() { 0 } else { unsafe { at.read_unaligned() } }
}

fn variable<R>(name: &str, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
    // SAFETY: `getauxval` accepts any type and only reads.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return None;
    }
    // SAFETY: the C library defines `environ`; it is null until the C library has set it up.
    let mut entry = unsafe { environ };
    if entry.is_null() {
        return in_proc(name, look);
    }
    loop {
        // SAFETY: the array ends with null, and the loop stops there.
        let text = unsafe { entry.read() };
        if text.is_null() {
            return None;
        }
        // SAFETY: each entry of `environ` is a string that ends with zero.
        let text = unsafe { CStr::from_ptr(text) }.to_bytes();
        if let Some(value) = value_of(text, name) {
            return Some(look(value));
        }
        // SAFETY: this entry is not the final null, so there is one more.
        entry = unsafe { entry.add(1) };
    }
}

fn value_of<'t>(text: &'t [u8], name: &str) -> Option<&'t [u8]> {
    text.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// Looks the variable up in the first 16 KiB of `/proc/self/environ`, which holds the environment
/// of the process's start. A function of its own, so that only its callers get a stack of that
/// size: each page of a stack that is touched costs a page fault.
#[cold]
#[inline(never)]
fn in_proc<R>(name: &str, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
    let mut buffer = [0; 16 << 10];
    // SAFETY: the path ends with zero.
    let file = unsafe { libc::open(c"/proc/self/environ".as_ptr(), libc::O_RDONLY) };
    if file < 0 {
        return None;
    }
    // SAFETY: `buffer` has `buffer.len()` bytes and is borrowed exclusively.
    let length = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
    // SAFETY: `file` was opened above and is closed once.
    unsafe { libc::close(file) };
    let text = &buffer[..usize::try_from(length).unwrap_or(0)];
    let found = text.split(|byte| *byte == 0).find_map(|entry| value_of(entry, name));
    found.map(look)
}
