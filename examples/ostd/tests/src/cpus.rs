//! Runs a function on all CPUs at once.
//!
//! OSTD has calls between processors, but on an xAPIC they all arrive at CPU 0: OSTD 0.18 does not
//! shift the id that it reads from there. QEMU before 9 emulates no x2APIC. So the other CPUs wait
//! in memory for a job.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering};

use ostd::boot::smp::register_ap_entry;
use ostd::cpu::num_cpus;
use ostd::sync::{LocalIrqDisabled, SpinLock};

/// The function that the other CPUs call in this round.
static JOB: SpinLock<fn(), LocalIrqDisabled> = SpinLock::new(|| {});
/// The number of jobs so far.
static ROUND: AtomicUsize = AtomicUsize::new(0);
/// How many of the other CPUs have ended their job.
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// Runs `job` on each CPU, and returns when all have ended.
pub fn on_all_cpus(job: fn()) {
    register_ap_entry(serve); // has no effect but the first time
    *JOB.lock() = job;
    // Relaxed: the Release below publishes it.
    ENDED.store(0, Ordering::Relaxed);
    // Release: pairs with the Acquire in `serve`; publishes the job.
    ROUND.fetch_add(1, Ordering::Release);
    job();
    // Acquire: pairs with the Release in `serve`; sees what the jobs did.
    while ENDED.load(Ordering::Acquire) < num_cpus() - 1 {
        spin_loop();
    }
}

/// Serves one job after the other. Does not return: the test kernel has no task for this CPU.
fn serve() {
    let mut served = 0;
    loop {
        // Acquire: pairs with the Release in `on_all_cpus`.
        while ROUND.load(Ordering::Acquire) == served {
            spin_loop();
        }
        served += 1;
        let job = *JOB.lock();
        job();
        // Release: pairs with the Acquire in `on_all_cpus`.
        ENDED.fetch_add(1, Ordering::Release);
    }
}
