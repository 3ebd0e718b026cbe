//! Signals that end the program. Before it ends, temporary files are removed and the terminal is
//! restored.
//!
//! The signals are blocked in all threads. One thread waits for them, so that it may take locks and
//! free memory, which a signal handler must not. A signal that is ignored from the start (`nohup`)
//! stays ignored.

use std::io;
use std::mem::MaybeUninit;

use kmem::output_file::remove_temporaries;

use super::terminal;

/// Signals by which users and systems end programs.
const ENDING: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// Blocks the signals and starts the thread that waits for them. Called before other threads are
/// started, which inherit the mask.
pub(crate) fn watch() -> io::Result<()> {
    let signals = ending();
    change_mask(libc::SIG_BLOCK, &signals)?;
    std::thread::Builder::new().name("signals".into()).spawn(move || wait(&signals))?;
    Ok(())
}

/// Waits for one of `signals`, cleans up, and ends the program by that signal.
fn wait(signals: &libc::sigset_t) {
    let mut signal = 0;
    // SAFETY: both are valid: a set that `ending` made, and a number to write to.
    if unsafe { libc::sigwait(signals, &mut signal) } != 0 {
        return;
    }
    terminal::restore();
    remove_temporaries();
    // The default action of each of these signals ends the program, with a status that names it.
    let _ = change_mask(libc::SIG_UNBLOCK, signals);
    // SAFETY: `raise` has no preconditions; the number is that of a signal.
    unsafe { libc::raise(signal) };
    std::process::exit(128 + signal);
}

/// Returns the set of `ENDING`.
fn ending() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` writes a whole set to the place that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `sigemptyset` wrote it; it does not fail.
    let mut set = unsafe { set.assume_init() };
    for signal in ENDING.into_iter().filter(|signal| !is_ignored(*signal)) {
        // SAFETY: the set is valid, and `signal` is the number of a signal.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    set
}

/// Whether the program that started this one has it ignore `signal`.
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null pointer changes no action, and the place has room for the old one.
    if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: `sigaction` succeeded, and so wrote the old action.
    let action = unsafe { action.assume_init() };
    action.sa_sigaction == libc::SIG_IGN
}

/// Blocks or unblocks `signals` in this thread.
fn change_mask(how: libc::c_int, signals: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is valid, and a null pointer asks for no old mask.
    match unsafe { libc::pthread_sigmask(how, signals, std::ptr::null_mut()) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}
