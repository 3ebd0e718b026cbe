//! Exceptions and interrupts: the tables that lead to their entries, and a stack for each kind. The
//! entries call `handlers.rs`.
//!
//! Code compiled for the host target keeps data below the stack pointer, the precompiled `core`
//! included. So every gate switches to a stack of its own (an IST entry), and none may come upon
//! itself: they keep interrupts masked.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use crate::cpus::{self, MAX_CPUS};
use crate::vectors::{FENCE_VECTOR, SPURIOUS_VECTOR, TIMER_VECTOR};

global_asm!(include_str!("gates.s"), options(att_syntax));

/// The exception after each instruction while the trap flag is set.
const STEP_VECTOR: u8 = 1;
/// An interrupt that no mask keeps away.
const UNMASKABLE_VECTOR: u8 = 2;

const STACK_BYTES: usize = 32 << 10;

/// The stacks of a CPU's gates, in the order of their IST numbers, from 1.
#[repr(C, align(64))]
struct Stacks([[u8; STACK_BYTES]; 4]);

const INTERRUPT_STACK: u8 = 1;
const STEP_STACK: u8 = 2;
const FAULT_STACK: u8 = 3;
const UNMASKABLE_STACK: u8 = 4;

/// The part of a task state segment that is used: the interrupt stacks.
#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    privilege_stacks: [u64; 3],
    reserved_too: u64,
    interrupt_stacks: [u64; 7],
    reserved_as_well: u64,
    io_map: u32,
}

/// The tables that each CPU's registers point to.
#[repr(C, align(64))]
struct Tables {
    segments: [u64; 6],
    task: TaskState,
    stacks: Stacks,
}

struct PerCpuTables([UnsafeCell<Tables>; MAX_CPUS]);

// SAFETY: each CPU writes its own before it uses them, and the hardware reads them.
unsafe impl Sync for PerCpuTables {}

static TABLES: PerCpuTables = PerCpuTables(
    [const {
        UnsafeCell::new(Tables {
            segments: [0, 0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff, 0, 0, 0],
            task: TaskState {
                reserved: 0,
                privilege_stacks: [0; 3],
                reserved_too: 0,
                interrupt_stacks: [0; 7],
                reserved_as_well: 0,
                io_map: size_of::<TaskState>() as u32,
            },
            stacks: Stacks([[0; STACK_BYTES]; 4]),
        })
    }; MAX_CPUS],
);

/// An entry of the interrupt table.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

struct GateTable(UnsafeCell<[Gate; 256]>);

// SAFETY: written once by the first CPU before interrupts are let in and others are started.
unsafe impl Sync for GateTable {}

static GATES: GateTable = GateTable(UnsafeCell::new([Gate { low: 0, high: 0 }; 256]));

/// The operand of `lgdt` and `lidt`.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// The selector of the code segment.
const CODE: u64 = 8;
/// The selector of the task state.
const TASK: u16 = 24;
/// A present interrupt gate.
const INTERRUPT_GATE: u64 = 0x8e;

macro_rules! entries {
    ($($vector:expr, $stack:expr, $entry:ident;)*) => {
        unsafe extern "C" { $(fn $entry();)* }

        /// Vector, stack and address of each entry.
        fn all_entries() -> impl Iterator<Item = (u8, u8, u64)> {
            [$(($vector, $stack, $entry as *const () as u64)),*].into_iter()
        }
    };
}

entries! {
    STEP_VECTOR, STEP_STACK, gate_step;
    TIMER_VECTOR, INTERRUPT_STACK, gate_timer;
    FENCE_VECTOR, INTERRUPT_STACK, gate_fence;
    SPURIOUS_VECTOR, INTERRUPT_STACK, gate_spurious;
    UNMASKABLE_VECTOR, UNMASKABLE_STACK, gate_unmaskable;
    0, FAULT_STACK, gate_fatal_0;
    3, FAULT_STACK, gate_fatal_3;
    4, FAULT_STACK, gate_fatal_4;
    6, FAULT_STACK, gate_fatal_6;
    7, FAULT_STACK, gate_fatal_7;
    8, FAULT_STACK, gate_fatal_8;
    10, FAULT_STACK, gate_fatal_10;
    11, FAULT_STACK, gate_fatal_11;
    12, FAULT_STACK, gate_fatal_12;
    13, FAULT_STACK, gate_fatal_13;
    14, FAULT_STACK, gate_fatal_14;
    16, FAULT_STACK, gate_fatal_16;
    17, FAULT_STACK, gate_fatal_17;
    19, FAULT_STACK, gate_fatal_19;
}

/// Fills the interrupt table. It holds whole addresses in pieces, which only running code can
/// compute.
///
/// # Safety
/// 1. Called once, by the first CPU, before interrupts are let in.
pub(crate) unsafe fn fill() {
    // SAFETY: clause 1: no other code uses the table.
    let gates = unsafe { &mut *GATES.0.get() };
    for (vector, stack, address) in all_entries() {
        gates[usize::from(vector)] = Gate {
            low: address & 0xffff
                | CODE << 16
                | u64::from(stack) << 32
                | INTERRUPT_GATE << 40
                | (address >> 16 & 0xffff) << 48,
            high: address >> 32,
        };
    }
}

/// Points the executing CPU to its segments, its interrupt stacks and the interrupt table.
///
/// # Safety
/// 1. `fill` has been called; the CPU has its number, and interrupts are masked.
pub(crate) unsafe fn load() {
    let tables = TABLES.0[cpus::number()].get();
    // SAFETY: clause 1: this CPU's own, and nobody looks at them yet.
    let tables = unsafe { &mut *tables };
    let mut tops = [0; 7];
    for (top, stack) in tops.iter_mut().zip(&tables.stacks.0) {
        *top = stack.as_ptr_range().end.addr() as u64;
    }
    tables.task.interrupt_stacks = tops;
    let task = (&raw const tables.task).addr() as u64;
    let limit = size_of::<TaskState>() as u64 - 1;
    tables.segments[3] = limit | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
    tables.segments[4] = task >> 32;
    let segments = TablePointer {
        limit: size_of_val(&tables.segments) as u16 - 1,
        base: tables.segments.as_ptr().addr() as u64,
    };
    // SAFETY: the selectors of code and data mean the same as in the table used so far.
    unsafe { asm!("lgdt [{}]", in(reg) &segments, options(nostack)) };
    // SAFETY: the task state is in the table just loaded.
    unsafe { asm!("ltr {0:x}", in(reg) TASK, options(nostack)) };
    let gates = TablePointer {
        limit: size_of::<[Gate; 256]>() as u16 - 1,
        base: GATES.0.get().addr() as u64,
    };
    // SAFETY: clause 1: the table is filled.
    unsafe { asm!("lidt [{}]", in(reg) &gates, options(nostack)) };
}

/// The stack frame of an entry: saved registers, then the frame that the CPU pushed.
#[repr(C)]
pub(crate) struct Saved {
    registers: [u64; 15],
    code: u64,
    /// The instruction that comes next.
    pub(crate) instruction: u64,
    segment: u64,
    /// The flags to go on with.
    pub(crate) flags: u64,
}
