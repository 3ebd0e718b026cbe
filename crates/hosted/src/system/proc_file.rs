//! Reading a file of `/proc`, by the calls that the loader of programs makes too.

use core::ffi::CStr;

use crate::system::os_error::preserving_errno;

/// Reads the file at `path` from `offset` on into `buffer`. Returns the number of bytes read, zero
/// on an error.
pub(crate) fn read_file(path: &CStr, offset: usize, buffer: &mut [u8]) -> usize {
    preserving_errno(|| {
        // Through `syscall`, as the functions of the C library are cancellation points.
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        // SAFETY: the path ends with zero.
        let file = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) };
        if file < 0 {
            return 0;
        }
        let (start, length) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: `buffer` has that many bytes, and is borrowed exclusively.
        let read = unsafe { libc::syscall(libc::SYS_pread64, file, start, length, offset) };
        // SAFETY: opened above, and closed once.
        unsafe { libc::syscall(libc::SYS_close, file) };
        usize::try_from(read).unwrap_or(0)
    })
}
