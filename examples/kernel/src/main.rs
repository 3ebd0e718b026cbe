//! A small kernel whose memory management is the crates of this workspace: boot, several CPUs,
//! interrupts that allocate.
//!
//! `boot.sh` builds it, boots it in QEMU and says whether all of it held. Read the files in this
//! order: `boot.s` (from the machine's hands to ours), `heap` (from the memory map to an allocator
//! of any size), `cpus` (what the allocators ask of a machine), `gates` (interrupts), then what is
//! done with it: `stress`, `step`, `bench`, `stack`.
#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod apic;
mod bench;
mod boot_info;
mod console;
mod cpus;
mod gates;
mod handlers;
mod heap;
mod held;
mod longest;
mod machine;
mod nested;
mod private;
mod shortage;
mod stack;
mod start;
mod step;
mod stress;
mod vectors;

use core::arch::global_asm;
use core::panic::PanicInfo;

use boot_info::StartInfo;
use console::{last_line, print};
use machine::{Verdict, exit};

global_asm!(include_str!("boot.s"), options(att_syntax));
global_asm!(include_str!("memory.s"), options(att_syntax));

/// Entered once, on the first CPU, with its interrupts masked and a stack.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(start_info: u32) -> ! {
    // SAFETY: the first CPU is number 0, and nothing else runs.
    unsafe { cpus::adopt(0) };
    // SAFETY: once, before interrupts.
    unsafe { gates::fill() };
    // SAFETY: the table is filled and this CPU has its number.
    unsafe { gates::load() };
    apic::enable();
    // SAFETY: the boot code passes what the boot loader did.
    let info = unsafe { StartInfo::at(start_info) };
    // SAFETY: once, while this CPU is alone.
    unsafe { heap::start(info) };
    if info.asks_for("bench") {
        cpus::set_online(true);
        bench::run();
        stack::run();
        // Drains skip the slots of other CPUs while interrupts are masked, as these cannot be
        // fenced. SAFETY: the gates are set up. No timer runs, so no interrupt comes.
        unsafe { machine::unmask_interrupts() };
        exit(if longest::run() { Verdict::Success } else { Verdict::Failure });
    }
    // SAFETY: the ACPI tables are as firmware left them.
    let count = unsafe { start::others(info.rsdp()) };
    print!("{count} CPUs");
    stress::run(count);
    print!("all pages are home");
    exit(Verdict::Success)
}

/// Entered once on each other CPU, with its interrupts masked and a stack.
#[unsafe(no_mangle)]
extern "C" fn ap_main(number: u32) -> ! {
    // SAFETY: the start-up code numbers CPUs in the order in which they arrive.
    unsafe { cpus::adopt(number as usize) };
    // SAFETY: the first CPU has filled the table.
    unsafe { gates::load() };
    apic::enable();
    stress::follow()
}

#[panic_handler]
fn on_panic(info: &PanicInfo<'_>) -> ! {
    machine::mask_interrupts();
    last_line(format_args!("CPU {}: {info}", cpus::number()));
    exit(Verdict::Failure)
}
