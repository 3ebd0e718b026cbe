//! Many CPUs, simulated: how does throughput grow with the number of CPUs, and how many atomic
//! changes of shared lines does an operation need?
//!
//! Question: does the code of this workspace scale to more CPUs than a developer's machine has, and
//! how do a model of Linux and locked allocators scale?
//!
//! # Concepts
//! A **virtual CPU** is a coroutine (`machine.rs`). It runs the real code of an allocator, whose
//! accesses are reported by `page_frame::sync` (feature `counted`). Each access costs what the
//! state of its cache line says (`lines.rs`), and advances the clock of its CPU. The CPU with the
//! lowest clock runs next, so other CPUs run between two accesses of an operation: lost exchanges,
//! spinning and queueing for a line all happen. Everything runs in one thread, and two runs give
//! the same figures.
//!
//! # Limits
//! - Instructions beside accesses cost a constant for each call ([`CALL_CYCLES`]).
//! - Each transfer costs the same, whether the CPUs share a socket or not. Caches and store buffers
//!   have no limit. Loads of neighbouring lines overlap, other loads do not. Prefetches do nothing.
//! - The objects themselves are not touched, nor is what passes them from CPU to CPU.
//! - Rivals that have their own atomics run in a queue lock of the stack's atomics, hold it for
//!   [`LOCKED_CYCLES`], and move one line besides the lock. This favours them.
//!
//! # Without the feature
//! The same programs run on real threads, one and two (`real.rs`): the validation.

pub mod contestants;
#[cfg(feature = "counted")]
pub mod lines;
pub mod lock;
#[cfg(feature = "counted")]
pub mod machine;
#[cfg(not(feature = "counted"))]
pub mod real;
pub mod rows;
pub mod shape;
#[cfg(feature = "counted")]
pub mod simulated;

/// Cycles that a call of an allocator takes beside its reported accesses: about 30 instructions,
/// two of them in a cycle, as a hit of this workspace's has.
pub const CALL_CYCLES: u64 = 15;
/// Cycles for which a locked rival holds its lock, beside the transfers: about 60 instructions.
pub const LOCKED_CYCLES: u64 = 30;
