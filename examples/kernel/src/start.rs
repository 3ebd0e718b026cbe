//! Starting the other CPUs.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::boot_info::physical;
use crate::cpus::MAX_CPUS;
use crate::{acpi, apic};

/// Where the other CPUs start: a page of low memory that the memory map leaves alone, as `boot.s`
/// says.
const START: u64 = 0x8000;

unsafe extern "C" {
    static ap_code: u8;
    static ap_code_end: u8;
    static arrived_cpus: AtomicU32;
}

/// Starts all other CPUs, one after the other (they share a stack for their first steps); returns
/// how many there are.
///
/// # Safety
/// 1. Called once; `rsdp` is what the boot loader says.
pub(crate) unsafe fn others(rsdp: u64) -> usize {
    let source = &raw const ap_code;
    let bytes = (&raw const ap_code_end).addr() - source.addr();
    let target: NonNull<u8> = physical(START);
    // SAFETY: the code of the start, into a page that nobody uses.
    unsafe { target.as_ptr().copy_from_nonoverlapping(source, bytes) };
    // SAFETY: a word that the start-up code counts in atomically.
    let arrived = unsafe { &arrived_cpus };
    let own = apic::id();
    // SAFETY: clause 1: no other code starts CPUs, and the boot loader gives the address of the
    // tables.
    unsafe {
        acpi::for_each_cpu(rsdp, |id| {
            let before = arrived.load(Ordering::Acquire);
            if id == own || before as usize == MAX_CPUS {
                return;
            }
            apic::start_cpu(id, (START >> 12) as u8);
            while arrived.load(Ordering::Acquire) == before {
                core::hint::spin_loop();
            }
        });
    }
    arrived.load(Ordering::Acquire) as usize
}
