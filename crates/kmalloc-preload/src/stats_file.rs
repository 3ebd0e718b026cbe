//! The statistics file that the user named. A write replaces the whole file, or on an error leaves
//! the old one unchanged.
//!
//! A write creates the file or replaces a regular one. Where the path names anything else (a
//! device, a pipe, a symbolic link), nothing is written.
//!
//! The path is set once, when the library is loaded, because the program may change its environment
//! at any time. Files are opened, closed, renamed and removed through `syscall`, because some of
//! the C library's functions for that are cancellation points, and `malloc` must not be one.

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_long};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::errno::{errno, set_errno};

/// The longest path that Linux accepts, in bytes without the final zero.
const MAX_PATH: usize = 4095;
/// The size of a buffer for such a path with its `%p` replaced, a suffix and the final zero. Longer
/// paths are cut off.
const PATH_BUFFER: usize = MAX_PATH + 100;

/// The path that the user gave. A length of 0 means that there is none.
static PATH: UserPath =
    UserPath { bytes: UnsafeCell::new([0; MAX_PATH]), length: AtomicUsize::new(0) };

struct UserPath {
    bytes: UnsafeCell<[u8; MAX_PATH]>,
    length: AtomicUsize,
}

// SAFETY: `set_path` writes the bytes once and then the length; readers use the bytes only after
// they have seen a length that is not 0.
unsafe impl Sync for UserPath {}

/// Sets the path of the file. The library calls this once, when it is loaded.
///
/// # Errors
/// [`WriteError::Failed`] when the path is longer than Linux accepts.
pub(crate) fn set_path(value: &[u8]) -> Result<(), WriteError> {
    if value.len() > MAX_PATH {
        return Err(WriteError::Failed(libc::ENAMETOOLONG));
    }
    // SAFETY: `set_path` is called once, and readers use no byte while the length is 0.
    let bytes = unsafe { &mut *PATH.bytes.get() };
    bytes[..value.len()].copy_from_slice(value);
    // Release: pairs with the Acquire in `path`; publishes the bytes.
    PATH.length.store(value.len(), Ordering::Release);
    Ok(())
}

/// Forgets the path, so that no file is written any more.
pub(crate) fn forget() {
    // Relaxed: a reader that still sees the old length may use the bytes, which do not change.
    PATH.length.store(0, Ordering::Relaxed);
}

/// Returns whether the user named a file.
pub(crate) fn is_named() -> bool {
    path().is_some()
}

fn path() -> Option<&'static [u8]> {
    // Acquire: pairs with the Release in `set_path`, so the bytes below `length` are visible.
    let length = PATH.length.load(Ordering::Acquire);
    if length == 0 {
        return None;
    }
    // SAFETY: `set_path` wrote the bytes before the length and never writes them again.
    let bytes = unsafe { &*PATH.bytes.get() };
    Some(&bytes[..length])
}

/// Why the file was not replaced.
#[derive(Clone, Copy)]
pub(crate) enum WriteError {
    /// Something other than a regular file has that name.
    NotRegular,
    /// A system call failed, or would have: its error number.
    Failed(c_int),
}

impl fmt::Display for WriteError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegular => out.write_str("not a file"),
            Self::Failed(number) => write!(out, "the system refused: error {number}"),
        }
    }
}

/// Calls `write` with a temporary file whose name has the process id, then renames it to the user's
/// path. Does nothing when no file is named. Keeps `errno`.
///
/// # Errors
/// Why the file was not replaced.
pub(crate) fn replace(write: impl FnOnce(c_int) -> Result<(), c_int>) -> Result<(), WriteError> {
    let Some(path) = path() else { return Ok(()) };
    let before = errno();
    let outcome = replace_at(path, write);
    set_errno(before);
    outcome
}

/// A function of its own, so that only a process that writes statistics has stack for two paths.
#[cold]
#[inline(never)]
fn replace_at(
    path: &[u8],
    write: impl FnOnce(c_int) -> Result<(), c_int>,
) -> Result<(), WriteError> {
    let target = FileName::of(path, b"");
    let temporary = FileName::of(path, b".%p.new");
    if target.exists_but_is_not_regular() {
        return Err(WriteError::NotRegular);
    }
    // `O_NOFOLLOW`: in a folder that others can write, they could have placed a link under the
    // temporary name.
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let at = c_long::from(libc::AT_FDCWD);
    // SAFETY: the path ends with a zero byte.
    let file = unsafe { libc::syscall(libc::SYS_openat, at, temporary.as_ptr(), flags, 0o644) };
    let Ok(file @ 0..) = c_int::try_from(file) else { return Err(WriteError::Failed(errno())) };
    let mut outcome = write(file);
    // SAFETY: `file` was opened above and is closed once.
    unsafe { libc::syscall(libc::SYS_close, file) };
    // SAFETY: both paths end with a zero byte.
    let rename = || unsafe {
        libc::syscall(libc::SYS_renameat, at, temporary.as_ptr(), at, target.as_ptr())
    };
    if outcome.is_ok() && rename() != 0 {
        outcome = Err(errno());
    }
    if outcome.is_err() {
        // SAFETY: the path ends with a zero byte.
        unsafe { libc::syscall(libc::SYS_unlinkat, at, temporary.as_ptr(), 0) };
    }
    outcome.map_err(WriteError::Failed)
}

/// A path in a buffer: `%p` is replaced by the process id, and the rest of the buffer is zero.
struct FileName {
    bytes: [u8; PATH_BUFFER],
    length: usize,
}

impl FileName {
    fn of(path: &[u8], suffix: &[u8]) -> Self {
        let mut name = Self { bytes: [0; PATH_BUFFER], length: 0 };
        name.push_all(path);
        name.push_all(suffix);
        name
    }

    fn push_all(&mut self, text: &[u8]) {
        let mut rest = text;
        while let Some((first, after_first)) = rest.split_first() {
            if rest.starts_with(b"%p") {
                // SAFETY: `getpid` has no preconditions.
                let _ = write!(self, "{}", unsafe { libc::getpid() });
                rest = &rest[2..];
                continue;
            }
            self.push(*first);
            rest = after_first;
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

    /// Returns whether something other than a regular file has this path.
    fn exists_but_is_not_regular(&self) -> bool {
        // SAFETY: `stat` consists of integers, so all zero is a valid value.
        let mut found: libc::stat = unsafe { core::mem::zeroed() };
        // SAFETY: the path ends with a zero byte, and `found` is a valid place for the result.
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
