//! Free memory returns to the system after a delay, and use that swings makes no system calls.

use std::time::{Duration, Instant};

use crate::End::Well;
use crate::calls::{fill, free, malloc};
use crate::{Check, resident_bytes};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "freed_memory_goes_back_by_itself", run: goes_back, ends: Well },
    Check { name: "trim_gives_memory_back", run: trim, ends: Well },
    Check { name: "a_swing_makes_no_system_call", run: swing, ends: Well },
];

/// The delay that the library has where `KMALLOC_PURGE_DELAY` is not set.
const PURGE_DELAY: Duration = Duration::from_secs(1);

fn goes_back() {
    let before = resident_bytes();
    let mut blocks = Vec::new();
    for bytes in [64, 1000, 20_000, 1 << 20] {
        for _ in 0..(16 << 20) / bytes {
            let start = malloc(bytes);
            (0..bytes).step_by(64).for_each(|at| fill(start.wrapping_add(at), 1, 1));
            blocks.push(start);
        }
    }
    let peak = resident_bytes();
    assert!(peak - before >= 64 << 20, "{peak} after {before}");
    blocks.into_iter().for_each(free);
    // The program goes on with a few objects.
    let freed_at = Instant::now();
    while freed_at.elapsed() < 2 * PURGE_DELAY {
        let some: Vec<_> = (0..100).map(|number| malloc(number * 200)).collect();
        some.into_iter().for_each(free);
        std::thread::sleep(Duration::from_millis(2));
    }
    let share = resident_bytes().saturating_sub(before) * 100 / (peak - before);
    assert!(share <= 10, "{share} % are still there");
}

fn trim() {
    let before = resident_bytes();
    let blocks: Vec<_> = (0..3000).map(|_| malloc(1000)).collect();
    blocks.iter().for_each(|start| fill(*start, 1000, 1));
    let peak = resident_bytes();
    blocks.into_iter().for_each(free);
    // SAFETY: any number is allowed.
    assert_eq!(unsafe { libc::malloc_trim(0) }, 1);
    // SAFETY: it has no preconditions, the second time as well.
    assert_eq!(unsafe { libc::malloc_trim(0) }, 0, "there is nothing left to give");
    let left = resident_bytes().saturating_sub(before);
    assert!(left * 10 <= peak - before, "{left} of {} bytes", peak - before);
}

/// After a few rounds, the system ends the process at each system call that returns memory or
/// fences other CPUs. The rounds use objects of other sizes each time.
fn swing() {
    let mut held = Vec::with_capacity(20_000);
    let mut round = |number: usize| {
        let base = 16 + number * 37 % 10 * 48;
        held.extend((0..4000).map(|index| malloc(base + index % 64)));
        held.iter().for_each(|start| fill(*start, 16, number));
        held.drain(..).for_each(free);
    };
    (0..20).for_each(&mut round);
    forbid(&[libc::SYS_madvise, libc::SYS_membarrier, libc::SYS_munmap, libc::SYS_mremap]);
    // At most half an interval, on a machine that is busy too.
    let start = Instant::now();
    for number in 20..60 {
        round(number);
        if start.elapsed() > PURGE_DELAY / 4 {
            break;
        }
    }
    // The end of the process unmaps memory of others.
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) };
}

/// Makes the system kill this process when it makes one of `calls`.
fn forbid(calls: &[libc::c_long]) {
    // The number of the call is the first field of the data that the filter reads.
    let load = libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let ends = |outcome: u32| libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: outcome,
    };
    let mut filter = vec![load];
    for call in calls {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        filter.push(libc::sock_filter { code, jt: 0, jf: 1, k: *call as u32 });
        filter.push(ends(libc::SECCOMP_RET_KILL_PROCESS));
    }
    filter.push(ends(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program and its filter live until the call returns.
    let outcome = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    assert_eq!(outcome, 0, "the system has filters");
}
