//! Programs that lock their memory.

use crate::End::Well;
use crate::calls::{fill, free, malloc};
use crate::memory::replace;
use crate::{Check, resident_bytes};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "locking_all_memory_takes_only_what_is_used", run: all, ends: Well },
    Check { name: "later_memory_is_locked_too", run: later, ends: Well },
];

/// Locks the memory of the process; returns whether the system allows it.
fn lock(which: libc::c_int) -> bool {
    // SAFETY: locks pages of this process, whose content stays.
    let is_locked = unsafe { libc::mlockall(which) } == 0;
    if !is_locked {
        eprintln!("no memory may be locked here: not tested");
    }
    is_locked
}

/// Mutation that it catches: address space or metadata that is mapped with access before its use.
fn all() {
    for which in [libc::MCL_CURRENT, libc::MCL_CURRENT | libc::MCL_FUTURE] {
        if !lock(which) {
            return;
        }
        let resident = resident_bytes();
        // The second time with the 20 MiB that the first one has freed, and its threads' memory.
        assert!(resident < 128 << 20, "{resident} bytes resident");
        let block = malloc(20 << 20);
        assert!(!block.is_null());
        fill(block, 100, 1);
        std::thread::scope(|scope| {
            (0..4).for_each(|seed| _ = scope.spawn(move || replace(seed, 2000, 3000)));
        });
        free(block);
        let resident = resident_bytes();
        assert!(resident < 200 << 20, "{resident} bytes resident");
    }
}

/// Returns whether the mapping of `start` is locked.
fn is_locked(start: *mut u8) -> bool {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
    let mut is_inside = false;
    for line in smaps.lines() {
        let bounds = line.split(' ').next().and_then(|word| word.split_once('-'));
        let number = |digits| usize::from_str_radix(digits, 16).ok();
        if let Some((Some(first), Some(end))) = bounds.map(|(one, two)| (number(one), number(two)))
        {
            is_inside = (first..end).contains(&start.addr());
        }
        if is_inside && line.starts_with("VmFlags:") {
            return line.split(' ').any(|flag| flag == "lo");
        }
    }
    panic!("the block has a mapping");
}

fn later() {
    if !lock(libc::MCL_FUTURE) {
        return;
    }
    for bytes in [8 << 20, 64 << 20, 700 << 20] {
        let start = malloc(bytes);
        assert!(!start.is_null());
        assert!(is_locked(start) && is_locked(start.wrapping_add(bytes - 1)), "{bytes} bytes");
        free(start);
    }
}
