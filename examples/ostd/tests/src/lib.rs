//! Tests of the frame allocator that the kernel runs on, whichever that is, and counts of its
//! instructions, by OSTD's public interface.
#![no_std]

#[cfg(ktest)]
extern crate alloc;

#[cfg(ktest)]
mod counts;
#[cfg(ktest)]
mod cpus;
#[cfg(ktest)]
mod frames;

#[cfg(ktest)]
pub use cpus::on_all_cpus;
