//! Filters of system calls (seccomp) that the program installs: this library must know of them, as
//! a filter may kill the process at a call that `malloc` of the C library does not make.
//!
//! # Concepts
//! A program calls `prctl` to install a filter, or first to give up the way back to more rights,
//! which the system asks of most programs that install one. This library replaces `prctl` and
//! passes all calls on.

use core::ffi::{c_int, c_long, c_ulong};

/// The system call `prctl`.
///
/// # Safety
/// 1. The arguments are as the option wants them.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn prctl(
    option: c_int,
    second: c_ulong,
    third: c_ulong,
    fourth: c_ulong,
    fifth: c_ulong,
) -> c_int {
    if option == libc::PR_SET_SECCOMP || option == libc::PR_SET_NO_NEW_PRIVS {
        hosted::expect_seccomp_filter();
    }
    let option = c_long::from(option);
    // SAFETY: clause 1; the C library passes the arguments on in the same way.
    let outcome = unsafe { libc::syscall(libc::SYS_prctl, option, second, third, fourth, fifth) };
    outcome as c_int
}
