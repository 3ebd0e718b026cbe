//! The file of statistics: named by the user, written whole or not at all.
//!
//! It takes the place of a file of that name and of nothing else: a device, a pipe or a link that is there stays.
//!
//! The environment is read once, when the library is loaded: the program may change it at any time. System calls are made
//! directly, as those of the C library are points at which a thread may be cancelled, and `malloc` is not.

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_long};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::heap::{errno, set_errno};

/// The longest name that the system takes, and what is put behind it.
const MOST_NAME: usize = 4095;
const MOST: usize = MOST_NAME + 100;

/// What the user wrote, and how long it is; zero while no file is named.
static NAMED: Named = Named { bytes: UnsafeCell::new([0; MOST_NAME]), length: AtomicUsize::new(0) };

struct Named {
    bytes: UnsafeCell<[u8; MOST_NAME]>,
    length: AtomicUsize,
}

// SAFETY: the bytes are written once, before the length is (`name`), and read only after it was seen.
unsafe impl Sync for Named {}

/// Notes the file's name. To be called once, when the library is loaded.
///
/// # Errors
/// It is longer than the system takes.
pub(crate) fn name(value: &[u8]) -> Result<(), Unwritten> {
    if value.len() > MOST_NAME {
        return Err(Unwritten::Refused(libc::ENAMETOOLONG));
    }
    // SAFETY: called once, and nobody reads before the length is there.
    let bytes = unsafe { &mut *NAMED.bytes.get() };
    bytes[..value.len()].copy_from_slice(value);
    // Release: pairs with the Acquire in `named`; publishes the bytes.
    NAMED.length.store(value.len(), Ordering::Release);
    Ok(())
}

/// Forgets the name: there is no such file any more.
pub(crate) fn forget() {
    // Relaxed: the bytes stay as they are.
    NAMED.length.store(0, Ordering::Relaxed);
}

/// Whether a file is named.
pub(crate) fn is_named() -> bool {
    named().is_some()
}

fn named() -> Option<&'static [u8]> {
    // Acquire: as said in `name`.
    let length = NAMED.length.load(Ordering::Acquire);
    // SAFETY: written before the length, and never again.
    let bytes = unsafe { &*NAMED.bytes.get() };
    (length > 0).then(|| &bytes[..length])
}

/// Why the file is not written.
#[derive(Clone, Copy)]
pub(crate) enum Unwritten {
    /// What has the name is something else.
    NotAFile,
    /// The system's number for the reason.
    Refused(c_int),
}

impl fmt::Display for Unwritten {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFile => out.write_str("not a file"),
            Self::Refused(number) => write!(out, "the system refused: error {number}"),
        }
    }
}

/// Has `write` write the file, if one is named, under a name of this process's own, and then gives it its name. Keeps `errno`.
///
/// # Errors
/// Why it is as it was, or not there.
pub(crate) fn replace(write: impl FnOnce(c_int) -> Result<(), c_int>) -> Result<(), Unwritten> {
    let Some(named) = named() else { return Ok(()) };
    let before = errno();
    let outcome = replace_named(named, write);
    set_errno(before);
    outcome
}

fn replace_named(
    named: &[u8],
    write: impl FnOnce(c_int) -> Result<(), c_int>,
) -> Result<(), Unwritten> {
    let last = FileName::of(named, b"");
    let new = FileName::of(named, b".%p.new");
    if last.is_something_else() {
        return Err(Unwritten::NotAFile);
    }
    // Not through a link: in a folder of everybody's others may know the name beforehand.
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let at = c_long::from(libc::AT_FDCWD);
    // SAFETY: creates a file; the name ends with zero.
    let file = unsafe { libc::syscall(libc::SYS_openat, at, new.as_ptr(), flags, 0o644) };
    let Ok(file @ 0..) = c_int::try_from(file) else { return Err(Unwritten::Refused(errno())) };
    let mut outcome = write(file);
    // SAFETY: opened above.
    unsafe { libc::syscall(libc::SYS_close, file) };
    // SAFETY: both names end with zero.
    let rename =
        || unsafe { libc::syscall(libc::SYS_renameat, at, new.as_ptr(), at, last.as_ptr()) };
    if outcome.is_ok() && rename() != 0 {
        outcome = Err(errno());
    }
    if outcome.is_err() {
        // SAFETY: the name ends with zero, and the file is ours.
        unsafe { libc::syscall(libc::SYS_unlinkat, at, new.as_ptr(), 0) };
    }
    outcome.map_err(Unwritten::Refused)
}

/// A file's name in memory of its own, `%p` replaced, zeros behind it.
struct FileName {
    bytes: [u8; MOST],
    length: usize,
}

impl FileName {
    fn of(named: &[u8], suffix: &[u8]) -> Self {
        let mut name = Self { bytes: [0; MOST], length: 0 };
        name.push_all(named);
        name.push_all(suffix);
        name
    }

    fn push_all(&mut self, text: &[u8]) {
        let mut rest = text;
        while let Some((first, behind)) = rest.split_first() {
            if rest.starts_with(b"%p") {
                // SAFETY: no arguments.
                let _ = write!(self, "{}", unsafe { libc::getpid() });
                rest = &rest[2..];
                continue;
            }
            self.push(*first);
            rest = behind;
        }
    }

    fn push(&mut self, byte: u8) {
        if self.length + 1 < self.bytes.len() {
            self.bytes[self.length] = byte;
            self.length += 1;
        }
    }

    fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }

    /// Whether there is something of this name that is no file.
    fn is_something_else(&self) -> bool {
        // SAFETY: all zero is a value of it.
        let mut found: libc::stat = unsafe { core::mem::zeroed() };
        // SAFETY: the name ends with zero, and the answer is ours.
        let outcome = unsafe { libc::lstat(self.as_ptr(), &raw mut found) };
        outcome == 0 && found.st_mode & libc::S_IFMT != libc::S_IFREG
    }
}

impl Write for FileName {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}
