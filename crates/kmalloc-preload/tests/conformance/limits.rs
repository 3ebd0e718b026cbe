//! Where memory ends.

use crate::End::Well;
use crate::calls::{check, fill, free, malloc, realloc};
use crate::memory::replace;
use crate::{Check, errno, library, set_errno};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "running_out_is_enomem_and_passes", run: out_of_memory, ends: Well },
    Check { name: "little_address_space_is_enough", run: little_space, ends: Well },
    Check { name: "closed_standard_error_is_no_harm", run: closed_error, ends: Well },
    Check { name: "a_limit_of_address_space_counts_what_is_used", run: space_limit, ends: Well },
    Check { name: "a_limit_of_data_counts_what_is_used", run: data_limit, ends: Well },
    Check { name: "a_program_may_limit_itself", run: own_limit, ends: Well },
    Check { name: "a_process_may_use_up_its_mappings", run: mappings, ends: Well },
    Check { name: "small_programs_need_little_address_space", run: smallest_space, ends: Well },
];

/// Runs this program again with a limit on its address space, as `ulimit -v` does, with the work of
/// a check.
fn again_with_limit(bytes: u64) {
    again_after(&format!("ulimit -v {}", bytes >> 10));
}

/// Runs this program again, with the work of a check, after a command of the shell.
fn again_after(command: &str) {
    if std::env::var_os("LIMITED").is_some() {
        return;
    }
    let limit = format!("{command}; exec \"$0\" \"$@\"");
    let status = std::process::Command::new("bash")
        .args(["-c", &limit])
        .arg(std::env::current_exe().expect("a path"))
        .args(std::env::args().skip(1))
        .env("LIMITED", "1")
        .env("LD_PRELOAD", library())
        .status();
    std::process::exit(if status.is_ok_and(|status| status.success()) { 0 } else { 1 });
}

fn out_of_memory() {
    /// More than fit into the limit.
    const MAX_BLOCKS: usize = 1 << 25;
    again_with_limit(1 << 30);
    let kept = malloc(1000);
    fill(kept, 1000, 5);
    for bytes in [1 << 20, 3000, 40] {
        let mut blocks = Vec::with_capacity(MAX_BLOCKS);
        loop {
            set_errno(0);
            let start = malloc(bytes);
            if start.is_null() {
                break;
            }
            fill(start, 8, blocks.len());
            blocks.push(start);
            assert!(blocks.len() < MAX_BLOCKS, "there is a limit");
        }
        assert_eq!(errno(), libc::ENOMEM);
        assert!(blocks.len() * bytes > 30 << 20, "{} blocks of {bytes}", blocks.len());
        assert!(realloc(kept, 100 << 30).is_null());
        blocks.iter().enumerate().for_each(|(index, start)| check(*start, 8, index));
        blocks.into_iter().for_each(free);
        check(kept, 1000, 5);
        replace(1, 5000, 5000);
    }
}

fn little_space() {
    again_with_limit(200 << 20);
    replace(1, 20_000, 3000);
    std::thread::scope(|scope| {
        (0..4).for_each(|seed| _ = scope.spawn(move || replace(seed, 5000, 3000)));
    });
}

fn closed_error() {
    // SAFETY: the descriptor belongs to this process; a later write to it fails with `EBADF`.
    unsafe { libc::close(2) };
    replace(1, 1000, 1000);
}

/// Allocates 600 MB in one block, then in blocks of 3 MB, then 300 MB in objects of 1,000 bytes:
/// the hardened allocator needs twice their size.
///
/// Mutations that it catches: all of the space reserved at the start; metadata for all of it.
fn space_limit() {
    again_with_limit(1 << 30);
    hold_600_megabytes();
}

/// As `space_limit`, with a limit that counts private writable mappings only.
fn data_limit() {
    again_after("ulimit -d 750000");
    hold_600_megabytes();
}

fn hold_600_megabytes() {
    for (all, bytes) in [(600, 600_000_000), (600, 3_000_000), (300, 1000)] {
        let blocks: Vec<_> = (0..all * 1_000_000 / bytes).map(|_| malloc(bytes)).collect();
        assert!(blocks.iter().all(|start| !start.is_null()), "{all} MB in blocks of {bytes} bytes");
        blocks.iter().for_each(|start| fill(*start, 8, bytes));
        blocks.into_iter().for_each(free);
    }
}

/// A program that limits itself to 512 MiB can still start threads, map memory and allocate.
fn own_limit() {
    for resource in [libc::RLIMIT_AS, libc::RLIMIT_DATA] {
        let limit = libc::rlimit { rlim_cur: 512 << 20, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: a valid limit.
        assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
        let thread =
            std::thread::Builder::new().stack_size(8 << 20).spawn(|| replace(1, 500, 3000));
        thread.expect("room for a stack").join().expect("no panic");
        let start = malloc(150 << 20);
        assert!(!start.is_null());
        fill(start, 100, 1);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 64 << 20, access, flags, -1, 0) };
        assert_ne!(mapped, libc::MAP_FAILED);
        // SAFETY: the mapping of above.
        assert_eq!(unsafe { libc::munmap(mapped, 64 << 20) }, 0);
        free(start);
        assert!(malloc(600 << 20).is_null(), "the limit holds");
    }
}

/// Runs `ls` in 20 MB of address space.
fn smallest_space() {
    let status = std::process::Command::new("bash")
        .args(["-c", "ulimit -v 20000; LD_PRELOAD=$0 exec ls / > /dev/null"])
        .arg(library())
        .env_remove("LD_PRELOAD")
        .status();
    assert!(status.is_ok_and(|status| status.success()));
}

/// Splits one mapping until the process may have no more, and then holds 100 MB in small blocks and
/// in blocks of 3 MB. The heap has grown beyond what it begins with.
///
/// Mutation that it catches: a heap that grows by new mappings only.
fn mappings() {
    const PAIRS: usize = 70_000;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let held: Vec<_> = (0..30).map(|_| malloc(3_000_000)).collect();
    // SAFETY: a new mapping.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), PAIRS * 8192, access, flags, -1, 0) };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: the first page of each pair of the mapping, which nobody uses.
    let split = |pair: &usize| unsafe {
        libc::mprotect(start.wrapping_byte_add(pair * 8192), 4096, libc::PROT_NONE) == 0
    };
    let split = (0..PAIRS).take_while(split).count();
    assert!(split < PAIRS, "the system has a limit");
    let mut failed = 0;
    for bytes in [5000, 3_000_000] {
        let blocks: Vec<_> = (0..100_000_000 / bytes).map(|_| malloc(bytes)).collect();
        failed += blocks.iter().filter(|start| start.is_null()).count();
        blocks.into_iter().for_each(free);
    }
    // A panic needs mappings.
    // SAFETY: all of it, which nobody uses.
    unsafe { libc::munmap(start, PAIRS * 8192) };
    held.into_iter().for_each(free);
    assert_eq!(failed, 0);
}
