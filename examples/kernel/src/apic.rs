//! The local interrupt controller of each CPU: interrupts to others, and a timer.

use core::ptr::NonNull;

use crate::boot_info::physical;
use crate::machine::{out_byte, time};

/// Where every CPU sees its own controller.
const BASE: u64 = 0xfee0_0000;

const ID: usize = 0x20;
const END_OF_INTERRUPT: usize = 0xb0;
const SPURIOUS: usize = 0xf0;
const COMMAND_LOW: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
const TIMER: usize = 0x320;
const TIMER_COUNT: usize = 0x380;
const TIMER_DIVIDE: usize = 0x3e0;

const ENABLED: u32 = 1 << 8;
const PERIODIC: u32 = 1 << 17;
const DELIVERY_PENDING: u32 = 1 << 12;
const ALL_OTHERS: u32 = 3 << 18;
const ALL: u32 = 2 << 18;
const ASSERT: u32 = 1 << 14;
const UNMASKABLE: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const START_UP: u32 = 6 << 8;

fn register(offset: usize) -> NonNull<u32> {
    physical::<u32>(BASE + offset as u64)
}

fn write(offset: usize, value: u32) {
    // SAFETY: the registers of this CPU's controller are mapped, and only this file uses them.
    unsafe { register(offset).write_volatile(value) };
}

fn read(offset: usize) -> u32 {
    // SAFETY: reading has no effect in the registers that this file reads.
    unsafe { register(offset).read_volatile() }
}

/// Returns the id of this CPU's controller.
pub(crate) fn id() -> u32 {
    read(ID) >> 24
}

/// Switches this CPU's controller on. The first CPU masks the old interrupt controllers, which
/// firmware leaves on.
pub(crate) fn enable() {
    for port in [0x21, 0xa1] {
        // SAFETY: masks every line of an 8259; nothing here uses them.
        unsafe { out_byte(port, 0xff) };
    }
    write(SPURIOUS, ENABLED | u32::from(crate::vectors::SPURIOUS_VECTOR));
}

/// Starts the timer of this CPU: one interrupt in `nanoseconds`, again and again. (QEMU's counts at
/// 1 GHz.)
pub(crate) fn start_timer(nanoseconds: u32) {
    write(TIMER_DIVIDE, 0b1011); // by one
    write(TIMER, PERIODIC | u32::from(crate::vectors::TIMER_VECTOR));
    write(TIMER_COUNT, nanoseconds);
}

/// Stops the timer of this CPU.
pub(crate) fn stop_timer() {
    write(TIMER_COUNT, 0);
}

/// Says that the interrupt being handled is done.
#[inline]
pub(crate) fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Interrupts all other CPUs.
pub(crate) fn interrupt_others(vector: u8) {
    write(COMMAND_LOW, ALL_OTHERS | ASSERT | u32::from(vector));
}

/// Interrupts all CPUs, this one too, whether they let interrupts in or not.
pub(crate) fn interrupt_all_unmaskably() {
    write(COMMAND_LOW, ALL | ASSERT | UNMASKABLE);
}

/// Starts the CPU with controller `id` at the page `page` of low memory, as firmware's protocol
/// asks: reset, start, and start again for those that missed it.
pub(crate) fn start_cpu(id: u32, page: u8) {
    command(id, INIT | ASSERT);
    pause(20_000_000);
    for _ in 0..2 {
        command(id, START_UP | ASSERT | u32::from(page));
        pause(1_000_000);
    }
}

fn command(id: u32, command: u32) {
    write(COMMAND_HIGH, id << 24);
    write(COMMAND_LOW, command);
    while read(COMMAND_LOW) & DELIVERY_PENDING != 0 {}
}

/// Waits for `ticks` ticks of the time-stamp counter.
fn pause(ticks: u64) {
    let start = time();
    while time() - start < ticks {
        core::hint::spin_loop();
    }
}
