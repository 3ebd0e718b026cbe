//! The statistics file that the user named: replaced as a whole or left as it was.
//!
//! It replaces a regular file only. A device, a pipe or a symbolic link of that name stays.
//!
//! The environment is read once, when the library is loaded, because the program may change it at
//! any time. The file uses system calls directly, because the C library's functions are
//! cancellation points and `malloc` must not be one.

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_long};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::errno::{errno, set_errno};

/// The longest path that the system accepts, in bytes, and with the suffix of the temporary file.
const MOST_NAME: usize = 4095;
const MOST: usize = MOST_NAME + 100;

/// The path that the user gave. Its length is zero while there is none.
static NAMED: Named = Named { bytes: UnsafeCell::new([0; MOST_NAME]), length: AtomicUsize::new(0) };

struct Named {
    bytes: UnsafeCell<[u8; MOST_NAME]>,
    length: AtomicUsize,
}

// SAFETY: `name` writes the bytes once and then the length; readers look at the bytes only after
// they have seen a length.
unsafe impl Sync for Named {}

/// Sets the path of the file. Called once, when the library is loaded.
///
/// # Errors
/// [`Unwritten::Refused`] when the path is longer than the system accepts.
pub(crate) fn name(value: &[u8]) -> Result<(), Unwritten> {
    if value.len() > MOST_NAME {
        return Err(Unwritten::Refused(libc::ENAMETOOLONG));
    }
    // SAFETY: `name` is called once, and readers wait for the length, which is still zero.
    let bytes = unsafe { &mut *NAMED.bytes.get() };
    bytes[..value.len()].copy_from_slice(value);
    // Release: pairs with the Acquire in `named`; publishes the bytes.
    NAMED.length.store(value.len(), Ordering::Release);
    Ok(())
}

/// Forgets the path, so that no file is written any more.
pub(crate) fn forget() {
    // Relaxed: the bytes do not change.
    NAMED.length.store(0, Ordering::Relaxed);
}

/// Whether the user named a file.
pub(crate) fn is_named() -> bool {
    named().is_some()
}

fn named() -> Option<&'static [u8]> {
    // Acquire: pairs with the Release in `name`; the bytes are there.
    let length = NAMED.length.load(Ordering::Acquire);
    // SAFETY: `name` wrote the bytes before the length and never writes them again.
    let bytes = unsafe { &*NAMED.bytes.get() };
    (length > 0).then(|| &bytes[..length])
}

/// The reason why the file was not written.
#[derive(Clone, Copy)]
pub(crate) enum Unwritten {
    /// Something other than a regular file has that name.
    NotAFile,
    /// The system refused; its error number.
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

/// Calls `write` with a temporary file of this process, then renames it to the user's path. Does
/// nothing when no file is named. Keeps `errno`.
///
/// # Errors
/// The reason why the file is unchanged or missing.
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
    // `O_NOFOLLOW`: in a folder that others can write, they could have placed a link under the
    // temporary name.
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let at = c_long::from(libc::AT_FDCWD);
    // SAFETY: the path ends with zero.
    let file = unsafe { libc::syscall(libc::SYS_openat, at, new.as_ptr(), flags, 0o644) };
    let Ok(file @ 0..) = c_int::try_from(file) else { return Err(Unwritten::Refused(errno())) };
    let mut outcome = write(file);
    // SAFETY: `file` was opened above and is closed once.
    unsafe { libc::syscall(libc::SYS_close, file) };
    // SAFETY: both paths end with zero.
    let rename =
        || unsafe { libc::syscall(libc::SYS_renameat, at, new.as_ptr(), at, last.as_ptr()) };
    if outcome.is_ok() && rename() != 0 {
        outcome = Err(errno());
    }
    if outcome.is_err() {
        // SAFETY: the path ends with zero.
        unsafe { libc::syscall(libc::SYS_unlinkat, at, new.as_ptr(), 0) };
    }
    outcome.map_err(Unwritten::Refused)
}

/// A path in a buffer of its own: `%p` is replaced, and zeros follow the text.
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
                // SAFETY: `getpid` has no preconditions.
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

    /// Whether something other than a regular file has this path.
    fn is_something_else(&self) -> bool {
        // SAFETY: `stat` consists of integers, so all zero is a valid value.
        let mut found: libc::stat = unsafe { core::mem::zeroed() };
        // SAFETY: the path ends with zero, and `found` is a valid place for the result.
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
