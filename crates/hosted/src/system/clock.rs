//! The time of the process, for decisions that may be a few milliseconds late, and the CPU time of
//! calls.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use crate::system::os_error::preserving_errno;

/// Returns the nanoseconds since some moment in the past. The value advances every 1 to 10
/// milliseconds. No system call where the kernel maps its clock into the process, as Linux does.
///
/// Where the system refuses to tell the time (a sandbox), each call counts as a microsecond: the
/// time then follows the use of the allocator.
#[inline]
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the value, which is ours.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) } == 0 {
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    } else {
        count()
    }
}

#[cold]
fn count() -> u64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    // Relaxed: the number orders nothing.
    CALLS.fetch_add(1_000, Ordering::Relaxed)
}

/// Returns the CPU time of `call`: with time in the kernel, without other threads and waiting. Zero
/// where the system does not tell the time.
pub(crate) fn cpu_time_of(call: impl FnOnce()) -> Duration {
    let cpu_time = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place for the result.
        preserving_errno(|| unsafe {
            libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time)
        });
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let before = cpu_time();
    call();
    cpu_time().saturating_sub(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_advances_with_the_system_and_with_calls_where_the_system_tells_none() {
        let before = now();
        std::thread::sleep(Duration::from_millis(50));
        let passed = now() - before;
        assert!((30_000_000..20_000_000_000).contains(&passed), "{passed} ns");
        let first = count();
        assert!(count() > first);
    }
}
