//! A thread that keeps the file of statistics current.
//!
//! # Concepts
//! It exists only where `KMALLOC_STATS` names a file. Whoever looks at the file sees what is so now, also when the program does
//! nothing any more; page sources, which all caches pass by, need not look after it.
//!
//! # Concurrency
//! The thread takes the locks that statistics take, none of which is held for long. A child of `fork` has no such thread, and starts
//! its own.

use core::time::Duration;

use hosted::Background;

use crate::stats;

/// How old the file is at most, but for the time that writing takes.
const AGE: Duration = Duration::from_millis(500);

/// Has the file kept current from now on. Where there can be no thread, it is as old as the last call that writes it.
pub(crate) fn start() {
    // The thread ends with the process.
    core::mem::forget(Background::start(c"kmalloc-stats", AGE, &(), |()| stats::write_file()));
}
