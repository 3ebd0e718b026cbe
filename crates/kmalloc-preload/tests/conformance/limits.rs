//! Where memory ends.

use crate::End::Well;
use crate::calls::{check, fill, free, malloc, realloc};
use crate::memory::replace;
use crate::{Check, errno, library, set_errno};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "running_out_is_enomem_and_passes", run: out_of_memory, ends: Well },
    Check { name: "little_address_space_is_enough", run: little_space, ends: Well },
    Check { name: "closed_standard_error_is_no_harm", run: closed_error, ends: Well },
];

/// Runs this program again with a limit on its address space, as `ulimit -v` does, with the work of
/// a check.
fn again_with_limit(bytes: u64) {
    if std::env::var_os("LIMITED").is_some() {
        return;
    }
    let limit = format!("ulimit -v {}; exec \"$0\" \"$@\"", bytes >> 10);
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
    again_with_limit(1 << 30);
    let kept = malloc(1000);
    fill(kept, 1000, 5);
    for bytes in [1 << 20, 3000, 40] {
        let mut blocks = Vec::with_capacity(1 << 23);
        loop {
            set_errno(0);
            let start = malloc(bytes);
            if start.is_null() {
                break;
            }
            fill(start, 8, blocks.len());
            blocks.push(start);
            assert!(blocks.len() < 1 << 23, "there is a limit");
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
