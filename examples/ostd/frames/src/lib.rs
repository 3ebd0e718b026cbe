//! `buddy` as the frame allocator of a kernel on OSTD 0.18, for x86-64.
//!
//! A kernel depends on this crate and links it; that is all:
//!
//! ```ignore
//! use ostd_frames as _;
//! ```
//!
//! # Concepts
//! OSTD calls one static `GlobalFrameAllocator`, which it finds by a symbol's name. This crate
//! defines that symbol, and it is stronger than the default that OSDK generates. The static is
//! private: it trusts its callers, and so only OSTD can call it.
//!
//! - OSTD adds memory range by range at boot: `add_free_memory` is `GrowingBuddy::add`.
//! - OSTD frees a segment frame by frame, in any order, from any CPU: `alloc` makes each frame a
//!   block of its own (`allocate_each`), and `dealloc` frees such blocks (`free_each`).
//! - OSTD also frees frames that it never added, those of its boot page table. They lie between two
//!   ranges that it adds. The upper range takes the frames of the gap in, and withholds them.
//!
//! # Concurrency
//! Each call masks interrupts on its CPU. So no call is interrupted by another one, and a pin only
//! reads the CPU's number. OSTD has no fence of all CPUs that may be called so; therefore each hit
//! in a CPU's slot contains a fence, and one CPU can drain the slots of the others.
#![no_std]

mod allocator;
mod cpu;
mod linear_map;
#[cfg(ktest)]
mod test;

pub use allocator::{drain, frames, free_frames, lost_frames, validate};
/// The error of [`validate`].
pub use buddy::page_frame::Violation;
