//! The promises of the C ABI, one check each. Each check is a process of its own with the library
//! preloaded. It runs twice: on the plain allocator and on the hardened one.
//!
//! `cargo test -p kmalloc-preload --test conformance -- NAME` runs the checks whose names contain
//! `NAME`.

mod asked;
mod calls;
mod edges;
mod limits;
mod locked;
mod memory;
mod misuse;
mod programs;
mod purge;
mod sleepers;
mod threads;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A check, and what its process is expected to do.
pub(crate) struct Check {
    name: &'static str,
    run: fn(),
    ends: End,
}

/// How the process of a check ends.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// With success.
    Well,
    /// The hardened allocator aborts with this text on standard error. The plain allocator may do
    /// anything.
    AbortedWhenChecked(&'static str),
    /// Aborted, with this on standard error.
    Aborted(&'static str),
}

/// How long a check may take.
const LIMIT: Duration = Duration::from_secs(150);

/// How many checks run at the same time. Many checks wait most of the time, and most others use one
/// CPU. Any two fit in 4 GiB of memory.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    let checks = [
        calls::CHECKS,
        edges::CHECKS,
        memory::CHECKS,
        purge::CHECKS,
        threads::CHECKS,
        limits::CHECKS,
        locked::CHECKS,
        misuse::CHECKS,
        programs::CHECKS,
        sleepers::CHECKS,
        asked::CHECKS,
    ];
    let checks = || checks.iter().copied().flatten();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = &arguments[..] {
        if flag == "--in-child" {
            let check = checks().find(|check| check.name == name).expect("a check of this name");
            (check.run)();
            return ExitCode::SUCCESS;
        }
    }
    build();
    let wanted = arguments.iter().find(|word| !word.starts_with('-'));
    let chosen = checks().filter(|check| wanted.is_none_or(|part| check.name.contains(&**part)));
    let chosen: Vec<_> = chosen.flat_map(|check| [(check, false), (check, true)]).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let run_chosen = || {
        while let Some((check, checked)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            match run(check, *checked) {
                Ok(()) => println!("{} ({}) ... ok", check.name, preset(*checked)),
                Err(why) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    println!("{} ({}) ... FAILED\n{why}", check.name, preset(*checked));
                }
            }
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| _ = scope.spawn(run_chosen)));
    let (ran, failed) = (chosen.len(), failed.into_inner());
    println!("conformance: {} of {ran} passed", ran - failed);
    ExitCode::from(u8::from(failed > 0 || ran == 0))
}

fn preset(checked: bool) -> &'static str {
    if checked { "checked" } else { "plain" }
}

/// Runs a check in a process of its own; says what went wrong.
fn run(check: &Check, checked: bool) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut child = Command::new(own)
        .args(["--in-child", check.name])
        .env("LD_PRELOAD", library())
        .env("KMALLOC_CHECK", if checked { "1" } else { "0" })
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let start = Instant::now();
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            return Err("it hung".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let is_right = match check.ends {
        End::Well => output.status.success(),
        End::Aborted(text) => !output.status.success() && said.contains(text),
        End::AbortedWhenChecked(text) => {
            !checked || (!output.status.success() && said.contains(text))
        }
    };
    if is_right { Ok(()) } else { Err(format!("{}: {said}", output.status)) }
}

/// Returns the library, in the folder that this program was built in.
pub(crate) fn library() -> PathBuf {
    target_folder().join("preload/libkmalloc_preload.so")
}

/// Builds the library as its users do: cargo builds none for tests, as nothing can be linked to it.
fn build() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--profile", "preload", "-p", "kmalloc-preload", "--target-dir"])
        .arg(target_folder())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the library cannot be built");
}

fn target_folder() -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    own.ancestors().nth(3).expect("target, profile, deps").into()
}

/// Returns the resident bytes of this process.
pub(crate) fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second field") * 4096
}

/// Returns `errno`.
pub(crate) fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Sets `errno`.
pub(crate) fn set_errno(number: i32) {
    // SAFETY: the thread's own variable.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: its address is the thread's for as long as the thread runs.
    unsafe { errno.write(number) };
}
