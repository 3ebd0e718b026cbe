//! The CPUs of this kernel: what each has of its own, and the `Cpu` that the allocators ask.
//!
//! # Concepts
//! `gs` points to a CPU's own record; its first words are read and counted by single instructions,
//! so that an interrupt between two of them sees nothing half done. There is no scheduler: on each
//! CPU one thread runs, and interrupts on top of it. The preemption count is kept all the same, as
//! a kernel with threads would.
//!
//! # `fence_all`
//! An interrupt to all others. Each counts those it has had; who asks notes the counts, sends, and
//! waits until each count has moved: an interrupt handled after the note has fenced during the
//! call. It may not wait with interrupts masked (two such CPUs would wait for each other for ever),
//! so then the answer is no.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::hint::assert_unchecked;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use page_frame::{Cpu, CpuId, InterruptState};

use crate::machine::{INTERRUPT_FLAG, flags, mask_interrupts, unmask_interrupts, write_register};
use crate::{apic, vectors};

/// The most CPUs.
pub(crate) const MAX_CPUS: usize = 8;

/// The variables of one CPU.
#[repr(C, align(64))]
pub(crate) struct PerCpu {
    preemption: UnsafeCell<u32>,
    /// The CPU's number, as `CpuId` keeps it.
    line_offset: UnsafeCell<u32>,
    /// Whether the CPU answers to fences.
    is_online: AtomicBool,
    /// Fence interrupts handled.
    fences: AtomicU64,
    /// Timer interrupts handled.
    pub(crate) ticks: AtomicU64,
}

// SAFETY: only the CPU itself writes its cells.
unsafe impl Sync for PerCpu {}

static PER_CPU: [PerCpu; MAX_CPUS] = [const {
    PerCpu {
        preemption: UnsafeCell::new(0),
        line_offset: UnsafeCell::new(0),
        is_online: AtomicBool::new(false),
        fences: AtomicU64::new(0),
        ticks: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// The register that holds the base of `gs`.
const GS_BASE: u32 = 0xc000_0101;

/// Returns the record of CPU `number`.
pub(crate) fn of(number: usize) -> &'static PerCpu {
    &PER_CPU[number]
}

/// Returns the number of the CPU that executes this.
#[inline(always)]
pub(crate) fn number() -> usize {
    let offset: u32;
    // SAFETY: `adopt` has pointed `gs` to the record.
    unsafe {
        asm!("mov {0:e}, gs:[{1}]", out(reg) offset, const offset_of!(PerCpu, line_offset), options(nostack, readonly));
    }
    offset as usize / CpuId::LINE
}

/// Makes the executing CPU number `number`.
///
/// # Safety
/// 1. No other CPU has the number, and this one has none yet.
pub(crate) unsafe fn adopt(number: usize) {
    let own = &PER_CPU[number];
    // SAFETY: clause 1: no other code writes it.
    unsafe { own.line_offset.get().write(CpuId::new(number as u32).line_offset() as u32) };
    let address = core::ptr::from_ref(own).addr() as u64;
    // SAFETY: nothing used `gs` before.
    unsafe { write_register(GS_BASE, address) };
}

/// Returns the number of CPUs that answer to fences.
pub(crate) fn online() -> usize {
    PER_CPU.iter().filter(|cpu| cpu.is_online.load(Ordering::SeqCst)).count()
}

/// Says that this CPU answers to fences from now on, or no longer.
pub(crate) fn set_online(online: bool) {
    // SeqCst: before the next look of `fence_all`, which reads it before it sends.
    PER_CPU[number()].is_online.store(online, Ordering::SeqCst);
}

/// Handles a fence interrupt.
pub(crate) fn fence_here() {
    fence(Ordering::SeqCst);
    // Release: pairs with the Acquire in `fence_all`.
    PER_CPU[number()].fences.fetch_add(1, Ordering::Release);
}

/// The machine, as the allocators see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelCpu;

// SAFETY: clause 1: a CPU's number is its own, there is no scheduler, and interrupts end before
// what they came upon goes on. Clause 2: numbers are not handed over. Clause 3: an interrupt is
// taken between two instructions, and its handler fences; a CPU that is not online executes nothing
// of the allocators. Clause 4: the interrupt flag: the first state says how it was, and no other
// one changes it. Clause 5: CPUs beyond the last record are not started. Clause 6: the number is
// the CPU's. Clause 7: zero.
unsafe impl Cpu for KernelCpu {
    #[inline(always)]
    fn slots(&self) -> usize {
        MAX_CPUS
    }

    #[inline(always)]
    fn pin(&self) -> Option<CpuId> {
        let offset: u64;
        // SAFETY: `gs` points to this CPU's record; each instruction is whole for interrupts.
        unsafe {
            asm!(
                "inc dword ptr gs:[{preemption}]",
                "mov {offset:e}, gs:[{at}]",
                offset = out(reg) offset,
                preemption = const offset_of!(PerCpu, preemption),
                at = const offset_of!(PerCpu, line_offset),
                options(nostack),
            );
        }
        // SAFETY: the field has 32 bits; so the compiler need not cut it again.
        unsafe { assert_unchecked(offset <= u32::MAX.into()) };
        // SAFETY: `adopt` wrote the offset of a whole line.
        Some(unsafe { CpuId::at_line_offset(offset as u32) })
    }

    #[inline(always)]
    unsafe fn unpin(&self) {
        // SAFETY: as in `pin`.
        unsafe {
            asm!("dec dword ptr gs:[{}]", const offset_of!(PerCpu, preemption), options(nostack));
        }
    }

    fn fence_all(&self) -> bool {
        if flags() & INTERRUPT_FLAG == 0 {
            return false;
        }
        // SeqCst: what the caller wrote before, before what the others are asked for.
        fence(Ordering::SeqCst);
        let own = number();
        let mut before = [None; MAX_CPUS];
        for (cpu, before) in PER_CPU.iter().zip(&mut before) {
            if cpu.is_online.load(Ordering::SeqCst) {
                *before = Some(cpu.fences.load(Ordering::Acquire));
            }
        }
        before[own] = None;
        if before.iter().all(Option::is_none) {
            return true;
        }
        apic::interrupt_others(vectors::FENCE_VECTOR);
        for (cpu, before) in PER_CPU.iter().zip(before) {
            let Some(before) = before else { continue };
            // Acquire: pairs with the Release in `fence_here`. A CPU that went offline has fenced
            // for the last time.
            while cpu.fences.load(Ordering::Acquire) == before
                && cpu.is_online.load(Ordering::SeqCst)
            {
                core::hint::spin_loop();
            }
        }
        true
    }

    #[inline(always)]
    fn mask_interrupts(&self) -> InterruptState {
        let before = flags();
        mask_interrupts();
        InterruptState(before)
    }

    #[inline(always)]
    unsafe fn restore_interrupts(&self, state: InterruptState) {
        if state.0 & INTERRUPT_FLAG != 0 {
            // SAFETY: the caller's clause: they were on when it masked them.
            unsafe { unmask_interrupts() };
        }
    }
}
