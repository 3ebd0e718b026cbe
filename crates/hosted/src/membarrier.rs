//! A full memory fence on every CPU that runs a thread of this process.

use core::sync::atomic::{AtomicU8, Ordering};

use rustix::thread::{MembarrierCommand, membarrier};

/// Which membarrier this system has.
static BARRIER: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const EXPEDITED: u8 = 1;
const NONE: u8 = 2;

/// Makes every thread of this process execute a full fence; whether the system could.
pub(crate) fn fence_all() -> bool {
    // Relaxed: each thread that finds it unknown comes to the same answer.
    if BARRIER.load(Ordering::Relaxed) == UNKNOWN {
        let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
        BARRIER.store(if registered { EXPEDITED } else { NONE }, Ordering::Relaxed);
    }
    let command = match BARRIER.load(Ordering::Relaxed) {
        EXPEDITED => MembarrierCommand::PrivateExpedited,
        _ => MembarrierCommand::Global,
    };
    membarrier(command).is_ok()
}

/// Forgets that the process registered: a child of `fork` has to register itself.
pub(crate) fn forget() {
    BARRIER.store(UNKNOWN, Ordering::Relaxed);
}
